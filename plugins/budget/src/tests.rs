use std::sync::Arc;

use tokenmill_plugin_simulate::{Asked, Branch, End, Outcome, run};
use tokenmill_policy::Silent;

use super::*;

const VOCAB: u32 = 40;

/// Token 7 is the most likely, then 8, 9 and so on, and 0 to 6 at the end.
fn model(_: &[u32]) -> Vec<f32> {
    (0..VOCAB).map(|token| -(((token + VOCAB - 7) % VOCAB) as f32)).collect()
}

fn configured(config: &str) -> Result<Budget, Error> {
    let mut policy = Budget::default();
    policy.configure(config, Arc::new(Silent { vocab: VOCAB }))?;
    Ok(policy)
}

fn told(config: &str, asked: Asked) -> Outcome {
    run(&mut configured(config).unwrap(), &model, &[asked]).remove(0)
}

fn branch(outcome: &Outcome) -> (usize, u32, End) {
    let Branch { tokens, end, .. } = &outcome.branches[0];
    (tokens.len(), tokens.first().copied().unwrap_or(u32::MAX), *end)
}

#[test]
fn tokens_are_forbidden_by_both_sides() {
    let asked = Asked::default().with(&[("forbid", "[8, 9]")]);
    assert_eq!(branch(&told("", Asked::default())), (16, 7, End::Length));
    assert_eq!(branch(&told(r#"{"forbid": [7]}"#, asked)), (16, 10, End::Length));
    let last = format!("{:?}", (0..VOCAB - 1).collect::<Vec<_>>());
    assert_eq!(branch(&told("", Asked::default().with(&[("forbid", &last)]))), (16, VOCAB - 1, End::Length));
}

#[test]
fn the_stricter_budget_ends_a_request() {
    let ask = |most: &str| Asked::default().with(&[("max_output", most)]);
    let outcome = told("", ask("5"));
    assert_eq!((branch(&outcome), outcome.inspected), ((5, 7, End::Finished), 1));
    assert_eq!(branch(&told(r#"{"max_output": 3}"#, ask("5"))), (3, 7, End::Finished));
    assert_eq!(branch(&told(r#"{"max_output": 8}"#, ask("5"))), (5, 7, End::Finished));
    assert_eq!(branch(&told("", ask("0"))), (0, u32::MAX, End::Finished));
    let enough = told("", ask("16"));
    assert_eq!((branch(&enough), enough.inspected), ((16, 7, End::Length), 0));
}

#[test]
fn branches_share_a_budget_and_requests_do_not() {
    let asked = Asked { n: 3, max_branches: 3, ..Asked::default() }.with(&[("max_output", "11")]);
    let mut policy = configured("").unwrap();
    let outcomes = run(&mut policy, &model, &[asked.clone(), asked, Asked::default()]);
    for outcome in &outcomes[..2] {
        let mut lengths: Vec<_> = outcome.branches.iter().map(|branch| branch.tokens.len()).collect();
        lengths.sort_unstable();
        assert_eq!(lengths, [3, 4, 4]);
    }
    assert_eq!(outcomes[2].branches[0].tokens.len(), 16);
}

/// A policy that was restarted meets its requests in the middle.
#[test]
fn what_was_spent_before_a_restart_counts() {
    use tokenmill_policy::sample::{Columns, Ragged};
    let mut policy = configured(r#"{"max_output": 10}"#).unwrap();
    let starts = [0; 3];
    let view = Columns {
        ids: &[1, 2],
        requests: &[9, 9],
        generated: &[5, 4],
        accepted: Ragged { starts: &starts, values: &[] },
        ..Columns::default()
    };
    let mut knobs = Knobs::default();
    policy.plan(&view, &mut knobs).unwrap();
    assert_eq!(knobs.inspect, [1]);
}

#[test]
fn nothing_is_kept_of_what_has_ended() {
    let mut policy = configured("").unwrap();
    let short = Asked { n: 2, max_branches: 2, max_tokens: 3, ..Asked::default() };
    let bad = Asked::default().with(&[("forbid", "[99]")]);
    run(&mut policy, &model, &[short, bad, Asked::default()]);
    // Nobody told of the end of the longest.
    assert_eq!(policy.known.len(), 1);
}

#[test]
fn bad_arguments_are_refused_by_name() {
    let all = format!("{:?}", (0..VOCAB).collect::<Vec<_>>());
    let bad = [
        ("max_output", "-1"),
        ("max_output", "many"),
        ("forbid", "7"),
        ("forbid", "[40]"),
        ("forbid", "[-1]"),
        ("forbid", &all),
    ];
    for (key, value) in bad {
        let outcome = told("", Asked::default().with(&[(key, value)]));
        let why = outcome.refused.unwrap();
        assert!(why.starts_with(&format!("policy.args.{key} ")), "{key} {value}: {why}");
    }
    for config in [r#"{"forbid": [40]}"#, r#"{"max_output": -1}"#, r#"{"max": 1}"#, "7"] {
        assert!(configured(config).is_err(), "{config}");
    }
}
