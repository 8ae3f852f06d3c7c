//! What a policy answers is checked before anybody acts on it.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokenmill_wasm::{Limits, Plugin, Reason, Runtime};

use crate::guests::{self, Code, VOCAB, compiler, host, load, plan};
use crate::steps::{self, failures, only};

crate::tests!(
    honest_answers_arrive,
    p05_answers_out_of_range_are_refused,
    p05_whatever_is_answered_does_no_harm,
    p06_orders_that_name_nobody_are_refused,
    p17_the_same_inputs_give_the_same_answer,
    undecided_is_no_failure,
);

/// Temperature 0.5 for the row in the first word of scratch memory.
const TEMPERATURE: &str = "(f32.store (i32.const 100) (f32.const 0.5))
    (call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))";
const INSPECT: &str = "(call $inspect (local.get $out) (i32.const 96) (i32.const 1))";

fn honest_answers_arrive() {
    let mask = "(i32.store (i32.const 104) (i32.const 5))
        (local.set $a (call $mask (i32.const 104) (i32.const 1)))
        (call $allow (local.get $out) (i32.const 0) (local.get $a)) (call $drop_mask (local.get $a))";
    let accept = "(i32.store (i32.const 100) (i32.const 31))
        (call $accept (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))";
    let code = Code { plan: &[TEMPERATURE, mask, INSPECT].concat(), pick: accept, ..Code::default() };
    let (knobs, choices) = steps::once(&load(&code.sampler()).unwrap()).unwrap();
    assert_eq!(knobs.temperature, [(0, 0.5)]);
    assert_eq!((knobs.allow.len(), knobs.allow[0].0, &knobs.allow[0].1[..]), (1, 0, &[5][..]));
    assert_eq!((knobs.inspect, choices.accept), (vec![0], vec![(0, 31)]));
    let run = "(i32.store (i32.const 96) (i32.const 1)) (i32.store (i32.const 100) (i32.const 0))
        (call $run (local.get $out) (i32.const 96) (i32.const 2) (i32.const 96) (i32.const 2))";
    let plugin = load(&plan(run).scheduler()).unwrap();
    let order = steps::order(&mut *plugin.scheduler().unwrap(), 2).unwrap();
    assert_eq!((order.indices, order.tokens), (vec![1, 0], vec![1, 0]));
}

/// One step has a bad answer, and its instance lives on.
fn wrong(code: &Code<'_>, word: &str) {
    let plugin = load(&code.sampler()).unwrap();
    steps::once(&plugin).unwrap_err();
    assert_eq!(failures(&plugin), only(Reason::BadAnswer), "{:?}", plugin.health().last_failure);
    let why = plugin.health().last_failure.unwrap();
    assert!(why.contains(word), "{why}");
}

fn p05_answers_out_of_range_are_refused() {
    let set = |knob: &str, value: &str| {
        format!(
            "(f32.store (i32.const 100) (f32.const {value}))
            (call ${knob} (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))"
        )
    };
    wrong(&plan(&set("temperature", "nan")), "temperature");
    wrong(&plan(&set("temperature", "-1")), "temperature");
    wrong(&plan(&set("temperature", "inf")), "temperature");
    wrong(&plan(&set("top_p", "0")), "top-p");
    wrong(&plan(&set("min_p", "2")), "min-p");
    wrong(&plan(&format!("(i32.store (i32.const 96) (i32.const 1)) {TEMPERATURE}")), "not in the view");
    wrong(&plan(&TEMPERATURE.replace("100) (i32.const 1)", "100) (i32.const 2)")), "lists of 1 and 2");
    wrong(&plan("(call $bias (local.get $out) (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1))
        (call $bias (local.get $out) (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 8) (i32.const 0))"), "bias");
    let outside = format!("(i32.store (i32.const 112) (i32.const {VOCAB}))
        (call $bias (local.get $out) (i32.const 0) (i32.const 112) (i32.const 1) (i32.const 96) (i32.const 1))");
    wrong(&plan(&outside), "bias");
    let empty = "(call $allow (local.get $out) (i32.const 0) (call $mask (i32.const 96) (i32.const 1)))";
    wrong(&plan(empty), "allow");
    wrong(&plan("(drop (call $mask (i32.const 96) (i32.const 2)))"), "mask of 2 words");
    wrong(
        &plan("(call $attribute (local.get $view) (i32.const 9) (i32.const 0) (i32.const 0) (i32.const 64))"),
        "row 9",
    );
    let accept = |row: u32, token: u32| {
        format!(
            "(i32.store (i32.const 96) (i32.const {row})) (i32.store (i32.const 100) (i32.const {token}))
            (call $accept (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))"
        )
    };
    let pick = |pick: &str, word: &str| wrong(&Code { plan: INSPECT, pick, ..Code::default() }, word);
    pick(&accept(0, VOCAB), "outside the vocabulary");
    pick(&accept(1, 0), "not asked about");
    pick("(call $read (local.get $logits) (i32.const 3) (i32.const 64))", "row 3");
    // A list that ends beyond the memory, and one that says it has 2^32 - 1 entries.
    for len in ["0x10000000", "0xffffffff"] {
        let list = format!("(call $inspect (local.get $out) (i32.const 96) (i32.const {len}))");
        let plugin = load(&plan(&list).sampler()).unwrap();
        steps::once(&plugin).unwrap_err();
        assert_eq!(failures(&plugin), only(Reason::Trap));
    }
}

/// For every row: what the seed says. Its low byte chooses a setter, the next a row, its upper half a value.
const CHAOS: &str = "
    (call $seeds (local.get $view) (i32.const 64))
    (local.set $a (i32.load (i32.const 64)))
    (local.set $b (i32.add (local.get $a) (i32.mul (i32.load (i32.const 68)) (i32.const 8))))
    (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $a) (local.get $b)))
        (local.set $c (i32.and (i32.load8_u (local.get $a)) (i32.const 15)))
        (i32.store (i32.const 96) (i32.load8_u (i32.add (local.get $a) (i32.const 1))))
        (i32.store (i32.const 100) (i32.load (i32.add (local.get $a) (i32.const 4))))
        {{setters}}
        (local.set $a (i32.add (local.get $a) (i32.const 8)))
        (br $next)))";

fn setters(setters: &[&str]) -> String {
    let one = |(nth, setter): (usize, &&str)| {
        format!("(if (i32.eq (local.get $c) (i32.const {nth})) (then {setter}))")
    };
    CHAOS.replace("{{setters}}", &setters.iter().enumerate().map(one).collect::<String>())
}

/// Calls the setters that seeds choose, with numbers from the seeds.
fn anything() -> Vec<u8> {
    let pair = |name: &str| {
        format!("(call ${name} (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))")
    };
    let plan = setters(&[
        &pair("temperature"),
        &pair("top_k"),
        &pair("top_p"),
        &pair("min_p"),
        "(i32.store (i32.const 104) (i32.load8_u (i32.const 100)))
        (call $bias (local.get $out) (i32.load (i32.const 96)) (i32.const 104) (i32.const 1) (i32.const 100) (i32.const 1))",
        "(call $allow (local.get $out) (i32.load (i32.const 96)) (call $mask (i32.const 100) (i32.const 1)))",
        "(call $inspect (local.get $out) (i32.const 96) (i32.const 1))",
        "(call $inspect (local.get $out) (i32.const 96) (i32.const 1))",
        "(call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 0))",
    ]);
    let pick = setters(&[
        "(i32.store8 (i32.const 101) (i32.const 0)) (i32.store16 (i32.const 102) (i32.const 0)) (call $accept (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))",
        "(call $accept (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))",
        "(call $defer (local.get $out) (i32.const 96) (i32.const 1))",
        "(call $finish (local.get $out) (i32.const 96) (i32.const 1))",
    ]);
    Code { plan: &plan, pick: &pick, ..Code::default() }.sampler()
}

/// A setter, a row and a value.
fn seed() -> impl Strategy<Value = u64> {
    let seed = (0u64..12, prop_oneof![9 => 0u64..3, 1 => 0u64..256], any::<u32>(), 0u32..64, any::<bool>());
    seed.prop_map(|(setter, row, any, small, wild)| {
        // Half the values are such that something can come of them.
        let value = if wild {
            any
        } else if any % 2 == 0 {
            small
        } else {
            (small as f32 / 64.0).to_bits()
        };
        setter | row << 8 | u64::from(value) << 32
    })
}

fn p05_whatever_is_answered_does_no_harm() {
    let component = anything();
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    let (good, bad) = (Cell::new(0), Cell::new(0));
    // The machine may be busy, and deadlines have tests of their own.
    let limits = Limits { sampling: Duration::from_secs(1), ..guests::limits() };
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(limits, compiler, Some(folder.path().join("compiled"))).unwrap();
    runner
        .run(&proptest::collection::vec(seed(), 3), |seeds| {
            let plugin = Plugin::load(&runtime, "test", &component, "", host()).unwrap();
            let rows = [(1, 4, 1, &[1][..]), (2, 4, 1, &[1]), (3, 5, 1, &[1])];
            match steps::ask(&mut *plugin.sampler().unwrap(), &rows, &[], &seeds) {
                Ok((knobs, choices)) => {
                    good.set(good.get() + 1);
                    prop_assert_eq!(knobs.check(rows.len(), VOCAB), Ok(()));
                    prop_assert_eq!(choices.check(&knobs.inspect, VOCAB), Ok(()));
                }
                Err(_) => bad.set(bad.get() + 1),
            }
            let reasons: Vec<_> = failures(&plugin).into_keys().collect();
            prop_assert!(reasons.iter().all(|reason| *reason == Reason::BadAnswer), "{:?}", reasons);
            Ok(())
        })
        .unwrap();
    let (good, bad) = (good.get(), bad.get());
    assert!(good > 100 && bad > 100, "{good} answers taken, {bad} refused");
}

fn p06_orders_that_name_nobody_are_refused() {
    let run = |first: u32, second: u32| {
        let code = format!(
            "(i32.store (i32.const 96) (i32.const {first})) (i32.store (i32.const 100) (i32.const {second}))
            (call $run (local.get $out) (i32.const 96) (i32.const 2) (i32.const 96) (i32.const 2))"
        );
        let plugin = load(&plan(&code).scheduler()).unwrap();
        let order = steps::order(&mut *plugin.scheduler().unwrap(), 3);
        (order.is_ok(), plugin.health().last_failure.unwrap_or_default())
    };
    assert_eq!(run(2, 0), (true, String::new()));
    assert_eq!(run(0, 0), (false, "bad_answer: its order lists sequence 0 twice".into()));
    assert_eq!(run(0, 3), (false, "bad_answer: run: 3 is not in the view of 3".into()));
    let lists = "(call $run (local.get $out) (i32.const 96) (i32.const 1) (i32.const 96) (i32.const 0))";
    let plugin = load(&plan(lists).scheduler()).unwrap();
    steps::order(&mut *plugin.scheduler().unwrap(), 3).unwrap_err();
    let nobody = "(i32.store (i32.const 96) (i32.const -1)) (call $reject (local.get $out) (i32.const 96) (i32.const 1))";
    let plugin = load(&plan(nobody).scheduler()).unwrap();
    steps::order(&mut *plugin.scheduler().unwrap(), 3).unwrap_err();
    assert_eq!(failures(&plugin), only(Reason::BadAnswer));
}

/// Without fuel: where a call is cut off depends on time, what it answers does not.
fn p17_the_same_inputs_give_the_same_answer() {
    // A NaN of unspecified sign and bits becomes an integer, and that a temperature.
    let nan = "(call $seeds (local.get $view) (i32.const 64))
        (local.set $a (i32.reinterpret_f32 (f32.div (f32.const 0) (f32.sub (f32.const 0) (f32.const 0)))))
        (local.set $b (i32.load (i32.load (i32.const 64))))
        (f32.store (i32.const 100) (f32.convert_i32_u (i32.xor (local.get $a) (local.get $b))))
        (call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))";
    let plugin = load(&plan(nan).sampler()).unwrap();
    let mut signs = Vec::new();
    for seed in 0..1000 {
        let (knobs, _) =
            steps::ask(&mut *plugin.sampler().unwrap(), &[(1, 0, 1, &[1])], &[], &[seed]).unwrap();
        // The sign is the processor's, and then always the same.
        let (row, value) = knobs.temperature[0];
        signs.extend([0x7fc0_0000u32, 0xffc0_0000].map(|nan| value == (nan ^ seed as u32) as f32));
        assert_eq!((row, knobs.temperature.len()), (0, 1));
    }
    let positive = signs.chunks(2).all(|sign| sign == [true, false]);
    assert!(positive || signs.chunks(2).all(|sign| sign == [false, true]), "{signs:?}");
}

fn undecided_is_no_failure() {
    let code = r#"(i32.store (i32.const 96) (i32.const 1)) (i32.store (i32.const 100) (i32.const 1))
        (i32.store (i32.const 104) (i32.const 1024)) (i32.store (i32.const 108) (i32.const 5))
        (call $drop_view (local.get $view)) (call $drop_knobs (local.get $out)) (return (i32.const 96))"#;
    let undecided = Code { plan: code, more: r#"(data (i32.const 1024) "later")"#, ..Code::default() };
    let plugin = load(&undecided.sampler()).unwrap();
    plugin.self_test().unwrap();
    let mut sampler = plugin.sampler().unwrap();
    for _ in 0..9 {
        let error = steps::plan(&mut *sampler, &[(1, 0, 1, &[1])], &[]).unwrap_err();
        assert!(error.to_string().contains("later"), "{error}");
    }
    assert_eq!(failures(&plugin)[&Reason::Undecided], 9);
    assert!(!plugin.health().quarantined);
}
