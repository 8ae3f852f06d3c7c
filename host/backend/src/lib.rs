//! Finds and opens backend libraries and wraps the C ABI in safe types.
//!
//! A library is examined in three steps, each with its own error: the manifest is read from the file
//! without running any of its code, the library is opened, and its function table is checked. What a
//! backend returns is checked too, so that a wrong one gives an error here and not a wrong index later.
//! Libraries are never closed: threads and statics of theirs may live on.
//!
//! Invariant: knows the ABI and nothing of requests, scheduling, text, or of any particular backend.

mod batch;
mod error;
mod library;
mod load;
mod manifest;
mod model;

pub use batch::{Batch, Sampling};
pub use error::Error;
pub use library::Backend;
pub use load::{Info, Load};
pub use manifest::Manifest;
pub use model::{Model, Ticket, Waited};
pub use tokenmill_backend_abi as abi;
