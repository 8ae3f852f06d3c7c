//! The same tokens, however they come about: prefix hits, chunks, preemption, steps in flight, speculation,
//! batch size and forks against each request alone.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod support;

use support::{Log, Setup, assert_empty, drive, greedy, step, submit};
use tokenmill_engine::{Config, Params, Progress, Request, Stats};

/// Requests that share prefixes of all lengths, greedy and drawn, some with penalties, some that fork, some
/// that say the same token often.
fn requests() -> Vec<Request> {
    let drawn = |seed| Params { seed, ..Params::default() };
    let penalised = Params { repetition: 1.3, presence: 0.5, frequency: 0.4, temperature: 0.8, ..drawn(5) };
    let narrow = Params { top_k: 20, top_p: 0.9, min_p: 0.01, logit_bias: vec![(3, 9.0)], ..drawn(6) };
    let mut requests = Vec::new();
    for (i, len) in [1, 5, 16, 17, 33, 40, 40, 31].into_iter().enumerate() {
        let mut request =
            greedy((0..len).map(|at| if at < 20 { at } else { at * (1 + i as u32 % 3) }), 24 - i as u32);
        request.n = [1, 3, 1, 2, 1, 3, 1, 2][i];
        request.sampling = match i % 4 {
            0 => request.sampling,
            1 => drawn(i as u64),
            2 => penalised.clone(),
            _ => narrow.clone(),
        };
        request.stop_tokens = vec![900];
        request.min_tokens = i as u32;
        requests.push(request);
    }
    requests
}

fn outputs(logs: &[Log], requests: &[Request]) -> Vec<Vec<Vec<u32>>> {
    logs.iter()
        .zip(requests)
        .map(|(log, request)| {
            let usage = log.usage();
            let branches: Vec<_> = (0..request.n).map(|branch| log.tokens(branch)).collect();
            assert_eq!(usage.completion_tokens as usize, branches.iter().map(Vec::len).sum::<usize>());
            branches
        })
        .collect()
}

#[test]
fn every_way_gives_the_tokens_of_the_plain_run() {
    let requests = requests();
    let options = "vocab=1000\neos=900@40";
    let plain = Setup {
        options,
        config: Config { prefix_caching: false, depth: 1, max_batched_tokens: 64, ..Config::default() },
        ..Setup::default()
    };
    let alone: Vec<Log> = requests
        .iter()
        .map(|request| {
            let mut engine = plain.engine();
            let (_, log) = submit(&engine.handle(), request.clone());
            drive(&mut engine);
            log
        })
        .collect();
    let expected = outputs(&alone, &requests);
    let (mut preemptions, mut hits, mut accepted, mut runs) = (0, 0, 0, 0);
    for prefix_caching in [false, true] {
        for max_batched_tokens in [3, 7, 64] {
            for blocks in [20, 30, 256] {
                for (depth, draft_tokens) in [(1, 0), (2, 0), (2, 5)] {
                    for max_seqs in [3, 32] {
                        for block_tokens in [4, 16] {
                            let config = Config {
                                prefix_caching,
                                max_batched_tokens,
                                depth,
                                draft_tokens,
                                max_seqs,
                                ..Config::default()
                            };
                            let blocks = blocks * 4 / block_tokens;
                            let setup = Setup { options, config, blocks, block_tokens, ..Setup::default() };
                            let (found, stats) = together(&setup, &requests);
                            assert_eq!(found, expected, "{config:?}, {blocks} blocks");
                            preemptions += stats.preemptions;
                            hits += stats.prefix_hits;
                            accepted += stats.accepted_tokens;
                            runs += 1;
                        }
                    }
                }
            }
        }
    }
    // Each way was taken.
    assert!(preemptions > runs && hits > 100 * runs, "{preemptions} preemptions, {hits} hits in {runs} runs");
    assert!(accepted > 2 * runs, "{accepted} guesses were right in {runs} runs");
}

/// All requests twice, coming in while others run.
fn together(setup: &Setup<'_>, requests: &[Request]) -> (Vec<Vec<Vec<u32>>>, Stats) {
    let mut engine = setup.engine();
    let handle = engine.handle();
    let first: Vec<Log> = requests
        .iter()
        .enumerate()
        .map(|(i, request)| {
            let (_, log) = submit(&handle, request.clone());
            (0..i % 3).for_each(|_| assert_ne!(step(&mut engine, 0), Progress::Stopped));
            log
        })
        .collect();
    drive(&mut engine);
    let second: Vec<Log> = requests.iter().map(|request| submit(&handle, request.clone()).1).collect();
    drive(&mut engine);
    assert_empty(&engine);
    let found = outputs(&first, requests);
    assert_eq!(found, outputs(&second, requests), "the second time, {:?}", setup.config);
    (found, handle.stats())
}
