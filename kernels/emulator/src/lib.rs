//! CUDA kernels on the CPU, and a driver library that runs them: for tests only.
//!
//! [`preload`] loads the library in the driver's place, before the backend looks for one. The kernels in it are those
//! of `kernels/*.cu`, compiled by a C++ compiler over `cpp/`: one fiber per thread, warps that meet, copies that come
//! late, memory that starts as NaN. A kernel that a GPU would hang on, or that writes where it may not, fails with
//! its name, block and line ([`report`]).
//!
//! What it cannot show: speed, bank conflicts, registers; a missing fence (its threads see writes in order, but for
//! copies that are asynchronous); the last bits of matrix products and of approximations; blocks that wait for blocks.
//! Layouts of fragments are those of the PTX manual as read by us, until the same tests have passed on a GPU.
//!
//! The environment: `TM_EMULATOR_CC` (80, 90), `TM_EMULATOR_DEVICES`, `TM_EMULATOR_SMS`, `TM_EMULATOR_MEMORY` (bytes),
//! `TM_EMULATOR_FAIL_LAUNCH` (kernels until one fails), `TM_EMULATOR_DELAY` (microseconds before a stream's work),
//! `TM_EMULATOR_SCHEDULE` (0 forward, 1 reverse, 2 random; blocks take turns otherwise), `TM_EMULATOR_THREADS`,
//! `TM_EMULATOR_NCCL_TIMEOUT` (seconds until ranks that wait for one another fail).

mod control;
mod library;

pub use control::{Counters, Fault, counters, image, recover, report, set};
pub use library::{FLAGS, LIBRARY, NCCL_LIBRARY, OBJECTS, is_real_gpu, preload, preload_nccl};
