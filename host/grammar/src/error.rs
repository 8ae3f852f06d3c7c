/// A grammar that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request's fault: not a grammar, not satisfiable, or above the limits.
    #[error("{0}")]
    Grammar(String),
    /// No grammar can be used with this model: it has no text or no end token.
    #[error("the vocabulary cannot be constrained: {0}")]
    Vocabulary(String),
}
