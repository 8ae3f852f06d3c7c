//! The whole engine at batch 64: tokens per second with a policy in WebAssembly and with the same compiled in, by the
//! median step of each turn: a step that something else on the machine held up says nothing of policies.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokenmill_engine::Handle;
use tokenmill_plugin_mirostat_v2::MirostatV2;
use tokenmill_plugin_standard::Standard;
use tokenmill_policy::{Fcfs, Host, Named, Sampler, Scheduler};
use tokenmill_wasm::{Limits, Plugin, Runtime};

use crate::Bench;
use crate::figures::{at_least, median, round, spread};
use crate::host;
use crate::micro::STANDARD;
use crate::pace::{Pace, Tokens, model, request};

const BATCH: u32 = 64;
const PROMPT: u32 = 32;
/// Steps before the clock starts, and after it has stopped.
const MARGIN: u32 = 2;
const GOAL: f64 = 0.995;

/// What is in WebAssembly in one arm and compiled in in the other.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    sampler: Option<&'static str>,
    scheduler: bool,
}

const CASES: [Case; 4] = [
    Case { name: "sampler_standard", sampler: Some("standard"), scheduler: false },
    Case { name: "sampler_mirostat_v2", sampler: Some("mirostat-v2"), scheduler: false },
    Case { name: "scheduler_fcfs", sampler: None, scheduler: true },
    Case { name: "scheduler_fcfs_and_sampler_standard", sampler: Some("standard"), scheduler: true },
];

pub(crate) fn measure(on: &Bench) -> Value {
    let null = model("null", &on.model, BATCH, 0, "check=0\nblocks=65536");
    // Greedy, which costs the null backend nothing; the knobs are set all the same.
    let greedy = STANDARD.replace("0.8", "0");
    let (on_null, null_us) =
        Policies::load(on, greedy).cases(&mut Pace::new(null, BATCH), on.times(15), 2000);
    let cpu = model("cpu", &on.model, BATCH, 512 << 20, "");
    let (steps, rounds) = if on.quick { (4, 2) } else { (16, 5) };
    let (mut cpu, cpu_us) =
        Policies::load(on, STANDARD.into()).cases(&mut Pace::new(cpu, BATCH), rounds, steps);
    for ((case, null), cpu_us) in CASES.iter().zip(null_us).zip(cpu_us) {
        // What the null backend shows whole, as a part of a step that lasts longer.
        cpu[case.name]["ratio_expected_from_null"] =
            json!(round(cpu_us.native / (cpu_us.native + null.added())));
    }
    json!({
        "batch": BATCH, "prompt": PROMPT, "unit": "tokens/s",
        "null": on_null,
        "smollm2_cpu": cpu,
    })
}

/// Microseconds of a step.
struct Step {
    wasm: f64,
    native: f64,
}

impl Step {
    fn added(&self) -> f64 {
        self.wasm - self.native
    }
}

struct Policies {
    host: Host,
    /// Configuration of `standard`.
    knobs: String,
    fcfs: Plugin,
    standard: Plugin,
    mirostat: Plugin,
}

impl Policies {
    fn load(on: &Bench, knobs: String) -> Self {
        let runtime: Runtime = crate::runtime(Limits::default());
        let host: Host = Arc::new(host::Tokens::of(&on.model));
        let load = |name: &str, config: &str| {
            Plugin::load(&runtime, name, &on.component(name), config, host.clone()).unwrap()
        };
        let (fcfs, standard) = (load("fcfs", ""), load("standard", &knobs));
        Self { fcfs, standard, mirostat: load("mirostat-v2", ""), host, knobs }
    }

    fn cases(&self, pace: &mut Pace, rounds: usize, steps: u32) -> (Value, Vec<Step>) {
        let (mut report, mut times) = (serde_json::Map::new(), Vec::new());
        for case in CASES {
            let (figures, step) = self.case(pace, case, rounds, steps);
            report.insert(case.name.to_owned(), figures);
            times.push(step);
        }
        (Value::Object(report), times)
    }

    /// In turns, each first as often as the other; one turn of each to warm up.
    fn case(&self, pace: &mut Pace, case: Case, rounds: usize, steps: u32) -> (Value, Step) {
        let before = pace.handle.stats().policy_fallbacks;
        let mut speeds: [Vec<f64>; 2] = Default::default();
        let mut equal = true;
        for nth in 0..=rounds {
            let mut hashes = [0; 2];
            for arm in if nth % 2 == 0 { [0, 1] } else { [1, 0] } {
                self.set(&pace.handle, case, arm == 0);
                let (speed, hash) = turn(pace, case, steps);
                speeds[arm].extend((nth > 0).then_some(speed));
                hashes[arm] = hash;
            }
            equal &= hashes[0] == hashes[1];
        }
        let after = pace.handle.stats().policy_fallbacks;
        let [wasm, native] = &speeds;
        let ratio: Vec<f64> = wasm.iter().zip(native).map(|(wasm, native)| wasm / native).collect();
        let us = |speeds: &[f64]| f64::from(BATCH) * 1e6 / median(speeds);
        let step = Step { wasm: us(wasm), native: us(native) };
        let figures = json!({
            "wasm": spread(wasm),
            "native": spread(native),
            "wasm_to_native": at_least(&ratio, GOAL),
            "added_us_per_step": round(step.added()),
            "same_tokens": equal,
            "fallbacks": after.sampler - before.sampler + after.scheduler - before.scheduler,
        });
        (figures, step)
    }

    fn set(&self, handle: &Handle, case: Case, wasm: bool) {
        handle.set_scheduler(self.scheduler(case.scheduler && wasm));
        if let Some(name) = case.sampler {
            let sampler = self.sampler(name, wasm);
            handle.install_sampler(Named { name: name.into(), sampler, enforcing: false });
        }
    }

    fn scheduler(&self, wasm: bool) -> Box<dyn Scheduler> {
        if wasm { self.fcfs.scheduler().unwrap() } else { Box::new(Fcfs::default()) }
    }

    fn sampler(&self, name: &str, wasm: bool) -> Box<dyn Sampler> {
        let (plugin, mut native, config): (&Plugin, Box<dyn Sampler>, &str) = match name {
            "standard" => (&self.standard, Box::new(Standard::default()), &self.knobs),
            _ => (&self.mirostat, Box::new(MirostatV2::default()), ""),
        };
        if wasm {
            return plugin.sampler().unwrap();
        }
        native.configure(config, self.host.clone()).unwrap();
        native
    }
}

/// Tokens per second while all sequences decode, and a hash of all tokens.
fn turn(pace: &mut Pace, case: Case, steps: u32) -> (f64, u64) {
    let all: Vec<Tokens> = (0..BATCH)
        .map(|i| {
            let tokens = Tokens::default();
            pace.submit(request(i, PROMPT, steps + 3 * MARGIN, case.sampler), &tokens);
            tokens
        })
        .collect();
    let start = pace.handle.stats().generated_tokens;
    while pace.handle.stats().generated_tokens < start + u64::from(BATCH * MARGIN) {
        pace.step();
    }
    let from = pace.handle.stats().generated_tokens;
    let times: Vec<f64> = (0..steps)
        .map(|_| {
            let began = Instant::now();
            pace.step();
            began.elapsed().as_secs_f64()
        })
        .collect();
    let made = pace.handle.stats().generated_tokens - from;
    assert_eq!(made, u64::from(BATCH * steps), "a step did not decode all sequences");
    let speed = f64::from(BATCH) / median(&times);
    pace.finish();
    let sent: Vec<_> = all.iter().map(Tokens::take).collect();
    assert!(sent.iter().all(|sent| sent.failed == 0), "a request failed");
    (speed, sent.iter().fold(0, |hash, sent| hash.rotate_left(1) ^ sent.hash))
}
