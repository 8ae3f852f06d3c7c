//! More work than tokens, blocks or seats.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    unreachable_pub,
    clippy::type_complexity,
    reason = "a test fails by panicking"
)]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use support::{Log, Setup, assert_empty, drive, greedy, step, submit};
use tokenmill_engine::{Config, Event, Failure, Fallbacks, Output, Progress, Request, Samplers};
use tokenmill_policy::schedule::{Order, Scheduler, View};
use tokenmill_policy::{Error, Fcfs};

/// Every running sequence needs a block when there is none (S14).
#[test]
fn full_blocks_preempt_one_and_never_livelock() {
    // Four sequences of exactly the blocks there are; each of the next tokens needs one more.
    let mut engine = Setup { blocks: 16, ..Setup::default() }.engine();
    let handle = engine.handle();
    let logs: Vec<Log> = (0..4).map(|i| submit(&handle, greedy(i * 100..i * 100 + 11, 40)).1).collect();
    let mut steps = 0;
    while step(&mut engine, steps) == Progress::Worked {
        steps += 1;
        assert!(steps < 10_000);
    }
    assert!(handle.stats().preemptions > 0);
    assert!(logs.iter().all(|log| log.tokens(0).len() == 40));
    assert_empty(&engine);
}

/// Writes down the step of each event.
struct Clock {
    now: Arc<Mutex<u64>>,
    times: Arc<Mutex<Vec<u64>>>,
}

impl Output for Clock {
    fn deliver(&mut self, event: Event<'_>) -> bool {
        if let Event::Token { .. } = event {
            self.times.lock().unwrap().push(*self.now.lock().unwrap());
        }
        true
    }
}

/// A long prompt among short ones: those that decode get a token in every step, and those behind it
/// start before it is done (S12).
#[test]
fn a_long_prompt_holds_up_nobody() {
    let config = Config { max_seqs: 32, max_batched_tokens: 64, ..Config::default() };
    let setup = Setup { blocks: 4096, config, options: "vocab=1000\ncheck=0", ..Setup::default() };
    let mut engine = setup.engine();
    let handle = engine.handle();
    let now = Arc::new(Mutex::new(0));
    let clock = |request: Request| {
        let times = Arc::new(Mutex::new(Vec::new()));
        let output = Clock { now: now.clone(), times: times.clone() };
        handle.submit(request, Box::new(output)).unwrap();
        times
    };
    let mut times: Vec<_> = (0..8).map(|i| clock(greedy(i..i + 8, 60))).collect();
    for at in 0..4 {
        *now.lock().unwrap() = at;
        engine.step(|| at);
    }
    let long = clock(greedy((0..8000).map(|at| at % 999), 1));
    let behind: Vec<_> = (0..8).map(|i| clock(greedy(i * 50..i * 50 + 20, 20))).collect();
    times.extend(behind.iter().cloned());
    for at in 4..2000 {
        *now.lock().unwrap() = at;
        if engine.step(|| at) == Progress::Idle {
            break;
        }
    }
    for times in &times {
        let times = times.lock().unwrap();
        assert!(times.windows(2).all(|pair| pair[1] == pair[0] + 1), "{times:?}");
    }
    let long = long.lock().unwrap()[0];
    for times in &behind {
        assert!(times.lock().unwrap()[0] < long / 4, "those behind wait for it");
    }
    // And they do not starve it: at least half the budget beside decoding was its own.
    assert!(long < 8000 / 24 + 10, "{long}");
}

/// Requests for two and three times the blocks there are: tokens are computed once, save a few (C3).
#[test]
fn an_overloaded_pool_recomputes_little() {
    for (overload, seats) in [(1, 32), (2, 64), (3, 96)] {
        // A sequence has 32 to 96 tokens at its end: 16 blocks on average.
        let config =
            Config { max_seqs: seats, max_batched_tokens: 256, prefix_caching: false, ..Config::default() };
        let setup = Setup {
            blocks: 32 * 16,
            max_tokens: 256,
            max_rows: 128,
            max_seqs: 128,
            config,
            options: "vocab=1000\ncheck=0",
            ..Setup::default()
        };
        let mut engine = setup.engine();
        let handle = engine.handle();
        let mut wanted = 0;
        let logs: Vec<Log> = (0..600u32)
            .map(|i| {
                let (prompt, output) = (16 + i * 7 % 16, 16 + i * 29 % 48);
                wanted += u64::from(prompt + output - 1);
                submit(&handle, greedy((0..prompt).map(|at| (at * i) % 1000), output)).1
            })
            .collect();
        let mut steps = 0u64;
        while engine.step(|| steps) == Progress::Worked {
            steps += 1;
        }
        assert!(logs.iter().all(Log::ended));
        let stats = handle.stats();
        let ratio = wanted as f64 / stats.computed_tokens as f64;
        println!("overload {overload}: {steps} steps, {} preemptions, useful {ratio:.3}", stats.preemptions);
        assert!(ratio > 0.95, "overload {overload}: {ratio}");
    }
}

/// Answers from a table of misbehaviours.
struct Broken(fn(&dyn View, &mut Order) -> Result<(), Error>);

impl Scheduler for Broken {
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        (self.0)(view, order)
    }
}

#[test]
fn a_bad_scheduler_is_replaced_by_the_default() {
    let expected = {
        let mut engine = Setup::default().engine();
        let log = submit(&engine.handle(), greedy(0..9, 10)).1;
        drive(&mut engine);
        log.tokens(0)
    };
    let misbehaviours: [fn(&dyn View, &mut Order) -> Result<(), Error>; 7] = [
        |_, _| Err(Error::Undecided("trap".into())),
        |_, _| Ok(()),
        |_, order| {
            order.run(&[77], &[1]);
            Ok(())
        },
        |_, order| {
            order.run(&[0, 0], &[1, 1]);
            Ok(())
        },
        |_, order| {
            order.run(&[0], &[1, 2]);
            Ok(())
        },
        |_, order| {
            order.run(&[0], &[0]);
            Ok(())
        },
        |_, order| {
            order.reject(&[u32::MAX]);
            Ok(())
        },
    ];
    for misbehaviour in misbehaviours {
        let mut engine = Setup::default().engine_with(Box::new(Broken(misbehaviour)), Samplers::default());
        let handle = engine.handle();
        let log = submit(&handle, greedy(0..9, 10)).1;
        drive(&mut engine);
        assert_eq!(log.tokens(0), expected);
        assert!(handle.stats().policy_fallbacks.scheduler > 0);
        assert_empty(&engine);
    }
}

#[test]
fn an_order_is_clipped_to_budget_and_pending() {
    let greedy_order = |view: &dyn View, order: &mut Order| {
        (0..view.ids().len() as u32).rev().for_each(|i| order.run(&[i], &[u32::MAX]));
        Ok(())
    };
    let mut engine = Setup { blocks: 24, ..Setup::default() }
        .engine_with(Box::new(Broken(greedy_order)), Samplers::default());
    let handle = engine.handle();
    let logs: Vec<Log> =
        (0..5).map(|i| submit(&handle, Request { n: 2, ..greedy(i..i + 30, 10) }).1).collect();
    drive(&mut engine);
    assert!(logs.iter().all(|log| log.tokens(1).len() == 10));
    assert_eq!(handle.stats().policy_fallbacks, Fallbacks::default());
    assert_empty(&engine);
}

/// Tells what it saw.
struct Watching(Arc<Mutex<HashMap<u64, Vec<(u32, u32, u32)>>>>, Fcfs);

impl Scheduler for Watching {
    fn plan(&mut self, view: &dyn View, order: &mut Order) -> Result<(), Error> {
        let mut seen = self.0.lock().unwrap();
        for i in 0..view.ids().len() {
            let state = (view.pending()[i], view.resident()[i], view.generated()[i]);
            seen.entry(view.ids()[i]).or_default().push(state);
            assert_eq!(view.attribute(i, "k").as_deref(), Some("v"));
            assert_eq!((view.tenant()[i], view.priority()[i], view.deadline_us()[i]), (9, -4, 77));
        }
        for id in view.finished() {
            seen.entry(*id).or_default().push((0, 0, u32::MAX));
        }
        self.1.plan(view, order)
    }
}

#[test]
fn schedulers_see_how_far_sequences_are() {
    let seen = Arc::default();
    let setup = Setup { config: Config { max_batched_tokens: 4, ..Config::default() }, ..Setup::default() };
    let scheduler = Watching(Arc::clone(&seen), Fcfs::default());
    let mut engine = setup.engine_with(Box::new(scheduler), Samplers::default());
    let request = || Request {
        attributes: vec![("k".into(), "v".into())],
        tenant: 9,
        priority: -4,
        deadline_us: Some(77),
        ..greedy(0..6, 3)
    };
    submit(&engine.handle(), request());
    drive(&mut engine);
    // Another, so that the scheduler hears of the first one's end.
    submit(&engine.handle(), request());
    drive(&mut engine);
    let seen = seen.lock().unwrap();
    let expected = [(6, 0, 0), (2, 4, 0), (1, 6, 1), (1, 7, 2), (0, 8, 3), (0, 0, u32::MAX)];
    assert_eq!(seen[&1], expected);
}

#[test]
fn a_rejected_request_fails() {
    let refuse_all = |view: &dyn View, order: &mut Order| {
        order.reject(&(0..view.ids().len() as u32).collect::<Vec<_>>());
        Ok(())
    };
    let mut engine = Setup::default().engine_with(Box::new(Broken(refuse_all)), Samplers::default());
    let log = submit(&engine.handle(), Request { n: 3, ..greedy(0..9, 10) }).1;
    drive(&mut engine);
    assert_eq!(log.failure(), Some(Failure::Rejected));
    assert_empty(&engine);
}
