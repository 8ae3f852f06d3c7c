/// A policy that gives no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The configuration was not understood: refuse to start, or keep the old version.
    #[error("policy configuration: {0}")]
    BadConfig(String),
    /// No decision for this step: apply the default.
    #[error("the policy did not decide: {0}")]
    Undecided(String),
}

/// For policies that take no configuration.
pub(crate) fn no_config(config: &str) -> Result<(), Error> {
    match config.trim() {
        "" | "{}" => Ok(()),
        _ => Err(Error::BadConfig("this policy takes none".into())),
    }
}
