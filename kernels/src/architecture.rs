//! Names of GPU architectures as compilers spell them, and which GPUs they run on.

/// `sm_86`, `sm_90a` or `compute_80`. The order is that of preference: machine code above PTX, then the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Architecture {
    machine_code: bool,
    major: u32,
    minor: u32,
    /// Uses what later architectures lack (`a`), so runs on no other.
    exact: bool,
}

impl Architecture {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let (kind, number) = name.split_once('_')?;
        let machine_code = match kind {
            "sm" => true,
            "compute" => false,
            _ => return None,
        };
        let digits = number.trim_end_matches('a');
        let number_of_both: u32 = digits.parse().ok()?;
        let exact = digits.len() != number.len();
        Some(Self { machine_code, major: number_of_both / 10, minor: number_of_both % 10, exact })
    }

    /// Machine code runs on its own generation, from its own minor version on; PTX on all that came later.
    pub(crate) fn runs_on(&self, major: u32, minor: u32) -> bool {
        let (own, gpu) = ((self.major, self.minor), (major, minor));
        if self.exact {
            own == gpu
        } else if self.machine_code {
            self.major == major && self.minor <= minor
        } else {
            own <= gpu
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_architecture_are_refused() {
        for name in ["sm80", "lto_80", "sm_", "sm_a", "sm_8x", ""] {
            assert_eq!(Architecture::parse(name), None, "{name:?}");
        }
    }

    #[test]
    fn exact_code_runs_on_nothing_newer() {
        let hopper = Architecture::parse("sm_90a").unwrap();
        assert!(hopper.runs_on(9, 0) && !hopper.runs_on(9, 1) && !hopper.runs_on(10, 0));
        let three_digits = Architecture::parse("sm_120").unwrap();
        assert!(three_digits.runs_on(12, 1) && !three_digits.runs_on(10, 0));
    }
}
