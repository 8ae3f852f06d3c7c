//! Each tenant has an instance of its own, and an instance sees every token of its sequences once.

use std::sync::Arc;

use tokenmill_wasm::{Limits, Plugin, Reason, Runtime};

use crate::guests::{self, Code, RUNTIME, Spy, compiler, host, load, plan};
use crate::steps::{self, failures};

crate::tests!(
    p10_a_slot_is_empty_for_its_next_user,
    p16_a_tenant_sees_only_its_own,
    one_tenants_failure_is_not_the_policys,
    tokens_are_shown_once_and_again_to_a_fresh_instance,
    more_tenants_than_instances_are_told_so,
);

/// Logs a list of numbers below 10 that a getter returns, as digits.
fn log_list(getter: &str, words: u32, label: char) -> String {
    format!(
        "(call ${getter} (local.get $view) (i32.const 64))
        (local.set $a (i32.load (i32.const 64))) (local.set $b (i32.load (i32.const 68)))
        (i32.store8 (i32.const 2048) (i32.const {})) (local.set $c (i32.const 2049))
        (block $done (loop $next
            (br_if $done (i32.eqz (local.get $b)))
            (i32.store8 (local.get $c) (i32.add (i32.const 48) (i32.load (local.get $a))))
            (local.set $a (i32.add (local.get $a) (i32.const {})))
            (local.set $b (i32.sub (local.get $b) (i32.const 1)))
            (local.set $c (i32.add (local.get $c) (i32.const 1)))
            (br $next)))
        (call $log (i32.const 2048) (i32.sub (local.get $c) (i32.const 2048)))",
        label as u32,
        words * 4,
    )
}

/// The values of a ragged column; its starts come first in the answer.
fn log_accepted() -> String {
    let values = log_list("accepted", 1, 'a');
    values
        .replace("(i32.load (i32.const 64))", "(i32.load (i32.const 72))")
        .replace("(i32.load (i32.const 68))", "(i32.load (i32.const 76))")
}

/// Loads a policy, and takes what it logged since the last call.
fn spied(code: &str) -> (Plugin, impl FnMut() -> Vec<String> + use<>) {
    let spy = Arc::new(Spy::default());
    let plugin = Plugin::load(&RUNTIME, "spy", &plan(code).sampler(), "", spy.clone()).unwrap();
    let lines = move || {
        let lines = std::mem::take(&mut *spy.lines.lock().unwrap());
        lines.into_iter().map(|line| line.trim_start_matches("spy: ").to_owned()).collect()
    };
    (plugin, lines)
}

fn p10_a_slot_is_empty_for_its_next_user() {
    let few = Limits { instances: 4, ..guests::limits() };
    let runtime = Runtime::new(few, compiler, None).unwrap();
    let load = |code: &str| Plugin::load(&runtime, "test", &plan(code).sampler(), "", host()).unwrap();
    // All over its memory, what it grew by included.
    let fill = "(drop (memory.grow (i32.const 40)))
        (memory.fill (i32.const 70000) (i32.const 0x5e) (i32.const 2500000))";
    let writer = load(fill);
    for tenant in 0..3 {
        steps::plan(&mut *writer.sampler().unwrap(), &[(1, tenant, 1, &[1])], &[]).unwrap();
    }
    drop(writer);
    let search = "(drop (memory.grow (i32.const 40))) (local.set $a (i32.const 70000))
        (loop $next
            (if (i64.ne (i64.load (local.get $a)) (i64.const 0)) (then unreachable))
            (local.set $a (i32.add (local.get $a) (i32.const 8)))
            (br_if $next (i32.lt_u (local.get $a) (i32.const 2500000))))";
    let reader = load(search);
    for tenant in 0..8 {
        steps::plan(&mut *reader.sampler().unwrap(), &[(1, tenant, 1, &[1])], &[]).unwrap();
    }
    assert_eq!(reader.health().calls, 8);
}

fn p16_a_tenant_sees_only_its_own() {
    let code = [log_list("ids", 2, 'i'), log_list("finished", 2, 'f'), log_accepted()].concat();
    let (plugin, mut lines) = spied(&code);
    let mut sampler = plugin.sampler().unwrap();
    // Rows of tenants 70 and 80, mixed.
    let rows = [(1, 70, 2, &[5, 6][..]), (2, 80, 1, &[7]), (3, 70, 1, &[8]), (4, 80, 1, &[9])];
    steps::plan(&mut *sampler, &rows, &[]).unwrap();
    assert_eq!(lines(), ["i13", "f", "a568", "i24", "f", "a79"]);
    // Ends of sequences are told to whom they belong, when it is asked the next time.
    steps::plan(&mut *sampler, &[(3, 70, 2, &[4])], &[1, 2]).unwrap();
    assert_eq!(lines(), ["i3", "f1", "a4"]);
    steps::plan(&mut *sampler, &[(4, 80, 2, &[3])], &[3]).unwrap();
    assert_eq!(lines(), ["i4", "f2", "a3"]);
    assert_eq!(plugin.health().instances, 2, "one for each tenant");
}

fn one_tenants_failure_is_not_the_policys() {
    // Traps for sequence 1.
    let code = "(call $ids (local.get $view) (i32.const 64))
        (if (i32.eq (i32.load (i32.load (i32.const 64))) (i32.const 1)) (then unreachable))";
    let plugin = load(&plan(code).sampler()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    for _ in 0..9 {
        let knobs = steps::plan(&mut *sampler, &[(1, 70, 1, &[1]), (2, 80, 1, &[1])], &[]).unwrap();
        assert_eq!(knobs.undecided, [0], "the other tenant's row is decided");
        steps::plan(&mut *sampler, &[(2, 80, 1, &[1])], &[]).unwrap();
    }
    assert_eq!(failures(&plugin)[&Reason::Trap], 9);
    assert!(!plugin.health().quarantined);
}

fn tokens_are_shown_once_and_again_to_a_fresh_instance() {
    let trap = "(if (i32.eq (global.get $calls) (i32.const 4)) (then unreachable))";
    let (plugin, mut lines) = spied(&[&log_accepted(), trap].concat());
    let mut sampler = plugin.sampler().unwrap();
    let mut step = |position, tokens: &[u32]| {
        let answer = steps::plan(&mut *sampler, &[(1, 0, position, tokens)], &[]);
        (answer.is_ok(), lines().concat())
    };
    assert_eq!(step(2, &[1, 2]), (true, "a12".into()));
    assert_eq!(step(3, &[3]), (true, "a3".into()));
    // After an error elsewhere the engine shows everything again; the instance knows it already.
    assert_eq!(step(4, &[1, 2, 3, 4]), (true, "a4".into()));
    assert_eq!(step(5, &[5]), (false, "a5".into()), "the trap");
    // Nothing is asked of a fresh instance that would miss the beginning.
    assert_eq!(step(6, &[6]), (false, String::new()));
    assert_eq!(step(6, &[1, 2, 3, 4, 5, 6]), (true, "a123456".into()));
}

fn more_tenants_than_instances_are_told_so() {
    let few = Limits { instances: 4, ..guests::limits() };
    let runtime = Runtime::new(few, compiler, None).unwrap();
    let plugin = Plugin::load(&runtime, "test", &Code::default().sampler(), "", host()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    let rows: Vec<steps::Row<'_>> = (1..=6).map(|id| (id, id, 1, &[1][..])).collect();
    let undecided = steps::plan(&mut *sampler, &rows, &[]).unwrap().undecided;
    assert!(undecided.len() >= 2 && undecided.len() < 6, "{undecided:?}");
    assert_eq!(failures(&plugin).into_keys().collect::<Vec<_>>(), [Reason::Instantiate]);
    // Those that have an instance keep it.
    steps::plan(&mut *sampler, &rows[..3], &[]).unwrap();
}
