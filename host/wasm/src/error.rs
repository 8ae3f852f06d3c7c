use std::path::PathBuf;

use serde::Serialize;

/// Why a policy is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a policy that this host runs; the text says what about it.
    #[error("not a policy for this host: {0}")]
    Refused(String),
    /// The policy did not understand its configuration.
    #[error("the policy refuses its configuration: {0}")]
    Config(String),
    /// It was tried and failed.
    #[error("the policy failed when it was tried ({}): {detail}", reason.as_str())]
    Failed { reason: Reason, detail: String },
    /// There is none of this name.
    #[error("there is no policy named {0:?}")]
    Unknown(String),
    /// A file or folder that was named could not be used.
    #[error("{}: {reason}", path.display())]
    File { path: PathBuf, reason: String },
    /// This machine cannot run policies now.
    #[error("policies cannot run here: {0}")]
    Host(String),
}

/// Why a call gave no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Unreachable code, a division by zero, an access out of bounds, a full stack.
    Trap,
    /// The call took longer than its limit and was cut off.
    Deadline,
    /// More memory, table elements or handles than allowed.
    Memory,
    /// An answer out of range, or a host function called with nonsense.
    BadAnswer,
    /// The policy itself said that it has no decision.
    Undecided,
    /// No instance could be made, or none was ready.
    Instantiate,
}

impl Reason {
    pub const ALL: [Self; 6] =
        [Self::Trap, Self::Deadline, Self::Memory, Self::BadAnswer, Self::Undecided, Self::Instantiate];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::BadAnswer => "bad_answer",
            Self::Undecided => "undecided",
            Self::Instantiate => "instantiate",
        }
    }
}

/// One call that gave no decision; also how a host function ends a call.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }

    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(Reason::BadAnswer, detail)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Failed { reason: failure.reason, detail: failure.detail }
    }
}

impl From<Failure> for tokenmill_policy::Error {
    fn from(failure: Failure) -> Self {
        Self::Undecided(failure.to_string())
    }
}
