//! A point in the stream that any thread can wait for.

use std::sync::Arc;

use cudarc::driver::{result, sys};
use tokenmill_backend_model::error::Error;

use crate::context::Context;
use crate::driver::failed;

pub struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: events are handles that the driver lets any thread use.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    pub(crate) fn new(context: &Arc<Context>, flags: sys::CUevent_flags) -> Result<Self, Error> {
        let event = result::event::create(flags).map_err(|e| failed("making an event", &e))?;
        Ok(Self { context: context.clone(), event })
    }

    /// From here on it stands for all that is queued so far.
    pub fn record(&self) -> Result<(), Error> {
        // SAFETY: both are alive.
        unsafe { result::event::record(self.event, self.context.stream()) }
            .map_err(|e| failed("recording an event", &e))
    }

    /// Waits for what was queued when it was recorded last; at once if it never was. The context is current.
    pub fn wait(&self) -> Result<(), Error> {
        // SAFETY: alive.
        match unsafe { result::event::query(self.event) } {
            Ok(()) => return Ok(()),
            Err(e) if e.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
            Err(e) => return Err(failed("a step on the device", &e)),
        }
        // SAFETY: alive.
        unsafe { result::event::synchronize(self.event) }.map_err(|e| failed("a step on the device", &e))
    }

    /// Milliseconds from `start` to this one; both were recorded with timing and waited for.
    pub fn milliseconds_since(&self, start: &Event) -> Result<f32, Error> {
        // SAFETY: both are alive.
        unsafe { result::event::elapsed(start.event, self.event) }
            .map_err(|e| failed("reading a clock of the device", &e))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.make_current();
        // SAFETY: made in `new`.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}
