//! Where the bytes of a model come from.

use crate::error::Error;

/// Files of one model directory by name: a memory map, a download, a buffer in a browser.
pub trait Source {
    type Bytes: AsRef<[u8]> + Send + Sync;

    /// The whole file; `None` if there is none of that name. Names have no directory part.
    fn read(&self, name: &str) -> Result<Option<Self::Bytes>, Error>;
}
