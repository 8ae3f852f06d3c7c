//! What came of the checks.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub checks: Vec<Check>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What holds if the check passes.
    pub name: &'static str,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    /// The backend refuses what the check needs, as it may.
    Skipped(String),
    Failed(String),
}

impl Report {
    /// No check failed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|check| !matches!(check.outcome, Outcome::Failed(_)))
    }
}

/// One line a check, then the totals.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut passed, mut skipped, mut failed) = (0, 0, 0);
        for Check { name, outcome } in &self.checks {
            match outcome {
                Outcome::Passed => {
                    passed += 1;
                    writeln!(f, "ok      {name}")?;
                }
                Outcome::Skipped(why) => {
                    skipped += 1;
                    writeln!(f, "skipped {name}: {why}")?;
                }
                Outcome::Failed(why) => {
                    failed += 1;
                    writeln!(f, "FAILED  {name}: {why}")?;
                }
            }
        }
        write!(f, "{passed} passed, {skipped} skipped, {failed} failed")
    }
}
