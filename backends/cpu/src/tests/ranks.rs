//! What a rank that waits for another learns when that one fails.

use super::filled;
use crate::buffer::Buffer;
use crate::device::Cpu;
use crate::platform::CpuPlatform;
use std::sync::mpsc::{Receiver, channel};
use std::thread::sleep;
use std::time::Duration;
use tokenmill_backend_export::{Options, Platform};
use tokenmill_backend_model::device::Device;
use tokenmill_backend_model::error::Error;

/// Longer than any of this takes, so that a rank left waiting fails the test instead of hanging it.
const LIMIT: Duration = Duration::from_secs(20);

type Abort = Box<dyn Fn() + Send + Sync>;

/// Two ranks as the export layer opens them, and what it calls when one of them fails.
fn pair() -> (Cpu, Cpu, Abort) {
    let opened = CpuPlatform::open(&[0, 0], 2, &Options::default()).unwrap();
    let mut ranks = opened.ranks.into_iter().map(|rank| CpuPlatform::device(rank).unwrap());
    (ranks.next().unwrap(), ranks.next().unwrap(), opened.abort)
}

/// Starts a sum on a thread of its own; its outcome arrives later.
fn sum(mut rank: Cpu, value: f32) -> Receiver<(Cpu, Result<Buffer, Error>)> {
    let (tell, outcome) = channel();
    std::thread::spawn(move || {
        let mut x = filled(1, 3, &[value; 3]);
        let done = rank.all_reduce(&mut x).map(|()| x);
        let _ = tell.send((rank, done));
    });
    outcome
}

fn assert_lost(outcome: &Receiver<(Cpu, Result<Buffer, Error>)>) {
    let (_, done) = outcome.recv_timeout(LIMIT).unwrap();
    let Err(Error::Lost(text)) = done else { panic!("a sum without one of its ranks") };
    assert_eq!(text, "another rank of the model failed");
}

#[test]
fn a_rank_asleep_in_a_sum_is_woken_when_the_other_fails() {
    let (first, second, abort) = pair();
    let (first, second) = (sum(first, 1.0), sum(second, 2.0));
    let (first, done) = first.recv_timeout(LIMIT).unwrap();
    assert_eq!(done.unwrap().all(), [3.0; 3]);
    let (second, done) = second.recv_timeout(LIMIT).unwrap();
    assert_eq!(done.unwrap().all(), [3.0; 3]);

    let waiting = sum(first, 1.0);
    sleep(Duration::from_millis(50));
    assert!(waiting.try_recv().is_err(), "a sum ended without its second rank");
    abort();
    assert_lost(&waiting);
    drop(second);
}

#[test]
fn a_rank_that_comes_after_the_failure_does_not_wait() {
    let (first, second, abort) = pair();
    abort();
    assert_lost(&sum(first, 1.0));
    assert_lost(&sum(second, 2.0));
}
