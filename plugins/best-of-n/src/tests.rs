use std::sync::Arc;

use tokenmill_plugin_simulate::{Asked, Branch, End, Outcome, run};
use tokenmill_policy::Silent;

use super::*;

/// The first token decides how sure the model is from then on: 0 the most, 7 the least.
fn model(tokens: &[u32]) -> Vec<f32> {
    let sure = tokens.get(1).map_or(0.0, |&first| 6.0 - 0.7 * first as f32);
    (0..8u32).map(|token| if token as usize == tokens.len() % 8 { sure } else { 0.0 }).collect()
}

fn ask(args: &[(&str, &str)]) -> Asked {
    Asked { max_tokens: 40, temperature: 1.0, max_branches: 8, ..Asked::default() }.with(args)
}

fn told(asked: Asked) -> Outcome {
    run(&mut BestOfN::default(), &model, &[asked]).remove(0)
}

fn ended(outcome: &Outcome, end: End) -> Vec<&Branch> {
    outcome.branches.iter().filter(|branch| branch.end == end).collect()
}

fn mean(branch: &Branch, length: usize) -> f32 {
    let mut text = vec![1];
    let mut score = 0.0;
    for &token in &branch.tokens[..length] {
        let logits = model(&text);
        score += logits[token as usize] - logits.iter().map(|logit| logit.exp()).sum::<f32>().ln();
        text.push(token);
    }
    score / length as f32
}

#[test]
fn half_are_given_up_each_time_and_the_worst_first() {
    let outcome = told(ask(&[("best_of", "8"), ("every", "5")]));
    let pruned: Vec<_> = ended(&outcome, End::Pruned);
    let lengths: Vec<_> = pruned.iter().map(|branch| branch.tokens.len()).collect();
    assert_eq!(lengths, [5, 5, 5, 5, 10, 10, 20]);
    assert_eq!(ended(&outcome, End::Length).len(), 1);
    for (length, gone) in [(5, &pruned[..4]), (10, &pruned[4..6]), (20, &pruned[6..])] {
        let left = outcome.branches.iter().filter(|branch| branch.tokens.len() > length);
        let worst = left.map(|branch| mean(branch, length)).fold(f32::INFINITY, f32::min);
        assert!(gone.iter().all(|branch| mean(branch, length) <= worst), "{length}");
    }
    // The first row and those that went.
    assert_eq!(outcome.inspected, 8);
}

#[test]
fn what_is_to_be_kept_is() {
    let outcome = told(ask(&[("best_of", "8"), ("every", "4"), ("keep", "3"), ("reject", "0.9")]));
    assert_eq!((ended(&outcome, End::Length).len(), ended(&outcome, End::Pruned).len()), (3, 5));
    let all = told(ask(&[("best_of", "6"), ("reject", "0")]));
    assert_eq!((ended(&all, End::Length).len(), ended(&all, End::Pruned).len()), (6, 0));
}

/// A request that has its branches already is not forked, and never inspected before the first go.
#[test]
fn branches_of_the_request_count() {
    let args = [("best_of", "4"), ("every", "64")];
    let outcome = told(Asked { n: 4, ..ask(&args) });
    assert_eq!((outcome.branches.len(), outcome.inspected), (4, 0));
    let outcome = told(Asked { n: 3, ..ask(&args) });
    assert_eq!((outcome.branches.len(), outcome.inspected), (4, 1));
}

#[test]
fn begun_texts_differ_and_the_same_seed_gives_the_same() {
    let texts = |seed| {
        let outcome = told(Asked { seed, ..ask(&[("best_of", "8"), ("reject", "0")]) });
        outcome.branches.into_iter().map(|branch| branch.tokens).collect::<Vec<_>>()
    };
    let (once, again, other) = (texts(3), texts(3), texts(4));
    assert!(once == again && once != other);
    let mut first: Vec<_> = once.iter().map(|text| text[0]).collect();
    first.sort_unstable();
    first.dedup();
    assert!(first.len() > 2, "{first:?}");
}

#[test]
fn nothing_is_kept_of_what_has_ended() {
    let mut policy = BestOfN::default();
    run(&mut policy, &model, &[ask(&[]), ask(&[]), Asked { max_tokens: 50, ..ask(&[("best_of", "1")]) }]);
    // Nobody told of the end of the longest.
    assert_eq!(policy.known.len(), 1);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let bad = [
        ("best_of", "0"),
        ("best_of", "257"),
        ("keep", "5"),
        ("every", "0"),
        ("reject", "2"),
        ("temperature", "0"),
    ];
    for (key, value) in bad {
        let outcome = told(ask(&[(key, value)]));
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    let configured = |text: &str| BestOfN::default().configure(text, Arc::new(Silent::default()));
    assert!(configured(r#"{"keep": 9}"#).is_err() && configured(r#"{"n": 9}"#).is_err());
    assert_eq!(configured(r#"{"keep": 2, "best_of": 9}"#), Ok(()));
}
