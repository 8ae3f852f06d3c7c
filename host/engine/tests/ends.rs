//! How requests end early: cancelled, refused, failed, shut down.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{Log, Setup, Told, assert_empty, drive, greedy, step, submit};
use tokenmill_engine::{Config, Failure, FinishReason, Progress, Refused, Request};

/// Between any two steps, for requests that wait, prefill in chunks, fork, decode or were preempted.
#[test]
fn a_cancelled_request_frees_its_blocks_at_once_whenever_it_comes() {
    for depth in [1, 2] {
        for blocks in [24, 256] {
            for after in 0..40 {
                let config = Config { depth, max_batched_tokens: 8, max_seqs: 6, ..Config::default() };
                let mut engine = Setup { config, blocks, ..Setup::default() }.engine();
                let handle = engine.handle();
                let other = submit(&handle, greedy(0..30, 40)).1;
                let (id, log) = submit(&handle, Request { n: 3, ..greedy(100..130, 20) });
                let late = submit(&handle, greedy(200..210, 5)).1;
                (0..after).for_each(|now| assert_eq!(step(&mut engine, now), Progress::Worked));
                let before = log.events();
                handle.cancel(id);
                step(&mut engine, after);
                assert_eq!(log.events(), before, "nothing follows a cancel");
                drive(&mut engine);
                assert_empty(&engine);
                assert_eq!((other.tokens(0).len(), late.tokens(0).len()), (40, 5));
                assert_eq!(
                    handle.stats().finished.cancelled,
                    u64::from(!matches!(before.last(), Some(Told::Done(_))))
                );
            }
        }
    }
}

#[test]
fn a_receiver_that_is_gone_cancels() {
    for patience in 1..12 {
        let mut engine = Setup::default().engine();
        let log = Log::default();
        let request = Request { n: 2, ..greedy(0..9, 4) };
        engine.handle().submit(request, log.output_for(patience)).unwrap();
        drive(&mut engine);
        assert_eq!(log.events().len(), patience.min(1 + 8 + 2 + 1));
        assert_empty(&engine);
    }
}

#[test]
fn a_branch_ends_and_its_siblings_go_on() {
    let mut engine = Setup::default().engine();
    let handle = engine.handle();
    let (id, log) = submit(&handle, Request { n: 3, ..greedy(0..9, 30) });
    handle.end_branch(id, 1); // It has not begun: nothing to end.
    (0..6).for_each(|now| assert_eq!(step(&mut engine, now), Progress::Worked));
    handle.end_branch(id, 1);
    handle.end_branch(id, 7);
    drive(&mut engine);
    assert_eq!(log.reason(1), Some(FinishReason::Ended));
    assert!((1..10).contains(&log.tokens(1).len()));
    assert_eq!((log.tokens(0).len(), log.tokens(2).len()), (30, 30));
    assert!(log.ended());
    handle.end_branch(id, 0);
    handle.cancel(id);
    drive(&mut engine);
    assert_empty(&engine);
}

#[test]
fn the_queue_is_bounded_in_requests_and_tokens() {
    let config = Config { max_waiting: 3, max_waiting_tokens: 20, max_seqs: 1, ..Config::default() };
    let mut engine = Setup { config, ..Setup::default() }.engine();
    let handle = engine.handle();
    let try_submit = |len| handle.submit(greedy(0..len, 4), Log::default().output());
    assert!(try_submit(5).is_ok() && try_submit(5).is_ok());
    assert_eq!(try_submit(11), Err(Refused::QueueFull), "tokens");
    let third = try_submit(10).unwrap();
    assert_eq!(try_submit(1), Err(Refused::QueueFull), "requests or tokens");
    assert_eq!((handle.stats().waiting_tokens, handle.stats().running), (20, 0));
    // The first starts and leaves the queue; a cancelled one does too.
    step(&mut engine, 0);
    assert!(try_submit(5).is_ok());
    assert_eq!(try_submit(1), Err(Refused::QueueFull));
    handle.cancel(third);
    step(&mut engine, 1);
    assert!(try_submit(5).is_ok());
    drive(&mut engine);
    assert_empty(&engine);
}

#[test]
fn bad_requests_are_refused_by_field() {
    let mut engine = Setup::default().engine();
    let handle = engine.handle();
    let refused = |request| handle.submit(request, Log::default().output()).unwrap_err();
    let field = |request| match refused(request) {
        Refused::Invalid { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(greedy([], 1)), "prompt");
    assert_eq!(field(greedy([1000], 1)), "prompt");
    assert_eq!(field(Request { n: 0, ..greedy([1], 1) }), "n");
    assert_eq!(field(Request { n: 33, ..greedy([1], 1) }), "n");
    assert_eq!(field(Request { min_tokens: 2, ..greedy([1], 1) }), "min_tokens");
    assert_eq!(field(Request { stop_tokens: vec![1000], ..greedy([1], 1) }), "stop_token_ids");
    assert_eq!(field(Request { logprobs: Some(1001), ..greedy([1], 1) }), "logprobs");
    assert_eq!(field(Request { prompt_logprobs: Some(1001), ..greedy([1], 1) }), "prompt_logprobs");
    let named = Request { sampler: Some("none".into()), ..greedy([1], 1) };
    assert_eq!(field(named), "policy.sampler");
    // 256 blocks of 4 tokens: the pool bounds the length, though the model could do more.
    assert_eq!(handle.limits().max_model_len, 1024);
    assert_eq!(refused(greedy(vec![1; 1024], 1)), Refused::TooLong { tokens: 1024, limit: 1024 });
    let (_, log) = submit(&handle, greedy(vec![1; 1023], 1));
    drive(&mut engine);
    assert_eq!(log.tokens(0).len(), 1);
    assert_empty(&engine);
}

#[test]
fn a_row_without_a_number_fails_its_request_alone() {
    for depth in [1, 2] {
        let setup =
            |options| Setup { options, config: Config { depth, ..Config::default() }, ..Setup::default() };
        let run = |options| {
            let mut engine = setup(options).engine();
            let logs: Vec<Log> = (0..3).map(|i| submit(&engine.handle(), greedy(i..i + 9, 10)).1).collect();
            drive(&mut engine);
            assert_empty(&engine);
            logs
        };
        let good = run("vocab=1000");
        let logs = run("vocab=1000\nnan_row=4:1");
        assert_eq!(logs[1].failure(), Some(Failure::Numerical));
        assert_eq!(logs[1].tokens(0), good[1].tokens(0)[..3]);
        assert_eq!((logs[0].events(), logs[2].events()), (good[0].events(), good[2].events()));
    }
}

#[test]
fn a_failed_step_fails_its_requests_and_the_next_succeeds() {
    for depth in [1, 2] {
        for (code, no_memory) in [(3, true), (7, false)] {
            let options = format!("vocab=1000\nfail_step=3:{code}");
            let config = Config { depth, max_seqs: 2, ..Config::default() };
            let mut engine = Setup { options: &options, config, ..Setup::default() }.engine();
            let handle = engine.handle();
            let logs: Vec<Log> = (0..3).map(|i| submit(&handle, greedy(i..i + 9, 10)).1).collect();
            drive(&mut engine);
            for log in &logs[..2] {
                match log.failure() {
                    Some(Failure::NoMemory(_)) => assert!(no_memory),
                    Some(Failure::Internal(_)) => assert!(!no_memory),
                    other => panic!("{other:?}"),
                }
            }
            // It had no part in the step.
            assert_eq!(logs[2].tokens(0).len(), 10);
            let again = submit(&handle, greedy(0..9, 10)).1;
            drive(&mut engine);
            assert_eq!(again.tokens(0).len(), 10);
            assert_empty(&engine);
            assert!(!handle.stats().lost);
        }
    }
}

#[test]
fn a_lost_device_fails_everything_for_good() {
    for depth in [1, 2] {
        for at in 1..12 {
            let options = format!("vocab=1000\nlost_at={at}");
            let config = Config { depth, max_seqs: 2, ..Config::default() };
            let mut engine = Setup { options: &options, config, ..Setup::default() }.engine();
            let handle = engine.handle();
            let logs: Vec<Log> = (0..3).map(|i| submit(&handle, greedy(i..i + 9, 10)).1).collect();
            assert_eq!(drive(&mut engine), Progress::Stopped);
            assert!(logs.iter().all(|log| log.ended()));
            assert!(logs.iter().any(|log| matches!(log.failure(), Some(Failure::BackendLost(_)))));
            assert!(handle.stats().lost);
            assert_eq!(handle.submit(greedy([1], 1), Log::default().output()), Err(Refused::Stopped));
            assert_empty(&engine);
        }
    }
}

#[test]
fn draining_finishes_what_was_accepted() {
    let engine = Setup::default().engine();
    let handle = engine.handle();
    let logs: Vec<Log> = (0..3).map(|i| submit(&handle, greedy(i..i + 9, 10)).1).collect();
    handle.drain();
    assert_eq!(handle.submit(greedy([1], 1), Log::default().output()), Err(Refused::Draining));
    let mut now = 0;
    engine.run(|| {
        now += 1;
        now
    });
    assert!(logs.iter().all(|log| log.tokens(0).len() == 10));
    assert_eq!(handle.submit(greedy([1], 1), Log::default().output()), Err(Refused::Stopped));
}

#[test]
fn a_shutdown_fails_what_is_left() {
    let mut engine = Setup::default().engine();
    let handle = engine.handle();
    let running = submit(&handle, greedy(0..9, 100)).1;
    (0..5).for_each(|now| assert_eq!(step(&mut engine, now), Progress::Worked));
    let queued = submit(&handle, greedy(0..9, 100)).1;
    handle.shutdown();
    assert_eq!(step(&mut engine, 5), Progress::Stopped);
    assert_eq!((running.failure(), queued.failure()), (Some(Failure::Shutdown), Some(Failure::Shutdown)));
    assert_eq!(handle.stats().waiting_tokens, 0);
    // An engine that is dropped lets nobody wait for ever.
    let engine = Setup::default().engine();
    let log = submit(&engine.handle(), greedy([1], 1)).1;
    drop(engine);
    assert_eq!(log.failure(), Some(Failure::Shutdown));
}

#[test]
fn the_thread_sleeps_and_wakes() {
    let engine = Setup::default().engine();
    let handle = engine.handle();
    let thread = std::thread::spawn(move || {
        let start = std::time::Instant::now();
        engine.run(|| start.elapsed().as_micros() as u64);
    });
    for i in 0..50 {
        let log = submit(&handle, greedy(i..i + 9, 3)).1;
        while !log.ended() {
            std::thread::yield_now();
        }
        assert_eq!(log.tokens(0).len(), 3);
    }
    handle.drain();
    thread.join().unwrap();
}
