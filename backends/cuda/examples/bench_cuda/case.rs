//! The table of cases.

use serde_json::{Map, Value, json};
use tokenmill_backend_model::device::Heads;
use tokenmill_cuda::Cuda;

use crate::Operation;
use crate::attention::{Attention, Shape as AttentionShape};
use crate::geometry::{B1, B8, Geometry};
use crate::inputs::Failure;
use crate::linear::Linear;
use crate::rows::{Copy, Norm, Sample};
use crate::steps::Shape as StepsShape;

pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

pub(crate) enum Kind {
    Copy { bytes: usize },
    Norm { rows: usize, cols: usize },
    Linear { m: usize, n: usize, k: usize },
    Prefill(AttentionShape),
    Decode(AttentionShape),
    Sample { rows: usize, vocab: usize },
    Steps(StepsShape),
}

const TOP_K: u32 = 50;
const TOP_P: f32 = 0.9;

/// What is measured on a device.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = vec![
        new("copy/1GiB".into(), Kind::Copy { bytes: 1 << 30 }),
        new("linear/square/8192".into(), Kind::Linear { m: 8192, n: 8192, k: 8192 }),
    ];
    for of in [B8, B1] {
        cases.extend([1, 16, 64, 256, 2048].into_iter().flat_map(|m| linears(&of, m)));
    }
    cases.extend([512, 2048, 8192, 16384].map(|tokens| prefill(&B8, tokens, 16)));
    cases.extend([2048, 8192].map(|tokens| prefill(&B1, tokens, 16)));
    cases.extend([64, 2048].map(|rows| norm(rows, B8.hidden)));
    for of in [B1, B8] {
        cases.extend([1, 64].map(|sequences| steps(of, sequences, 1024, 64, "own")));
        cases.push(steps(of, 64, 1024, 64, "auto"));
    }
    // Last, as a peer may have to be compiled first.
    let of_8b = [(1, 1024), (1, 8192), (1, 32768), (16, 1024), (64, 1024), (64, 4096), (256, 1024)];
    cases.extend(of_8b.map(|(sequences, keys)| decode(&B8, sequences, keys, 16)));
    cases.push(decode(&B8, 64, 4096, 64));
    cases.extend([1, 64].map(|sequences| decode(&B1, sequences, 1024, 16)));
    cases.extend([1, 16, 64, 256].map(|rows| sample(rows, B8.vocab)));
    cases
}

/// One of each kind, small enough for the emulator.
#[cfg(test)]
pub(crate) fn small() -> Vec<Case> {
    use crate::geometry::TINY;

    vec![
        new("copy/1MiB".into(), Kind::Copy { bytes: 1 << 20 }),
        new("linear/tiny".into(), Kind::Linear { m: 3, n: 24, k: 32 }),
        prefill(&TINY, 24, 16),
        decode(&TINY, 2, 40, 16),
        sample(2, TINY.vocab),
        norm(3, TINY.hidden),
        steps(TINY, 2, 20, 3, "auto"),
    ]
}

fn new(name: String, kind: Kind) -> Case {
    Case { name, kind }
}

/// The linear layers of a decoder layer, and the output layer where its rows are few.
fn linears(of: &Geometry, m: usize) -> Vec<Case> {
    let layers = [
        ("qkv", of.qkv(), of.hidden),
        ("output", of.hidden, of.query_heads * of.dim),
        ("gate_up", 2 * of.intermediate, of.hidden),
        ("down", of.hidden, of.intermediate),
        ("head", of.vocab, of.hidden),
    ];
    let few = layers.into_iter().filter(|(layer, ..)| *layer != "head" || m <= 64);
    few.map(|(layer, n, k)| new(format!("linear/{}/{layer}/{m}", of.name), Kind::Linear { m, n, k }))
        .collect()
}

fn prefill(of: &Geometry, tokens: usize, block_tokens: usize) -> Case {
    let heads = heads(of);
    let shape = AttentionShape { sequences: 1, queries: tokens, keys: tokens, heads, block_tokens };
    new(format!("prefill/{}/{tokens}", of.name), Kind::Prefill(shape))
}

fn decode(of: &Geometry, sequences: usize, keys: usize, block_tokens: usize) -> Case {
    let shape = AttentionShape { sequences, queries: 1, keys, heads: heads(of), block_tokens };
    new(format!("decode/{}/{sequences}x{keys}/{block_tokens}", of.name), Kind::Decode(shape))
}

fn sample(rows: usize, vocab: usize) -> Case {
    new(format!("sample/{rows}x{vocab}"), Kind::Sample { rows, vocab })
}

fn norm(rows: usize, cols: usize) -> Case {
    new(format!("norm/{rows}x{cols}"), Kind::Norm { rows, cols })
}

fn steps(of: Geometry, sequences: usize, context: usize, steps: usize, gemm: &'static str) -> Case {
    let shape = StepsShape { of, sequences, context, steps, gemm };
    new(format!("steps/{}/{sequences}/{gemm}", of.name), Kind::Steps(shape))
}

fn heads(of: &Geometry) -> Heads {
    Heads { query: of.query_heads, kv: of.kv_heads, dim: of.dim }
}

impl Case {
    /// Its inputs on the device; `None`: it is no single operation.
    pub(crate) fn open(&self, device: &mut Cuda) -> Result<Option<Box<dyn Operation>>, Failure> {
        Ok(Some(match self.kind {
            Kind::Copy { bytes } => Box::new(Copy::new(device, bytes)?),
            Kind::Norm { rows, cols } => Box::new(Norm::new(device, rows, cols)?),
            Kind::Linear { m, n, k } => Box::new(Linear::new(device, m, n, k)?),
            Kind::Prefill(shape) | Kind::Decode(shape) => Box::new(Attention::new(device, shape)?),
            Kind::Sample { rows, vocab } => Box::new(Sample::new(device, rows, vocab, TOP_K, TOP_P)?),
            Kind::Steps(_) => return Ok(None),
        }))
    }

    /// Its name, its kind and the kind's numbers; `bytes` and `flops` are what it cannot do without.
    pub(crate) fn json(&self) -> Map<String, Value> {
        let (kind, figures) = match self.kind {
            Kind::Copy { bytes } => ("copy", json!({ "bytes": bytes })),
            Kind::Norm { rows, cols } => {
                ("norm", json!({ "rows": rows, "cols": cols, "bytes": 14 * rows * cols }))
            }
            Kind::Linear { m, n, k } => (
                "linear",
                json!({ "m": m, "n": n, "k": k, "flops": 2 * m * n * k, "bytes": 2 * (m * k + n * k + m * n) }),
            ),
            Kind::Prefill(shape) => ("prefill", attention_json(&shape)),
            Kind::Decode(shape) => ("decode", attention_json(&shape)),
            Kind::Sample { rows, vocab } => (
                "sample",
                json!({ "rows": rows, "vocab": vocab, "top_k": TOP_K, "top_p": TOP_P, "bytes": 4 * rows * vocab }),
            ),
            Kind::Steps(shape) => (
                "steps",
                json!({
                    "geometry": shape.of.name, "sequences": shape.sequences, "context": shape.context,
                    "gemm": shape.gemm,
                }),
            ),
        };
        let mut all =
            Map::from_iter([("name".into(), self.name.clone().into()), ("kind".into(), kind.into())]);
        if let Value::Object(mut figures) = figures {
            all.append(&mut figures);
        }
        all
    }
}

fn attention_json(shape: &AttentionShape) -> Value {
    let AttentionShape { sequences, queries, keys, heads, block_tokens } = *shape;
    // Causal: half of the square, where there is one.
    let pairs = sequences * queries * (2 * keys - queries + 1) / 2;
    json!({
        "sequences": sequences, "tokens": queries, "keys": keys, "query_heads": heads.query,
        "kv_heads": heads.kv, "dim": heads.dim, "block_tokens": block_tokens,
        "flops": 4 * pairs * heads.query * heads.dim,
        "bytes": 2 * sequences * (2 * keys * heads.kv + 2 * queries * heads.query) * heads.dim,
    })
}
