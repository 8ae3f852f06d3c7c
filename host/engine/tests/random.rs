//! Random requests, cancels and steps over a pool that is too small, with a check after every step.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use support::{Log, Setup, assert_empty, drive, greedy, step, submit};
use tokenmill_engine::{Config, Engine, Params, Progress, Request, RequestId};

#[derive(Clone, Debug)]
enum Action {
    Submit {
        shared: u32,
        own: u32,
        n: u32,
        max_tokens: u32,
        tenant: u64,
        score: bool,
        patience: Option<usize>,
    },
    Cancel(usize),
    EndBranch(usize, u32),
    Step(u64),
}

fn action() -> impl Strategy<Value = Action> {
    let patience = prop_oneof![4 => Just(None), 1 => (1..20usize).prop_map(Some)];
    prop_oneof![
        4 => (0..3u32, 0..40u32, 1..4u32, 0..30u32, 0..2u64, any::<bool>(), patience).prop_map(
            |(shared, own, n, max_tokens, tenant, score, patience)| {
                Action::Submit { shared: shared * 9, own, n, max_tokens, tenant, score: score && own % 3 == 0, patience }
            }
        ),
        1 => (0..64usize).prop_map(Action::Cancel),
        1 => (0..64usize, 0..3u32).prop_map(|(i, branch)| Action::EndBranch(i, branch)),
        5 => (1..6u64).prop_map(Action::Step),
    ]
}

/// Whatever a request got is what it gets alone.
fn same_as_alone(
    plain: &mut Engine,
    id: RequestId,
    log: &Log,
    request: Request,
) -> Result<(), TestCaseError> {
    let n = request.n;
    let alone = submit(&plain.handle(), Request { tenant: id.0, ..request }).1;
    drive(plain);
    for branch in 0..n {
        prop_assert!(alone.tokens(branch).starts_with(&log.tokens(branch)));
    }
    Ok(())
}

/// A request that a stop token can end.
fn drawn(prompt: impl IntoIterator<Item = u32>, max_tokens: u32, seed: u64) -> Request {
    let sampling = Params { seed, ..Params::default() };
    Request { stop_tokens: vec![7], sampling, ..greedy(prompt, max_tokens) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn nothing_leaks_and_every_request_ends_once(
        actions in prop::collection::vec(action(), 1..80),
        blocks in 20..60u32,
        depth in 1..3u32,
        budget in 3..40u32,
        prefix_caching: bool,
        // Few tokens recur often, so that guesses are right often.
        (draft_tokens, vocab) in (0..6u32, prop_oneof![Just(51), Just(1000)]),
    ) {
        let config =
            Config { depth, max_batched_tokens: budget, max_seqs: 6, prefix_caching, draft_tokens, ..Config::default() };
        let options = format!("vocab={vocab}\neos=7@30");
        let setup = Setup { blocks, config, max_rows: 8, options: &options, ..Setup::default() };
        let mut engine = setup.engine();
        let handle = engine.handle();
        let mut sent: Vec<(RequestId, Log, Option<usize>, Request)> = Vec::new();
        let mut cancelled = Vec::new();
        let mut now = 0;
        for (nth, action) in actions.into_iter().enumerate() {
            match action {
                Action::Submit { shared, own, n, max_tokens, tenant, score, patience } => {
                    let prompt = (0..shared).chain((0..=own).map(|at| at * 7 % 50));
                    let n = n.min(handle.limits().max_branches);
                    let mut request = Request { n, tenant, ..drawn(prompt, max_tokens, nth as u64) };
                    request.prompt_logprobs = score.then_some(1);
                    let log = Log::default();
                    let output = log.output_for(patience.unwrap_or(usize::MAX));
                    let id = handle.submit(request.clone(), output).unwrap();
                    sent.push((id, log, patience, request));
                }
                Action::Cancel(i) if !sent.is_empty() => {
                    let i = i % sent.len();
                    handle.cancel(sent[i].0);
                    cancelled.push(sent[i].0);
                }
                Action::EndBranch(i, branch) if !sent.is_empty() => {
                    handle.end_branch(sent[i % sent.len()].0, branch);
                }
                Action::Step(times) => {
                    for _ in 0..times {
                        prop_assert_ne!(step(&mut engine, now), Progress::Stopped);
                        now += 1;
                    }
                }
                _ => {}
            }
        }
        drive(&mut engine);
        assert_empty(&engine);
        let mut plain = Setup { options: setup.options, ..Setup::default() }.engine();
        for (id, log, patience, request) in sent {
            // The log itself refuses an event after the last one.
            let gone = patience.is_some_and(|patience| log.events().len() >= patience);
            prop_assert!(log.ended() || gone || cancelled.contains(&id));
            prop_assert_eq!(log.failure(), None);
            same_as_alone(&mut plain, id, &log, request)?;
        }
    }
}

/// Blocks of tenants, marked by their tokens, never mix: the null backend compares every slot with the
/// prefix it must hold, and fails the step (S07).
#[test]
fn tenants_share_no_prefix() {
    let mut engine = Setup { blocks: 24, ..Setup::default() }.engine();
    let handle = engine.handle();
    let ask = |tenant, cache_salt| submit(&handle, Request { tenant, cache_salt, ..greedy(0..40, 4) }).1;
    let mut cached = Vec::new();
    for (tenant, salt) in [(0, 0), (1, 0), (2, 0), (2, 1), (1, 0), (2, 1)] {
        let log = ask(tenant, salt);
        drive(&mut engine);
        cached.push(log.usage().cached_tokens);
        assert_eq!(log.tokens(0).len(), 4);
    }
    // The pool holds two of the prompts at a time.
    assert_eq!(cached[..4], [0, 0, 0, 0]);
    assert_eq!(cached[5], 36);
}
