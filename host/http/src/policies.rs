//! The policies of the server as operators see them; what loads and runs them is behind [`Policies`].

use bytes::Bytes;
use serde_json::Value;

/// What the admin routes and the metrics act on. Calls may take seconds: never on an async thread, except for
/// `counts`.
pub trait Policies: Send + Sync {
    /// All of them, a JSON object each.
    fn list(&self) -> Vec<Value>;
    fn get(&self, name: &str) -> Option<Value>;
    /// Tries a policy and puts it in place of the one of its name; without success nothing changes.
    fn put(&self, upload: &Upload) -> Result<Value, PolicyError>;
    fn delete(&self, name: &str) -> Result<(), PolicyError>;
    /// Bytes of a component, at most.
    fn component_bytes(&self) -> usize;
    /// For the metrics; takes no longer than a look at some counters.
    fn counts(&self) -> Vec<PolicyCounts>;
}

/// A component that an operator sends.
#[derive(Clone, Debug)]
pub struct Upload {
    pub name: String,
    /// `scheduler` or `sampler`; `None`: whatever it is.
    pub kind: Option<String>,
    pub component: Bytes,
    pub config: String,
    /// Requests of a policy that fails, fail.
    pub enforcing: bool,
}

/// Why an operator's wish was not granted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PolicyError {
    /// The component, its name, kind or configuration cannot be used. HTTP 400.
    #[error("{0}")]
    Refused(String),
    /// HTTP 404.
    #[error("there is no policy named `{0}`")]
    Unknown(String),
    /// It would take something away that the server needs. HTTP 409.
    #[error("{0}")]
    Conflict(String),
    /// This machine cannot do it now; the text is for the log. HTTP 500.
    #[error("{0}")]
    Host(String),
}

/// One policy's counters since it was loaded.
#[derive(Clone, Debug, Default)]
pub struct PolicyCounts {
    pub name: String,
    pub kind: &'static str,
    pub calls: u64,
    pub busy_us: u64,
    /// By reason; reasons that did not occur have 0.
    pub failures: Vec<(&'static str, u64)>,
    pub quarantined: bool,
}
