//! One GPU as a rank uses it: kernels by name, memory, copies, one stream in which all of it is ordered.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{result, sys};
use tokenmill_backend_model::error::Error;
use tokenmill_kernels::{Missing, Module};

use crate::context::Context;
use crate::driver::{Properties, failed};
use crate::event::Event;
use crate::memory::{Memory, Pinned, Plain};

/// A device, its stream and the kernels that were loaded. Used by one thread at a time.
pub struct Gpu {
    context: Arc<Context>,
    modules: Vec<sys::CUmodule>,
    functions: RefCell<HashMap<&'static str, Function>>,
}

// SAFETY: handles; the driver lets any thread use them.
unsafe impl Send for Gpu {}

#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Bytes of dynamic shared memory it was allowed so far.
    shared: u32,
}

/// How a kernel is launched.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    pub blocks: [u32; 3],
    /// Of a block.
    pub threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// An address on the device, or 0.
    Ptr(u64),
    U32(u32),
    F32(f32),
}

const MAX_ARGS: usize = 24;

impl Gpu {
    /// Opens device `ordinal` with the kernels that were built for it, current on this thread.
    pub fn open(ordinal: i32) -> Result<Self, Error> {
        let context = Context::new(ordinal)?;
        let Properties { major, minor, .. } = context.properties;
        let modules = tokenmill_kernels::select(major, minor).map_err(|missing| match missing {
            Missing::Damaged(_) => Error::Invalid(missing.to_string()),
            Missing::Kernels | Missing::Architecture(..) => Error::Unsupported(missing.to_string()),
        })?;
        Self::with(context, &modules)
    }

    /// As `open`, with other kernels: cubins, or PTX that ends with a zero byte.
    pub fn open_with(ordinal: i32, modules: &[Module]) -> Result<Self, Error> {
        Self::with(Context::new(ordinal)?, modules)
    }

    fn with(context: Arc<Context>, modules: &[Module]) -> Result<Self, Error> {
        let mut gpu = Self { context, modules: Vec::new(), functions: RefCell::default() };
        for module in modules {
            // SAFETY: an image that outlives the call; the context is current.
            let loaded = unsafe { result::module::load_data(module.bytes.as_ptr().cast()) };
            gpu.modules.push(loaded.map_err(|e| failed(&format!("loading {}", module.file), &e))?);
        }
        Ok(gpu)
    }

    pub fn properties(&self) -> &Properties {
        &self.context.properties
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Bytes that are free and in all.
    pub fn memory(&self) -> Result<(u64, u64), Error> {
        let (free, total) = result::mem_get_info().map_err(|e| failed("asking for free memory", &e))?;
        Ok((free as u64, total as u64))
    }

    /// Memory with undefined contents.
    pub fn alloc(&self, bytes: usize) -> Result<Memory, Error> {
        Memory::new(&self.context, bytes)
    }

    /// Zeroed memory.
    pub fn zeroed(&self, bytes: usize) -> Result<Memory, Error> {
        let memory = self.alloc(bytes)?;
        self.zero(memory.ptr(), bytes)?;
        Ok(memory)
    }

    /// Memory that holds `values`.
    pub fn uploaded<T: Plain>(&self, values: &[T]) -> Result<Memory, Error> {
        let memory = self.alloc(size_of_val(values))?;
        self.upload(memory.ptr(), values)?;
        Ok(memory)
    }

    pub fn pinned<T: Plain>(&self, len: usize) -> Result<Pinned<T>, Error> {
        Pinned::new(&self.context, len)
    }

    /// An event that only orders; see `timer` for one that also tells the time.
    pub fn event(&self) -> Result<Event, Error> {
        Event::new(&self.context, sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    pub fn timer(&self) -> Result<Event, Error> {
        Event::new(&self.context, sys::CUevent_flags::CU_EVENT_DEFAULT)
    }

    /// Copies `values` to address `to` and waits.
    pub fn upload<T: Plain>(&self, to: u64, values: &[T]) -> Result<(), Error> {
        // SAFETY: the caller owns that many bytes at `to`.
        unsafe { result::memcpy_htod_async(to, values, self.context.stream()) }
            .map_err(|e| failed("a copy to the device", &e))?;
        self.synchronize()
    }

    /// Copies from address `from` and waits.
    pub fn download<T: Plain>(&self, from: u64, values: &mut [T]) -> Result<(), Error> {
        // SAFETY: the caller owns that many bytes at `from`; `values` is borrowed until the copy is done.
        unsafe { result::memcpy_dtoh_async(values, from, self.context.stream()) }
            .map_err(|e| failed("a copy from the device", &e))?;
        self.synchronize()
    }

    /// Queues a copy of the first `len` elements of `from`, which must stay as they are until it ran.
    pub fn queue_upload<T: Plain>(&self, to: u64, from: &Pinned<T>, len: usize) -> Result<(), Error> {
        // SAFETY: pinned memory lives until its owner, who waits, drops it.
        unsafe { result::memcpy_htod_async(to, &from.as_slice()[..len], self.context.stream()) }
            .map_err(|e| failed("a copy to the device", &e))
    }

    /// Queues a copy to the first `len` elements of `to`, which are undefined until it ran.
    pub fn queue_download<T: Plain>(&self, to: &mut Pinned<T>, from: u64, len: usize) -> Result<(), Error> {
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(&mut to.as_mut_slice()[..len], from, self.context.stream()) }
            .map_err(|e| failed("a copy from the device", &e))
    }

    /// Queues zeroing of `bytes` bytes.
    pub fn zero(&self, at: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller owns that many bytes at `at`.
        unsafe { result::memset_d8_async(at, 0, bytes, self.context.stream()) }
            .map_err(|e| failed("zeroing memory", &e))
    }

    /// Waits for all that is queued.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.context.synchronize()
    }

    /// Queues a kernel. Nothing is launched for an empty grid.
    pub fn launch(&self, name: &'static str, grid: Grid, args: &[Arg]) -> Result<(), Error> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let function = self.function(name, grid.shared)?;
        let mut words = [0u64; MAX_ARGS];
        let mut pointers = [std::ptr::null_mut::<c_void>(); MAX_ARGS];
        assert!(args.len() <= MAX_ARGS, "{name} has {} arguments", args.len());
        for ((arg, word), pointer) in args.iter().zip(&mut words).zip(&mut pointers) {
            // Kernels read as many low bytes as their parameter has.
            *word = match *arg {
                Arg::Ptr(address) => address,
                Arg::U32(value) => u64::from(value),
                Arg::F32(value) => u64::from(value.to_bits()),
            };
            *pointer = (word as *mut u64).cast();
        }
        let (blocks, stream) = (grid.blocks.into(), self.context.stream());
        let arguments = &mut pointers[..args.len()];
        // SAFETY: the driver copies the arguments; that they are what the kernel takes is what the tests
        // of each operation are for.
        unsafe {
            result::launch_kernel(function, blocks, (grid.threads, 1, 1), grid.shared, stream, arguments)
        }
        .map_err(|e| failed(&format!("launching {name}"), &e))
    }

    /// The kernel `name`, allowed to use `shared` bytes.
    fn function(&self, name: &'static str, shared: u32) -> Result<sys::CUfunction, Error> {
        let functions = &mut *self.functions.borrow_mut();
        let function = match functions.entry(name) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(new) => {
                new.insert(Function { handle: self.find(name)?, shared: 0 })
            }
        };
        // Without asking it is 48 KB less what is static.
        if shared > function.shared {
            let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: a function that the driver gave.
            unsafe { result::function::set_function_attribute(function.handle, limit, shared as i32) }
                .map_err(|e| failed(&format!("giving {name} {shared} bytes of shared memory"), &e))?;
            function.shared = shared;
        }
        Ok(function.handle)
    }

    fn find(&self, name: &str) -> Result<sys::CUfunction, Error> {
        for module in &self.modules {
            let Ok(name) = CString::new(name) else { break };
            // SAFETY: a module that is loaded.
            if let Ok(found) = unsafe { result::module::get_function(*module, name) } {
                return Ok(found);
            }
        }
        Err(Error::Unsupported(format!("there is no kernel {name} for this device")))
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        let _ = self.context.make_current();
        let _ = self.context.synchronize();
        for module in self.modules.drain(..) {
            // SAFETY: loaded in `with`; nothing runs any more.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
