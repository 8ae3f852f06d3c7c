use super::{Random, devices, filled};
use crate::device::{Cpu, Sampled};
use crate::isa::Isa;
use crate::reference;
use crate::sample::{Scratch, sample, top_k};
use serde_json::Value;
use std::sync::mpsc::channel;
use tokenmill_backend_model::device::{Device, RowSampling};

/// The draw of every instruction set lies where the reference's cumulative probabilities put it.
fn check_draws(what: &str, logits: &[f32], how: &RowSampling<'_>, seeds: u64) {
    let p = reference::sample::probabilities(logits, how);
    for isa in Isa::available() {
        let mut scratch = Scratch::new(logits.len());
        for seed in 0..seeds {
            let (token, logprob) = sample(isa, logits, &RowSampling { seed, ..*how }, &mut scratch);
            let what = format!("{what} on {}, seed {seed}: token {token}", isa.name());
            let at = usize::try_from(token).expect(&what);
            let below: f64 = p[..at].iter().sum();
            let u = reference::sample::uniform(seed);
            assert!(p[at] > 0.0, "{what} was filtered out");
            assert!(below - 1e-5 <= u && u <= below + p[at] + 1e-5, "{what}: u = {u}, {below} + {}", p[at]);
            let want = reference::sample::log_probability(logits, at);
            assert!((logprob - want).abs() < 1e-5 * want.abs().max(1.0), "{what}: {logprob}, {want}");
        }
    }
}

/// `null` stands for -inf.
fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|v| v.as_f64().map_or(f32::NEG_INFINITY, |v| v as f32)).collect()
}

#[test]
fn probabilities_equal_those_of_transformers() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/decode/processors.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut checked = 0;
    for case in file["cases"].as_array().unwrap() {
        if case.get("no_repeat_ngram_size").is_some() || case.get("typical_p").is_some() {
            continue;
        }
        let vector = &file["vectors"][case["vector"].as_str().unwrap()];
        let logits: Vec<f32> = numbers(vector);
        let number =
            |name: &str, default: f64| case.get(name).and_then(Value::as_f64).unwrap_or(default) as f32;
        let mut seen: Vec<u32> = case
            .get("previous_ids")
            .and_then(Value::as_array)
            .map_or(Vec::new(), |ids| ids.iter().map(|id| id.as_u64().unwrap() as u32).collect());
        seen.sort_unstable();
        seen.dedup();
        let how = RowSampling {
            temperature: number("temperature", 1.0),
            top_k: number("top_k", 0.0) as u32,
            top_p: number("top_p", 1.0),
            min_p: number("min_p", 0.0),
            repetition: number("repetition_penalty", 1.0),
            seen_token: &seen,
            seen_count: &vec![0; seen.len()],
            ..RowSampling::PLAIN
        };
        let mut got = reference::sample::probabilities(&logits, &how);
        let want = case.get("probabilities").and_then(Value::as_array);
        let mut want: Vec<f64> = match want {
            Some(p) => p.iter().map(|p| p.as_f64().unwrap()).collect(),
            None => {
                case["kept_probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect()
            }
        };
        // "large" keeps tokens whose probability is 0 even in f64.
        if case["vector"] != "large" {
            assert_eq!(
                got.iter().filter(|p| **p > 0.0).count() as u64,
                case["kept"].as_u64().unwrap(),
                "{case}"
            );
        }
        got.sort_by(|a, b| b.total_cmp(a));
        want.sort_by(|a, b| b.total_cmp(a));
        // transformers rounds 1000 / temperature to f32; here the maximum is subtracted first.
        let tolerance = if case["vector"] == "large" { 1e-5 } else { 1e-6 };
        for (got, want) in got.iter().zip(&want) {
            assert!((got - want).abs() < tolerance, "{got} {want} in {case}");
        }
        check_draws(&case.to_string(), &logits, &how, 40);
        checked += 1;
    }
    assert!(checked > 200, "{checked} cases");
}

#[test]
fn draws_from_a_large_vocabulary_follow_the_reference() {
    let mut random = Random(5);
    let logits: Vec<f32> = random.numbers(5003).iter().map(|v| v * 9.0).collect();
    let seen: Vec<u32> = (0..300).map(|i| i * 7).collect();
    let counts: Vec<u32> = (0..300).map(|i| i % 3).collect();
    let mask: Vec<u32> = (0..5003usize.div_ceil(32)).map(|_| random.bits() as u32 | 1).collect();
    let rows = [
        RowSampling { temperature: 0.8, ..RowSampling::PLAIN },
        RowSampling { temperature: 1.3, top_p: 0.9, ..RowSampling::PLAIN },
        RowSampling { temperature: 50.0, top_p: 0.97, ..RowSampling::PLAIN },
        RowSampling { top_k: 40, ..RowSampling::PLAIN },
        RowSampling { temperature: 2.0, top_k: 3000, top_p: 0.6, min_p: 0.01, ..RowSampling::PLAIN },
        RowSampling { temperature: 0.5, min_p: 0.1, ..RowSampling::PLAIN },
        RowSampling { bias_token: &[7, 9], bias_value: &[4.0, -100.0], ..RowSampling::PLAIN },
        RowSampling { mask: &mask, top_p: 0.8, ..RowSampling::PLAIN },
        RowSampling {
            seen_token: &seen,
            seen_count: &counts,
            repetition: 1.3,
            presence: 0.5,
            frequency: 0.2,
            ..RowSampling::PLAIN
        },
    ];
    for how in &rows {
        check_draws(&format!("{how:?}"), &logits, how, 200);
        for isa in Isa::available() {
            let greedy = RowSampling { temperature: 0.0, ..*how };
            let got = sample(isa, &logits, &greedy, &mut Scratch::new(logits.len())).0;
            assert_eq!(got, reference::sample::sample(&logits, &greedy), "{} {greedy:?}", isa.name());
        }
    }
}

#[test]
fn frequencies_of_draws_pass_a_chi_square_test() {
    let logits: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).sin()).collect();
    let p = reference::sample::probabilities(&logits, &RowSampling::PLAIN);
    let (draws, mut counts) = (40_000, [0.0; 20]);
    let mut scratch = Scratch::new(20);
    for seed in 0..draws {
        let token =
            sample(Isa::available()[0], &logits, &RowSampling { seed, ..RowSampling::PLAIN }, &mut scratch).0;
        counts[token as usize] += 1.0;
    }
    let chi: f64 =
        counts.iter().zip(&p).map(|(n, p)| (n - p * draws as f64).powi(2) / (p * draws as f64)).sum();
    // 19 degrees of freedom: 43.8 is exceeded once in a thousand; the seeds are fixed.
    assert!(chi < 43.8, "{chi}");
}

fn tokens(device: &mut Cpu, sampled: &Sampled) -> Vec<i32> {
    let (sender, found) = channel();
    device.fetch(sampled, move |rows| sender.send(rows.unwrap().0.to_vec()).unwrap()).unwrap();
    found.recv().unwrap()
}

#[test]
fn rows_without_a_finite_logit_give_no_token() {
    let mut nan = vec![0.5; 70];
    nan[69] = f32::NAN;
    for (name, mut device) in devices(2) {
        let rows = [vec![f32::NEG_INFINITY; 70], nan.clone(), vec![1.0; 70]];
        let logits = filled(3, 70, &rows.concat());
        let mut out = device.sampled(3, 70).unwrap();
        for temperature in [0.0, 1.0] {
            let row = RowSampling { temperature, ..RowSampling::PLAIN };
            device.sample(&logits, &[row, row, RowSampling { mask: &[0, 0, 0], ..row }], &mut out).unwrap();
            assert_eq!(tokens(&mut device, &out), [-1, -1, -1], "{name}");
            let forced = RowSampling { forced: Some(3), ..row };
            device.sample(&logits, &[row, row, forced], &mut out).unwrap();
            assert_eq!(tokens(&mut device, &out)[2], 3, "{name}");
        }
    }
}

#[test]
fn the_top_k_are_those_of_a_sort() {
    let mut random = Random(6);
    for n in [1, 63, 64, 65, 1000, 5000] {
        let logits: Vec<f32> = random.numbers(n).iter().map(|v| (v * 30.0).round() / 3.0).collect();
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        for k in [1, 5, 20, 100, n].into_iter().filter(|k| *k <= n) {
            for isa in Isa::available() {
                let (mut ids, mut logprobs) = (vec![0; k], vec![0.0; k]);
                top_k(isa, &logits, &mut Scratch::new(n), &mut ids, &mut logprobs);
                assert_eq!(ids, order[..k], "{} of {n} on {}", k, isa.name());
                let want = reference::sample::log_probability(&logits, ids[0] as usize);
                assert!((logprobs[0] - want).abs() < 1e-5);
            }
        }
    }
}
