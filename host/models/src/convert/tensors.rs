//! Weights: names, dtype, and the order of Q and K rows.
use super::config::{Architecture, Kind};
use crate::{
    Dtype, ModelsError, OnEvent,
    gguf::{Gguf, Tensor},
    weights::{self, Entry},
};
use std::path::Path;

/// What a tensor needs besides a new name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fix {
    Nothing,
    /// Undo llama.cpp's order of rotary rows; the number of heads.
    Unpermute(usize),
    /// Gemma's norms multiply by 1 + weight; llama.cpp stores the sum.
    MinusOne,
}

pub(super) fn write(
    gguf: &Gguf<'_>,
    architecture: &Architecture,
    dtype: Dtype,
    path: &Path,
    on_event: &mut OnEvent<'_>,
) -> Result<(), ModelsError> {
    let bad = |e: String| ModelsError::file(Path::new("GGUF"), e);
    let (mut entries, mut fixes) = (Vec::new(), Vec::new());
    for tensor in &gguf.tensors {
        let (name, fix, shape) = place(tensor.name, architecture).map_err(bad)?;
        if tensor.shape != shape {
            return Err(bad(format!("tensor {} has shape {:?}, not {shape:?}", tensor.name, tensor.shape)));
        }
        let bytes = (shape.iter().product::<usize>() * dtype.size()) as u64;
        entries.push(Entry { name, dtype: dtype.safetensors().into(), shape, bytes });
        fixes.push(fix);
    }
    complete(&entries, architecture).map_err(bad)?;
    let mut values = Vec::new();
    weights::write(path, &entries, &format!("convert to {dtype}"), on_event, |i, out| {
        values.clear();
        dequantize(&gguf.tensors[i], fixes[i], &mut values);
        dtype.encode(&values, out).map_err(|e| bad(format!("tensor {}: {e}", gguf.tensors[i].name)))
    })
}

fn dequantize(tensor: &Tensor<'_>, fix: Fix, values: &mut Vec<f32>) {
    tensor.quant.dequantize(tensor.data, values);
    match fix {
        Fix::Nothing => {}
        Fix::Unpermute(heads) => {
            let row = tensor.shape.last().copied().unwrap_or(1);
            *values = unpermute(values, heads, row);
        }
        Fix::MinusOne => values.iter_mut().for_each(|x| *x -= 1.0),
    }
}

/// llama.cpp stores the rows of each head as pairs (i, i + head_dim/2), for a rotation of neighbours
/// (`LlamaModel.permute` in convert_hf_to_gguf.py); Hugging Face rotates halves. `values` is `[heads · head_dim, row]`.
fn unpermute(values: &[f32], heads: usize, row: usize) -> Vec<f32> {
    let half = values.len() / row / heads / 2;
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks_exact(2 * half * row) {
        for side in 0..2 {
            for i in 0..half {
                out.extend_from_slice(&head[(2 * i + side) * row..][..row]);
            }
        }
    }
    out
}

/// Hugging Face's name, the fix, and the shape a tensor of this model must have.
fn place(name: &str, a: &Architecture) -> Result<(String, Fix, Vec<usize>), String> {
    let unknown = || format!("tensor {name} is not part of a {:?} model", a.kind);
    let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
    // llama.cpp keeps the halves of gemma's rotary rows as they are.
    let (norm, rotary): (_, fn(usize) -> Fix) = match a.kind {
        Kind::Llama => (Fix::Nothing, Fix::Unpermute),
        Kind::Gemma3 => (Fix::MinusOne, |_| Fix::Nothing),
    };
    let plain = |name: &str, fix, shape: &[usize]| Ok((name.to_string(), fix, shape.to_vec()));
    match name {
        "token_embd.weight" => return plain("model.embed_tokens.weight", Fix::Nothing, &[a.vocab, a.hidden]),
        "output.weight" => return plain("lm_head.weight", Fix::Nothing, &[a.vocab, a.hidden]),
        "output_norm.weight" => return plain("model.norm.weight", norm, &[a.hidden]),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("blk.").and_then(|n| n.split_once('.')).ok_or_else(unknown)?;
    let layer: usize = layer.parse().ok().filter(|&l| l < a.layers).ok_or_else(unknown)?;
    let rest = rest.strip_suffix(".weight").ok_or_else(unknown)?;
    let (to, fix, shape) = match (a.kind, rest) {
        (_, "attn_norm") => ("input_layernorm", norm, vec![a.hidden]),
        (Kind::Llama, "ffn_norm") => ("post_attention_layernorm", norm, vec![a.hidden]),
        (Kind::Gemma3, "post_attention_norm") => ("post_attention_layernorm", norm, vec![a.hidden]),
        (Kind::Gemma3, "ffn_norm") => ("pre_feedforward_layernorm", norm, vec![a.hidden]),
        (Kind::Gemma3, "post_ffw_norm") => ("post_feedforward_layernorm", norm, vec![a.hidden]),
        (Kind::Gemma3, "attn_q_norm") => ("self_attn.q_norm", norm, vec![a.head_dim]),
        (Kind::Gemma3, "attn_k_norm") => ("self_attn.k_norm", norm, vec![a.head_dim]),
        (_, "attn_q") => ("self_attn.q_proj", rotary(a.heads), vec![q, a.hidden]),
        (_, "attn_k") => ("self_attn.k_proj", rotary(a.kv_heads), vec![kv, a.hidden]),
        (_, "attn_v") => ("self_attn.v_proj", Fix::Nothing, vec![kv, a.hidden]),
        (_, "attn_output") => ("self_attn.o_proj", Fix::Nothing, vec![a.hidden, q]),
        (_, "ffn_gate") => ("mlp.gate_proj", Fix::Nothing, vec![a.feed_forward, a.hidden]),
        (_, "ffn_up") => ("mlp.up_proj", Fix::Nothing, vec![a.feed_forward, a.hidden]),
        (_, "ffn_down") => ("mlp.down_proj", Fix::Nothing, vec![a.hidden, a.feed_forward]),
        _ => return Err(unknown()),
    };
    Ok((format!("model.layers.{layer}.{to}.weight"), fix, shape))
}

/// So many tensors a layer, and the embedding and the last norm (the head only where it is not tied).
fn complete(entries: &[Entry], a: &Architecture) -> Result<(), String> {
    let a_layer = match a.kind {
        Kind::Llama => 9,
        Kind::Gemma3 => 13,
    };
    let expected = a_layer * a.layers + 2;
    let head = entries.iter().filter(|e| e.name == "lm_head.weight").count();
    if entries.len() == expected + head {
        Ok(())
    } else {
        Err(format!("{} tensors, not {expected}", entries.len() - head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The forward permutation as convert_hf_to_gguf.py writes it: reshape(heads, 2, half, row), swap axes 1 and 2.
    fn permute(values: &[f32], heads: usize, row: usize) -> Vec<f32> {
        let half = values.len() / row / heads / 2;
        let mut out = Vec::new();
        for h in 0..heads {
            for i in 0..half {
                for side in 0..2 {
                    out.extend_from_slice(&values[((h * 2 + side) * half + i) * row..][..row]);
                }
            }
        }
        out
    }

    #[test]
    fn unpermute_undoes_the_permutation_of_llama_cpp() {
        for (heads, head_dim, row) in [(1, 2, 1), (3, 8, 5), (9, 64, 3)] {
            let values: Vec<f32> = (0..heads * head_dim * row).map(|x| x as f32).collect();
            assert_eq!(unpermute(&permute(&values, heads, row), heads, row), values);
        }
        // By hand: one head of four rows a b c d is stored a c b d.
        assert_eq!(unpermute(&[0., 2., 1., 3.], 1, 1), [0., 1., 2., 3.]);
    }
}
