//! Memory that kernels read and write.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Lines of the widest vectors and of AMX tiles.
const LINE: usize = 64;
/// Huge pages spare the page walks of long streams.
const HUGE: usize = 2 << 20;

/// Numbers for which all-zero bytes are a value.
///
/// # Safety
/// The type has no padding, no invalid bit pattern and no drop.
pub unsafe trait Plain: Copy + Send + Sync + 'static {}
// SAFETY: plain numbers.
unsafe impl Plain for f32 {}
// SAFETY: plain numbers.
unsafe impl Plain for u16 {}

/// A zeroed slice that begins on a cache line; large ones ask for huge pages. Pages that nobody wrote take no memory.
pub struct Slab<T: Plain> {
    start: *mut T,
    len: usize,
    /// What was allocated: somewhat more than the slice.
    whole: (*mut u8, Layout),
}

// SAFETY: a `Slab` owns its memory as a `Box<[T]>` would.
unsafe impl<T: Plain> Send for Slab<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Slab<T> {}

impl<T: Plain> Slab<T> {
    /// `None` where the system has too little memory.
    pub fn try_zeroed(len: usize) -> Option<Slab<T>> {
        let bytes = len.checked_mul(size_of::<T>())?.max(LINE);
        let align = if bytes >= 2 * HUGE { HUGE } else { LINE };
        // Aligned here: an allocator asked for this much alignment clears the memory itself, page by page, where for
        // little alignment it takes pages that are zero already.
        let layout = Layout::from_size_align(bytes.checked_add(align)?, align_of::<T>()).ok()?;
        // SAFETY: the layout is not empty.
        let whole = unsafe { alloc_zeroed(layout) };
        if whole.is_null() {
            return None;
        }
        let start = whole.wrapping_add(whole.addr().next_multiple_of(align) - whole.addr());
        #[cfg(target_os = "linux")]
        if align == HUGE {
            // SAFETY: the range was just allocated; the advice changes no content.
            unsafe { libc::madvise(start.cast(), bytes, libc::MADV_HUGEPAGE) };
        }
        Some(Slab { start: start.cast(), len, whole: (whole, layout) })
    }

    pub fn zeroed(len: usize) -> Slab<T> {
        match Self::try_zeroed(len) {
            Some(slab) => slab,
            None => handle_alloc_error(Layout::new::<T>()),
        }
    }
}

impl<T: Plain> Drop for Slab<T> {
    fn drop(&mut self) {
        let (whole, layout) = self.whole;
        // SAFETY: allocated in `try_zeroed` with this layout.
        unsafe { dealloc(whole, layout) };
    }
}

impl<T: Plain> Deref for Slab<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` elements were allocated and zeroed, a value of `T`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Plain> DerefMut for Slab<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; `&mut self` makes it the only view.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Plain> Default for Slab<T> {
    fn default() -> Self {
        Self::zeroed(0)
    }
}

/// A slice of which threads write disjoint parts.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out only by the unsafe `part`, whose callers keep them disjoint.
unsafe impl<T: Send> Send for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(whole: &'a mut [T]) -> Self {
        Parts { start: whole.as_mut_ptr(), len: whole.len(), life: PhantomData }
    }

    /// # Safety
    /// No two live parts overlap.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)] // the point of the type
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside of its slice");
        // SAFETY: in bounds by the assert; disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slabs_begin_on_their_line_and_hold_zeros() {
        for len in [0, 1, 100, 3 << 20] {
            let mut slab = Slab::<f32>::zeroed(len);
            assert!(slab.as_ptr().addr().is_multiple_of(LINE));
            assert!(slab.len() == len && slab.iter().all(|x| *x == 0.0));
            slab.fill(1.0);
        }
        assert!(Slab::<f32>::try_zeroed(usize::MAX / 4).is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_nobody_wrote_take_no_memory() {
        const BYTES: usize = 256 << 20;
        let mut slab = Slab::<u16>::zeroed(BYTES / 2);
        let resident = |slab: &Slab<u16>| {
            let mut pages = vec![0u8; BYTES / 4096];
            // SAFETY: the range is the slab's, from the start of a page; there is a byte for each page of 4 KiB or more.
            let done = unsafe { libc::mincore(slab.start.cast(), BYTES, pages.as_mut_ptr().cast()) };
            assert_eq!(done, 0);
            pages.iter().filter(|page| **page & 1 == 1).count()
        };
        assert_eq!(resident(&slab), 0);
        slab[BYTES / 4] = 1;
        let touched = resident(&slab);
        assert!((1..=HUGE / 4096).contains(&touched), "{touched} pages");
    }
}
