//! A policy that never answers: when it is cut off, and what the others notice.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokenmill_policy::sample::{Columns, Knobs, Ragged};
use tokenmill_policy::{Named, Silent};
use tokenmill_wasm::{Limits, Plugin, Runtime};

use crate::Bench;
use crate::figures::{at_most, percentile, spread};
use crate::guests;
use crate::pace::{Pace, Tokens, model, request};

/// Calls of one load: the fifth failure puts it in quarantine.
const CALLS: usize = 4;
const LOADS: usize = 25;
const OTHERS: u32 = 16;
/// So few that the five cut-offs are more than one in a hundred of everybody's gaps.
const TOKENS: u32 = 200;
const REPEATS: usize = 7;
const LATE_MS: f64 = 2.0;
const GROWTH_MS: f64 = 5.0;

pub(crate) fn measure(on: &Bench) -> Value {
    let runtime = crate::runtime(Limits::default());
    let component = guests::runaway();
    json!({
        "cut_off": cut_off(on, &runtime, &component),
        "others_null": others(on, &runtime, &component, 0),
        "others_null_with_steps_of_5_ms": others(on, &runtime, &component, 5000),
    })
}

fn load(runtime: &Runtime, component: &[u8]) -> Plugin {
    Plugin::load(runtime, "runaway", component, "", Arc::new(Silent { vocab: 32_000 })).unwrap()
}

/// From the call to the step's default: the fresh instance of every call is part of it.
fn cut_off(on: &Bench, runtime: &Runtime, component: &[u8]) -> Value {
    let limit = runtime.limits().sampling.as_secs_f64() * 1e3;
    let view = Columns {
        ids: &[1],
        requests: &[1],
        tenants: &[0],
        positions: &[1],
        generated: &[0],
        remaining: &[9],
        scores: &[0.0],
        seeds: &[1],
        accepted: Ragged { starts: &[0, 1], values: &[7] },
        assumed: Ragged { starts: &[0, 0], values: &[] },
        ..Columns::default()
    };
    let mut late = Vec::new();
    for _ in 0..on.times(LOADS) {
        let mut sampler = load(runtime, component).sampler().unwrap();
        for _ in 0..CALLS {
            let began = Instant::now();
            assert!(sampler.plan(&view, &mut Knobs::default()).is_err(), "it answered");
            late.push(began.elapsed().as_secs_f64() * 1e3 - limit);
        }
    }
    let worst = percentile(&late, 100);
    json!({
        "limit_ms": limit,
        "ms_over_limit": at_most(&late, LATE_MS),
        "worst_met": worst <= LATE_MS,
    })
}

/// Time between tokens of other requests, with and without one request of the runaway policy.
fn others(on: &Bench, runtime: &Runtime, component: &[u8], step_us: u32) -> Value {
    let options = format!("check=0\nblocks=4096\nvocab=32000\nstep_us={step_us}");
    let mut pace = Pace::new(model("null", &on.model, OTHERS + 1, 0, &options), OTHERS + 1);
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for nth in 0..=on.times(REPEATS) {
        let sampler = load(runtime, component).sampler().unwrap();
        pace.handle.install_sampler(Named { name: "runaway".into(), sampler, enforcing: false });
        for arm in if nth % 2 == 0 { [true, false] } else { [false, true] } {
            let p99 = gaps(&mut pace, arm);
            let into = if arm { &mut with } else { &mut without };
            into.extend((nth > 0).then_some(p99));
        }
    }
    let growth: Vec<f64> = with.iter().zip(&without).map(|(with, without)| with - without).collect();
    json!({
        "requests": OTHERS, "tokens_each": TOKENS,
        "p99_ms_without": spread(&without),
        "p99_ms_with": spread(&with),
        "p99_growth_ms": at_most(&growth, GROWTH_MS),
        "cut_offs_until_quarantine": CALLS + 1,
    })
}

fn gaps(pace: &mut Pace, runaway: bool) -> f64 {
    let all: Vec<Tokens> = (0..OTHERS).map(|_| Tokens::default()).collect();
    for (i, tokens) in all.iter().enumerate() {
        pace.submit(request(i as u32, 16, TOKENS, None), tokens);
    }
    if runaway {
        pace.submit(request(OTHERS, 16, TOKENS, Some("runaway")), &Tokens::default());
    }
    pace.finish();
    let gaps: Vec<f64> = all.iter().flat_map(|tokens| tokens.take().gaps_ms).collect();
    assert_eq!(gaps.len(), (OTHERS * (TOKENS - 1)) as usize, "a request ended early");
    percentile(&gaps, 99)
}
