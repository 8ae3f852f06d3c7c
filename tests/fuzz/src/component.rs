//! Files that claim to be policies: compiled, linked, configured and tried, or refused with a reason.

use crate::sandbox::{UNCACHED, host};

pub(crate) fn run(input: &[u8]) {
    let report = tokenmill_wasm::check(&UNCACHED, input, "", host());
    assert_eq!(report.ok, report.error.is_none());
    if report.ok {
        assert!(report.kind.is_some() && report.contract.is_some_and(|version| version.starts_with("0.1.")));
        let ours = |name: &String| name.starts_with("tokenmill:policy/");
        assert!(report.imports.iter().all(ours), "{:?}", report.imports);
    }
}
