//! A driver library for one test: the emulator with the kernels of one text, compiled on the spot.
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::{env, fs, ptr};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

pub(crate) mod memory;

/// `CUresult`.
pub(crate) type Status = c_int;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const INVALID_VALUE: Status = 1;
pub(crate) const OUT_OF_MEMORY: Status = 2;
pub(crate) const NOT_FOUND: Status = 500;
pub(crate) const NOT_READY: Status = 600;
pub(crate) const ILLEGAL_ADDRESS: Status = 700;
pub(crate) const LAUNCH_FAILED: Status = 719;
pub(crate) const CAPTURE_UNSUPPORTED: Status = 900;
pub(crate) const CAPTURE_INVALIDATED: Status = 901;

/// By the emulator's numbers.
pub(crate) const SCHEDULES: [u64; 3] = [0, 1, 2];

pub(crate) struct Driver {
    library: &'static Library,
}

#[derive(Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) blocks: [u32; 3],
    pub(crate) threads: u32,
    pub(crate) shared: u32,
}

#[derive(Clone, Copy)]
pub(crate) enum Arg {
    Ptr(u64),
    U32(u32),
    F32(f32),
}

/// A function of the driver by its name; the arguments' types are those of the call.
macro_rules! call {
    ($driver:expr, $name:literal, $($value:expr => $type:ty),*) => {{
        // SAFETY: the types are those of CUDA's header for this function, and pointers are valid for the call.
        unsafe {
            let function = $driver.function::<unsafe extern "C" fn($($type),*) -> $crate::harness::Status>($name);
            function($($value),*)
        }
    }};
}
pub(crate) use call;

pub(crate) fn kernels_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

impl Driver {
    /// Compiles `source` and opens device 0. Includes are those of `kernels/include`. What is static in the library
    /// is there once for each call.
    pub(crate) fn build(name: &str, source: &str) -> Self {
        let path = temporary(&format!("{name}.so"));
        fs::write(&path, &*compiled(name, source)).unwrap();
        // SAFETY: as `tokenmill_emulator::preload`. Threads of the library's live on, so it is never closed.
        let opened = unsafe { Library::open(Some(&path), RTLD_NOW | RTLD_LOCAL) }.unwrap();
        let _ = fs::remove_file(&path);
        let driver = Self { library: Box::leak(Box::new(opened)) };
        driver.enter();
        driver
    }

    /// Makes device 0 current on this thread.
    pub(crate) fn enter(&self) {
        let mut context = ptr::null_mut();
        assert_eq!(call!(self, "cuInit", 0 => u32), SUCCESS);
        assert_eq!(
            call!(self, "cuDevicePrimaryCtxRetain", &mut context => *mut *mut c_void, 0 => c_int),
            SUCCESS
        );
        assert_eq!(call!(self, "cuCtxSetCurrent", context => *mut c_void), SUCCESS);
    }

    /// # Safety
    /// `F` is the function's type.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &str) -> F {
        // SAFETY: as said.
        *unsafe { self.library.get::<F>(name) }.unwrap()
    }

    pub(crate) fn set(&self, name: &str, value: u64) {
        let name = CString::new(name).unwrap();
        assert_eq!(call!(self, "tm_emulator_set", name.as_ptr() => *const i8, value => u64), 1);
    }

    /// What the last kernel that failed did.
    pub(crate) fn report(&self) -> String {
        let mut text = vec![0u8; 4096];
        call!(self, "tm_emulator_report", text.as_mut_ptr() => *mut u8, text.len() as u64 => u64);
        let end = text.iter().position(|byte| *byte == 0).unwrap();
        String::from_utf8_lossy(&text[..end]).into_owned()
    }

    pub(crate) fn recover(&self) {
        call!(self, "tm_emulator_recover",);
    }

    pub(crate) fn find(&self, name: &str) -> Result<*mut c_void, Status> {
        let name = CString::new(name).unwrap();
        let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
        let status =
            call!(self, "cuModuleLoadData", &mut module => *mut *mut c_void, name.as_ptr() => *const i8);
        if status != SUCCESS {
            return Err(status);
        }
        match call!(self, "cuModuleGetFunction", &mut function => *mut *mut c_void, module => *mut c_void,
            name.as_ptr() => *const i8)
        {
            SUCCESS => Ok(function),
            status => Err(status),
        }
    }

    /// Hands a kernel to the stream (null: it is done at once).
    pub(crate) fn launch(&self, name: &str, grid: Grid, args: &[Arg], stream: *mut c_void) -> Status {
        const MAX_SHARED: c_int = 8; // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        let function = match self.find(name) {
            Ok(function) => function,
            Err(status) => return status,
        };
        if grid.shared > 47 << 10 {
            let status = call!(self, "cuFuncSetAttribute", function => *mut c_void, MAX_SHARED => c_int,
                grid.shared as c_int => c_int);
            if status != SUCCESS {
                return status;
            }
        }
        self.launch_function(function, grid, args, stream)
    }

    pub(crate) fn launch_function(
        &self,
        function: *mut c_void,
        grid: Grid,
        args: &[Arg],
        stream: *mut c_void,
    ) -> Status {
        let mut words: Vec<u64> = args
            .iter()
            .map(|arg| match *arg {
                Arg::Ptr(address) => address,
                Arg::U32(value) => u64::from(value),
                Arg::F32(value) => u64::from(value.to_bits()),
            })
            .collect();
        let mut pointers: Vec<*mut c_void> =
            words.iter_mut().map(|word| ptr::from_mut(word).cast()).collect();
        let [x, y, z] = grid.blocks;
        call!(self, "cuLaunchKernel", function => *mut c_void, x => u32, y => u32, z => u32, grid.threads => u32,
            1 => u32, 1 => u32, grid.shared => u32, stream => *mut c_void, pointers.as_mut_ptr() => *mut *mut c_void,
            ptr::null_mut() => *mut *mut c_void)
    }

    pub(crate) fn synchronize(&self) -> Status {
        call!(self, "cuCtxSynchronize",)
    }
}

fn temporary(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    env::temp_dir().join(format!("tokenmill-emulator-{}-{number}-{name}", std::process::id()))
}

/// A library's bytes; a source is compiled once.
fn compiled(name: &str, source: &str) -> Arc<Vec<u8>> {
    type Slot = Arc<OnceLock<Arc<Vec<u8>>>>;
    static BUILT: LazyLock<Mutex<HashMap<String, Slot>>> = LazyLock::new(Mutex::default);
    let slot = BUILT.lock().unwrap().entry(source.to_owned()).or_default().clone();
    slot.get_or_init(|| {
        let (file, library) = (temporary(&format!("{name}.cu")), temporary(&format!("{name}.so")));
        fs::write(&file, source).unwrap();
        compile(&file, &library);
        let bytes = fs::read(&library).unwrap();
        let _ = (fs::remove_file(&file), fs::remove_file(&library));
        Arc::new(bytes)
    })
    .clone()
}

fn compile(file: &Path, library: &Path) {
    let objects = fs::read_dir(tokenmill_emulator::OBJECTS).unwrap().flatten().map(|entry| entry.path());
    // The emulator and its driver, without the kernels.
    let objects = objects.filter(|path| path.to_string_lossy().ends_with(".cpp.o"));
    let objects = objects.filter(|path| !path.to_string_lossy().contains("nccl-"));
    let mut command = Command::new(env::var("CXX").unwrap_or_else(|_| "c++".into()));
    command.args(tokenmill_emulator::FLAGS).args(["-O1", "-I"]).arg(kernels_folder().join("include"));
    command.args(["-shared", "-pthread", "-Wl,-Bsymbolic", "-o"]).arg(library);
    command.args(["-x", "c++"]).arg(file).args(["-x", "none"]).args(objects);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
