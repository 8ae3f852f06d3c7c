//! The functions of NCCL that are used, as libnccl.so.2 exports them (nccl.h).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

use cudarc::driver::sys::CUstream;
use libloading::Library as Loaded;
use tokenmill_backend_model::error::Error;

/// Runtime packages ship the first alone; the second is a link that development packages add.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// 2.14 is the first that reports its last error and runs on CUDA 12 drivers.
const OLDEST: c_int = 2_14_00;

const SUCCESS: Code = 0;
/// Still connecting: not an error.
const IN_PROGRESS: Code = 7;

/// `ncclResult_t`
pub(super) type Code = c_int;
/// `ncclComm_t`
pub(super) type Handle = *mut c_void;

/// `ncclUniqueId`: how the ranks of a communicator find each other.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId([c_char; 128]);

/// Element types of what travels, with their `ncclDataType_t`.
#[derive(Clone, Copy)]
pub(super) enum Element {
    I32 = 2,
    F32 = 7,
}

/// `ncclRedOp_t`
const SUM: c_int = 0;

type GetVersion = unsafe extern "C" fn(*mut c_int) -> Code;
type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> Code;
type InitRank = unsafe extern "C" fn(*mut Handle, c_int, UniqueId, c_int) -> Code;
type End = unsafe extern "C" fn(Handle) -> Code;
type GetAsyncError = unsafe extern "C" fn(Handle, *mut Code) -> Code;
type GetErrorString = unsafe extern "C" fn(Code) -> *const c_char;
type GetLastError = unsafe extern "C" fn(Handle) -> *const c_char;
type AllReduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Handle, CUstream) -> Code;
type Transfer = unsafe extern "C" fn(u64, usize, c_int, c_int, Handle, CUstream) -> Code;

pub(super) struct Library {
    get_version: GetVersion,
    get_unique_id: GetUniqueId,
    init_rank: InitRank,
    destroy: End,
    abort: End,
    get_async_error: GetAsyncError,
    get_error_string: GetErrorString,
    get_last_error: GetLastError,
    all_reduce: AllReduce,
    send: Transfer,
    recv: Transfer,
    _library: Loaded,
}

impl Library {
    /// The library of this process, opened once.
    pub(super) fn get() -> Result<&'static Self, Error> {
        static LIBRARY: OnceLock<Result<Library, Error>> = OnceLock::new();
        LIBRARY.get_or_init(|| Self::open(&NAMES)).as_ref().map_err(Error::clone)
    }

    fn open(names: &[&str]) -> Result<Self, Error> {
        // SAFETY: NCCL may be loaded at any time, from any thread.
        let found = names.iter().find_map(|name| unsafe { Loaded::new(*name) }.ok());
        let library = found.ok_or_else(|| Error::Unsupported(format!("{} not found", names[0])))?;
        let opened = Self::bind(library)?;
        let mut version = 0;
        // SAFETY: a place for a number.
        opened.check("asking for its version", unsafe { (opened.get_version)(&raw mut version) })?;
        if version < OLDEST {
            let (found, oldest) = (spelled(version), spelled(OLDEST));
            return Err(Error::Unsupported(format!("{found} is too old, {oldest} or newer is needed")));
        }
        Ok(opened)
    }

    fn bind(library: Loaded) -> Result<Self, Error> {
        // SAFETY: the types are those of nccl.h; the functions live as long as the library, which is kept.
        unsafe {
            Ok(Self {
                get_version: function(&library, "ncclGetVersion")?,
                get_unique_id: function(&library, "ncclGetUniqueId")?,
                init_rank: function(&library, "ncclCommInitRank")?,
                destroy: function(&library, "ncclCommDestroy")?,
                abort: function(&library, "ncclCommAbort")?,
                get_async_error: function(&library, "ncclCommGetAsyncError")?,
                get_error_string: function(&library, "ncclGetErrorString")?,
                get_last_error: function(&library, "ncclGetLastError")?,
                all_reduce: function(&library, "ncclAllReduce")?,
                send: function(&library, "ncclSend")?,
                recv: function(&library, "ncclRecv")?,
                _library: library,
            })
        }
    }

    pub(super) fn unique_id(&self) -> Result<UniqueId, Error> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: a place for an id.
        self.check("starting NCCL", unsafe { (self.get_unique_id)(&raw mut id) })?;
        Ok(id)
    }

    /// Waits for the other ranks, on the device whose context is current.
    pub(super) fn init_rank(&self, ranks: usize, id: UniqueId, rank: usize) -> Result<Handle, Error> {
        let mut handle = null_mut();
        // SAFETY: a place for a handle; an id that NCCL made.
        let code = unsafe { (self.init_rank)(&raw mut handle, ranks as c_int, id, rank as c_int) };
        self.check("connecting the ranks", code).map_err(|error| match error {
            // Nothing was there yet to be lost.
            Error::Lost(why) => Error::Unsupported(why),
            other => other,
        })?;
        Ok(handle)
    }

    /// # Safety
    /// The handle is alive; it no longer is.
    pub(super) unsafe fn destroy(&self, handle: Handle) -> Result<(), Error> {
        // SAFETY: as promised.
        self.check("leaving the ranks", unsafe { (self.destroy)(handle) })
    }

    /// # Safety
    /// As `destroy`.
    pub(super) unsafe fn abort(&self, handle: Handle) -> Result<(), Error> {
        // SAFETY: as promised.
        self.check("giving the ranks up", unsafe { (self.abort)(handle) })
    }

    /// What happened to work that was queued.
    ///
    /// # Safety
    /// The handle is alive.
    pub(super) unsafe fn async_error(&self, handle: Handle) -> Result<(), Error> {
        let mut code = SUCCESS;
        // SAFETY: as promised, and a place for a code.
        self.check("asking after the ranks", unsafe { (self.get_async_error)(handle, &raw mut code) })?;
        self.check("work between ranks", if code == IN_PROGRESS { SUCCESS } else { code })
    }

    /// Queues `x = sum of x over the ranks`, f32.
    ///
    /// # Safety
    /// The handle, the stream and `count` numbers at `x` are alive until it ran.
    pub(super) unsafe fn all_reduce(
        &self,
        handle: Handle,
        x: u64,
        count: usize,
        stream: CUstream,
    ) -> Result<(), Error> {
        let element = Element::F32 as c_int;
        // SAFETY: as promised.
        let code = unsafe { (self.all_reduce)(x, x, count, element, SUM, handle, stream) };
        self.check("a sum over the ranks", code)
    }

    /// Queues sending to rank `to` of the communicator.
    ///
    /// # Safety
    /// As `all_reduce`.
    pub(super) unsafe fn send(
        &self,
        handle: Handle,
        from: u64,
        count: usize,
        element: Element,
        to: usize,
        stream: CUstream,
    ) -> Result<(), Error> {
        // SAFETY: as promised.
        let code = unsafe { (self.send)(from, count, element as c_int, to as c_int, handle, stream) };
        self.check("sending to the next stage", code)
    }

    /// Queues receiving from rank `from` of the communicator.
    ///
    /// # Safety
    /// As `all_reduce`.
    pub(super) unsafe fn receive(
        &self,
        handle: Handle,
        to: u64,
        count: usize,
        element: Element,
        from: usize,
        stream: CUstream,
    ) -> Result<(), Error> {
        // SAFETY: as promised.
        let code = unsafe { (self.recv)(to, count, element as c_int, from as c_int, handle, stream) };
        self.check("receiving from the stage before", code)
    }

    fn check(&self, what: &str, code: Code) -> Result<(), Error> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: both give a text that NCCL keeps, or NULL; without a communicator the last error is that of this
        // thread.
        let (meaning, detail) =
            unsafe { (text((self.get_error_string)(code)), text((self.get_last_error)(null_mut()))) };
        let separator = if detail.is_empty() { "" } else { ": " };
        Err(Error::Lost(format!("{what}: NCCL: {meaning}{separator}{detail}")))
    }
}

/// # Safety
/// `T` is the type of the function `name`; the library outlives it.
unsafe fn function<T: Copy>(library: &Loaded, name: &str) -> Result<T, Error> {
    // SAFETY: as promised.
    let found = unsafe { library.get::<T>(name) };
    found.map(|function| *function).map_err(|_| Error::Unsupported(format!("the library has no {name}")))
}

/// # Safety
/// NULL or a text.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as promised.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().trim().to_owned()
}

/// "2.27.7" of 22707. Before 2.9 there was a digit less, which is too old anyway.
fn spelled(version: c_int) -> String {
    match version {
        10_000.. => format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100),
        _ => format!("{}.{}.{}", version / 1000, version / 100 % 10, version % 100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_missing_or_another_is_named() {
        let refused = |names: &[&str]| Library::open(names).err();
        let missing = Error::Unsupported("libnccl-of-nobody.so.2 not found".into());
        assert_eq!(refused(&["libnccl-of-nobody.so.2", "libnccl-of-nobody.so"]), Some(missing));
        let another = Error::Unsupported("the library has no ncclGetVersion".into());
        assert_eq!(refused(&["libc.so.6"]), Some(another));
    }

    #[test]
    fn versions_are_spelled_as_they_are_released() {
        assert_eq!([2_27_07, 2_14_00, 2804].map(spelled), ["2.27.7", "2.14.0", "2.8.4"]);
    }
}
