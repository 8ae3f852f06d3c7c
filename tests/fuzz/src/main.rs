//! libFuzzer around the target that `TOKENMILL_FUZZ` names; `cargo xtask fuzz` starts it.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tokenmill_fuzz::TARGETS;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("TOKENMILL_FUZZ").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.0 == name);
    found.expect("TOKENMILL_FUZZ names a target").1
});

fuzz_target!(|input: &[u8]| TARGET(input));
