//! Memory of the device, and memory of the host that the device copies from and to while the host goes on.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::result;
use tokenmill_backend_model::error::Error;

use crate::context::Context;
use crate::driver::failed;

/// Element types that are copied as bytes: no padding, any bits are a value.
///
/// # Safety
/// As said.
pub unsafe trait Plain: Copy + 'static {}
// SAFETY: numbers.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for i32 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for half::bf16 {}
// SAFETY: as above.
unsafe impl Plain for half::f16 {}

/// Bytes on the device, 256-byte aligned, freed when dropped.
pub struct Memory {
    context: Arc<Context>,
    pointer: u64,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, Error> {
        // The driver refuses to give nothing.
        // SAFETY: freed once, in `drop`.
        let pointer = unsafe { result::malloc_sync(bytes.max(1)) };
        let pointer = pointer.map_err(|e| failed(&format!("allocating {bytes} bytes"), &e))?;
        Ok(Self { context: context.clone(), pointer, bytes })
    }

    /// Its address on the device.
    pub fn ptr(&self) -> u64 {
        self.pointer
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // Fails only on a device that is lost.
        let _ = self.context.make_current();
        // SAFETY: made in `new`. The driver waits for work that uses it.
        let _ = unsafe { result::free_sync(self.pointer) };
    }
}

/// Page-locked host memory of `len` elements, zeroed at first.
///
/// The device reads or writes it in the background: whoever holds it must not touch what a copy in flight
/// covers (see `Event`).
pub struct Pinned<T: Plain> {
    context: Arc<Context>,
    pointer: *mut c_void,
    len: usize,
    element: PhantomData<T>,
}

// SAFETY: plain memory with one owner.
unsafe impl<T: Plain> Send for Pinned<T> {}
// SAFETY: as above; shared access only reads.
unsafe impl<T: Plain> Sync for Pinned<T> {}

impl<T: Plain> Pinned<T> {
    pub(crate) fn new(context: &Arc<Context>, len: usize) -> Result<Self, Error> {
        let bytes = len.max(1) * size_of::<T>();
        // SAFETY: freed once, in `drop`.
        let pointer = unsafe { result::malloc_host(bytes, 0) };
        let pointer = pointer.map_err(|e| failed(&format!("page-locking {bytes} bytes"), &e))?;
        // SAFETY: `bytes` bytes were given.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { context: context.clone(), pointer, len, element: PhantomData })
    }

    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` elements, all bits of which are values; pages are aligned.
        unsafe { std::slice::from_raw_parts(self.pointer.cast(), self.len) }
    }

    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.cast(), self.len) }
    }
}

impl<T: Plain> Drop for Pinned<T> {
    fn drop(&mut self) {
        let _ = self.context.make_current();
        // SAFETY: made in `new`. The driver waits for copies that use it.
        let _ = unsafe { result::free_host(self.pointer) };
    }
}
