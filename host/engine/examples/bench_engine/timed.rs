//! A backend's function table with a stopwatch around each call of the hot path.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokenmill_backend::abi;

static INNER: OnceLock<&'static abi::Api> = OnceLock::new();
static TIMED: OnceLock<&'static abi::Api> = OnceLock::new();
static NANOSECONDS: AtomicU64 = AtomicU64::new(0);

/// Time spent in the backend since the last call.
pub(crate) fn take() -> u64 {
    NANOSECONDS.swap(0, Ordering::Relaxed)
}

/// The entry function of a library, timed.
pub(crate) fn entry(path: &Path) -> abi::Entry {
    INNER.get_or_init(|| {
        // SAFETY: the path is the null backend's, built by this workspace; it is never closed.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(path).unwrap()));
            let entry: libloading::Symbol<'static, abi::Entry> = library.get(abi::SYMBOL).unwrap();
            &*entry(abi::MAJOR)
        }
    });
    tm_backend
}

unsafe extern "C" fn tm_backend(_: u32) -> *const abi::Api {
    let table = || Box::leak(Box::new(abi::Api { submit, sample, wait, release, ..*inner() }));
    *TIMED.get_or_init(|| table())
}

fn inner() -> &'static abi::Api {
    INNER.get().copied().unwrap()
}

fn timed<T>(call: impl FnOnce(&abi::Api) -> T) -> T {
    let start = Instant::now();
    let result = call(inner());
    NANOSECONDS.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    result
}

unsafe extern "C" fn submit(
    model: *mut abi::Model,
    batch: *const abi::Batch,
    ticket: *mut abi::Ticket,
    message: *mut abi::Message,
) -> abi::Code {
    // SAFETY: the arguments are passed on unchanged.
    timed(|api| unsafe { (api.submit)(model, batch, ticket, message) })
}

unsafe extern "C" fn sample(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    sampling: *const abi::Sampling,
    message: *mut abi::Message,
) -> abi::Code {
    // SAFETY: the arguments are passed on unchanged.
    timed(|api| unsafe { (api.sample)(model, ticket, sampling, message) })
}

unsafe extern "C" fn wait(
    model: *mut abi::Model,
    ticket: abi::Ticket,
    ns: u64,
    outcome: *mut abi::Outcome,
    message: *mut abi::Message,
) -> abi::Code {
    // SAFETY: the arguments are passed on unchanged.
    timed(|api| unsafe { (api.wait)(model, ticket, ns, outcome, message) })
}

unsafe extern "C" fn release(model: *mut abi::Model, ticket: abi::Ticket) {
    // SAFETY: the arguments are passed on unchanged.
    timed(|api| unsafe { (api.release)(model, ticket) });
}
