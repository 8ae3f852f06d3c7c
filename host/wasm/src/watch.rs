//! Notices that a file has changed, and waits until whoever writes it is done.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Device, inode, length, and time of the last change: also differs when a link points elsewhere.
type Stamp = (u64, u64, u64, i64, i64);

/// A file, as it was seen last.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// Changed since it was read.
    changed: bool,
}

impl Watch {
    /// From now on; the content was read before, so a change between the two is noticed as one.
    pub(crate) fn new(path: &Path, stamp: Option<Stamp>) -> Self {
        Self { path: path.into(), stamp, changed: false }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file has changed and was at rest for two polls. A file that is gone is waited for.
    pub(crate) fn settled(&mut self) -> bool {
        let now = stamp(&self.path);
        if now.is_none() || now != self.stamp {
            self.changed |= now.is_some();
            self.stamp = now.or(self.stamp);
            return false;
        }
        std::mem::take(&mut self.changed)
    }
}

pub(crate) fn stamp(path: &Path) -> Option<Stamp> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// The content of a regular file that is no longer than `most` bytes; one byte more if it is longer.
pub(crate) fn read(path: &Path, most: usize) -> std::io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
