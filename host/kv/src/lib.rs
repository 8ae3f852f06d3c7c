//! Who holds which block of the KV cache, and what is in it.
//!
//! A [`Pool`] hands out block ids and counts references; a [`Table`] lists the blocks of one sequence. A
//! full block is known by its tokens and everything before them, and keeps that knowledge when the last
//! sequence lets go of it: the free list is the prefix cache, least recently used first, and to allocate
//! is to evict. A block that two tables hold, or that the cache knows, is never written: it is copied.
//!
//! Invariant: knows ids and tokens only: no device, no step, no request, no time.
#![forbid(unsafe_code)]

mod check;
mod hash;
mod index;
mod list;
mod pool;
mod table;

pub use hash::Hash;
pub use pool::{Full, Pool};
pub use table::Table;
