//! What callers pass: C structs and pointers become values and slices.

use std::ffi::{CStr, c_char};
use std::mem::{size_of, zeroed};

use crate::fault::Fault;

/// A struct that begins with `size`: the writer may know fewer or more fields; missing ones are zero.
///
/// # Safety
/// `from` is NULL or points to as many bytes as its `size` says; zero is a value of every field of `T`.
pub(crate) unsafe fn read<T>(from: *const T, what: &str) -> Result<T, Fault> {
    if from.is_null() {
        return Err(Fault::invalid(format!("{what} is NULL")));
    }
    // SAFETY: `size` comes first; as many bytes as both sides have are copied.
    unsafe {
        let size = from.cast::<usize>().read();
        if size < size_of::<usize>() {
            return Err(Fault::invalid(format!("{what}.size = {size}")));
        }
        let mut value: T = zeroed();
        std::ptr::copy_nonoverlapping(
            from.cast::<u8>(),
            (&raw mut value).cast::<u8>(),
            size.min(size_of::<T>()),
        );
        Ok(value)
    }
}

/// Writes back as much of `value` as the caller's struct has; `size` stays the caller's.
///
/// # Safety
/// `to` points to `size` writable bytes.
pub(crate) unsafe fn write<T>(to: *mut T, value: &T, size: usize) {
    let skip = size_of::<usize>();
    let len = size.min(size_of::<T>()).saturating_sub(skip);
    // SAFETY: as promised; the first field is left as it is.
    unsafe {
        let from = (&raw const *value).cast::<u8>().add(skip);
        std::ptr::copy_nonoverlapping(from, to.cast::<u8>().add(skip), len);
    }
}

/// A column of `len` values.
///
/// # Safety
/// `from` points to `len` values that outlive the result, or `len` is 0.
pub(crate) unsafe fn slice<'a, T>(column: &str, from: *const T, len: usize) -> Result<&'a [T], Fault> {
    match len {
        0 => Ok(&[]),
        _ if from.is_null() => Err(Fault::invalid(format!("{column} is NULL"))),
        _ if !from.is_aligned() => Err(Fault::invalid(format!("{column} is not aligned"))),
        // SAFETY: as promised.
        len => Ok(unsafe { std::slice::from_raw_parts(from, len) }),
    }
}

/// A text; NULL is empty.
///
/// # Safety
/// `from` is NULL or a NUL-terminated text that outlives the result.
pub(crate) unsafe fn text<'a>(what: &str, from: *const c_char) -> Result<&'a str, Fault> {
    if from.is_null() {
        return Ok("");
    }
    // SAFETY: as promised.
    unsafe { CStr::from_ptr(from) }.to_str().map_err(|_| Fault::invalid(format!("{what} is not UTF-8")))
}

/// `text` with a NUL, cut at a character where `to` ends.
pub(crate) fn write_text(to: &mut [c_char], text: &str) {
    let end = text.floor_char_boundary(to.len().saturating_sub(1));
    for (to, byte) in to.iter_mut().zip(text.as_bytes()[..end].iter().chain([&0])) {
        *to = *byte as c_char;
    }
}
