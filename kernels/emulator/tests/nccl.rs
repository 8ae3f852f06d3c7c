//! NCCL between ranks that are threads: sums, gathers, messages, and ranks that do not come.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tokenmill_emulator::{Fault, LIBRARY, NCCL_LIBRARY, preload_nccl, set};

type Status = c_int;
const FLOAT16: c_int = 6;
const FLOAT32: c_int = 7;
const BFLOAT16: c_int = 9;
const SUM: c_int = 0;
const RANKS: usize = 3;

#[derive(Clone, Copy)]
#[repr(C)]
struct UniqueId([u8; 128]);

/// Both libraries, as the backend finds them.
fn symbol<F: Copy>(name: &str) -> F {
    static LIBRARIES: OnceLock<[Library; 2]> = OnceLock::new();
    let libraries = LIBRARIES.get_or_init(|| {
        set(Fault::Devices(RANKS as u64));
        preload_nccl();
        // SAFETY: loaded already.
        [LIBRARY, NCCL_LIBRARY]
            .map(|path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) }.unwrap())
    });
    // SAFETY: the callers give the types of CUDA's and NCCL's headers.
    unsafe { *libraries[usize::from(name.starts_with("nccl"))].get::<F>(name).unwrap() }
}

macro_rules! call {
    ($name:literal, $($value:expr => $type:ty),*) => {{
        let function = symbol::<unsafe extern "C" fn($($type),*) -> Status>($name);
        // SAFETY: the types are those of the function; pointers are valid for the call.
        unsafe { function($($value),*) }
    }};
}

/// A rank's device, stream and communicator.
struct Rank {
    rank: usize,
    stream: *mut c_void,
    comm: *mut c_void,
}

fn id() -> UniqueId {
    let mut id = UniqueId([0; 128]);
    assert_eq!(call!("ncclGetUniqueId", &mut id => *mut UniqueId), 0);
    id
}

impl Rank {
    fn new(rank: usize, id: UniqueId) -> Self {
        let (mut context, mut stream, mut comm) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
        let device = rank as c_int;
        assert_eq!(call!("cuDevicePrimaryCtxRetain", &mut context => *mut *mut c_void, device => c_int), 0);
        assert_eq!(call!("cuCtxSetCurrent", context => *mut c_void), 0);
        assert_eq!(call!("cuStreamCreate", &mut stream => *mut *mut c_void, 1 => u32), 0);
        let status = call!("ncclCommInitRank", &mut comm => *mut *mut c_void, RANKS as c_int => c_int,
            id => UniqueId, device => c_int);
        assert_eq!(status, 0);
        Self { rank, stream, comm }
    }

    fn uploaded<T: Copy>(&self, values: &[T]) -> u64 {
        let mut at = 0u64;
        let bytes = size_of_val(values);
        assert_eq!(call!("cuMemAlloc_v2", &mut at => *mut u64, bytes => usize), 0);
        assert_eq!(call!("cuMemcpyHtoD_v2", at => u64, values.as_ptr() => *const T, bytes => usize), 0);
        at
    }

    fn all_reduce(&self, at: u64, count: usize, dtype: c_int) -> Status {
        call!("ncclAllReduce", at => u64, at => u64, count => usize, dtype => c_int, SUM => c_int,
            self.comm => *mut c_void, self.stream => *mut c_void)
    }

    fn send(&self, at: u64, count: usize, to: usize) -> Status {
        call!("ncclSend", at => u64, count => usize, FLOAT32 => c_int, to as c_int => c_int,
            self.comm => *mut c_void, self.stream => *mut c_void)
    }

    fn receive(&self, at: u64, count: usize, from: usize) -> Status {
        call!("ncclRecv", at => u64, count => usize, FLOAT32 => c_int, from as c_int => c_int,
            self.comm => *mut c_void, self.stream => *mut c_void)
    }

    fn wait(&self) -> Status {
        call!("cuStreamSynchronize", self.stream => *mut c_void)
    }

    fn downloaded<T: Copy + Default>(&self, at: u64, len: usize) -> Vec<T> {
        assert_eq!(self.wait(), 0);
        let mut values = vec![T::default(); len];
        let bytes = size_of_val(&values[..]);
        assert_eq!(call!("cuMemcpyDtoH_v2", values.as_mut_ptr() => *mut T, at => u64, bytes => usize), 0);
        values
    }

    fn is_failed(&self) -> bool {
        let mut error = 0;
        assert_eq!(call!("ncclCommGetAsyncError", self.comm => *mut c_void, &mut error => *mut c_int), 0);
        error != 0
    }
}

/// Runs `body` as every rank at once.
fn ranks<R: Send>(body: impl Fn(Rank) -> R + Sync) -> Vec<R> {
    let id = id();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..RANKS)
            .map(|rank| {
                scope.spawn({
                    let body = &body;
                    move || body(Rank::new(rank, id))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn sums_are_those_of_all_ranks_in_every_format() {
    ranks(|rank| {
        for round in 0..5 {
            let value = (rank.rank + round + 1) as f32;
            let total = (0..RANKS).map(|rank| (rank + round + 1) as f32).sum::<f32>();
            let single = rank.uploaded(&[value; 100]);
            // 1.0 is 0x3f80 as bf16 and 0x3c00 as f16; 3 ranks make 3.0.
            let (bf16, f16) = (rank.uploaded(&[0x3f80u16; 9]), rank.uploaded(&[0x3c00u16; 9]));
            assert_eq!(rank.all_reduce(single, 100, FLOAT32), 0);
            assert_eq!(rank.all_reduce(bf16, 9, BFLOAT16), 0);
            assert_eq!(rank.all_reduce(f16, 9, FLOAT16), 0);
            assert_eq!(rank.downloaded::<f32>(single, 100), [total; 100]);
            assert_eq!(rank.downloaded::<u16>(bf16, 9), [0x4040; 9]);
            assert_eq!(rank.downloaded::<u16>(f16, 9), [0x4200; 9]);
        }
    });
}

#[test]
fn what_is_gathered_lies_in_the_order_of_the_ranks() {
    ranks(|rank| {
        let (from, to) = (rank.uploaded(&[rank.rank as u32; 4]), rank.uploaded(&[9u32; 4 * RANKS]));
        let status = call!("ncclAllGather", from => u64, to => u64, 4 => usize, FLOAT32 => c_int,
            rank.comm => *mut c_void, rank.stream => *mut c_void);
        assert_eq!(status, 0);
        assert_eq!(rank.downloaded::<u32>(to, 4 * RANKS), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    });
}

#[test]
fn messages_go_round_a_ring_in_a_group() {
    ranks(|rank| {
        let (from, to) = (rank.uploaded(&[rank.rank as u32; 4]), rank.uploaded(&[9u32; 4]));
        let (next, before) = ((rank.rank + 1) % RANKS, (rank.rank + RANKS - 1) % RANKS);
        assert_eq!(call!("ncclGroupStart",), 0);
        // Every rank sends first: without the group they would wait for one another.
        assert_eq!(rank.send(from, 4, next), 0);
        assert_eq!(rank.receive(to, 4, before), 0);
        assert_eq!(call!("ncclGroupEnd",), 0);
        assert_eq!(rank.downloaded::<u32>(to, 4), [before as u32; 4]);
    });
}

#[test]
fn messages_of_a_chain_come_in_order() {
    ranks(|rank| {
        let (first, second) =
            (rank.uploaded(&[10 + rank.rank as u32]), rank.uploaded(&[20 + rank.rank as u32]));
        if rank.rank == 0 {
            assert_eq!((rank.send(first, 1, 2), rank.send(second, 1, 2)), (0, 0));
        }
        if rank.rank == 2 {
            assert_eq!((rank.receive(first, 1, 0), rank.receive(second, 1, 0)), (0, 0));
            assert_eq!(rank.downloaded::<u32>(first, 1), [10]);
            assert_eq!(rank.downloaded::<u32>(second, 1), [20]);
        }
        assert_eq!(rank.wait(), 0);
    });
}

#[test]
fn a_sum_comes_after_what_its_stream_did_before() {
    ranks(|rank| {
        let at = rank.uploaded(&[0u32; 64]);
        let one = 1.0f32.to_bits();
        for _ in 0..20 {
            let status =
                call!("cuMemsetD32Async", at => u64, one => u32, 64 => usize, rank.stream => *mut c_void);
            assert_eq!(status, 0);
            assert_eq!(rank.all_reduce(at, 64, FLOAT32), 0);
        }
        assert_eq!(rank.downloaded::<f32>(at, 64), [RANKS as f32; 64]);
    });
}

#[test]
fn a_recorded_sum_is_done_at_each_launch_of_the_graph() {
    ranks(|rank| {
        let at = rank.uploaded(&[1.0f32; 8]);
        let (mut graph, mut executable) = (ptr::null_mut(), ptr::null_mut());
        assert_eq!(call!("cuStreamBeginCapture_v2", rank.stream => *mut c_void, 1 => c_int), 0);
        assert_eq!(rank.all_reduce(at, 8, FLOAT32), 0);
        assert_eq!(
            call!("cuStreamEndCapture", rank.stream => *mut c_void, &mut graph => *mut *mut c_void),
            0
        );
        let status = call!("cuGraphInstantiateWithFlags", &mut executable => *mut *mut c_void,
            graph => *mut c_void, 0 => u64);
        assert_eq!(status, 0);
        for _ in 0..2 {
            assert_eq!(call!("cuGraphLaunch", executable => *mut c_void, rank.stream => *mut c_void), 0);
        }
        assert_eq!(rank.downloaded::<f32>(at, 8), [9.0; 8]);
    });
}

#[test]
fn ranks_that_meet_at_different_sums_fail() {
    let failed = ranks(|rank| {
        let at = rank.uploaded(&[1.0f32; 8]);
        assert_eq!(rank.all_reduce(at, if rank.rank == 1 { 7 } else { 8 }, FLOAT32), 0);
        assert_eq!(rank.wait(), 0);
        rank.is_failed()
    });
    assert_eq!(failed, [true; RANKS]);
}

#[test]
fn an_abort_ends_the_wait_for_a_rank_that_does_not_come() {
    ranks(|rank| {
        let at = rank.uploaded(&[1.0f32; 8]);
        if rank.rank == 0 {
            return; // never comes
        }
        assert_eq!(rank.all_reduce(at, 8, FLOAT32), 0);
        thread::sleep(Duration::from_millis(50));
        assert_ne!(call!("cuStreamQuery", rank.stream => *mut c_void), 0, "it waits");
        let start = Instant::now();
        assert_eq!(call!("ncclCommAbort", rank.comm => *mut c_void), 0);
        assert_eq!(rank.wait(), 0);
        assert!(start.elapsed() < Duration::from_secs(5));
    });
}

#[test]
fn errors_have_texts() {
    let text = symbol::<unsafe extern "C" fn(c_int) -> *const i8>("ncclGetErrorString");
    // SAFETY: the function gives a text for any number.
    let text = unsafe { std::ffi::CStr::from_ptr(text(4)) };
    assert_eq!(text.to_str().unwrap(), "invalid argument");
    let rank = call!("ncclCommInitRank", ptr::null_mut() => *mut *mut c_void, 2 => c_int, id() => UniqueId, 2 => c_int);
    assert_eq!(rank, 4);
}
