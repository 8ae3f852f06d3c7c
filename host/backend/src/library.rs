//! Opening a backend: from a file, by name, or linked into this program.

use std::ffi::{CStr, c_char};
use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};

use tokenmill_backend_abi as abi;

use crate::manifest::{Manifest, absolute};
use crate::{Error, Load, Model, load};

/// An open backend library with a checked function table. It is never closed, so copies are free.
#[derive(Clone, Copy)]
pub struct Backend {
    api: &'static abi::Api,
    name: &'static str,
}

impl std::fmt::Debug for Backend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backend").field("name", &self.name).field("version", &self.version()).finish()
    }
}

impl Backend {
    /// A backend that is linked into this program.
    pub fn from_entry(entry: abi::Entry) -> Result<Self, Error> {
        // SAFETY: an `Entry` follows the contract of the header.
        let table = unsafe { entry(abi::MAJOR) };
        // SAFETY: what the entry returned; the same contract.
        unsafe { Self::from_table(table, Path::new("(linked-in backend)")) }
    }

    /// Reads the manifest, opens the library, checks its function table.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let path = absolute(path)?;
        Manifest::read(&path)?.check(&path)?;
        let entry = entry(&path)?;
        // SAFETY: the library carries our manifest and exports the symbol, so it claims to follow the contract.
        let table = unsafe { entry(abi::MAJOR) };
        // SAFETY: as above.
        unsafe { Self::from_table(table, &path) }
    }

    /// A path (it has a separator) that exists, or the file that NAME stands for: `libtokenmill_NAME.so` beside the
    /// executable, in `../lib/tokenmill` from there, or in `$TOKENMILL_BACKEND_DIR`.
    pub fn find(name_or_path: &str) -> Result<PathBuf, Error> {
        if name_or_path.contains(std::path::is_separator) {
            return absolute(Path::new(name_or_path));
        }
        let file = format!(
            "{}tokenmill_{name_or_path}{}",
            std::env::consts::DLL_PREFIX,
            std::env::consts::DLL_SUFFIX
        );
        let looked: Vec<PathBuf> = directories().into_iter().map(|directory| directory.join(&file)).collect();
        match looked.iter().find(|path| path.is_file()) {
            Some(path) => absolute(path),
            None => Err(Error::NotFound { name: name_or_path.to_owned(), looked }),
        }
    }

    pub fn name(&self) -> &str {
        self.name
    }

    /// ABI major and minor.
    pub fn version(&self) -> (u32, u32) {
        (self.api.major, self.api.minor)
    }

    /// The bare function table, for tests of the ABI itself.
    pub fn api(&self) -> &'static abi::Api {
        self.api
    }

    /// Whether the backend can run on this machine; `Unsupported` says what is missing.
    pub fn probe(&self) -> Result<(), Error> {
        let mut message = abi::Message::default();
        // SAFETY: the table is checked and the message is ours.
        match unsafe { (self.api.probe)(&raw mut message) } {
            0 => Err(Error::from_code("probe", abi::UNSUPPORTED, &message)),
            _ => Ok(()),
        }
    }

    /// Loads a model directory. May take long; `load.progress` is called on this thread.
    pub fn load(&self, load: &Load<'_>) -> Result<Model, Error> {
        load::load(self.api, load)
    }

    /// # Safety
    /// `table` is NULL or points to memory that lives for ever and begins with a `size` that is true.
    unsafe fn from_table(table: *const abi::Api, path: &Path) -> Result<Self, Error> {
        let not = |reason: String| Error::NotABackend { path: path.to_owned(), reason };
        if table.is_null() {
            return Err(not(format!("its tm_backend({}) returned NULL", abi::MAJOR)));
        }
        // SAFETY: every table begins with its size. No `&Api` yet: its function pointers may be null.
        let size = unsafe { table.cast::<usize>().read_unaligned() };
        if size < size_of::<abi::Api>() || !table.is_aligned() {
            return Err(not(format!(
                "its function table has {size} bytes, ABI 1.0 has {}",
                size_of::<abi::Api>()
            )));
        }
        // SAFETY: the table is at least as long as ours.
        let major = unsafe { (&raw const (*table).major).read() };
        if major != abi::MAJOR {
            return Err(Error::WrongAbi { path: path.to_owned(), theirs: major, ours: abi::MAJOR });
        }
        for (offset, entry) in ENTRIES {
            // SAFETY: the offset of a pointer within the table.
            let pointer = unsafe { table.byte_add(offset).cast::<*const c_char>().read() };
            if pointer.is_null() {
                return Err(not(format!("its function table has no {entry}")));
            }
        }
        // SAFETY: complete, and no entry is null.
        let api = unsafe { &*table };
        // SAFETY: not null; a NUL-terminated text that lives with the table.
        let name = unsafe { CStr::from_ptr(api.name) };
        let name = name.to_str().map_err(|_| not("its name is not UTF-8".to_owned()))?;
        Ok(Self { api, name })
    }
}

const ENTRIES: [(usize, &str); 12] = [
    (offset_of!(abi::Api, name), "name"),
    (offset_of!(abi::Api, probe), "probe"),
    (offset_of!(abi::Api, load), "load"),
    (offset_of!(abi::Api, unload), "unload"),
    (offset_of!(abi::Api, info), "info"),
    (offset_of!(abi::Api, submit), "submit"),
    (offset_of!(abi::Api, sample), "sample"),
    (offset_of!(abi::Api, wait), "wait"),
    (offset_of!(abi::Api, topk), "topk"),
    (offset_of!(abi::Api, logits), "logits"),
    (offset_of!(abi::Api, release), "release"),
    (offset_of!(abi::Api, extension), "extension"),
];

/// Where NAME is looked for.
fn directories() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        found.push(beside.to_owned());
        found.extend(beside.parent().map(|prefix| prefix.join("lib").join("tokenmill")));
    }
    found.extend(std::env::var_os("TOKENMILL_BACKEND_DIR").map(PathBuf::from));
    found
}

/// Opens the library for ever and finds its one symbol.
fn entry(path: &Path) -> Result<abi::Entry, Error> {
    use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
    let open = |error: libloading::Error| Error::Open { path: path.to_owned(), reason: reason(&error) };
    // SAFETY: runs the constructors of a file that the operator named and that carries our manifest.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }.map_err(open)?;
    // SAFETY: the manifest promises that the symbol, if there, has this type.
    let symbol = unsafe { library.get::<abi::Entry>(abi::SYMBOL) }.map(|symbol| *symbol);
    // Never closed, not even after an error: its threads and statics may live on.
    std::mem::forget(library);
    symbol.map_err(|_| Error::NotABackend {
        path: path.to_owned(),
        reason: "it does not export the symbol tm_backend".to_owned(),
    })
}

/// What dlerror said, which libloading keeps as the source.
fn reason(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}
