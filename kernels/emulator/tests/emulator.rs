//! The emulator itself: what is right comes out right, and what is wrong is told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

use std::ptr;
use std::sync::OnceLock;

use harness::{Arg, Driver, Grid, ILLEGAL_ADDRESS, LAUNCH_FAILED, SCHEDULES, SUCCESS, Status};

/// A driver of one thread's own: errors of one test are not another's.
fn driver() -> Driver {
    static SOURCE: OnceLock<String> = OnceLock::new();
    let source = SOURCE.get_or_init(|| {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels/faults.cu");
        std::fs::read_to_string(file).unwrap()
    });
    Driver::build("faults", source)
}

const fn grid(blocks: u32, threads: u32, shared: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads, shared }
}

fn run(driver: &Driver, name: &str, grid: Grid, args: &[Arg]) -> Status {
    match driver.launch(name, grid, args, ptr::null_mut()) {
        SUCCESS => driver.synchronize(),
        status => status,
    }
}

/// Runs a kernel that has one output of `threads` words under every schedule.
fn under_every_schedule(
    driver: &Driver,
    name: &str,
    grid: Grid,
    mut check: impl FnMut(Result<Vec<u32>, String>),
) {
    for schedule in SCHEDULES {
        driver.set("schedule", schedule);
        let out = driver.alloc(grid.threads as usize * 4);
        let status = run(driver, name, grid, &[Arg::Ptr(out)]);
        let report = driver.report();
        driver.recover();
        check(if status == SUCCESS {
            Ok(driver.download(out, grid.threads as usize).unwrap())
        } else {
            Err(report)
        });
    }
}

#[test]
fn what_a_warp_or_block_cannot_do_is_told_with_kernel_and_line() {
    let driver = driver();
    for (name, words) in [
        ("shuffle_by_half_a_warp", &["deadlock"][..]),
        ("mixed_operations", &["different operations", "a shuffle", "a vote"]),
        ("shuffle_after_some_have_left", &["a shuffle after lanes ff000000 have ended"]),
        ("barriers_in_two_branches", &["different barriers"]),
        ("named_barrier_for_too_many", &["deadlock, 32 of 256", "barrier 1", "32 of 64 threads"]),
        ("write_behind_static_shared", &["behind a static shared array"]),
    ] {
        under_every_schedule(&driver, name, grid(2, 256, 0), |result| {
            let report = result.expect_err(name);
            assert!(report.contains(&format!("kernel {name}, block (")), "{report}");
            for word in words {
                assert!(report.contains(word), "{report}");
            }
        });
    }
}

#[test]
fn a_deadlock_report_says_which_lanes_wait_where() {
    let driver = driver();
    driver.set("schedule", 0);
    let out = driver.alloc(1024);
    assert_eq!(run(&driver, "shuffle_by_half_a_warp", grid(1, 256, 0), &[Arg::Ptr(out)]), LAUNCH_FAILED);
    let report = driver.report();
    assert!(report.contains("256 of 256 threads stuck"), "{report}");
    assert!(report.contains("barrier 0") && report.contains("128 of 256 threads"), "{report}");
    assert!(report.contains("warp 7: lanes 0000ffff of ffffffff wait at a shuffle"), "{report}");
}

#[test]
fn named_barriers_hold_only_their_warps() {
    let driver = driver();
    under_every_schedule(&driver, "named_barriers_of_pairs", grid(1, 256, 0), |result| {
        let expected: Vec<u32> = (0..256).map(|thread| thread ^ 32).collect();
        assert_eq!(result.unwrap(), expected);
    });
}

#[test]
fn shared_memory_starts_as_nan_in_every_block() {
    let driver = driver();
    under_every_schedule(&driver, "shared_memory_as_it_starts", grid(5, 256, 1024), |result| {
        assert!(result.unwrap().iter().all(|word| *word == u32::MAX));
    });
}

#[test]
fn a_write_behind_the_dynamic_shared_memory_is_told() {
    let driver = driver();
    let out = driver.alloc(1024);
    let args = [Arg::Ptr(out), Arg::U32(2000)];
    assert_eq!(run(&driver, "write_behind_dynamic_shared", grid(1, 32, 2000), &args), LAUNCH_FAILED);
    assert!(driver.report().contains("dynamic shared memory"), "{}", driver.report());
}

#[test]
fn a_copy_that_is_not_waited_for_is_late_under_the_forward_schedule_and_done_under_the_reverse_one() {
    let driver = driver();
    let from = driver.uploaded(&[41u32; 32]);
    for (schedule, wait, expected) in [(0, 0, u32::MAX), (0, 1, 41), (1, 0, 41), (1, 1, 41), (2, 1, 41)] {
        driver.set("schedule", schedule);
        let out = driver.alloc(128);
        let args = [Arg::Ptr(from), Arg::Ptr(out), Arg::U32(wait)];
        assert_eq!(run(&driver, "late_copy", grid(1, 32, 128), &args), SUCCESS);
        assert_eq!(
            driver.download::<u32>(out, 32).unwrap(),
            [expected; 32],
            "schedule {schedule}, wait {wait}"
        );
    }
}

#[test]
fn a_wait_is_for_the_older_groups_and_what_is_not_valid_is_filled_with_zeros() {
    let driver = driver();
    driver.set("schedule", 0);
    let from = driver.uploaded(&(0..64).collect::<Vec<u32>>());
    let out = driver.alloc(256);
    assert_eq!(run(&driver, "groups_of_copies", grid(1, 32, 256), &[Arg::Ptr(from), Arg::Ptr(out)]), SUCCESS);
    let words = driver.download::<u32>(out, 64).unwrap();
    assert_eq!(words[..32], (0..32).collect::<Vec<u32>>());
    assert_eq!(words[32..], [u32::MAX; 32]);
    driver.set("schedule", 1);
    assert_eq!(run(&driver, "groups_of_copies", grid(1, 32, 256), &[Arg::Ptr(from), Arg::Ptr(out)]), SUCCESS);
    assert_eq!(driver.download::<u32>(out, 64).unwrap()[32..], [0; 32]);
}

#[test]
fn crooked_addresses_are_refused() {
    let driver = driver();
    let (from, out) = (driver.uploaded(&[0u32; 2048]), driver.alloc(1024));
    assert_eq!(run(&driver, "crooked_ldmatrix", grid(1, 128, 4096), &[Arg::Ptr(out)]), LAUNCH_FAILED);
    assert!(driver.report().contains("not a multiple of 16"), "{}", driver.report());
    driver.recover();
    assert_eq!(
        run(&driver, "crooked_load", grid(1, 256, 0), &[Arg::Ptr(from), Arg::Ptr(out)]),
        LAUNCH_FAILED
    );
    assert!(driver.report().contains("load of 16 bytes"), "{}", driver.report());
}

#[test]
fn a_store_just_outside_of_an_allocation_is_told_after_the_kernel() {
    let driver = driver();
    let out = driver.alloc(100);
    assert_eq!(run(&driver, "store_at", grid(1, 32, 0), &[Arg::Ptr(out), Arg::U32(24)]), SUCCESS);
    assert_eq!(run(&driver, "store_at", grid(1, 32, 0), &[Arg::Ptr(out), Arg::U32(25)]), ILLEGAL_ADDRESS);
    assert!(driver.report().contains("kernel store_at: a write outside of an allocation of 100 bytes"));
}

#[test]
fn an_address_that_is_not_mapped_fails_the_kernel_and_not_the_process() {
    let driver = driver();
    assert_eq!(run(&driver, "wild_store", grid(3, 64, 0), &[Arg::Ptr(0x10)]), ILLEGAL_ADDRESS);
    assert!(driver.report().contains("kernel wild_store, block ("), "{}", driver.report());
    assert!(driver.report().contains("illegal address 0x10, thread 3"), "{}", driver.report());
    // The thread that was interrupted runs kernels again.
    driver.recover();
    let values = driver.uploaded(&[1u32; 100]);
    assert_eq!(run(&driver, "add_one", grid(4, 32, 0), &[Arg::Ptr(values), Arg::U32(100)]), SUCCESS);
    assert_eq!(driver.download::<u32>(values, 100).unwrap(), [2; 100]);
}

#[test]
fn a_block_need_not_be_a_multiple_of_a_warp() {
    let driver = driver();
    under_every_schedule(&driver, "votes_of_a_ragged_block", grid(1, 72, 0), |result| {
        let expected: Vec<u32> = (0..72).map(|thread| if thread < 64 { 0 } else { 0xff + 1 }).collect();
        assert_eq!(result.unwrap(), expected); // all 32 lanes and one more wrap around to 0
    });
}

#[test]
fn shuffles_move_what_the_manual_says() {
    let driver = driver();
    let (out, wide) = (driver.alloc(512), driver.alloc(256));
    assert_eq!(run(&driver, "shuffles", grid(1, 32, 0), &[Arg::Ptr(out), Arg::Ptr(wide)]), SUCCESS);
    let words = driver.download::<u32>(out, 128).unwrap();
    for lane in 0..32u32 {
        let of = |block: u32| words[(block * 32 + lane) as usize];
        assert_eq!(of(0), (31 - lane) * 10);
        assert_eq!(of(1), if lane < 3 { lane } else { lane - 3 } * 10, "up");
        assert_eq!(of(2), if lane + 3 < 32 { lane + 3 } else { lane } * 10, "down");
        assert_eq!(of(3), (lane ^ 5) * 10);
    }
    let wide = driver.download::<u64>(wide, 32).unwrap();
    assert!((0..32u64).all(|lane| wide[lane as usize] == (lane ^ 1) << 40));
}

#[test]
fn atomics_of_blocks_on_several_threads_lose_nothing() {
    let driver = driver();
    let sum = driver.uploaded(&[0u32; 3]);
    let args = [Arg::Ptr(sum), Arg::Ptr(sum + 4), Arg::Ptr(sum + 8)];
    assert_eq!(run(&driver, "sum_by_atomics", grid(500, 128, 0), &args), SUCCESS);
    let words = driver.download::<u32>(sum, 3).unwrap();
    assert_eq!(words, [64_000, 64_000f32.to_bits(), 63_999]);
}
