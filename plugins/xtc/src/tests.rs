use std::sync::Arc;

use tokenmill_plugin_simulate::{Asked, End, run};
use tokenmill_policy::Silent;

use super::*;

/// The four cases of llama.cpp's tests/test-sampling.cpp.
#[test]
fn what_is_excluded_is_what_llama_cpp_excludes() {
    let logprobs = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
    let left = |threshold| 4 - excluded(&logprobs, threshold);
    assert_eq!([0.09, 0.19, 0.29, 0.39].map(left), [1, 2, 3, 4]);
    assert_eq!(left(0.5), 4);
}

fn model(_: &[u32]) -> Vec<f32> {
    [0.4f32, 0.3, 0.2, 0.06, 0.04].map(f32::ln).to_vec()
}

fn tokens(args: &[(&str, &str)]) -> (Vec<u32>, usize) {
    let mut policy = Xtc::default();
    let asked = Asked { max_tokens: 4000, ..Asked::default() }.with(args);
    let mut outcome = run(&mut policy, &model, &[asked]).remove(0);
    assert_eq!((outcome.refused, outcome.branches[0].end), (None, End::Length));
    (outcome.branches.remove(0).tokens, outcome.inspected)
}

fn shares(tokens: &[u32]) -> [f64; 5] {
    [0, 1, 2, 3, 4]
        .map(|token| tokens.iter().filter(|&&other| other == token).count() as f64 / tokens.len() as f64)
}

/// Shares of 4000 draws have a standard deviation below 0.008.
fn close(shares: [f64; 5], expected: [f64; 5]) {
    assert!(shares.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.032), "{shares:?} {expected:?}");
}

#[test]
fn the_coin_decides_whether_the_device_samples_alone() {
    let (never, inspected) = tokens(&[("probability", "0")]);
    assert_eq!(inspected, 0);
    close(shares(&never), [0.4, 0.3, 0.2, 0.06, 0.04]);
    let (always, inspected) = tokens(&[("probability", "1")]);
    assert_eq!(inspected, 4000);
    close(shares(&always), [0.0, 0.0, 0.2 / 0.3, 0.2, 0.04 / 0.3]);
    let (half, inspected) = tokens(&[]);
    assert!((1850..2150).contains(&inspected), "{inspected}");
    close(shares(&half), [0.2, 0.15, 0.1 + 0.1 / 0.3, 0.13, 0.02 + 0.02 / 0.3]);
    assert_eq!(tokens(&[("threshold", "0.6"), ("probability", "1")]).1, 0);
}

#[test]
fn both_ways_cut_and_sharpen_alike() {
    // Squared: 0.16, 0.09, 0.04 of 0.29.
    let args = [("top_k", "3"), ("temperature", "0.5")];
    let never = tokens(&[&args[..], &[("probability", "0")]].concat()).0;
    close(shares(&never), [0.16 / 0.29, 0.09 / 0.29, 0.04 / 0.29, 0.0, 0.0]);
    let always = tokens(&[&args[..], &[("probability", "1"), ("threshold", "0.3")]].concat()).0;
    close(shares(&always), [0.0, 0.09 / 0.13, 0.04 / 0.13, 0.0, 0.0]);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let mut policy = Xtc::default();
    let bad =
        [("probability", "2"), ("threshold", "-1"), ("top_k", "0"), ("top_k", "1.5"), ("temperature", "0")];
    for (key, value) in bad {
        let outcome = run(&mut policy, &model, &[Asked::default().with(&[(key, value)])]).remove(0);
        assert!(outcome.refused.unwrap().starts_with(&format!("policy.args.{key} ")), "{key} {value}");
    }
    assert!(policy.configure(r#"{"top_k": 0}"#, Arc::new(Silent::default())).is_err());
}
