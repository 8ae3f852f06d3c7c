//! Views are lent to the host functions of a call for exactly as long as the call lasts, and never copied
//! as a whole: a policy pays for the columns that it reads.

use scoped_tls_hkt::scoped_thread_local;
use tokenmill_policy::{sample, schedule};

use crate::error::Failure;

scoped_thread_local!(static SCHEDULE: for<'a> &'a (dyn schedule::View + 'a));
scoped_thread_local!(static SAMPLE: for<'a> &'a (dyn sample::View + 'a));
scoped_thread_local!(static mut LOGITS: for<'a> &'a mut (dyn sample::Logits + 'a));

pub(crate) fn with_schedule<R>(view: &dyn schedule::View, call: impl FnOnce() -> R) -> R {
    SCHEDULE.set(view, call)
}

pub(crate) fn with_sample<R>(view: &dyn sample::View, call: impl FnOnce() -> R) -> R {
    SAMPLE.set(view, call)
}

pub(crate) fn with_logits<R>(logits: &mut dyn sample::Logits, call: impl FnOnce() -> R) -> R {
    LOGITS.set(logits, call)
}

/// A handle outlives no call, so a guest cannot get here without a view.
fn gone() -> Failure {
    Failure::bad("a handle was used outside of the call that it was lent to")
}

pub(crate) fn schedule<R>(read: impl FnOnce(&dyn schedule::View) -> R) -> wasmtime::Result<R> {
    if SCHEDULE.is_set() { Ok(SCHEDULE.with(|view| read(view))) } else { Err(gone().into()) }
}

pub(crate) fn sample<R>(read: impl FnOnce(&dyn sample::View) -> R) -> wasmtime::Result<R> {
    if SAMPLE.is_set() { Ok(SAMPLE.with(|view| read(view))) } else { Err(gone().into()) }
}

/// Whether this is `plan` of a sampler.
pub(crate) fn planning() -> bool {
    SAMPLE.is_set() && !LOGITS.is_set()
}

pub(crate) fn logits<R>(read: impl FnOnce(&mut dyn sample::Logits) -> R) -> wasmtime::Result<R> {
    if LOGITS.is_set() { Ok(LOGITS.with(|logits| read(logits))) } else { Err(gone().into()) }
}
