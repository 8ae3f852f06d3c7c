//! A model directory as a byte source: files are mapped, not read.

use std::fs::{File, metadata};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::source::Source;

/// Maps regular files, also through symbolic links (the Hugging Face cache is made of them). Anything
/// else (a pipe, a device, a directory) is refused without being opened.
///
/// Maps live while the model loads. A file that is cut short in that time raises SIGBUS in this
/// process: replace model files by renaming, do not rewrite them.
pub(crate) struct Directory {
    dir: PathBuf,
}

impl Directory {
    pub(crate) fn open(dir: &Path) -> Result<Self, Error> {
        match metadata(dir) {
            Ok(found) if found.is_dir() => Ok(Self { dir: dir.to_owned() }),
            Ok(_) => Err(Error::Invalid(format!("{} is not a directory", dir.display()))),
            Err(error) => Err(Error::Invalid(format!("model directory {}: {error}", dir.display()))),
        }
    }
}

impl Source for Directory {
    type Bytes = Mmap;

    fn read(&self, name: &str) -> Result<Option<Mmap>, Error> {
        let path = self.dir.join(name);
        let invalid = |what: &dyn std::fmt::Display| Error::Invalid(format!("{}: {what}", path.display()));
        match metadata(&path) {
            Ok(found) if found.is_file() => {}
            Ok(_) => return Err(invalid(&"not a regular file")),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(invalid(&error)),
        }
        let file = File::open(&path).map_err(|e| invalid(&e))?;
        // SAFETY: the map is read only, and only while loading; see the type for what the operator owes.
        unsafe { Mmap::map(&file) }.map(Some).map_err(|e| invalid(&e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_files_and_links_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("real"), b"abc").unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let source = Directory::open(dir.path()).unwrap();
        assert_eq!(source.read("real").unwrap().unwrap().as_ref(), b"abc");
        assert!(source.read("absent").unwrap().is_none());
        assert!(source.read("folder").unwrap_err().to_string().contains("not a regular file"));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(dir.path().join("real"), dir.path().join("link")).unwrap();
            assert_eq!(source.read("link").unwrap().unwrap().as_ref(), b"abc");
            std::os::unix::fs::symlink("/dev/zero", dir.path().join("device")).unwrap();
            assert!(source.read("device").unwrap_err().to_string().contains("not a regular file"));
            let fifo = dir.path().join("fifo");
            assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
            assert!(source.read("fifo").unwrap_err().to_string().contains("not a regular file"));
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Directory::open(Path::new("/no/such/place")).err().unwrap().to_string();
        assert!(error.contains("/no/such/place"), "{error}");
    }
}
