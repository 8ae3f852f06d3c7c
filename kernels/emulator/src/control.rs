//! What tests see of the driver and do to it. The C side is `cpp/driver/control.cpp`.

use std::ffi::{CStr, c_char, c_int};

use crate::library::driver;

/// What the driver did since it was loaded. The order is that of `Counters` in `cpp/driver/control.h`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Calls of `cuLaunchKernel`, those recorded into a graph included.
    pub launches: u64,
    /// Kernels that ran.
    pub kernels: u64,
    pub graph_launches: u64,
    /// Of device memory.
    pub allocations: u64,
    /// Of pinned memory.
    pub host_allocations: u64,
    /// Times the host waited: for a stream, an event, a context, or a copy that does not come back before it is done.
    pub synchronisations: u64,
    pub copies: u64,
    pub memsets: u64,
}

const COUNTERS: usize = size_of::<Counters>() / size_of::<u64>();

/// A fault to be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A device has this many bytes.
    Memory(u64),
    /// The nth kernel from now touches an illegal address, after which every call fails; 0 = none.
    FailLaunch(u64),
    /// There are this many devices, 8 at most; for who asks from now on.
    Devices(u64),
    /// Every piece of a stream's work starts this many microseconds late.
    Delay(u64),
}

/// What the driver did so far. All zeros on a real GPU.
pub fn counters() -> Counters {
    let mut words = [0u64; COUNTERS];
    if let Some(read) = function::<unsafe extern "C" fn(*mut u64, u64)>(c"tm_emulator_counters") {
        // SAFETY: it writes at most as many words as there are.
        unsafe { read(words.as_mut_ptr(), COUNTERS as u64) };
    }
    let [launches, kernels, graph_launches, allocations, host_allocations, synchronisations, copies, memsets] =
        words;
    Counters {
        launches,
        kernels,
        graph_launches,
        allocations,
        host_allocations,
        synchronisations,
        copies,
        memsets,
    }
}

/// Sets a fault for the whole process. Does nothing on a real GPU.
pub fn set(fault: Fault) {
    let (name, value) = match fault {
        Fault::Memory(bytes) => (c"memory", bytes),
        Fault::FailLaunch(n) => (c"fail_launch", n),
        Fault::Devices(n) => (c"devices", n),
        Fault::Delay(microseconds) => (c"delay", microseconds),
    };
    if let Some(set) = function::<unsafe extern "C" fn(*const c_char, u64) -> c_int>(c"tm_emulator_set") {
        // SAFETY: the name ends with a NUL.
        unsafe { set(name.as_ptr(), value) };
    }
}

/// What the last kernel that failed did; empty if none did.
pub fn report() -> String {
    text(c"tm_emulator_report")
}

/// A module that has every kernel of the emulator: the driver runs its own code and looks only for names in images.
pub fn image() -> Vec<u8> {
    let mut image = text(c"tm_emulator_kernels").into_bytes();
    image.push(0);
    image
}

fn text(name: &CStr) -> String {
    let Some(read) = function::<unsafe extern "C" fn(*mut c_char, u64) -> u64>(name) else {
        return String::new();
    };
    let mut bytes = vec![0u8; 64 << 10];
    // SAFETY: it writes at most as many bytes as there are, a NUL among them.
    unsafe { read(bytes.as_mut_ptr().cast(), bytes.len() as u64) };
    CStr::from_bytes_until_nul(&bytes).map(|text| text.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Devices work again after an error, as in a new process.
pub fn recover() {
    if let Some(recover) = function::<unsafe extern "C" fn()>(c"tm_emulator_recover") {
        // SAFETY: it takes nothing.
        unsafe { recover() };
    }
}

fn function<F: Copy>(name: &CStr) -> Option<F> {
    if crate::is_real_gpu() {
        return None;
    }
    // SAFETY: the callers' types are those of control.cpp.
    unsafe { driver().get::<F>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
}
