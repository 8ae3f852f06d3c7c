//! The driver library: whether it is there, which devices it has, and what its errors mean.

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};
use tokenmill_backend_model::error::Error;

/// cudarc panics where the library is missing, so everything begins here.
pub(crate) fn init() -> Result<(), Error> {
    // SAFETY: opens a library by its usual names.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::Unsupported("no CUDA driver: libcuda.so.1 not found".into()));
    }
    result::init().map_err(|e| match e.0 {
        CUresult::CUDA_ERROR_NO_DEVICE => Error::Unsupported("the CUDA driver finds no GPU".into()),
        _ => Error::Unsupported(format!("the CUDA driver does not start: {}", text(&e))),
    })
}

/// GPUs of this machine; after `init`.
pub(crate) fn devices() -> Result<usize, Error> {
    let count = result::device::get_count().map_err(|e| failed("counting devices", &e))?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(Error::Unsupported("the CUDA driver finds no GPU".into())),
    }
}

/// What a GPU says of itself.
#[derive(Clone, Debug)]
pub struct Properties {
    pub name: String,
    /// Compute capability.
    pub major: u32,
    pub minor: u32,
    pub multiprocessors: u32,
    /// Bytes of shared memory that one block may ask for.
    pub shared: u32,
    /// Bytes.
    pub memory: u64,
}

impl Properties {
    pub(crate) fn of(device: sys::CUdevice) -> Result<Self, Error> {
        // SAFETY: a device that the driver gave.
        let attribute = |attribute| unsafe { result::device::get_attribute(device, attribute) };
        let read = || {
            Ok(Self {
                name: result::device::get_name(device)?,
                major: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? as u32,
                minor: attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)? as u32,
                multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
                shared: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)? as u32,
                // SAFETY: as above.
                memory: unsafe { result::device::total_mem(device) }? as u64,
            })
        };
        read().map_err(|e| failed("asking the device what it is", &e))
    }
}

/// An error of the driver as one of ours. Too little memory leaves the device usable; all else does not:
/// most errors of kernels are sticky, so that every later call fails too.
pub(crate) fn failed(what: &str, error: &DriverError) -> Error {
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::NoMemory(format!("{what}: too little device memory")),
        _ => Error::Lost(format!("{what}: {}", text(error))),
    }
}

fn text(error: &DriverError) -> String {
    let name = error.error_name().map(|name| name.to_string_lossy().into_owned());
    let words = error.error_string().map(|words| words.to_string_lossy().into_owned());
    format!("{} ({})", words.unwrap_or_default(), name.unwrap_or_else(|_| format!("{:?}", error.0)))
}
