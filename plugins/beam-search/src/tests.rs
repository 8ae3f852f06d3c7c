//! Equality with transformers is tested in `tests/policies`, on models.

use std::sync::Arc;

use tokenmill_plugin_simulate::{Asked, Branch, End, Outcome, run};
use tokenmill_policy::Silent;

use super::*;

/// Three tokens whose probabilities depend on all of the text.
fn model(tokens: &[u32]) -> Vec<f32> {
    let hash = tokens.iter().fold(7u32, |hash, token| hash.wrapping_mul(0x9e37_79b1).wrapping_add(token + 1));
    (0..3).map(|token| (hash.rotate_left(9 * token) % 1000) as f32 / 500.0).collect()
}

fn logprob(text: &[u32], token: u32) -> f64 {
    let logits = model(text).into_iter().map(f64::from);
    f64::from(model(text)[token as usize]) - logits.map(f64::exp).sum::<f64>().ln()
}

/// Every text of `length` tokens, or that ends with `stop` before, and its sum of log-probabilities.
fn texts(length: usize, stop: u32) -> Vec<(Vec<u32>, f64)> {
    let (mut open, mut all) = (vec![(vec![], 0.0)], Vec::new());
    while let Some((text, score)) = open.pop() {
        if text.len() == length || text.last() == Some(&stop) {
            all.push((text, score));
            continue;
        }
        let so_far = [&[3], &text[..]].concat();
        open.extend((0..3).map(|token| ([&text[..], &[token]].concat(), score + logprob(&so_far, token))));
    }
    all
}

fn ask(width: u32, args: &[(&str, &str)]) -> Asked {
    let asked = Asked { prompt: vec![3], max_tokens: 4, stop_tokens: vec![2], ..Asked::default() };
    Asked { max_branches: width as usize, ..asked }.with(&[("width", &width.to_string())]).with(args)
}

/// The answer of a search: the best of what was not pruned.
fn best(outcome: &Outcome, width: usize, penalty: f64) -> Vec<(Vec<u32>, f64)> {
    let score = |branch: &Branch| f64::from(branch.score) / (branch.tokens.len() as f64).powf(penalty);
    let kept = outcome.branches.iter().filter(|branch| branch.end != End::Pruned);
    let mut best: Vec<_> = kept.map(|branch| (branch.tokens.clone(), score(branch))).collect();
    best.sort_by(|a, b| b.1.total_cmp(&a.1));
    best.truncate(width);
    best
}

/// A search that is as wide as there are texts finds the best of all.
#[test]
fn a_wide_search_is_exhaustive() {
    for penalty in [0.0, 0.5, 1.0, 2.0] {
        let asked = ask(40, &[("length_penalty", &penalty.to_string()), ("early_stopping", "never")]);
        let outcome = run(&mut BeamSearch::default(), &model, &[asked]).remove(0);
        let mut all: Vec<_> = texts(4, 2)
            .into_iter()
            .map(|(text, score)| (text.clone(), score / (text.len() as f64).powf(penalty)))
            .collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let found = best(&outcome, 40, penalty);
        assert_eq!((found.len(), all.len()), (31, 31));
        for (found, expected) in found.iter().zip(&all) {
            assert_eq!(found.0, expected.0);
            assert!((found.1 - expected.1).abs() < 1e-5);
        }
    }
}

#[test]
fn a_width_of_one_is_greedy() {
    let plain = Asked { args: Vec::new(), ..ask(1, &[]) };
    let searched = run(&mut BeamSearch::default(), &model, &[ask(1, &[])]).remove(0);
    // The device is greedy here.
    let mut nothing = tokenmill_plugin_simulate::Nothing;
    assert_eq!(searched.branches, run(&mut nothing, &model, &[plain]).remove(0).branches);
}

/// Searches of one step do not mix, and branches of a request's own count as one.
#[test]
fn requests_are_searched_apart() {
    let args: [&[(&str, &str)]; 3] = [&[], &[("length_penalty", "2")], &[("early_stopping", "true")]];
    let mut asked = args.map(|args| ask(3, args));
    let alone = asked.clone().map(|asked| run(&mut BeamSearch::default(), &model, &[asked]).remove(0));
    asked[0].n = 3;
    let together = run(&mut BeamSearch::default(), &model, &asked);
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!(best(alone, 3, 1.0), best(together, 3, 1.0));
    }
}

/// Of three beams one has no row for a step, and comes back.
#[test]
fn beams_without_a_row_keep_their_places() {
    let mut search = Search::new(Settings { width: 3, ..Settings::default() });
    let step = |search: &mut Search, rows: std::ops::Range<u32>, length| {
        let beam = |at: u32| Beam { row: at / 3 + rows.start, token: at % 3, score: -((at + length) as f32) };
        let beams = (0..rows.len() as u32 * 3).map(beam).collect();
        search.step(beams, rows.len(), length, 20, &[]).len()
    };
    assert_eq!(step(&mut search, 0..1, 1), 3);
    assert_eq!(step(&mut search, 0..2, 2), 2);
    assert_eq!(step(&mut search, 2..3, 2), 1);
    assert_eq!(step(&mut search, 0..3, 3), 3);
}

#[test]
fn nothing_is_kept_of_what_has_ended() {
    let mut policy = BeamSearch::default();
    let long = Asked { max_tokens: 12, ..ask(1, &[("early_stopping", "never")]) };
    run(&mut policy, &model, &[ask(3, &[]), ask(2, &[]), Asked { stop_tokens: Vec::new(), ..long }]);
    // Nobody told of the end of the longest.
    assert_eq!(policy.known.len(), 1);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let bad = [("width", "0"), ("width", "65"), ("length_penalty", "inf"), ("early_stopping", "maybe")];
    for (key, value) in bad {
        let asked = Asked::default().with(&[(key, value)]);
        let outcome =
            run(&mut BeamSearch::default(), &model, &[Asked { prompt: vec![3], ..asked }]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    let configured = |text: &str| BeamSearch::default().configure(text, Arc::new(Silent::default()));
    for config in [r#"{"width": 0}"#, r#"{"early_stopping": "maybe"}"#, r#"{"beams": 2}"#] {
        assert!(configured(config).is_err(), "{config}");
    }
    for stopping in ["true", "false", "\"never\""] {
        assert_eq!(configured(&format!(r#"{{"early_stopping": {stopping}}}"#)), Ok(()));
    }
}
