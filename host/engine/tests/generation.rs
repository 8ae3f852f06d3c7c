//! What one request gets.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{Log, Setup, Told, assert_empty, drive, greedy, submit};
use tokenmill_engine::{Config, FinishReason, Params, Progress, Request};

fn alone(setup: &Setup<'_>, request: Request) -> Log {
    let mut engine = setup.engine();
    let (_, log) = submit(&engine.handle(), request);
    drive(&mut engine);
    assert_empty(&engine);
    log
}

#[test]
fn a_script_is_followed() {
    // The token after position p is entry p + 1.
    let setup = Setup { options: "vocab=100\nscript=10,11,12,13,14,15,16,17", ..Setup::default() };
    let log = alone(&setup, greedy([1, 2, 3], 7));
    assert_eq!(log.tokens(0), [13, 14, 15, 16, 17, 10, 11]);
    assert_eq!(log.reason(0), Some(FinishReason::Length));
    let usage = log.usage();
    assert_eq!((usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens), (3, 0, 7));
}

#[test]
fn events_come_in_order() {
    let log = alone(&Setup::default(), greedy([1], 2));
    let events = log.events();
    assert!(matches!(events[0], Told::Prompt { cached_tokens: 0, .. }));
    assert!(matches!(events[1], Told::Token { branch: 0, .. }));
    assert!(matches!(events[2], Told::Token { branch: 0, .. }));
    assert!(matches!(events[3], Told::Finished { branch: 0, reason: FinishReason::Length }));
    assert!(matches!(events[4], Told::Done(_)));
    assert_eq!(events.len(), 5);
}

#[test]
fn a_stop_token_ends_a_branch_and_is_delivered() {
    let setup = Setup { options: "vocab=100\nscript=10,11,12,13,14,15,16,17", ..Setup::default() };
    let log = alone(&setup, Request { stop_tokens: vec![99, 15], ..greedy([1, 2, 3], 50) });
    assert_eq!(log.tokens(0), [13, 14, 15]);
    assert_eq!(log.reason(0), Some(FinishReason::Stop));
}

#[test]
fn stop_tokens_cannot_be_drawn_before_min_tokens() {
    let setup = Setup { options: "vocab=100\nscript=10,11,12,13,14,15,16,17", ..Setup::default() };
    let request = Request { stop_tokens: vec![14, 16], min_tokens: 3, ..greedy([1, 2, 3], 50) };
    let tokens = alone(&setup, request).tokens(0);
    // The first 14 is banned: another token stands in its place; the third may not stop, the fourth does.
    assert_eq!((tokens[0], tokens[2], tokens[3], tokens.len()), (13, 15, 16, 4));
    assert!(![14, 16].contains(&tokens[1]));
}

#[test]
fn the_model_length_ends_a_branch() {
    let setup = Setup {
        config: tokenmill_engine::Config { max_model_len: 10, ..Setup::default().config },
        ..Setup::default()
    };
    let log = alone(&setup, greedy(0..7, 50));
    assert_eq!((log.tokens(0).len(), log.reason(0)), (3, Some(FinishReason::Length)));
}

#[test]
fn logprobs_come_with_alternatives() {
    let log = alone(&Setup::default(), Request { logprobs: Some(3), ..greedy([5, 6], 4) });
    let mut tokens = 0;
    for told in log.events() {
        let Told::Token { token, logprob, top, .. } = told else { continue };
        assert_eq!((top.len(), top[0]), (3, (token, logprob)), "greedy takes the most likely");
        assert!(top[0].1 > top[1].1 && top[1].1 > top[2].1);
        tokens += 1;
    }
    assert_eq!(tokens, 4);
}

/// The prompt's log-probabilities are those that the tokens get when they are generated.
#[test]
fn prompt_logprobs_equal_those_of_the_output() {
    for chunk in [1, 2, 5, 64] {
        let config = tokenmill_engine::Config { max_batched_tokens: chunk, ..Setup::default().config };
        let mut engine = Setup { config, ..Setup::default() }.engine();
        let handle = engine.handle();
        let (_, generated) = submit(&handle, Request { logprobs: Some(2), ..greedy([1, 2, 3], 20) });
        drive(&mut engine);
        let whole: Vec<u32> = [1, 2, 3].into_iter().chain(generated.tokens(0)).collect();
        // The prefix cache is warm by now.
        for n in [1, 2.min(chunk)] {
            let (_, scored) =
                submit(&handle, Request { prompt_logprobs: Some(2), n, ..greedy(whole.clone(), 1) });
            drive(&mut engine);
            let Told::Prompt { logprobs, cached_tokens: 0 } = &scored.events()[0] else {
                panic!("no prompt event")
            };
            assert_eq!(logprobs.iter().map(|entry| entry.token).collect::<Vec<_>>(), whole);
            assert_eq!((logprobs[0].logprob, logprobs[0].top.len()), (None, 0));
            let output = generated.events().into_iter().filter_map(|told| match told {
                Told::Token { logprob, top, .. } => Some((Some(logprob), top)),
                _ => None,
            });
            let prompt = logprobs[3..].iter().map(|entry| (entry.logprob, entry.top.clone()));
            assert!(output.eq(prompt));
        }
        assert_empty(&engine);
    }
}

#[test]
fn no_tokens_wanted_is_a_score() {
    for n in [1, 3] {
        let log =
            alone(&Setup::default(), Request { prompt_logprobs: Some(0), n, ..greedy([1, 2, 3, 4, 5], 0) });
        let events = log.events();
        assert!(matches!(&events[0], Told::Prompt { logprobs, .. } if logprobs.len() == 5));
        assert_eq!(events.len() as u32, 2 + n);
        assert_eq!((log.usage().completion_tokens, log.reason(n - 1)), (0, Some(FinishReason::Length)));
    }
}

#[test]
fn a_bias_and_penalties_change_what_is_greedy() {
    let plain = alone(&Setup::default(), greedy([1, 2, 3], 30));
    let biased = |sampling| alone(&Setup::default(), Request { sampling, ..greedy([1, 2, 3], 30) }).tokens(0);
    let greedy_params = Params { temperature: 0.0, ..Params::default() };
    let forced = biased(Params { logit_bias: vec![(7, 100.0)], ..greedy_params.clone() });
    assert_eq!(forced, [7; 30]);
    // A script of one token says the same for ever, unless it is penalised.
    let setup = Setup { options: "vocab=100\nscript=42", ..Setup::default() };
    let said = |sampling| alone(&setup, Request { sampling, ..greedy([1, 2, 3], 6) }).tokens(0);
    assert_eq!(said(greedy_params.clone()), [42; 6]);
    let frequency = said(Params { frequency: 100.0, ..greedy_params.clone() });
    let mut distinct = frequency.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!((distinct.len(), frequency[0]), (6, 42), "{frequency:?}");
    let in_prompt =
        Request { sampling: Params { repetition: 1e6, ..greedy_params.clone() }, ..greedy([1, 42, 3], 1) };
    assert_ne!(alone(&setup, in_prompt).tokens(0), [42], "repetition counts the prompt");
    let presence = Request { sampling: Params { presence: 100.0, ..greedy_params }, ..greedy([1, 42, 3], 1) };
    assert_eq!(alone(&setup, presence).tokens(0), [42], "presence does not");
    assert_eq!(plain.tokens(0).len(), 30);
}

#[test]
fn branches_are_drawn_apart_and_seeds_repeat() {
    let drawn = |seed, n| {
        let sampling = Params { seed, ..Params::default() };
        let log = alone(&Setup::default(), Request { sampling, n, ..greedy(0..10, 12) });
        (0..n).map(|branch| log.tokens(branch)).collect::<Vec<_>>()
    };
    let four = drawn(1, 4);
    assert_eq!(four, drawn(1, 4));
    assert_eq!(four[..1], drawn(1, 1), "a branch does not depend on its siblings");
    assert_ne!(four, drawn(2, 4));
    for (i, branch) in four.iter().enumerate() {
        assert_eq!(branch.len(), 12);
        assert!(!four[..i].contains(branch), "two branches drew the same");
    }
}

/// A clock that is read twice in a step, when it begins and when the device is done.
#[test]
fn times_end_when_the_device_is_done() {
    for depth in [1, 2] {
        let config = Config { depth, ..Setup::default().config };
        let mut engine = Setup { config, ..Setup::default() }.engine();
        let log = submit(&engine.handle(), greedy(0..4, 3)).1;
        let mut now = 0;
        let mut clock = || {
            now += 10;
            now
        };
        // Begins at 10; its token is known at 30, the next ones 20 apart.
        while engine.step(&mut clock) == Progress::Worked {}
        let usage = log.usage();
        assert_eq!((usage.queue_us, usage.first_token_us, usage.total_us), (0, 20, 60), "depth {depth}");
    }
}
