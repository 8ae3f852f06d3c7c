//! A sampling policy accepts several tokens for a row: branches fork, end and make room for others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use support::{Log, Setup, Told, assert_empty, drive, greedy, step, submit};
use tokenmill_engine::{Config, Engine, FinishReason, Params, Progress, Request, Samplers};
use tokenmill_policy::sample::{Choices, Knobs, Logits, Sampler, View};
use tokenmill_policy::{Error, Fcfs, Named};

/// Inspects every row.
struct Picks<F>(F);

impl<F> Sampler for Picks<F>
where
    F: FnMut(&dyn View, &mut dyn Logits, &[u32], &mut Choices) -> Result<(), Error> + Send,
{
    fn plan(&mut self, view: &dyn View, knobs: &mut Knobs) -> Result<(), Error> {
        knobs.inspect.extend(0..view.ids().len() as u32);
        Ok(())
    }

    fn pick(
        &mut self,
        view: &dyn View,
        logits: &mut dyn Logits,
        rows: &[u32],
        choices: &mut Choices,
    ) -> Result<(), Error> {
        (self.0)(view, logits, rows, choices)
    }
}

fn engine<F>(setup: &Setup<'_>, pick: F) -> Engine
where
    F: FnMut(&dyn View, &mut dyn Logits, &[u32], &mut Choices) -> Result<(), Error> + Send + 'static,
{
    let mut samplers = Samplers::default();
    samplers.add(Named { name: "forks".into(), sampler: Box::new(Picks(pick)), enforcing: false });
    setup.engine_with(Box::new(Fcfs::default()), samplers)
}

fn forking(max_branches: u32, request: Request) -> Request {
    Request { sampler: Some("forks".into()), max_branches, ..request }
}

/// What a receiver knows of a branch.
#[derive(Clone, Debug, Default, PartialEq)]
struct Branch {
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    reason: Option<FinishReason>,
}

impl Branch {
    fn score(&self) -> f32 {
        self.logprobs.iter().sum()
    }
}

/// Follows the events as a receiver does, and finds fault with their order.
fn branches(log: &Log, n: u32) -> BTreeMap<u32, Branch> {
    let mut all: BTreeMap<u32, Branch> = (0..n).map(|branch| (branch, Branch::default())).collect();
    let mut forked = None;
    for event in log.events() {
        if let Some(expected) = forked.take() {
            assert!(matches!(event, Told::Token { branch, .. } if branch == expected), "{event:?}");
        }
        match event {
            Told::Forked { branch, parent } => {
                let copy = all[&parent].clone();
                assert_eq!(copy.reason, None, "the parent has finished");
                assert!(branch >= n && all.insert(branch, copy).is_none(), "branch {branch} is not new");
                forked = Some(branch);
            }
            Told::Token { branch, token, logprob, .. } => {
                let branch = all.get_mut(&branch).unwrap();
                assert_eq!(branch.reason, None, "a token after the end");
                branch.tokens.push(token);
                branch.logprobs.push(logprob);
            }
            Told::Finished { branch, reason } => {
                assert_eq!(all.get_mut(&branch).unwrap().reason.replace(reason), None, "finished twice");
            }
            Told::Prompt { .. } | Told::Done(_) | Told::Failed(_) => {}
        }
    }
    all
}

const WIDTH: usize = 4;

/// The best continuations of some beams: index of the beam, token, score; those that stop take no place.
fn select(mut candidates: Vec<(usize, u32, f32)>, stop: &[u32]) -> Vec<(usize, u32, f32)> {
    // The rows of the null backend have the same logits in another order: equal scores are common.
    let rank = |candidate: &(usize, u32, f32)| candidate.2 + (candidate.1 * 37 % 41) as f32 * 1e-3;
    candidates.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
    let mut places = WIDTH;
    let take = |candidate: &(usize, u32, f32)| {
        let room = places > 0;
        places -= usize::from(room && !stop.contains(&candidate.1));
        room
    };
    candidates.into_iter().take_while(take).collect()
}

fn beam_search(
    view: &dyn View,
    logits: &mut dyn Logits,
    rows: &[u32],
    choices: &mut Choices,
) -> Result<(), Error> {
    let mut requests: HashMap<u64, Vec<(usize, u32, f32)>> = HashMap::new();
    for &row in rows {
        let (ids, logprobs) = logits.top_k(row, 2 * WIDTH as u32)?;
        let score = view.scores()[row as usize];
        let candidates = requests.entry(view.requests()[row as usize]).or_default();
        candidates.extend(ids.iter().zip(logprobs).map(|(&id, logprob)| (row as usize, id, score + logprob)));
    }
    for candidates in requests.into_values() {
        let stop = view.stop_tokens(candidates[0].0);
        let chosen = select(candidates, &stop);
        choices.accept.extend(chosen.into_iter().map(|(row, token, _)| (row as u32, token)));
    }
    Ok(())
}

/// The same by plain requests, each for one token after a beam's prefix.
fn by_hand(setup: &Setup<'_>, request: &Request) -> Vec<(Vec<u32>, f32)> {
    let mut plain = setup.engine();
    let (mut beams, mut done) = (vec![(Vec::new(), 0.0)], Vec::new());
    for position in 0..request.max_tokens {
        let mut candidates = Vec::new();
        for (i, (tokens, score)) in beams.iter().enumerate() {
            let prompt = [&request.prompt[..], tokens].concat();
            let ask = Request { logprobs: Some(2 * WIDTH as u32), ..greedy(prompt, 1) };
            let log = submit(&plain.handle(), ask).1;
            drive(&mut plain);
            let top = log.events().into_iter().find_map(|told| match told {
                Told::Token { top, .. } => Some(top),
                _ => None,
            });
            candidates.extend(top.unwrap().iter().map(|&(token, logprob)| (i, token, score + logprob)));
        }
        let chosen = select(candidates, &request.stop_tokens);
        let longer = |(i, token, score): (usize, u32, f32)| {
            let tokens: Vec<u32> = beams[i].0.iter().copied().chain([token]).collect();
            (tokens, score)
        };
        let (ended, next): (Vec<_>, Vec<_>) = chosen.into_iter().map(longer).partition(|(tokens, _)| {
            position + 1 == request.max_tokens || request.stop_tokens.contains(tokens.last().unwrap())
        });
        done.extend(ended);
        beams = next;
    }
    done
}

fn sorted(mut all: Vec<(Vec<u32>, f32)>) -> Vec<(Vec<u32>, f32)> {
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn beam_search_is_a_policy() {
    let mut stopped = 0;
    for (prompt, depth, max_tokens) in [(1..10, 2, 12), (3..20, 1, 12), (0..4, 2, 20), (5..6, 2, 1)] {
        let config = Config { depth, ..Setup::default().config };
        let setup = Setup { options: "vocab=40", config, ..Setup::default() };
        let request = Request {
            stop_tokens: vec![3, 5, 11, 17, 29, 36],
            logprobs: Some(2),
            ..greedy(prompt, max_tokens)
        };
        let mut engine = engine(&setup, beam_search);
        // Another one at the same time, and plain company.
        let logs = [request.clone(), request.clone()]
            .map(|request| submit(&engine.handle(), forking(WIDTH as u32, request)).1);
        let alone = submit(&engine.handle(), Request { n: 2, ..request.clone() }).1;
        drive(&mut engine);
        assert_empty(&engine);
        let expected = sorted(by_hand(&setup, &request));
        for log in logs {
            let all = branches(&log, 1);
            assert!(all.values().all(|branch| branch.reason.is_some()));
            let kept = all.values().filter(|branch| branch.reason != Some(FinishReason::Pruned));
            stopped += kept.clone().filter(|branch| branch.reason == Some(FinishReason::Stop)).count();
            let found = sorted(kept.map(|branch| (branch.tokens.clone(), branch.score())).collect());
            let tokens = |all: &[(Vec<u32>, f32)]| all.iter().map(|one| one.0.clone()).collect::<Vec<_>>();
            assert_eq!(tokens(&found), tokens(&expected));
            assert!(found.iter().zip(&expected).all(|(a, b)| (a.1 - b.1).abs() < 1e-3));
            let delivered = |told: &Told| match told {
                Told::Token { top, .. } => Some(top.len()),
                _ => None,
            };
            let tops: Vec<usize> = log.events().iter().filter_map(delivered).collect();
            assert_eq!(tops.len() as u32, log.usage().completion_tokens);
            assert!(tops.iter().all(|&len| len == 2));
        }
        assert_eq!(alone.tokens(0), alone.tokens(1));
        let stats = engine.handle().stats();
        assert_eq!((stats.policy_fallbacks.sampler, stats.forks_refused, stats.preemptions), (0, 0, 0));
    }
    assert!(stopped > 0, "no branch of the test met a stop token");
}

#[test]
fn a_request_has_no_more_branches_than_it_may() {
    let triple = |_: &dyn View, _: &mut dyn Logits, rows: &[u32], choices: &mut Choices| {
        rows.iter().for_each(|&row| choices.accept.extend([(row, 1), (row, 2), (row, 3)]));
        Ok(())
    };
    for (n, max, live) in [(1, 5, 5), (2, 3, 3), (2, 0, 2), (3, 1, 3)] {
        let mut engine = engine(&Setup::default(), triple);
        let handle = engine.handle();
        let log = submit(&handle, forking(max, Request { n, ..greedy(0..9, 4) })).1;
        drive(&mut engine);
        assert_empty(&engine);
        let all = branches(&log, n);
        // The last token needs no branch that lives on: each of those there are has two more ends.
        assert_eq!(all.len(), live + 2 * live);
        assert!(all.values().all(|branch| branch.tokens.len() == 4));
        assert!(handle.stats().forks_refused > 0);
        let different: std::collections::BTreeSet<_> = all.values().map(|branch| &branch.tokens).collect();
        assert!(different.len() >= live, "{different:?}");
    }
    let engine = Setup::default().engine();
    let refused = engine.handle().submit(forking(33, greedy(0..3, 1)), Log::default().output());
    assert!(refused.is_err_and(|refused| refused.to_string().starts_with("max_branches")));
}

/// A parent that stops leaves its branches behind, and `finish` keeps what a branch has.
#[test]
fn a_parent_ends_and_its_branches_go_on() {
    let pick = |view: &dyn View, _: &mut dyn Logits, rows: &[u32], choices: &mut Choices| {
        for &row in rows {
            match view.generated()[row as usize] {
                1 => choices.accept.extend([(row, 7), (row, 1), (row, 7)]),
                3 => choices.finish.push(row),
                _ => choices.accept.push((row, 2)),
            }
        }
        Ok(())
    };
    let mut engine = engine(&Setup::default(), pick);
    let log = submit(&engine.handle(), forking(1, Request { stop_tokens: vec![7], ..greedy(0..9, 9) })).1;
    drive(&mut engine);
    assert_empty(&engine);
    let ends: Vec<_> =
        branches(&log, 1).into_values().map(|branch| (branch.tokens, branch.reason.unwrap())).collect();
    let stop = (vec![2, 7], FinishReason::Stop);
    assert_eq!(ends, [stop.clone(), (vec![2, 1, 2], FinishReason::Ended), stop]);
    assert_eq!(log.usage().completion_tokens, 5);
    assert_eq!(engine.handle().stats().forks_refused, 0);
}

/// Deferred branches draw with seeds of their own.
#[test]
fn branches_draw_for_themselves() {
    let pick = |view: &dyn View, _: &mut dyn Logits, rows: &[u32], choices: &mut Choices| {
        for &row in rows {
            match view.generated()[row as usize] {
                0 => choices.accept.extend([(row, 9), (row, 9), (row, 9)]),
                _ => choices.defer.push(row),
            }
        }
        Ok(())
    };
    let drawn = Request { sampling: Params { seed: 4, ..Params::default() }, ..greedy(0..9, 9) };
    let mut tokens = Vec::new();
    for blocks in [256, 8] {
        let mut engine = engine(&Setup { blocks, ..Setup::default() }, pick);
        let log = submit(&engine.handle(), forking(3, drawn.clone())).1;
        drive(&mut engine);
        assert_empty(&engine);
        let all = branches(&log, 1);
        assert!(all[&0].tokens != all[&1].tokens && all[&1].tokens != all[&2].tokens);
        tokens.push(all);
        assert_eq!(engine.handle().stats().preemptions > 0, blocks == 8);
    }
    assert_eq!(tokens[0], tokens[1], "preemption changes nothing");
}

/// splitmix64's last step, for decisions that only depend on what a policy sees.
fn hash(seed: u64) -> u64 {
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

type Known = Arc<Mutex<HashMap<u64, Vec<u32>>>>;

/// Chooses at random, and checks what it is told of each sequence.
fn at_random(
    known: Known,
) -> impl FnMut(&dyn View, &mut dyn Logits, &[u32], &mut Choices) -> Result<(), Error> + Send {
    move |view, _, rows, choices| {
        for &row in rows {
            let at = row as usize;
            let mut known = known.lock().unwrap();
            let tokens = known.entry(view.ids()[at]).or_default();
            tokens.extend_from_slice(view.accepted().get(at));
            assert_eq!(tokens.len() as u32, view.positions()[at]);
            let dice = hash(view.seeds()[at]);
            match dice % 16 {
                0 => choices.finish.push(row),
                1 => {}
                2..6 => choices.defer.push(row),
                n => choices.accept.extend((0..n % 4 + 1).map(|i| (row, (hash(dice + i) % 50) as u32))),
            }
        }
        Ok(())
    }
}

/// Every branch is a path of the model: its log-probabilities are those of its own text as a prompt.
fn check_paths(plain: &mut Engine, request: &Request, log: &Log) {
    for branch in branches(log, request.n).into_values() {
        let prompt = [&request.prompt[..], &branch.tokens].concat();
        let ask = Request { prompt_logprobs: Some(0), ..greedy(prompt, 0) };
        let scores = submit(&plain.handle(), ask).1;
        drive(plain);
        let Some(Told::Prompt { logprobs, .. }) = scores.events().into_iter().next() else { panic!() };
        for (one, &logprob) in logprobs[request.prompt.len()..].iter().zip(&branch.logprobs) {
            assert!((one.logprob.unwrap() - logprob).abs() < 1e-4, "{one:?} is not {logprob}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_policy_accepts_no_block_or_event_is_lost(
        requests in prop::collection::vec((1..30u32, 0..20u32, 1..4u32, 0..6u32, any::<bool>()), 1..6),
        ends in prop::collection::vec((0..40u64, 0..6usize, 0..12u32), 0..6),
        blocks in 16..60u32,
        depth in 1..3u32,
        budget in 3..40u32,
        prefix_caching: bool,
    ) {
        let config =
            Config { depth, max_batched_tokens: budget, max_seqs: 6, prefix_caching, ..Config::default() };
        let setup = Setup { blocks, config, max_rows: 8, options: "vocab=50", ..Setup::default() };
        let known = Known::default();
        let mut engine = engine(&setup, at_random(known.clone()));
        let handle = engine.handle();
        let most = handle.limits().max_branches;
        let mut sent = Vec::new();
        for (nth, &(len, max_tokens, n, max_branches, penalised)) in requests.iter().enumerate() {
            let presence = if penalised { 0.5 } else { 0.0 };
            let request = Request {
                n: n.min(most),
                stop_tokens: vec![7],
                sampling: Params { seed: nth as u64 * 31 + u64::from(len), presence, ..Params::default() },
                ..greedy((0..len).map(|at| at % 50), max_tokens)
            };
            let request = forking(max_branches.min(most), request);
            let (id, log) = submit(&handle, request.clone());
            sent.push((id, log, request));
        }
        let mut cancelled = Vec::new();
        for now in 0.. {
            for &(when, which, branch) in &ends {
                let id = sent[which % sent.len()].0;
                if when == now && branch == 0 {
                    handle.cancel(id);
                    cancelled.push(id);
                } else if when == now {
                    handle.end_branch(id, branch - 1);
                }
            }
            if step(&mut engine, now) != Progress::Worked {
                break;
            }
            prop_assert!(now < 100_000);
            for (_, log, request) in &sent {
                let live = branches(log, request.n).values().filter(|branch| branch.reason.is_none()).count();
                prop_assert!(live as u32 <= request.n.max(request.max_branches));
            }
        }
        assert_empty(&engine);
        prop_assert_eq!(handle.stats().policy_fallbacks.sampler, 0);
        let mut plain = Setup { options: setup.options, ..Setup::default() }.engine();
        for (id, log, request) in sent {
            prop_assert!(log.ended() || cancelled.contains(&id));
            prop_assert_eq!(log.failure(), None);
            let all = branches(&log, request.n);
            prop_assert!(cancelled.contains(&id) || all.values().all(|branch| branch.reason.is_some()));
            check_paths(&mut plain, &request, &log);
        }
    }
}
