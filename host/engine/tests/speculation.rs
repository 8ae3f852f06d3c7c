//! Guessed tokens change how many steps it takes, and nothing else.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use proptest::prelude::*;
use support::{Log, Setup, Told, assert_empty, drive, greedy, submit};
use tokenmill_engine::{Config, FinishReason, Params, Request, Stats};

fn drafting(draft_tokens: u32) -> Config {
    Config { max_batched_tokens: 64, draft_tokens, ..Config::default() }
}

/// Runs requests together; their events, and what the engine counted.
fn run(setup: &Setup<'_>, requests: &[Request]) -> (Vec<Log>, Stats) {
    let mut engine = setup.engine();
    let handle = engine.handle();
    let logs = requests.iter().map(|request| submit(&handle, request.clone()).1).collect();
    drive(&mut engine);
    assert_empty(&engine);
    (logs, handle.stats())
}

/// A text that repeats itself: each step gives all its guesses and one token more.
#[test]
fn a_repetition_takes_a_fraction_of_the_steps() {
    let options = "vocab=1000\nscript=1,2,3,4,5,6,7";
    let request = greedy((0..14).map(|at| at % 7 + 1), 40);
    let (plain, before) = run(&Setup { options, ..Setup::default() }, std::slice::from_ref(&request));
    let setup = Setup { options, config: drafting(4), ..Setup::default() };
    let (logs, stats) = run(&setup, std::slice::from_ref(&request));
    assert_eq!(logs[0].events()[..41], plain[0].events()[..41], "log-probabilities too");
    assert_eq!((before.drafts, before.draft_tokens, before.accepted_tokens), (0, 0, 0));
    // 40 = 8 × 5: the prompt's own step guesses too, and the last guesses no further than its end.
    assert_eq!((stats.steps, stats.drafts, stats.draft_tokens, stats.accepted_tokens), (8, 8, 32, 32));
    assert_eq!(logs[0].usage().completion_tokens, 40);
}

#[test]
fn a_stop_token_among_the_guesses_ends_the_branch_there() {
    let options = "vocab=1000\nscript=1,2,3,4,5,6,7";
    let request = Request { stop_tokens: vec![5], ..greedy((0..14).map(|at| at % 7 + 1), 40) };
    let setup = Setup { options, config: drafting(6), ..Setup::default() };
    let (logs, stats) = run(&setup, std::slice::from_ref(&request));
    assert_eq!(logs[0].tokens(0), [1, 2, 3, 4, 5]);
    assert_eq!(logs[0].reason(0), Some(FinishReason::Stop));
    assert_eq!((stats.steps, stats.generated_tokens), (1, 5));
    assert_eq!(logs[0].usage().completion_tokens, 5);
}

#[test]
fn a_receiver_that_leaves_among_the_guesses_hears_no_more() {
    let options = "vocab=1000\nscript=1,2,3,4,5,6,7";
    let mut engine = Setup { options, config: drafting(6), ..Setup::default() }.engine();
    let log = Log::default();
    let request = greedy((0..14).map(|at| at % 7 + 1), 40);
    engine.handle().submit(request, log.output_for(4)).unwrap();
    drive(&mut engine);
    assert_empty(&engine);
    assert_eq!(log.tokens(0), [1, 2, 3]);
}

/// What was accepted can be adopted by the next request; what was refused is not in the cache. The null
/// backend fails a step that finds anything else in its KV.
#[test]
fn the_prefix_cache_knows_what_was_accepted() {
    let options = "vocab=5";
    let mut engine = Setup { options, config: drafting(4), ..Setup::default() }.engine();
    let handle = engine.handle();
    let request = greedy((0..9).map(|at| at % 5), 60);
    let first = submit(&handle, request.clone()).1;
    drive(&mut engine);
    let stats = handle.stats();
    assert!(stats.accepted_tokens > 0 && stats.accepted_tokens < stats.draft_tokens, "{stats:?}");
    let prompt: Vec<u32> = request.prompt.iter().copied().chain(first.tokens(0)).collect();
    let second = submit(&handle, greedy(prompt, 20)).1;
    drive(&mut engine);
    assert_eq!(second.usage().cached_tokens, 68);
    let whole = submit(&handle, Request { max_tokens: 80, ..request }).1;
    drive(&mut engine);
    assert_eq!(whole.tokens(0), [first.tokens(0), second.tokens(0)].concat());
}

#[test]
fn penalties_and_policies_see_every_token_so_nothing_is_guessed() {
    let params = Params { temperature: 0.0, frequency: 0.1, ..Params::default() };
    let request = Request { sampling: params, ..greedy((0..14).map(|at| at % 7 + 1), 40) };
    let setup = Setup { options: "vocab=9", config: drafting(4), ..Setup::default() };
    let (_, stats) = run(&setup, &[request]);
    assert_eq!((stats.drafts, stats.steps), (0, 40));
}

fn request() -> impl Strategy<Value = Request> {
    let sampling = (0..4u32, any::<u64>(), prop_oneof![Just(0.0), Just(0.7), Just(1.0)]).prop_map(
        |(kind, seed, temperature)| {
            let params = Params { seed, temperature, ..Params::default() };
            match kind {
                0 => Params { top_k: 2, ..params },
                1 => Params { logit_bias: vec![(1, 1.5)], ..params },
                2 => Params { presence: 0.5, ..params },
                _ => params,
            }
        },
    );
    let prompt = prop::collection::vec(0..4u32, 1..30);
    (prompt, sampling, 1..4u32, 1..40u32, 0..4u32, prop_oneof![Just(None), Just(Some(2))]).prop_map(
        |(prompt, sampling, n, max_tokens, min_tokens, logprobs)| Request {
            prompt,
            sampling,
            n,
            max_tokens,
            min_tokens: min_tokens.min(max_tokens),
            stop_tokens: vec![3],
            logprobs,
            ..Request::default()
        },
    )
}

/// Everything that a receiver is told of one branch's tokens.
fn branch(log: &Log, of: u32) -> Vec<Told> {
    let mine = |told: &Told| matches!(told, Told::Token { branch, .. } | Told::Finished { branch, .. } if *branch == of);
    log.events().into_iter().filter(mine).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// In a vocabulary of 4 tokens everything recurs, and a guess is right about as often as not.
    #[test]
    fn the_plain_run_tells_the_same(
        requests in prop::collection::vec(request(), 1..8),
        draft_tokens in 1..9u32,
        budget in 4..64u32,
        blocks in 20..80u32,
        max_rows in 4..20u32,
        prefix_caching: bool,
    ) {
        let options = "vocab=4\neos=3@25";
        let plain = Setup { options, ..Setup::default() };
        let config = Config { max_batched_tokens: budget, max_seqs: 4, draft_tokens, prefix_caching, ..Config::default() };
        let setup = Setup { options, config, blocks, max_rows, ..Setup::default() };
        let (logs, stats) = run(&setup, &requests);
        prop_assert!(stats.accepted_tokens <= stats.draft_tokens);
        for (log, request) in logs.iter().zip(&requests) {
            let (alone, _) = run(&plain, std::slice::from_ref(request));
            for of in 0..request.n {
                prop_assert_eq!(branch(log, of), branch(&alone[0], of));
            }
            prop_assert_eq!(log.usage().completion_tokens, alone[0].usage().completion_tokens);
        }
    }
}
