//! What each policy is for, seen in the text that a model makes under it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::HashSet;

use tokenmill_engine::{Config, Failure, FinishReason, Params, Request};
use tokenmill_plugin_watermark::detect;
use tokenmill_policies::{Answer, Branch, Setup, ask};

const PROMPT: [u32; 7] = [41, 225, 276, 45, 218, 216, 180];

/// Requests that differ in their seed.
fn seeded(count: u64, request: &Request) -> Vec<Request> {
    let seeded = |seed| Request { sampling: Params { seed, ..request.sampling.clone() }, ..request.clone() };
    (1..=count).map(seeded).collect()
}

fn run(name: &str, config: &str, requests: &[Request]) -> Vec<Answer> {
    Setup::default().run(name, config, requests)
}

/// Bits per token.
fn surprise(branch: &Branch) -> f64 {
    -branch.score(1.0) / std::f64::consts::LN_2
}

/// The policy's knobs are the request's own parameters, token for token.
#[test]
fn standard_is_what_the_device_does_anyway() {
    let settings: [(&[(&str, &str)], Params); 4] = [
        (&[("temperature", "0")], Params { temperature: 0.0, ..Params::default() }),
        (
            &[("temperature", "0.7"), ("top_k", "5")],
            Params { temperature: 0.7, top_k: 5, ..Params::default() },
        ),
        (&[("top_p", "0.6")], Params { top_p: 0.6, ..Params::default() }),
        (
            &[("min_p", "0.2"), ("temperature", "1.5")],
            Params { min_p: 0.2, temperature: 1.5, ..Params::default() },
        ),
    ];
    for (args, sampling) in settings {
        let asked = seeded(4, &ask(&PROMPT, 60, args));
        let plain = seeded(4, &Request { sampling, ..ask(&PROMPT, 60, &[]) });
        let (by_policy, by_device) = (run("standard", "", &asked), Setup::default().run_plain(&plain));
        assert_eq!(by_policy, by_device, "{args:?}");
        assert!(by_policy.iter().all(|answer| answer.only().tokens.len() == 60));
    }
}

#[test]
fn mirostat_keeps_the_surprise() {
    for (tau, low, high) in [("2", 1.5, 3.0), ("4", 3.5, 5.0)] {
        let answers = run("mirostat-v2", "", &seeded(6, &ask(&PROMPT, 100, &[("tau", tau)])));
        let mean = answers.iter().map(|answer| surprise(answer.only())).sum::<f64>() / 6.0;
        assert!((low..high).contains(&mean), "{mean} bits for a target of {tau}");
    }
}

/// Of two masses the smaller keeps fewer tokens, and both fewer than the model has.
#[test]
fn typical_narrows_the_choice() {
    let kinds = |mass| {
        let requests = seeded(40, &ask(&PROMPT, 1, &[("typical_p", mass)]));
        let first = |answer: &Answer| answer.only().tokens[0];
        run("typical", "", &requests).iter().map(first).collect::<HashSet<_>>()
    };
    let (narrow, wide, all) = (kinds("0.1"), kinds("0.6"), kinds("1"));
    assert!(narrow.len() < wide.len() && wide.len() <= all.len(), "{narrow:?} {wide:?} {all:?}");
}

/// The most likely token is left out where another reaches the threshold too.
#[test]
fn xtc_leaves_the_beaten_track() {
    let greedy = |branch: &Branch| branch.logprobs.iter().filter(|&&logprob| logprob > 0.5f32.ln()).count();
    let count = |probability| {
        let args = [("probability", probability), ("threshold", "0.05"), ("temperature", "0.5")];
        let answers = run("xtc", "", &seeded(6, &ask(&PROMPT, 60, &args)));
        answers.iter().map(|answer| greedy(answer.only())).sum::<usize>()
    };
    let (never, always) = (count("0"), count("1"));
    assert!(
        always < never,
        "{always} of 360 tokens have more than half of the probability, without XTC {never}"
    );
}

/// Pairs of tokens that occurred before, in a text whose most likely tokens go in circles.
#[test]
fn dry_ends_repetition() {
    let repeated = |multiplier| {
        let request =
            ask(&PROMPT, 200, &[("multiplier", multiplier), ("base", "3"), ("sequence_breakers", "[]")]);
        let greedy = Params { temperature: 0.0, ..Params::default() };
        let answer = run("dry", "", &[Request { sampling: greedy, ..request }]).remove(0);
        let tokens = &answer.only().tokens;
        let distinct: HashSet<_> = tokens.windows(4).collect();
        tokens.len() - 3 - distinct.len()
    };
    let (without, with) = (repeated("0"), repeated("2"));
    assert!(without > 5 && with < without / 3, "{without} {with}");
}

#[test]
fn a_watermark_is_found_and_nothing_else() {
    let texts = |config: &str| {
        let answers = run("watermark", config, &seeded(8, &ask(&PROMPT, 120, &[])));
        answers.iter().map(|answer| answer.only().tokens.clone()).collect::<Vec<_>>()
    };
    for text in texts(r#"{"key": 42, "delta": 4}"#) {
        let found = detect(&text, 42, 0.25).unwrap();
        assert!(found.z > 4.0, "{found:?}");
        assert!(detect(&text, 43, 0.25).unwrap().z.abs() < 3.0);
    }
    for text in texts(r#"{"key": 42, "delta": 0}"#) {
        let found = detect(&text, 42, 0.25).unwrap();
        assert!(found.z.abs() < 3.0, "{found:?}");
    }
}

#[test]
fn best_of_n_ends_with_the_best_so_far() {
    let args = [("best_of", "8"), ("every", "8"), ("keep", "2")];
    let request = Request { max_branches: 8, ..ask(&PROMPT, 64, &args) };
    for answer in run("best-of-n", "", &seeded(3, &request)) {
        let ended = |end| answer.branches.iter().filter(move |branch| branch.end == Some(end));
        let mut lengths: Vec<_> = ended(FinishReason::Pruned).map(|branch| branch.tokens.len()).collect();
        lengths.sort_unstable();
        assert_eq!((lengths, ended(FinishReason::Length).count()), (vec![8, 8, 8, 8, 16, 16], 2));
        let so_far = |branch: &Branch| branch.logprobs[..8].iter().sum::<f32>();
        let worst = ended(FinishReason::Length).map(so_far).fold(f32::INFINITY, f32::min);
        let gone = ended(FinishReason::Pruned).filter(|branch| branch.tokens.len() == 8).map(so_far);
        assert!(gone.fold(f32::NEG_INFINITY, f32::max) <= worst);
    }
}

#[test]
fn a_budget_holds_and_what_is_forbidden_is_not_said() {
    let free = run("budget", "", &[ask(&PROMPT, 30, &[])]).remove(0);
    let said: HashSet<u32> = free.only().tokens.iter().copied().collect();
    let forbidden = format!("{:?}", said.iter().take(5).collect::<Vec<_>>());
    let args = [("forbid", forbidden.as_str()), ("max_output", "20")];
    let request = Request { n: 3, ..ask(&PROMPT, 30, &args) };
    let answer = run("budget", r#"{"max_output": 1000}"#, &[request]).remove(0);
    let lengths: usize = answer.branches.iter().map(|branch| branch.tokens.len()).sum();
    assert_eq!((lengths, answer.branches.len()), (20, 3));
    assert!(answer.branches.iter().all(|branch| branch.end == Some(FinishReason::Ended)));
    let tokens = answer.branches.iter().flat_map(|branch| &branch.tokens);
    assert!(tokens.filter(|token| said.iter().take(5).any(|other| other == *token)).count() == 0);
}

#[test]
fn arguments_that_make_no_sense_fail_their_request_alone() {
    let bad = [
        ("beam-search", "width", "0"),
        ("best-of-n", "best_of", "0"),
        ("budget", "forbid", "[9999]"),
        ("dry", "base", "0"),
        ("mirostat-v2", "tau", "0"),
        ("typical", "typical_p", "0"),
        ("watermark", "top_k", "0"),
        ("xtc", "threshold", "2"),
    ];
    for (name, key, value) in bad {
        let good = Request { max_branches: 4, ..ask(&PROMPT, 5, &[]) };
        let answers = run(name, "", &[ask(&PROMPT, 5, &[(key, value)]), good]);
        let Some(Failure::Refused(why)) = &answers[0].failure else { panic!("{name}: {:?}", answers[0]) };
        assert!(why.starts_with(&format!("policy.args.{key} ")), "{name}: {why}");
        assert!(answers[1].done, "{name}");
    }
}

fn texts(answer: &Answer) -> Vec<Vec<u32>> {
    assert!(answer.done, "{:?}", answer.failure);
    answer.best(1.0).into_iter().map(|branch| branch.tokens.clone()).collect()
}

/// 24 blocks of 16 tokens hold eight sequences at their full length.
fn short_of_memory() -> Setup {
    Setup { kv_bytes: 24 * 8192, engine: Config { max_seqs: 16, ..Config::default() }, ..Setup::default() }
}

/// Alone, in a batch, after preemption, with one step in flight or two: the tokens are the same.
#[test]
fn the_same_seed_gives_the_same_text_in_any_setting() {
    let names = ["best-of-n", "budget", "dry", "mirostat-v2", "typical", "watermark", "xtc", "beam-search"];
    for name in names {
        let requests = seeded(6, &Request { max_branches: 4, ..ask(&PROMPT, 40, &[]) });
        let alone: Vec<_> =
            requests.iter().map(|one| texts(&run(name, "", std::slice::from_ref(one))[0])).collect();
        assert!(alone[0].iter().any(|text| text.len() == 40), "{name}");
        let one_step = Config { depth: 1, ..Config::default() };
        let few = Config { max_batched_tokens: 32, max_seqs: 16, ..Config::default() };
        let mut settings = [one_step, few].map(|engine| Setup { engine, ..Setup::default() }).to_vec();
        if name != "beam-search" {
            settings.push(short_of_memory());
        }
        for setup in settings {
            let together: Vec<_> = setup.run(name, "", &requests).iter().map(texts).collect();
            assert_eq!(together, alone, "{name} {setup:?}");
        }
    }
}

/// Beams that memory keeps apart are not compared, but none is lost.
#[test]
fn a_search_that_is_short_of_memory_ends_with_all_its_beams() {
    let requests = seeded(6, &Request { max_branches: 4, ..ask(&PROMPT, 40, &[]) });
    for answer in short_of_memory().run("beam-search", "", &requests) {
        let texts = texts(&answer);
        assert!(texts.len() >= 4 && texts.iter().all(|text| text.len() == 40), "{texts:?}");
    }
}
