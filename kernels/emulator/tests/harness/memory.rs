//! Device memory and copies that wait.

use std::ffi::c_void;

use super::{Driver, SUCCESS, Status, call};

impl Driver {
    pub(crate) fn try_alloc(&self, bytes: usize) -> Result<u64, Status> {
        let mut at = 0u64;
        match call!(self, "cuMemAlloc_v2", &mut at => *mut u64, bytes => usize) {
            SUCCESS => Ok(at),
            status => Err(status),
        }
    }

    pub(crate) fn alloc(&self, bytes: usize) -> u64 {
        self.try_alloc(bytes).unwrap()
    }

    pub(crate) fn free(&self, at: u64) -> Status {
        call!(self, "cuMemFree_v2", at => u64)
    }

    pub(crate) fn pinned(&self, bytes: usize) -> *mut c_void {
        let mut at = std::ptr::null_mut();
        let status = call!(self, "cuMemHostAlloc", &mut at => *mut *mut c_void, bytes => usize, 0 => u32);
        assert_eq!(status, SUCCESS);
        at
    }

    pub(crate) fn uploaded<T: Copy>(&self, values: &[T]) -> u64 {
        let at = self.alloc(size_of_val(values));
        let status = call!(self, "cuMemcpyHtoD_v2", at => u64, values.as_ptr() => *const T, size_of_val(values) => usize);
        assert_eq!(status, SUCCESS);
        at
    }

    /// The error of a kernel that failed before comes out here too.
    pub(crate) fn download<T: Copy + Default>(&self, at: u64, len: usize) -> Result<Vec<T>, Status> {
        let mut values = vec![T::default(); len];
        let bytes = size_of_val(&values[..]);
        match call!(self, "cuMemcpyDtoH_v2", values.as_mut_ptr() => *mut T, at => u64, bytes => usize) {
            SUCCESS => Ok(values),
            status => Err(status),
        }
    }
}
