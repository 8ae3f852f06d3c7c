//! What a policy answers is checked before anybody acts on it.

use std::cell::Cell;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokenmill_policy::Error;
use tokenmill_policy::sample::{Knobs, Logits};
use tokenmill_wasm::{Limits, Plugin, Reason, Runtime};

use crate::guests::{self, Code, VOCAB, compiler, host, load, plan};
use crate::steps::{self, failures, only};

crate::tests!(
    honest_answers_arrive,
    calls_about_all_rows_arrive,
    a_batch_is_told_when_it_changes,
    p05_calls_about_all_rows_are_checked,
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

/// `params` with so many values of each: 0.5, 40 and 1.
fn params(temperatures: u32, top_k: u32, top_p: u32) -> String {
    let values = "(f32.store (i32.const 100) (f32.const 0.5)) (i32.store (i32.const 104) (i32.const 40))
        (f32.store (i32.const 108) (f32.const 1))";
    let lists = [(100, temperatures), (104, top_k), (108, top_p), (108, 0)];
    let lists = lists.map(|(at, len)| format!("(i32.const {at}) (i32.const {len})")).concat();
    format!("{values} (call $params {lists})")
}

/// Asks for candidates of `rows` of the words at 96, `counts` of which say how many, from 100 on.
fn batch_top_k(rows: u32, counts: u32) -> String {
    format!(
        "(call $batch_top_k (local.get $logits) (i32.const 96) (i32.const {rows}) (i32.const 100) (i32.const {counts})
        (i32.const 64))"
    )
}

fn calls_about_all_rows_arrive() {
    // Two values of top-p, and no values at all.
    let plan = [
        "(f32.store (i32.const 104) (f32.const 0.25)) (f32.store (i32.const 108) (f32.const 0.5))
        (call $params (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 104) (i32.const 2)
            (i32.const 0) (i32.const 0))",
        &params(0, 0, 0),
        "(i32.store (i32.const 96) (i32.const 0)) (i32.store (i32.const 100) (i32.const 1))
        (call $inspect (local.get $out) (i32.const 96) (i32.const 2))",
    ]
    .concat();
    // Row 0 has 5 candidates, row 1 all that there are; the last token of all is chosen for row 1.
    let pick = [
        "(i32.store (i32.const 96) (i32.const 0)) (i32.store (i32.const 100) (i32.const 1))
        (i32.store (i32.const 104) (i32.const 5)) (i32.store (i32.const 108) (i32.const -1))",
        &batch_top_k(2, 2).replace("(i32.const 100)", "(i32.const 104)"),
        "(if (i32.ne (i32.load (i32.const 68)) (i32.const 3)) (then unreachable))
        (local.set $a (i32.load (i32.const 64)))
        (if (i32.ne (i32.load (i32.add (local.get $a) (i32.const 4))) (i32.const 5)) (then unreachable))
        (local.set $b (i32.add (i32.load (i32.const 72)) (i32.mul (i32.const 4) (i32.sub (i32.load (i32.const 76)) (i32.const 1)))))
        (if (i32.ne (i32.load (i32.const 76)) (i32.load (i32.const 84))) (then unreachable))
        (call $accept (local.get $out) (i32.const 100) (i32.const 1) (local.get $b) (i32.const 1))",
    ]
    .concat();
    let plugin = load(&Code { plan: &plan, pick: &pick, ..Code::default() }.sampler()).unwrap();
    let rows = [(1, 0, 1, &[1][..]), (2, 0, 1, &[1])];
    let (knobs, choices) = steps::ask(&mut *plugin.sampler().unwrap(), &rows, &[], &[7, 8]).unwrap();
    let inspect = vec![0, 1];
    assert_eq!(knobs, Knobs { top_p: vec![(0, 0.25), (1, 0.5)], inspect, ..Knobs::default() });
    assert_eq!(choices.accept, [(1, VOCAB - 1)]);
    let (knobs, _) = steps::once(&load(&self::plan(&params(1, 1, 1)).sampler()).unwrap()).unwrap();
    let (temperature, top_k, top_p) = (vec![(0, 0.5)], vec![(0, 40)], vec![(0, 1.0)]);
    assert_eq!(knobs, Knobs { temperature, top_k, top_p, ..Knobs::default() });
}

/// The guest says with its temperature how many ids it was told, or 100 if none.
fn a_batch_is_told_when_it_changes() {
    let tell = "(call $batch_update (i32.const 64))
        (local.set $a (select (i32.add (i32.load (i32.const 72)) (i32.mul (i32.load (i32.const 80)) (i32.const 10)))
            (i32.const 100) (i32.load (i32.const 64))))
        (f32.store (i32.const 100) (f32.convert_i32_u (local.get $a)))
        (call $temperature (local.get $out) (i32.const 96) (i32.const 1) (i32.const 100) (i32.const 1))";
    let plugin = load(&plan(tell).sampler()).unwrap();
    let mut sampler = plugin.sampler().unwrap();
    let mut position = 0;
    let mut step = |ids: &[u64], finished: &[u64]| {
        position += 1;
        let rows: Vec<_> = ids.iter().map(|&id| (id, 4, position, &[1][..])).collect();
        let seeds = vec![0; ids.len()];
        steps::ask(&mut *sampler, &rows, finished, &seeds).unwrap().0.temperature[0].1
    };
    assert_eq!([step(&[1, 2], &[]), step(&[1, 2], &[]), step(&[2, 1], &[])], [2.0, 100.0, 2.0]);
    assert_eq!([step(&[2], &[1]), step(&[2], &[]), step(&[2], &[])], [11.0, 100.0, 100.0]);
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

fn p05_calls_about_all_rows_are_checked() {
    wrong(&plan(&params(2, 0, 0)), "temperature: lists of 1 and 2");
    wrong(&plan(&params(0, 2, 0)), "top_k: lists of 1 and 2");
    wrong(&plan(&params(1, 0, 1).replace("const 0.5", "const nan")), "temperature");
    wrong(&plan(&params(1, 0, 1).replace("(f32.const 1)", "(f32.const 2)")), "top-p");
    let pick = |pick: &str, word: &str| wrong(&Code { plan: INSPECT, pick, ..Code::default() }, word);
    pick(&params(1, 0, 0), "params are for plan");
    pick(&batch_top_k(1, 0), "lists of 1 and 0");
    pick(&batch_top_k(2, 2), "2 rows, and pick is about 1");
    pick(&format!("(i32.store (i32.const 96) (i32.const 9)) {}", batch_top_k(1, 1)), "row 9");
    let configure = Code { configure: &params(0, 0, 0), ..Code::default() };
    let Err(refused) = load(&configure.sampler()) else { panic!("it was loaded") };
    assert!(refused.to_string().contains("params are for plan"));
    // More than fits into a guest, of a vocabulary that does.
    let all = format!("(i32.store (i32.const 100) (i32.const -1)) {}", batch_top_k(1, 1));
    let plugin = load(&Code { plan: INSPECT, pick: &all, ..Code::default() }.sampler()).unwrap();
    let row = [(1, 0, 1, &[1][..])];
    steps::ask_with(&mut *plugin.sampler().unwrap(), &row, &[], &[7], &mut Endless).unwrap_err();
    assert!(plugin.health().last_failure.unwrap().contains("2097152 candidates"));
}

struct Endless;

impl Logits for Endless {
    fn vocab(&self) -> u32 {
        2 << 20
    }

    fn top_k(&mut self, _: u32, _: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        panic!("nobody may ask")
    }

    fn read(&mut self, _: u32) -> Result<&[f32], Error> {
        panic!("nobody may ask")
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
        "(call $params (i32.const 96) (i32.const 3) (i32.const 96) (i32.const 3) (i32.const 0) (i32.const 0)
            (i32.const 0) (i32.const 0))",
        "(call $params (i32.const 96) (i32.const 1) (i32.const 96) (i32.const 3) (i32.const 96) (i32.const 3)
            (i32.const 96) (i32.const 3))",
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
