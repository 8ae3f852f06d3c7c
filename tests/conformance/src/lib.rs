//! The conformance suite: whether a backend library does what `tokenmill.h` says.
//!
//! It takes any backend and any model that backend loads, and knows no right answer of the model: it compares
//! the backend with itself (in chunks and at once, alone and in a batch, in these blocks and in those) and its
//! sampling with the definitions of the header, computed here from the raw logits.
//!
//! Invariant: knows the ABI only; no particular backend, no model format.

mod definition;
mod forward;
mod load;
mod random;
mod raw;
mod refusal;
mod report;
mod sampling;
mod subject;
mod tickets;

pub use report::{Check, Outcome, Report};
pub use subject::Ranks;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use subject::{Stop, Subject};
use tokenmill_backend::Backend;

type Body = fn(&Subject<'_>) -> Result<(), Stop>;

/// Runs every check on `backend` with the model in `model_dir`, loaded with `options` (lines `key=value`).
///
/// The model must have a context of at least 64 positions and a vocabulary of at least 32 tokens.
pub fn run(backend: &Backend, model_dir: &Path, options: &str) -> Report {
    run_on(backend, model_dir, options, Ranks::ONE)
}

/// As `run`, with every model spread over `ranks`.
pub fn run_on(backend: &Backend, model_dir: &Path, options: &str, ranks: Ranks<'_>) -> Report {
    let subject = Subject::new(backend, model_dir, options, ranks);
    let groups: [&[(&'static str, Body)]; 7] = [
        load::CHECKS,
        forward::CHECKS,
        random::CHECKS,
        tickets::CHECKS,
        sampling::CHECKS,
        refusal::CHECKS,
        raw::CHECKS,
    ];
    let mut checks = Vec::new();
    for &(name, body) in groups.into_iter().flatten() {
        let outcome = match catch_unwind(AssertUnwindSafe(|| body(&subject))) {
            Ok(Ok(())) => Outcome::Passed,
            Ok(Err(Stop::Skip(why))) => Outcome::Skipped(why),
            Ok(Err(Stop::Fail(why))) => Outcome::Failed(why),
            Err(_) => Outcome::Failed("the check panicked".to_owned()),
        };
        let hopeless = checks.is_empty() && matches!(outcome, Outcome::Failed(_));
        checks.push(Check { name, outcome });
        if hopeless {
            break;
        }
    }
    Report { checks }
}
