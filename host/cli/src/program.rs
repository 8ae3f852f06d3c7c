//! This program, started again as a process apart.

use std::{io, path::PathBuf};

/// Hidden subcommands.
pub(crate) const TEXT_WORKER: &str = "text-worker";
pub(crate) const POLICY_COMPILER: &str = "policy-compiler";

pub(crate) fn path() -> io::Result<PathBuf> {
    // On Linux this name stays right when the program is replaced by a newer one while it runs.
    match cfg!(target_os = "linux") {
        true => Ok(PathBuf::from("/proc/self/exe")),
        false => std::env::current_exe(),
    }
}
