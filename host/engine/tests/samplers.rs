//! Sampling policies: what they see, what they can do, and what becomes of a bad answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::sync::{Arc, Mutex};

use support::{Log, Setup, assert_empty, drive, greedy, submit};
use tokenmill_engine::{Failure, FinishReason, Request, Samplers};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Mask, Sampler, View};
use tokenmill_policy::{Error, Fcfs, Named};

type Plan = Box<dyn FnMut(&dyn View, &mut Knobs) -> Result<(), Error> + Send>;
type Pick = Box<dyn FnMut(&dyn View, &mut dyn Logits, &[u32], &mut Choices) -> Result<(), Error> + Send>;

struct Made {
    plan: Plan,
    pick: Pick,
}

impl Sampler for Made {
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        (self.plan)(view, knobs)
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        (self.pick)(view, logits, rows, choices)
    }
}

fn run(enforcing: bool, plan: Plan, pick: Pick, requests: &[Request]) -> (Vec<Log>, u64) {
    let mut samplers = Samplers::default();
    samplers.add(Named { name: "made".into(), sampler: Box::new(Made { plan, pick }), enforcing });
    let mut engine = Setup::default().engine_with(Box::new(Fcfs::default()), samplers);
    let handle = engine.handle();
    let logs = requests.iter().map(|request| submit(&handle, request.clone()).1).collect();
    drive(&mut engine);
    assert_empty(&engine);
    (logs, handle.stats().policy_fallbacks.sampler)
}

fn nobody_picks() -> Pick {
    Box::new(|_, _, _, _| panic!("nothing was inspected"))
}

fn asking(request: Request) -> Request {
    Request { sampler: Some("made".into()), attributes: vec![("x".into(), "y".into())], ..request }
}

#[test]
fn knobs_turn_the_rows_of_their_requests_only() {
    let plain = run(false, Box::new(|_, _| Ok(())), nobody_picks(), &[greedy(0..9, 12)]).0[0].tokens(0);
    let even: Mask = (0..1000u32.div_ceil(32)).map(|_| 0x5555_5555).collect();
    let plan: Plan = Box::new(move |view, knobs| {
        for row in 0..view.ids().len() as u32 {
            knobs.allow.push((row, even.clone()));
            if view.positions()[row as usize] == 12 {
                knobs.bias.push((row, 500, 1000.0));
            }
        }
        Ok(())
    });
    let requests =
        [greedy(0..9, 12), asking(greedy(0..9, 12)), asking(Request { n: 2, ..greedy(3..12, 12) })];
    let (logs, fallbacks) = run(false, plan, nobody_picks(), &requests);
    assert_eq!((logs[0].tokens(0), fallbacks), (plain, 0));
    for (log, branch) in [(&logs[1], 0), (&logs[2], 0), (&logs[2], 1)] {
        let tokens = log.tokens(branch);
        assert!(tokens.len() == 12 && tokens.iter().all(|token| token % 2 == 0), "{tokens:?}");
        assert_eq!(tokens[3], 500);
    }
}

#[test]
fn a_policy_sees_every_token_once_and_the_end() {
    let seen = Arc::new(Mutex::new((Vec::new(), Vec::new())));
    let inside = Arc::clone(&seen);
    let plan: Plan = Box::new(move |view, _| {
        let mut seen = inside.lock().unwrap();
        seen.1.extend_from_slice(view.finished());
        for row in 0..view.ids().len() {
            assert_eq!(view.attribute(row, "x"), Some("y".into()));
            if view.ids()[row] == 1 {
                seen.0.extend_from_slice(view.accepted().get(row));
                assert_eq!(seen.0.len() as u32, view.positions()[row]);
            }
        }
        Ok(())
    });
    let requests = [asking(greedy(0..9, 8)), asking(greedy(0..3, 20))];
    let (logs, _) = run(false, plan, nobody_picks(), &requests);
    let mut all: Vec<u32> = (0..9).chain(logs[0].tokens(0)).collect();
    all.pop(); // Nobody asks after the last token.
    let seen = seen.lock().unwrap();
    assert_eq!((&seen.0, &seen.1), (&all, &vec![1]));
}

#[test]
fn inspected_rows_are_accepted_deferred_or_pruned() {
    let plain = run(false, Box::new(|_, _| Ok(())), nobody_picks(), &[greedy(0..9, 12)]).0[0].tokens(0);
    let plan: Plan = Box::new(|view, knobs| {
        knobs.inspect.extend(0..view.ids().len() as u32);
        Ok(())
    });
    // The second most likely at position 10, the device's choice elsewhere, the end at position 13.
    let pick: Pick = Box::new(|view, logits, rows, choices| {
        for &row in rows {
            match view.positions()[row as usize] {
                10 => {
                    let (ids, logprobs) = logits.top_k(row, 2)?;
                    let all = logits.read(row)?;
                    assert!(all.iter().all(|&logit| logit <= all[ids[0] as usize]));
                    assert!(logprobs[0] > logprobs[1]);
                    choices.accept.push((row, ids[1]));
                }
                13 => {}
                _ => choices.defer.push(row),
            }
        }
        Ok(())
    });
    let (logs, fallbacks) = run(false, plan, pick, &[asking(greedy(0..9, 12)), greedy(0..9, 12)]);
    let tokens = logs[0].tokens(0);
    assert_eq!((tokens.len(), tokens[0], fallbacks), (4, plain[0], 0));
    assert_ne!(tokens[1], plain[1]);
    assert_eq!(logs[0].reason(0), Some(FinishReason::Pruned));
    assert_eq!(logs[1].tokens(0), plain);
}

type Bad = fn(&mut Knobs) -> Result<(), Error>;

fn bad_answers() -> [Bad; 12] {
    [
        |_| Err(Error::Undecided("trap".into())),
        |knobs| {
            knobs.temperature.push((9, 1.0));
            Ok(())
        },
        |knobs| {
            knobs.temperature.push((0, f32::NAN));
            Ok(())
        },
        |knobs| {
            knobs.temperature.push((0, -1.0));
            Ok(())
        },
        |knobs| {
            knobs.top_p.push((0, 0.0));
            Ok(())
        },
        |knobs| {
            knobs.min_p.push((0, 2.0));
            Ok(())
        },
        |knobs| {
            knobs.bias.push((0, 1000, 1.0));
            Ok(())
        },
        |knobs| {
            knobs.bias.push((0, 1, f32::NAN));
            Ok(())
        },
        |knobs| {
            knobs.allow.push((0, Mask::from([1, 2, 3])));
            Ok(())
        },
        |knobs| {
            knobs.inspect.push(u32::MAX);
            Ok(())
        },
        |knobs| {
            knobs.top_k.push((7, 1));
            Ok(())
        },
        |knobs| {
            knobs.inspect.push(0); // And then picks a token outside the vocabulary.
            Ok(())
        },
    ]
}

#[test]
fn a_bad_answer_is_bypassed_or_fails_an_enforcing_policy() {
    let plain = run(false, Box::new(|_, _| Ok(())), nobody_picks(), &[greedy(0..9, 5)]).0[0].tokens(0);
    for bad in bad_answers() {
        let pick = || -> Pick {
            Box::new(|_, _, rows, choices| {
                choices.accept.push((rows[0], 1000));
                Ok(())
            })
        };
        let requests = [asking(greedy(0..9, 5)), greedy(0..9, 5)];
        let (logs, fallbacks) = run(false, Box::new(move |_, knobs| bad(knobs)), pick(), &requests);
        assert_eq!((logs[0].tokens(0), logs[1].tokens(0)), (plain.clone(), plain.clone()));
        assert_eq!(fallbacks, 5);
        let (logs, _) = run(true, Box::new(move |_, knobs| bad(knobs)), pick(), &requests);
        assert_eq!((logs[0].tokens(0), logs[1].tokens(0)), (vec![], plain.clone()));
        assert!(matches!(logs[0].failure(), Some(Failure::Policy { name, .. }) if name == "made"));
    }
}

#[test]
fn a_policy_that_failed_is_told_everything_again() {
    let lens = Arc::new(Mutex::new(Vec::new()));
    let inside = Arc::clone(&lens);
    let plan: Plan = Box::new(move |view, _| {
        let mut lens = inside.lock().unwrap();
        lens.push(view.accepted().get(0).len());
        if lens.len() == 2 { Err(Error::Undecided("trap".into())) } else { Ok(()) }
    });
    run(false, plan, nobody_picks(), &[asking(greedy(0..9, 4))]);
    assert_eq!(*lens.lock().unwrap(), [9, 1, 11, 1]);
}

/// What a policy cannot decide of one request is no matter of the others.
#[test]
fn rows_without_a_decision_fail_alone_or_get_the_default() {
    let plain = run(false, Box::new(|_, _| Ok(())), nobody_picks(), &[greedy(0..9, 12)]).0[0].tokens(0);
    for enforcing in [false, true] {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let inside = Arc::clone(&shown);
        let plan: Plan = Box::new(move |view, knobs| {
            for row in 0..view.ids().len() {
                if view.ids()[row] == 1 {
                    inside.lock().unwrap().push(view.accepted().get(row).len());
                    let undecided = view.positions()[row] == 12;
                    knobs.undecided.extend(undecided.then_some(row as u32));
                }
            }
            Ok(())
        });
        let requests = [asking(greedy(0..9, 12)), asking(greedy(0..9, 12))];
        let (logs, fallbacks) = run(enforcing, plan, nobody_picks(), &requests);
        assert_eq!((logs[1].tokens(0), fallbacks), (plain.clone(), 1));
        if enforcing {
            assert!(matches!(logs[0].failure(), Some(Failure::Policy { name, .. }) if name == "made"));
            continue;
        }
        assert_eq!(logs[0].tokens(0), plain);
        // The prompt, a token a step, and after the default all of it.
        assert_eq!(shown.lock().unwrap()[..6], [9, 1, 1, 1, 13, 1]);
    }
}
