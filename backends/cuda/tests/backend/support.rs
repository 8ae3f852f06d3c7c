//! Libraries, models, and one sequence after the other through the ABI.
#![allow(dead_code)] // Each test uses a part of this.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokenmill_backend::abi::Row;
use tokenmill_backend::{Backend, Batch, Load, Model, Sampling};

pub(crate) const BLOCK: u32 = 16;
/// Tokens of a step, at most.
pub(crate) const MAX_TOKENS: usize = 64;

/// The CUDA library, over the emulator's driver unless the machine has a GPU to test.
pub(crate) fn cuda() -> Backend {
    tokenmill_emulator::preload();
    unready()
}

/// The CUDA library with whatever driver there is.
pub(crate) fn unready() -> Backend {
    Backend::open(&beside("tokenmill_cuda")).unwrap()
}

pub(crate) fn cpu() -> Backend {
    Backend::open(&beside("tokenmill_cpu")).unwrap()
}

/// Cargo puts libraries beside the test; so does whoever carries both to another machine.
fn beside(name: &str) -> PathBuf {
    let file = format!("{}{name}{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::env::current_exe().unwrap().parent().unwrap().join(file)
}

/// Where the files of the tests are: in the repository, or where they were carried to.
pub(crate) fn fixtures() -> PathBuf {
    match std::env::var_os("TOKENMILL_FIXTURES") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures"),
    }
}

pub(crate) fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

pub(crate) fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

pub(crate) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

pub(crate) fn load(
    backend: &Backend,
    dir: &Path,
    devices: &[i32],
    tensor_parallel: u32,
    options: &str,
) -> Model {
    let load = Load {
        dir,
        devices,
        tensor_parallel,
        block_tokens: BLOCK,
        max_tokens: MAX_TOKENS as u32,
        max_rows: MAX_TOKENS as u32,
        max_seqs: 16,
        depth: 2,
        kv_bytes: 0,
        options,
        progress: None,
    };
    backend.load(&load).unwrap_or_else(|error| panic!("{}, options {options:?}: {error}", dir.display()))
}

/// A model with one sequence in blocks 0, 1, 2, …
pub(crate) struct Runner(pub(crate) Model);

impl Runner {
    /// Logits of every token of `tokens`, computed at positions `pos…` in steps of at most `MAX_TOKENS`.
    pub(crate) fn logits(&mut self, tokens: &[i32], pos: usize) -> Vec<Vec<f32>> {
        let mut all = Vec::new();
        for (index, tokens) in tokens.chunks(MAX_TOKENS).enumerate() {
            let rows: Vec<u32> = (0..tokens.len() as u32).collect();
            all.extend(self.step(tokens, pos + index * MAX_TOKENS, &rows));
        }
        all
    }

    /// Logits of the tokens that `rows` points at.
    pub(crate) fn step(&mut self, tokens: &[i32], pos: usize, rows: &[u32]) -> Vec<Vec<f32>> {
        let blocks: Vec<u32> = (0..(pos + tokens.len()).div_ceil(BLOCK as usize) as u32).collect();
        let batch = Batch {
            tokens,
            seq_start: &[0, tokens.len() as u32],
            seq_pos: &[pos as u32],
            block_start: &[0, blocks.len() as u32],
            blocks: &blocks,
            rows,
            copies: &[],
        };
        let ticket = self.0.submit(&batch).unwrap();
        let all = (0..rows.len() as u32).map(|row| self.0.logits(ticket, row).unwrap().to_vec()).collect();
        self.0.release(ticket);
        all
    }

    /// Greedy tokens after `prompt`: each step's tokens are those that the step before sampled on the device.
    pub(crate) fn greedy(&mut self, prompt: &[i32], count: usize) -> Vec<i32> {
        let (mut out, mut tokens, mut logprobs) = (Vec::new(), Vec::new(), Vec::new());
        let mut before = None;
        for index in 0..count {
            let fed = if index == 0 { prompt } else { &[-1][..] };
            let pos = if index == 0 { 0 } else { prompt.len() + index - 1 };
            let blocks: Vec<u32> = (0..(pos + fed.len()).div_ceil(BLOCK as usize) as u32).collect();
            let batch = Batch {
                tokens: fed,
                seq_start: &[0, fed.len() as u32],
                seq_pos: &[pos as u32],
                block_start: &[0, blocks.len() as u32],
                blocks: &blocks,
                rows: &[fed.len() as u32 - 1],
                copies: &[],
            };
            let ticket = self.0.submit(&batch).unwrap();
            self.0.sample(ticket, &Sampling { rows: &[Row::default()], ..Sampling::default() }).unwrap();
            // Two steps are in flight: only now is the one before looked at.
            if let Some(before) = before.replace(ticket) {
                self.0.wait(before, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
                out.push(tokens[0]);
                self.0.release(before);
            }
        }
        if let Some(last) = before {
            self.0.wait(last, Duration::MAX, &mut tokens, &mut logprobs).unwrap();
            out.push(tokens[0]);
            self.0.release(last);
        }
        out
    }
}

/// Largest difference of two rows; NaN if there is one.
pub(crate) fn furthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let off = |(a, b): (&f32, &f32)| (a - b).abs();
    a.iter().zip(b).map(off).fold(0.0, |most, off| if off > most || off.is_nan() { off } else { most })
}
