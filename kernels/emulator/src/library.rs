//! Loading the emulator's libraries in the place of CUDA's.

use std::{env, sync::OnceLock};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

pub const LIBRARY: &str = concat!(env!("OUT_DIR"), "/libcuda.so.1");
pub const NCCL_LIBRARY: &str = concat!(env!("OUT_DIR"), "/libnccl.so.2");

/// Where the objects that [`LIBRARY`] is made of lie, and how they were compiled.
pub const OBJECTS: &str = env!("OUT_DIR");
pub const FLAGS: &[&str] = include!("../flags.rs");

/// Whether the tests run on a GPU (`TOKENMILL_REAL_GPU=1`) and not on the emulator.
pub fn is_real_gpu() -> bool {
    env::var_os("TOKENMILL_REAL_GPU").is_some_and(|value| value == "1")
}

/// Loads the emulator as this process's CUDA driver. Whoever opens `libcuda.so.1` later gets it, since it has that
/// name inside. Does nothing on a real GPU, and nothing the second time.
///
/// # Panics
/// If the library cannot be loaded.
pub fn preload() {
    if !is_real_gpu() {
        driver();
    }
}

/// The same for NCCL.
///
/// # Panics
/// If the library cannot be loaded.
pub fn preload_nccl() {
    static NCCL: OnceLock<Library> = OnceLock::new();
    preload();
    if !is_real_gpu() {
        NCCL.get_or_init(|| load(NCCL_LIBRARY));
    }
}

pub(crate) fn driver() -> &'static Library {
    static DRIVER: OnceLock<Library> = OnceLock::new();
    DRIVER.get_or_init(|| load(LIBRARY))
}

#[expect(clippy::panic, reason = "for tests only, which can do nothing without it")]
fn load(path: &str) -> Library {
    // SAFETY: the library is built with this crate; what its initialisers do is enter kernels into a table.
    match unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) } {
        Ok(library) => library,
        Err(error) => panic!("{path}: {error}"),
    }
}
