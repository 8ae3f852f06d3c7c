//! Tests of several devices: each in a process of its own, as the emulator is told their number before it starts.

use std::process::Command;

const CASE: &str = "TOKENMILL_DEVICES_CASE";

/// Runs the test `name` again in a process that has four devices and NCCL, where this gives true. A machine with a
/// real GPU hardly ever has four.
pub(crate) fn has_four(name: &str) -> bool {
    if tokenmill_emulator::is_real_gpu() {
        return false;
    }
    if std::env::var_os(CASE).is_some() {
        tokenmill_emulator::preload_nccl();
        return true;
    }
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", name, "--nocapture"]).env(CASE, "1").env("TM_EMULATOR_DEVICES", "4");
    let out = process.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    assert!(said.contains("1 passed"), "no test {name}:\n{said}");
    false
}
