//! Pure computing: `dry` over long texts, whose answer is short and whose work grows with them; so what a call costs by
//! itself shows in the shorter ones.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokenmill_plugin_dry::Dry;
use tokenmill_policy::sample::{Columns, Knobs, Ragged, Sampler};
use tokenmill_wasm::Plugin;

use crate::Bench;
use crate::figures::{at_most, median, spread};
use crate::host::Tokens;

const ROWS: u32 = 16;
/// Of each row.
const TOKENS: [u32; 2] = [4096, 32_768];
/// Few different tokens, so that there is much that repeats.
const DIFFERENT: u32 = 256;
/// Long texts repeat themselves, which costs more than the walk; a step adds a token.
const STEPS: usize = 60;
const REPEATS: usize = 5;
const GOAL: f64 = 1.3;

pub(crate) fn measure(on: &Bench) -> Value {
    let host = Arc::new(Tokens::of(&on.model));
    let runtime = crate::runtime(crate::micro::patient());
    let plugin = Plugin::load(&runtime, "dry", &on.component("dry"), "", host.clone()).unwrap();
    let of_length = |tokens: u32| (format!("dry_{tokens}"), of_length(on, &plugin, &host, tokens));
    let lengths: serde_json::Map<_, _> = TOKENS.into_iter().map(of_length).collect();
    Value::Object(lengths)
}

fn of_length(on: &Bench, plugin: &Plugin, host: &Arc<Tokens>, tokens: u32) -> Value {
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    for _ in 0..on.times(REPEATS) {
        let mut inside = plugin.sampler().unwrap();
        let mut compiled_in = Dry::default();
        compiled_in.configure("", host.clone()).unwrap();
        let (a, b) = turns(&mut *inside, &mut compiled_in, tokens);
        wasm.push(a);
        native.push(b);
    }
    let ratio: Vec<f64> = wasm.iter().zip(&native).map(|(wasm, native)| wasm / native).collect();
    json!({
        "policy": "dry", "rows": ROWS, "tokens_per_row": tokens,
        "wasm_us_per_step": spread(&wasm),
        "native_us_per_step": spread(&native),
        "wasm_to_native": at_most(&ratio, GOAL),
    })
}

/// Median microseconds of a step, of each.
fn turns(one: &mut dyn Sampler, other: &mut dyn Sampler, tokens: u32) -> (f64, f64) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let ids: Vec<u64> = (1..=u64::from(ROWS)).collect();
    for step in 0..STEPS as u32 {
        let new = if step == 0 { tokens } else { 1 };
        let starts: Vec<u32> = (0..=ROWS).map(|row| row * new).collect();
        let values: Vec<u32> =
            (0..ROWS * new).map(|at| scramble(u64::from(at) << 32 | u64::from(step))).collect();
        let positions = vec![tokens + step; ROWS as usize];
        let nothing = vec![0; ROWS as usize + 1];
        let view = Columns {
            ids: &ids,
            requests: &ids,
            tenants: &[0; ROWS as usize],
            positions: &positions,
            generated: &vec![step; ROWS as usize],
            remaining: &[1000; ROWS as usize],
            scores: &[0.0; ROWS as usize],
            seeds: &ids,
            accepted: Ragged { starts: &starts, values: &values },
            assumed: Ragged { starts: &nothing, values: &[] },
            ..Columns::default()
        };
        let (mut left, mut right) = (Knobs::default(), Knobs::default());
        let times = [time(one, &view, &mut left), time(other, &view, &mut right)];
        assert_eq!(left.bias, right.bias, "WASM and native disagree");
        if step > 0 {
            a.push(times[0]);
            b.push(times[1]);
        }
    }
    (median(&a), median(&b))
}

fn time(sampler: &mut dyn Sampler, view: &Columns<'_>, knobs: &mut Knobs) -> f64 {
    let began = Instant::now();
    sampler.plan(view, knobs).unwrap();
    began.elapsed().as_secs_f64() * 1e6
}

/// SplitMix64, Steele, Lea and Flood 2014.
fn scramble(x: u64) -> u32 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ x >> 31) % u64::from(DIFFERENT)) as u32 + 1000
}
