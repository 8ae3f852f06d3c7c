//! Ranks that meet, over the emulator's NCCL, or over the real one where there are enough GPUs.

#![allow(clippy::unwrap_used, clippy::panic)] // A test may panic, and so may its helpers.

#[path = "backend/devices.rs"]
mod devices;

use std::sync::mpsc::channel;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use devices::has_four;
use tokenmill_backend_model::error::Error;
use tokenmill_backend_model::shard::Place;
use tokenmill_cuda::Gpu;
use tokenmill_cuda::nccl::{Comm, Group, Membership};

/// Longer than any of this takes, so that a rank left waiting fails the test instead of hanging it.
const LIMIT: Duration = Duration::from_secs(20);

fn lost() -> Error {
    Error::Lost("another rank of the model failed".into())
}

/// Runs `body` on every rank, each on a thread and a device of its own.
fn on_all<T: Send>(
    ranks: usize,
    tensor_parallel: usize,
    body: impl Fn(Place, &Gpu, &Comm) -> T + Sync,
) -> Vec<T> {
    let devices: Vec<i32> = (0..ranks as i32).collect();
    let (memberships, _) = Group::new(&devices, tensor_parallel).unwrap().split();
    let rank = |rank: usize, membership: Membership| {
        let gpu = Gpu::open_with(rank as i32, &[]).unwrap();
        let comm = membership.join(&gpu).unwrap();
        body(Place::of(rank, ranks, tensor_parallel), &gpu, &comm)
    };
    scope(|scope| {
        let start = |(index, membership)| scope.spawn(move || rank(index, membership));
        let threads: Vec<_> = memberships.into_iter().enumerate().map(start).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn ranks_of_a_stage_sum_and_others_do_not_mix_in() {
    if !has_four("ranks_of_a_stage_sum_and_others_do_not_mix_in") {
        return;
    }
    for (ranks, tensor_parallel) in [(1, 1), (2, 2), (4, 4), (4, 2), (2, 1)] {
        let sums = on_all(ranks, tensor_parallel, |place, gpu, comm| {
            let own = |count: usize| (0..count).map(|i| (i * (place.rank() + 1)) as f32).collect::<Vec<_>>();
            // Queued one after the other, looked at in the end.
            let buffers = [1, 1000, 70_001].map(|count| (count, gpu.uploaded(&own(count)).unwrap()));
            for (count, buffer) in &buffers {
                comm.all_reduce(gpu, buffer.ptr(), *count).unwrap();
            }
            buffers.map(|(count, buffer)| {
                let mut sum = vec![f32::NAN; count];
                gpu.download(buffer.ptr(), &mut sum).unwrap();
                sum
            })
        });
        for (rank, sums) in sums.iter().enumerate() {
            let stage = rank / tensor_parallel;
            let factor: usize = (stage * tensor_parallel..(stage + 1) * tensor_parallel).map(|r| r + 1).sum();
            for sum in sums {
                let expected = |(i, sum): (usize, &f32)| *sum == (i * factor) as f32;
                assert!(sum.iter().enumerate().all(expected), "rank {rank} of {ranks} / {tensor_parallel}");
            }
        }
    }
}

#[test]
fn rows_pass_the_stages_in_order_and_tokens_go_back() {
    if !has_four("rows_pass_the_stages_in_order_and_tokens_go_back") {
        return;
    }
    const COUNT: usize = 300;
    for (ranks, tensor_parallel) in [(2, 1), (4, 1), (4, 2)] {
        let seen = on_all(ranks, tensor_parallel, |place, gpu, comm| {
            let mark = |message: usize| (1000 * place.shard.rank + message) as f32;
            let start = |message| if place.stage.is_first() { mark(message) } else { f32::NAN };
            let buffers = [0, 1, 2].map(|message| gpu.uploaded(&[start(message); COUNT]).unwrap());
            for buffer in &buffers {
                comm.receive(gpu, buffer.ptr(), COUNT).unwrap();
                comm.send(gpu, buffer.ptr(), COUNT).unwrap();
            }
            let tokens =
                gpu.uploaded(&[if place.stage.is_last() { place.rank() as i32 } else { -1 }; 5]).unwrap();
            if place.stage.is_last() {
                comm.send_tokens(gpu, tokens.ptr(), 5).unwrap();
            }
            if place.stage.is_first() {
                comm.receive_tokens(gpu, tokens.ptr(), 5).unwrap();
            }
            let rows = buffers.map(|buffer| {
                let mut rows = [f32::NAN; COUNT];
                gpu.download(buffer.ptr(), &mut rows).unwrap();
                rows
            });
            let mut sampled = [0; 5];
            gpu.download(tokens.ptr(), &mut sampled).unwrap();
            (place, rows, sampled)
        });
        for (place, rows, sampled) in seen {
            for (message, rows) in rows.iter().enumerate() {
                assert_eq!(*rows, [(1000 * place.shard.rank + message) as f32; COUNT], "{place:?}");
            }
            if place.stage.is_first() {
                assert_eq!(sampled, [place.last() as i32; 5], "{place:?}");
            }
        }
    }
}

#[test]
fn a_rank_that_waits_in_a_sum_is_released_when_another_fails() {
    if !has_four("a_rank_that_waits_in_a_sum_is_released_when_another_fails") {
        return;
    }
    let (memberships, abort) = Group::new(&[0, 1], 2).unwrap().split();
    let (tell, told) = channel();
    scope(|scope| {
        for (rank, membership) in memberships.into_iter().enumerate() {
            let tell = tell.clone();
            scope.spawn(move || {
                let gpu = Gpu::open_with(rank as i32, &[]).unwrap();
                let comm = membership.join(&gpu).unwrap();
                let x = gpu.zeroed(4).unwrap();
                let watch = comm.watch();
                assert_eq!(watch.check(), Ok(()));
                if rank == 0 {
                    comm.all_reduce(&gpu, x.ptr(), 1).unwrap();
                    let _ = gpu.synchronize();
                } else {
                    // Never comes to the sum.
                    while watch.check().is_ok() {
                        sleep(Duration::from_millis(1));
                    }
                }
                tell.send((rank, watch.check(), comm.all_reduce(&gpu, x.ptr(), 1))).unwrap();
            });
        }
        sleep(Duration::from_millis(100));
        assert!(told.try_recv().is_err(), "a sum ended without its second rank");
        let start = Instant::now();
        abort();
        abort();
        for _ in 0..2 {
            let (rank, watched, after) = told.recv_timeout(LIMIT).unwrap();
            assert_eq!((watched, after), (Err(lost()), Err(lost())), "rank {rank}");
        }
        assert!(start.elapsed() < LIMIT);
    });
}

#[test]
fn a_rank_that_joins_is_released_when_another_never_comes() {
    if !has_four("a_rank_that_joins_is_released_when_another_never_comes") {
        return;
    }
    let (mut memberships, abort) = Group::new(&[0, 1], 1).unwrap().split();
    let _never = memberships.pop();
    let first = memberships.pop().unwrap();
    scope(|scope| {
        let joined = scope.spawn(|| first.join(&Gpu::open_with(0, &[]).unwrap()).map(drop));
        sleep(Duration::from_millis(50));
        assert!(!joined.is_finished(), "it joined nobody");
        abort();
        assert_eq!(joined.join().unwrap(), Err(lost()));
    });
}

#[test]
fn one_gpu_takes_one_rank() {
    let refused = Group::new(&[0, 1, 0], 3).map(drop);
    let text = "devices[2] = 0 is devices[0] again: NCCL runs one rank on a GPU";
    assert_eq!(refused, Err(Error::Unsupported(text.into())));
}

#[test]
fn without_nccl_one_device_works_and_two_say_what_is_missing() {
    assert!(Group::new(&[0], 1).is_ok());
    // Nothing is preloaded here, but the machine may have NCCL.
    match Group::new(&[0, 1], 2).map(drop) {
        Err(error) => {
            let text = "2 devices need NCCL: libnccl.so.2 not found";
            assert_eq!(error, Error::Unsupported(text.into()));
        }
        Ok(()) => assert!(std::fs::read_to_string("/proc/self/maps").unwrap().contains("libnccl")),
    }
}
