//! The manifest section, read from the file as data.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::read::ReadCache;
use object::{Architecture, BinaryFormat, Object, ObjectSection};
use tokenmill_backend_abi as abi;

use crate::Error;

/// A manifest is a few lines; anything longer is not one.
const MAX_BYTES: u64 = 64 << 10;

/// What a library says about itself before any of its code runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub major: u32,
    pub minor: u32,
    pub name: String,
    pub version: String,
    pub description: String,
}

impl Manifest {
    /// Parses the object file at `path`; no code of it runs. Refuses what this process could not open: another file
    /// type, processor or system.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path = absolute(path)?;
        let not = |reason: String| Error::NotABackend { path: path.clone(), reason };
        let file = open(&path)?;
        let cache = ReadCache::new(file);
        let object = object::File::parse(&cache)
            .map_err(|_| not("it is not a shared library of a known format".to_owned()))?;
        check_target(&object).map_err(not)?;
        let name = section_name(object.format());
        let section = object
            .sections()
            .find(|section| section.name() == Ok(name))
            .ok_or_else(|| not(format!("it has no section {name} with a manifest")))?;
        if section.size() > MAX_BYTES {
            return Err(not(format!("its section {name} has {} bytes", section.size())));
        }
        let data =
            section.data().map_err(|error| not(format!("its section {name} cannot be read: {error}")))?;
        Self::parse(data).map_err(not)
    }

    /// Lines `key=value`, UTF-8, perhaps followed by NULs (a C string, or padding). Unknown keys are for later minors.
    fn parse(data: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(data).map_err(|_| "its manifest is not UTF-8".to_owned())?;
        let text = text.split('\0').next().unwrap_or_default();
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(k, _)| *k == key)
                .map(|(_, value)| value.trim().to_owned())
        };
        let wanted = |key: &str| value(key).ok_or_else(|| format!("its manifest has no line {key}="));
        let version = wanted("abi")?;
        let (major, minor) = version
            .split_once('.')
            .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
            .ok_or_else(|| format!("its manifest says abi={version}, which is not MAJOR.MINOR"))?;
        Ok(Self {
            major,
            minor,
            name: wanted("name")?,
            version: value("version").unwrap_or_default(),
            description: value("description").unwrap_or_default(),
        })
    }

    /// Whether this host speaks the library's ABI; minors are compatible both ways.
    pub(crate) fn check(&self, path: &Path) -> Result<(), Error> {
        if self.major == abi::MAJOR {
            return Ok(());
        }
        Err(Error::WrongAbi { path: path.to_owned(), theirs: self.major, ours: abi::MAJOR })
    }
}

/// The absolute path of an existing regular file.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let found = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            Error::NotFound { name: path.display().to_string(), looked: vec![path.to_owned()] }
        }
        _ => Error::Open { path: path.to_owned(), reason: error.to_string() },
    })?;
    if found.is_file() {
        return Ok(found);
    }
    Err(Error::NotABackend { path: found, reason: "it is not a file".to_owned() })
}

fn open(path: &Path) -> Result<File, Error> {
    let failed = |reason: String| Error::Open { path: path.to_owned(), reason };
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = file.metadata().map_err(|error| failed(error.to_string()))?.permissions().mode();
        // Whoever can write the file runs code in this process.
        if mode & 0o002 != 0 {
            return Err(failed("every user may write it; run chmod o-w on it".to_owned()));
        }
    }
    Ok(file)
}

/// The section as each format spells it.
fn section_name(format: BinaryFormat) -> &'static str {
    match format {
        BinaryFormat::MachO => "__tokenmill",
        _ => ".tokenmill",
    }
}

fn check_target<'a>(object: &object::File<'a, &'a ReadCache<File>>) -> Result<(), String> {
    let (theirs, ours) = (object.architecture(), host_architecture());
    if ours.is_some_and(|ours| ours != theirs) {
        return Err(format!("it is for {theirs:?} processors, this is {}", std::env::consts::ARCH));
    }
    let format = if cfg!(target_vendor = "apple") { BinaryFormat::MachO } else { BinaryFormat::Elf };
    if object.format() != format {
        return Err(format!("it is a {:?} file, this system loads {format:?}", object.format()));
    }
    if object.kind() != object::ObjectKind::Dynamic {
        return Err("it is an object file, but not a shared library".to_owned());
    }
    Ok(())
}

/// `None` where we do not know the name `object` uses; the dynamic loader judges then.
fn host_architecture() -> Option<Architecture> {
    match std::env::consts::ARCH {
        "x86_64" => Some(Architecture::X86_64),
        "aarch64" => Some(Architecture::Aarch64),
        "riscv64" => Some(Architecture::Riscv64),
        _ => None,
    }
}
