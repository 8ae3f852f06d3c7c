//! NVIDIA's run-time compiler, used ahead of time: one library that needs no toolkit, host compiler or GPU.

use super::wheel;
use anyhow::{Context, Result, bail};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::{
    env,
    ffi::{CString, c_char, c_int, c_void},
    fs,
    path::{Path, PathBuf},
    ptr::null,
};

const PACKAGE: &str = "nvidia-cuda-nvrtc-cu12";
/// Code of CUDA 12 runs on drivers from 525 on; that of 13 needs 580.
const VERSION: &str = "12.9.86";

type Program = *mut c_void;
type Status = c_int;
/// `nvrtcGet…Size(program, &size)` and `nvrtcGet…(program, bytes)`.
type Size = unsafe extern "C" fn(Program, *mut usize) -> Status;
type Bytes = unsafe extern "C" fn(Program, *mut c_char) -> Status;

pub(super) struct Nvrtc {
    library: Library,
    /// The library opens its builtins by a bare name: they stay loaded.
    _builtins: Option<Library>,
    path: PathBuf,
}

pub(super) struct Output {
    /// Empty when compiled for a virtual architecture.
    pub(super) cubin: Vec<u8>,
    pub(super) ptx: String,
    pub(super) log: String,
}

impl Nvrtc {
    /// The library at `$NVRTC`, of the toolkit in `$CUDA_HOME`, or of the package index, in this order.
    pub(super) fn find() -> Result<Self> {
        if let Some(path) = env::var_os("NVRTC") {
            return Self::load(Path::new(&path));
        }
        let toolkit = env::var_os("CUDA_HOME").map(|home| PathBuf::from(home).join("lib64"));
        if let Some(path) = toolkit.and_then(|folder| file_of(&folder, "libnvrtc.so")) {
            return Self::load(&path);
        }
        let folder = wheel::install(PACKAGE, VERSION)
            .with_context(|| format!("no compiler for kernels: set NVRTC to a libnvrtc.so, CUDA_HOME to a CUDA toolkit, or let pip fetch {PACKAGE}"))?
            .join("nvidia/cuda_nvrtc/lib");
        let path = file_of(&folder, "libnvrtc.so").context("the package holds no libnvrtc.so")?;
        Self::load(&path)
    }

    fn load(path: &Path) -> Result<Self> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let builtins = file_of(folder, "libnvrtc-builtins.so");
        // SAFETY: NVIDIA's libraries have no requirements on who loads them.
        let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let builtins = builtins.map(|path| open(&path)).transpose()?;
        let library = open(path).with_context(|| format!("cannot load {}", path.display()))?;
        Ok(Self { library, _builtins: builtins, path: path.to_path_buf() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// `12.9`: the library does not tell more.
    pub(super) fn version(&self) -> Result<String> {
        type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for the call.
        let status = unsafe { self.function::<Version>("nvrtcVersion")?(&mut major, &mut minor) };
        check(status, "nvrtcVersion")?;
        Ok(format!("{major}.{minor}"))
    }

    /// Compiles `source`, called `name` in messages.
    pub(super) fn compile(&self, name: &str, source: &str, options: &[String]) -> Result<Output> {
        let job = Job::new(self, name, source)?;
        let compiled = job.compile(options);
        let log = job.text("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
        compiled.with_context(|| format!("{name} does not compile:\n{}", log.trim_end()))?;
        let ptx = job.text("nvrtcGetPTXSize", "nvrtcGetPTX")?;
        let cubin = job.bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?;
        Ok(Output { cubin, ptx, log })
    }

    /// A function of the library; `F` must be its type.
    fn function<F: Copy>(&self, name: &str) -> Result<F> {
        // SAFETY: callers name the type that NVIDIA documents for the function.
        let symbol = unsafe { self.library.get::<F>(name.as_bytes()) };
        Ok(*symbol.with_context(|| format!("{} has no {name}", self.path.display()))?)
    }
}

/// One program of the compiler; destroyed when dropped.
struct Job<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl<'a> Job<'a> {
    fn new(nvrtc: &'a Nvrtc, name: &str, source: &str) -> Result<Self> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        let (source, name) = (CString::new(source)?, CString::new(name)?);
        let create: Create = nvrtc.function("nvrtcCreateProgram")?;
        let mut program = std::ptr::null_mut();
        // SAFETY: the strings end with a zero byte; there are no headers, so their lists may be null.
        let status = unsafe { create(&mut program, source.as_ptr(), name.as_ptr(), 0, null(), null()) };
        check(status, "nvrtcCreateProgram")?;
        Ok(Self { nvrtc, program })
    }

    fn compile(&self, options: &[String]) -> Result<()> {
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        let options: Vec<CString> =
            options.iter().map(|option| CString::new(option.as_str())).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let compile: Compile = self.nvrtc.function("nvrtcCompileProgram")?;
        // SAFETY: the program is alive, and as many strings are passed as are said to be.
        let status = unsafe { compile(self.program, c_int::try_from(pointers.len())?, pointers.as_ptr()) };
        check(status, "nvrtcCompileProgram")
    }

    fn bytes(&self, size: &str, get: &str) -> Result<Vec<u8>> {
        let mut count = 0;
        // SAFETY: the program is alive and the pointer valid for the call.
        check(unsafe { self.nvrtc.function::<Size>(size)?(self.program, &mut count) }, size)?;
        let mut bytes = vec![0u8; count];
        if count > 0 {
            // SAFETY: the buffer has the size that the library just asked for.
            let status =
                unsafe { self.nvrtc.function::<Bytes>(get)?(self.program, bytes.as_mut_ptr().cast()) };
            check(status, get)?;
        }
        Ok(bytes)
    }

    fn text(&self, size: &str, get: &str) -> Result<String> {
        let bytes = self.bytes(size, get)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\0').to_owned())
    }
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        type Destroy = unsafe extern "C" fn(*mut Program) -> Status;
        if let Ok(destroy) = self.nvrtc.function::<Destroy>("nvrtcDestroyProgram") {
            // SAFETY: the program is alive and not used again.
            unsafe { destroy(&mut self.program) };
        }
    }
}

fn check(status: Status, function: &str) -> Result<()> {
    if status != 0 {
        bail!("{function} failed with status {status}");
    }
    Ok(())
}

/// The file of `folder` that is called `name`, with whatever version behind it.
fn file_of(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut found: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(name))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found.into_iter().next()
}
