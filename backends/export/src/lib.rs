//! Turns a `Device` into a backend library: the C ABI of `tokenmill.h` around `backends/model`.
//!
//! A device library implements [`Platform`] and says `export_backend!` once.
//!
//! Invariant: knows no kernel and no architecture; every C function catches panics; each rank has one
//! thread, and no other thread touches its device.

mod arguments;
mod directory;
mod fault;
mod job;
mod load;
mod model_handle;
pub mod options;
pub mod platform;
mod queue;
mod rank;
mod sizing;
mod table;
mod tickets;

pub use options::Options;
pub use platform::{Platform, Ranks};
pub use table::table;
pub use tokenmill_backend_abi as abi;
pub use tokenmill_backend_model as model;

/// Emits `tm_backend` and the manifest of a library whose device is `$platform`. Say it once per
/// library, at module scope: `export_backend!(Cpu, "cpu", "what it is")`.
#[macro_export]
macro_rules! export_backend {
    ($platform:ty, $name:literal, $description:literal) => {
        $crate::abi::manifest!($name, $description);

        /// The one symbol of `tokenmill.h`.
        #[unsafe(no_mangle)]
        pub extern "C" fn tm_backend(major: u32) -> *const $crate::abi::Api {
            static API: $crate::abi::Api = $crate::table::<$platform>(concat!($name, "\0"));
            if major == $crate::abi::MAJOR { &raw const API } else { std::ptr::null() }
        }
    };
}
