//! The driver: work of streams comes late and in order, graphs are recorded and not done, limits are kept.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use harness::{
    Arg, CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, Driver, Grid, ILLEGAL_ADDRESS, INVALID_VALUE, NOT_FOUND,
    NOT_READY, OUT_OF_MEMORY, SUCCESS, Status, call,
};

const ONE: Grid = Grid { blocks: [1, 1, 1], threads: 32, shared: 0 };

fn driver() -> Driver {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/faults.cu");
    Driver::build("faults", &std::fs::read_to_string(file).unwrap())
}

fn stream(driver: &Driver) -> *mut c_void {
    const NON_BLOCKING: u32 = 1;
    let mut stream = ptr::null_mut();
    let status = call!(driver, "cuStreamCreate", &mut stream => *mut *mut c_void, NON_BLOCKING => u32);
    assert_eq!(status, SUCCESS);
    stream
}

fn wait(driver: &Driver, stream: *mut c_void) -> Status {
    call!(driver, "cuStreamSynchronize", stream => *mut c_void)
}

fn event(driver: &Driver) -> *mut c_void {
    let mut event = ptr::null_mut();
    assert_eq!(call!(driver, "cuEventCreate", &mut event => *mut *mut c_void, 0 => u32), SUCCESS);
    event
}

fn add_one(driver: &Driver, at: u64, stream: *mut c_void) -> Status {
    driver.launch("add_one", ONE, &[Arg::Ptr(at), Arg::U32(32)], stream)
}

fn upload(driver: &Driver, to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) -> Status {
    call!(driver, "cuMemcpyHtoDAsync_v2", to => u64, from => *const c_void, bytes => usize, stream => *mut c_void)
}

fn download(driver: &Driver, to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> Status {
    call!(driver, "cuMemcpyDtoHAsync_v2", to => *mut c_void, from => u64, bytes => usize, stream => *mut c_void)
}

/// Work that keeps a stream until it is let go.
struct Hold(Option<mpsc::Sender<()>>);

impl Hold {
    fn new(driver: &Driver, stream: *mut c_void) -> Self {
        unsafe extern "C" fn wait(gate: *mut c_void) {
            // SAFETY: the box of below, given to this call alone.
            let gate = unsafe { Box::from_raw(gate.cast::<mpsc::Receiver<()>>()) };
            let _ = gate.recv(); // fails when the sender goes
        }
        let (sender, receiver) = mpsc::channel();
        let gate = Box::into_raw(Box::new(receiver)).cast::<c_void>();
        let status = call!(driver, "cuLaunchHostFunc", stream => *mut c_void,
            wait => unsafe extern "C" fn(*mut c_void), gate => *mut c_void);
        assert_eq!(status, SUCCESS);
        Self(Some(sender))
    }

    fn let_go(mut self) {
        self.0 = None;
    }
}

#[test]
fn work_of_a_stream_is_done_later_and_in_order() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.uploaded(&[0u32; 32]));
    let result = driver.pinned(128).cast::<u32>();
    let hold = Hold::new(&driver, stream);
    for _ in 0..3 {
        assert_eq!(add_one(&driver, values, stream), SUCCESS);
    }
    assert_eq!(download(&driver, result.cast(), values, 128, stream), SUCCESS);
    // SAFETY: pinned memory of 32 words; the stream writes it, which is what this is about.
    let read = || unsafe { result.read_volatile() };
    assert_eq!(read(), u32::MAX);
    assert_eq!(call!(driver, "cuStreamQuery", stream => *mut c_void), NOT_READY);
    hold.let_go();
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert_eq!(read(), 3);
    assert_eq!(call!(driver, "cuStreamQuery", stream => *mut c_void), SUCCESS);
    assert_eq!(call!(driver, "cuStreamDestroy_v2", stream => *mut c_void), SUCCESS);
}

#[test]
fn work_may_be_made_late() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.uploaded(&[0u32; 32]));
    driver.set("delay", 30_000);
    let start = Instant::now();
    assert_eq!((add_one(&driver, values, stream), add_one(&driver, values, stream)), (SUCCESS, SUCCESS));
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert!(start.elapsed() >= Duration::from_millis(60));
}

#[test]
fn host_memory_is_read_at_the_call_unless_it_is_pinned() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.alloc(8));
    let mut plain = 1u32;
    let pinned = driver.pinned(4).cast::<u32>();
    // SAFETY: four bytes of pinned memory.
    unsafe { pinned.write_volatile(1) };
    let hold = Hold::new(&driver, stream);
    assert_eq!(upload(&driver, values, ptr::from_ref(&plain).cast(), 4, stream), SUCCESS);
    assert_eq!(upload(&driver, values + 4, pinned.cast(), 4, stream), SUCCESS);
    // SAFETY: as above. Both are changed before the stream gets there.
    unsafe { ptr::from_mut(&mut plain).write_volatile(2) };
    // SAFETY: as above.
    unsafe { pinned.write_volatile(2) };
    hold.let_go();
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert_eq!(driver.download::<u32>(values, 2).unwrap(), [1, 2]);
}

#[test]
fn a_stream_waits_for_an_event_of_another_and_only_then() {
    let driver = driver();
    let (first, second, values) = (stream(&driver), stream(&driver), driver.uploaded(&[5u32; 32]));
    let (copy, event) = (driver.alloc(128), event(&driver));
    let copy_in_second = || {
        let status = call!(driver, "cuMemcpyDtoDAsync_v2", copy => u64, values => u64, 128 => usize, second => *mut c_void);
        assert_eq!(status, SUCCESS);
    };
    let hold = Hold::new(&driver, first);
    assert_eq!(add_one(&driver, values, first), SUCCESS);
    assert_eq!(call!(driver, "cuEventRecord", event => *mut c_void, first => *mut c_void), SUCCESS);
    assert_eq!(call!(driver, "cuEventQuery", event => *mut c_void), NOT_READY);
    copy_in_second();
    assert_eq!(wait(&driver, second), SUCCESS);
    assert_eq!(driver.download::<u32>(copy, 1).unwrap(), [5], "nobody said that it waits");
    let status = call!(driver, "cuStreamWaitEvent", second => *mut c_void, event => *mut c_void, 0 => u32);
    assert_eq!(status, SUCCESS);
    copy_in_second();
    assert_eq!(call!(driver, "cuStreamQuery", second => *mut c_void), NOT_READY);
    hold.let_go();
    assert_eq!(call!(driver, "cuEventSynchronize", event => *mut c_void), SUCCESS);
    assert_eq!(wait(&driver, second), SUCCESS);
    assert_eq!(driver.download::<u32>(copy, 1).unwrap(), [6]);
}

fn capture(driver: &Driver, stream: *mut c_void, work: impl FnOnce()) -> Result<*mut c_void, Status> {
    const THREAD_LOCAL: i32 = 1;
    let status = call!(driver, "cuStreamBeginCapture_v2", stream => *mut c_void, THREAD_LOCAL => i32);
    assert_eq!(status, SUCCESS);
    work();
    let mut graph = ptr::null_mut();
    match call!(driver, "cuStreamEndCapture", stream => *mut c_void, &mut graph => *mut *mut c_void) {
        SUCCESS => Ok(graph),
        status => Err(status),
    }
}

#[test]
fn a_captured_launch_is_recorded_and_done_at_each_launch_of_the_graph() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.uploaded(&[0u32; 32]));
    let graph = capture(&driver, stream, || {
        assert_eq!(add_one(&driver, values, stream), SUCCESS);
        assert_eq!(add_one(&driver, values, stream), SUCCESS);
    });
    let (graph, mut executable) = (graph.unwrap(), ptr::null_mut());
    assert_eq!(driver.download::<u32>(values, 1).unwrap(), [0], "nothing was done");
    let status = call!(driver, "cuGraphInstantiateWithFlags", &mut executable => *mut *mut c_void,
        graph => *mut c_void, 0 => u64);
    assert_eq!(status, SUCCESS);
    assert_eq!(call!(driver, "cuGraphDestroy", graph => *mut c_void), SUCCESS);
    for _ in 0..3 {
        assert_eq!(call!(driver, "cuGraphLaunch", executable => *mut c_void, stream => *mut c_void), SUCCESS);
    }
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert_eq!(driver.download::<u32>(values, 32).unwrap(), [6; 32]);
    assert_eq!(call!(driver, "cuGraphExecDestroy", executable => *mut c_void), SUCCESS);
}

#[test]
fn what_may_not_happen_during_a_capture_makes_it_invalid() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.uploaded(&[0u32; 32]));
    let during = |act: &dyn Fn() -> Status| {
        let ended = capture(&driver, stream, || {
            assert_eq!(add_one(&driver, values, stream), SUCCESS);
            assert_eq!(act(), CAPTURE_UNSUPPORTED);
        });
        assert_eq!(ended, Err(CAPTURE_INVALIDATED));
    };
    during(&|| wait(&driver, stream));
    during(&|| driver.try_alloc(16).unwrap_err());
    assert_eq!(add_one(&driver, values, stream), SUCCESS, "the stream works again");
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert_eq!(driver.download::<u32>(values, 1).unwrap(), [1]);
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let driver = driver();
    let values = driver.uploaded(&[0u32; 32]);
    let args = [Arg::Ptr(values), Arg::U32(32)];
    let launch = |name, grid| driver.launch(name, grid, &args, ptr::null_mut());
    for (blocks, threads, status) in [
        ([1, 65535, 1], 1, SUCCESS),
        ([1, 65536, 1], 1, INVALID_VALUE),
        ([1, 1, 65536], 1, INVALID_VALUE),
        ([0, 1, 1], 1, INVALID_VALUE),
        ([1, 1, 1], 0, INVALID_VALUE),
        ([1, 1, 1], 1024, SUCCESS),
        ([1, 1, 1], 1025, INVALID_VALUE),
    ] {
        let grid = Grid { blocks, threads, shared: 0 };
        assert_eq!(launch("add_one", grid), status, "{blocks:?} blocks of {threads}");
    }
    // Its launch bounds say 256.
    assert_eq!(launch("store_at", Grid { threads: 512, ..ONE }), INVALID_VALUE);
}

#[test]
fn more_than_48_kib_of_shared_memory_must_be_asked_for_and_there_is_an_end_to_it() {
    let driver = driver();
    let values = driver.uploaded(&[0u32; 32]);
    let args = [Arg::Ptr(values), Arg::U32(32)];
    let function = driver.find("add_one").unwrap();
    let launch = |shared| driver.launch_function(function, Grid { shared, ..ONE }, &args, ptr::null_mut());
    let ask =
        |bytes: i32| call!(driver, "cuFuncSetAttribute", function => *mut c_void, 8 => i32, bytes => i32);
    assert_eq!(launch(47 << 10), SUCCESS);
    assert_eq!(launch((47 << 10) + 1), INVALID_VALUE);
    assert_eq!(ask(64 << 10), SUCCESS);
    assert_eq!(launch(64 << 10), SUCCESS);
    assert_eq!(ask(163 << 10), SUCCESS);
    assert_eq!(ask((163 << 10) + 1), INVALID_VALUE, "of compute capability 8.0");
}

#[test]
fn a_kernel_must_be_in_the_image_and_in_the_emulator() {
    let driver = driver();
    assert!(driver.find("add_one").is_ok());
    assert_eq!(driver.find("add_two").unwrap_err(), NOT_FOUND);
    let (mut module, mut function) = (ptr::null_mut(), ptr::null_mut());
    let image = c"store_at\nshuffles";
    let status =
        call!(driver, "cuModuleLoadData", &mut module => *mut *mut c_void, image.as_ptr() => *const i8);
    assert_eq!(status, SUCCESS);
    for (name, status) in [(c"store_at", SUCCESS), (c"add_one", NOT_FOUND)] {
        let found = call!(driver, "cuModuleGetFunction", &mut function => *mut *mut c_void, module => *mut c_void,
            name.as_ptr() => *const i8);
        assert_eq!(found, status, "{name:?}");
    }
}

#[test]
fn memory_ends_is_given_back_and_starts_as_nan() {
    let driver = driver();
    driver.set("memory", 10_000);
    let first = driver.alloc(5000);
    assert_eq!(first % 256, 0);
    assert!(driver.download::<f32>(first, 1250).unwrap().iter().all(|v| v.is_nan()));
    assert_eq!(driver.try_alloc(5000).unwrap_err(), OUT_OF_MEMORY);
    let (mut free, mut total) = (0usize, 0usize);
    assert_eq!(call!(driver, "cuMemGetInfo_v2", &mut free => *mut usize, &mut total => *mut usize), SUCCESS);
    assert_eq!((free, total), (10_000 - 5120, 10_000));
    assert_eq!(driver.free(first), SUCCESS);
    assert_eq!(driver.free(first), INVALID_VALUE, "twice");
    assert!(driver.try_alloc(5000).is_ok());
}

#[test]
fn copies_beyond_an_allocation_are_refused() {
    let driver = driver();
    let (at, mut host) = (driver.alloc(64), [0u8; 65]);
    let host = host.as_mut_ptr().cast::<c_void>();
    let stream = stream(&driver);
    assert_eq!(upload(&driver, at, host, 64, stream), SUCCESS);
    assert_eq!(upload(&driver, at, host, 65, stream), INVALID_VALUE);
    assert_eq!(upload(&driver, at + 1, host, 64, stream), INVALID_VALUE);
    assert_eq!(download(&driver, host, at, 65, stream), INVALID_VALUE);
    let zero =
        |n: usize| call!(driver, "cuMemsetD8Async", at => u64, 0 => u8, n => usize, stream => *mut c_void);
    assert_eq!((zero(64), zero(65)), (SUCCESS, INVALID_VALUE));
}

#[test]
fn after_a_kernel_that_failed_every_call_fails() {
    let driver = driver();
    let (stream, values) = (stream(&driver), driver.uploaded(&[0u32; 32]));
    driver.set("fail_launch", 2);
    assert_eq!(add_one(&driver, values, stream), SUCCESS);
    assert_eq!(wait(&driver, stream), SUCCESS);
    assert_eq!(add_one(&driver, values, stream), SUCCESS, "the launch itself says nothing");
    assert_eq!(wait(&driver, stream), ILLEGAL_ADDRESS);
    assert_eq!(add_one(&driver, values, stream), ILLEGAL_ADDRESS);
    assert_eq!(driver.try_alloc(16).unwrap_err(), ILLEGAL_ADDRESS);
    assert!(driver.download::<u32>(values, 1).is_err());
    driver.recover();
    assert_eq!(driver.download::<u32>(values, 1).unwrap(), [1], "the second did nothing");
}

#[test]
fn counters_count() {
    let driver = driver();
    let read = || {
        let mut words = [0u64; 8];
        // SAFETY: at most eight words are written.
        unsafe {
            let counters = driver.function::<unsafe extern "C" fn(*mut u64, u64)>("tm_emulator_counters");
            counters(words.as_mut_ptr(), 8);
        }
        words
    };
    let stream = stream(&driver);
    let before = read();
    let values = driver.alloc(128);
    let _ = driver.pinned(128);
    let zeroed =
        call!(driver, "cuMemsetD8Async", values => u64, 0 => u8, 128 => usize, stream => *mut c_void);
    assert_eq!(zeroed, SUCCESS);
    assert_eq!((add_one(&driver, values, stream), add_one(&driver, values, stream)), (SUCCESS, SUCCESS));
    assert_eq!(wait(&driver, stream), SUCCESS);
    let mut word = 0u32;
    assert_eq!(download(&driver, ptr::from_mut(&mut word).cast(), values, 4, stream), SUCCESS);
    let after = read();
    let difference: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    // launches, kernels, graph launches, allocations, of the host, synchronisations, copies, memsets
    assert_eq!(difference, [2, 2, 0, 1, 1, 2, 1, 1]);
}
