//! A device's primary context and one stream in it. Threads that use it make it current first.

use std::sync::Arc;

use cudarc::driver::result::{self, stream::StreamKind};
use cudarc::driver::sys;
use tokenmill_backend_model::error::Error;

use crate::driver::{self, Properties, failed};

/// Shared by everything that lives on the device, so it goes last.
pub(crate) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    pub(crate) properties: Properties,
}

// SAFETY: contexts and streams are handles that the driver lets any thread use.
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks.
unsafe impl Sync for Context {}

impl Context {
    /// Makes the context of device `ordinal` and makes it current on this thread.
    pub(crate) fn new(ordinal: i32) -> Result<Arc<Self>, Error> {
        driver::init()?;
        let device = result::device::get(ordinal).map_err(|e| failed("opening the device", &e))?;
        let properties = Properties::of(device)?;
        // SAFETY: the driver gave the device; the context is released once, in `drop`.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(|e| failed("making a context", &e))?;
        let mut new = Self { device, context, stream: std::ptr::null_mut(), properties };
        new.make_current()?;
        new.stream =
            result::stream::create(StreamKind::NonBlocking).map_err(|e| failed("making a stream", &e))?;
        Ok(Arc::new(new))
    }

    pub(crate) fn make_current(&self) -> Result<(), Error> {
        // SAFETY: a context that is retained.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("entering the context", &e))
    }

    pub(crate) fn stream(&self) -> sys::CUstream {
        self.stream
    }

    pub(crate) fn synchronize(&self) -> Result<(), Error> {
        // SAFETY: a stream that is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| failed("waiting for the device", &e))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // A device that is lost cannot be tidied up; nothing can be done about it here.
        let _ = self.make_current();
        // SAFETY: made in `new`; nothing that lives on the device is left.
        unsafe {
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
