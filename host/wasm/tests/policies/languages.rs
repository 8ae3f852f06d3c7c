//! The example in Python, if `cargo xtask plugins --all` built it: `cargo xtask test` does. It needs more than a server
//! gives a policy, so nothing tests it over HTTP.

use std::path::Path;
use std::time::Duration;

use tokenmill_policy::Error;
use tokenmill_policy::sample::Logits;
use tokenmill_wasm::{Limits, Plugin, Runtime};

use crate::guests::{self, VOCAB, compiler, host};
use crate::steps::ask_with;

crate::tests!(a_policy_in_python_draws_only_what_is_likely);

/// Two tokens are likely.
struct Steep;

impl Steep {
    fn logprobs() -> Vec<f32> {
        let probability = |token| match token {
            0 => 0.6,
            1 => 0.3,
            _ => 0.1 / (VOCAB - 2) as f32,
        };
        (0..VOCAB).map(|token| f32::ln(probability(token))).collect()
    }
}

impl Logits for Steep {
    fn vocab(&self) -> u32 {
        VOCAB
    }

    fn top_k(&mut self, _: u32, k: u32) -> Result<(Vec<u32>, Vec<f32>), Error> {
        Ok(((0..k).collect(), Self::logprobs()[..k as usize].to_vec()))
    }

    fn read(&mut self, _: u32) -> Result<&[f32], Error> {
        Err(Error::Undecided("it asks for the largest only".into()))
    }
}

fn a_policy_in_python_draws_only_what_is_likely() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/plugins/epsilon-python.wasm");
    let Ok(component) = std::fs::read(file) else {
        return println!(
            "NOT tested: target/plugins/epsilon-python.wasm is not there; cargo xtask plugins --all"
        );
    };
    let patient = Duration::from_secs(200);
    let limits = Limits {
        component_bytes: 64 << 20,
        compile_time: patient,
        compile_memory: 8 << 30,
        memory: 128 << 20,
        configure: patient,
        sampling: patient,
        ..guests::limits()
    };
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new(limits, compiler, Some(folder.path().join("compiled"))).unwrap();
    let refused = Plugin::load(&runtime, "python", &component, "7", host()).err().unwrap().to_string();
    assert!(refused.contains("1/1024"), "{refused}");
    let plugin = Plugin::load(&runtime, "python", &component, "0.05", host()).unwrap();
    let rows: Vec<_> = (1..=64_u64).map(|row| (row, 0, 1, &[1][..])).collect();
    let seeds: Vec<u64> = rows.iter().map(|row| row.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
    let (knobs, choices) = ask_with(&mut *plugin.sampler().unwrap(), &rows, &[], &seeds, &mut Steep).unwrap();
    assert_eq!(knobs.inspect.len(), rows.len());
    let drawn: Vec<u32> = choices.accept.iter().map(|(_, token)| *token).collect();
    let count = |token| drawn.iter().filter(|drawn| **drawn == token).count();
    assert_eq!((drawn.len(), count(0) + count(1)), (64, 64), "{drawn:?}");
    // Two in three expected.
    assert!((30..=55).contains(&count(0)), "{} of 64", count(0));
}
