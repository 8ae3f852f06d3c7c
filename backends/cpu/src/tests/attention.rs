use super::{Random, assert_close, devices, filled};
use crate::device::Cpu;
use crate::reference;
use half::bf16;
use tokenmill_backend_model::device::{Attention, CacheShape, Device, Dtype, Heads, Precision, Step};

/// Sequences that grow step by step over scattered blocks.
struct Case {
    how: Attention,
    block_tokens: usize,
    dtype: Dtype,
    /// Tokens of each sequence.
    lengths: Vec<usize>,
    /// `[query | key | value]` of every token of every sequence.
    qkv: Vec<Vec<f32>>,
}

impl Case {
    fn new(random: &mut Random, index: usize) -> Case {
        let (query, kv) = [(9, 3), (4, 1), (3, 3), (8, 2)][index % 4];
        let heads = Heads { query, kv, dim: [16, 24, 64, 80, 96, 256][index % 6] };
        let how = Attention {
            heads,
            scale: 1.5 / (heads.dim as f32).sqrt(),
            window: (index % 3 == 1).then(|| random.size(1, 90)),
            softcap: (index % 4 == 2).then_some(2.0),
        };
        let lengths: Vec<usize> = (0..3).map(|_| random.size(1, 200)).collect();
        let qkv = lengths.iter().map(|n| random.numbers(n * heads.columns())).collect();
        let block_tokens = [1, 4, 16, 32, 64, 128][random.size(0, 5)];
        Case { how, block_tokens, dtype: [Dtype::F32, Dtype::Bf16][index % 2], lengths, qkv }
    }

    /// Outputs of every sequence when each step computes `per_step` tokens of each.
    fn run(&self, device: &mut Cpu, per_step: usize) -> Vec<Vec<f32>> {
        let heads = self.how.heads;
        let per_seq = self.lengths.iter().max().unwrap().div_ceil(self.block_tokens);
        let shape = CacheShape {
            layers: 2,
            query_heads: heads.query,
            kv_heads: heads.kv,
            head_dim: heads.dim,
            block_tokens: self.block_tokens,
            blocks: per_seq * self.lengths.len(),
            dtype: self.dtype,
        };
        let mut cache = device.cache(shape).unwrap();
        let mut batch = device.batch(600, 3, 3, shape.blocks).unwrap();
        // Angles of zero: what is stored is what was given.
        let rope =
            device.rope(&vec![1.0; 200 * heads.dim / 2], &vec![0.0; 200 * heads.dim / 2], heads.dim / 2);
        let rope = rope.unwrap();
        let mut outputs = vec![Vec::new(); self.lengths.len()];
        for first in (0..*self.lengths.iter().max().unwrap()).step_by(per_step) {
            let active: Vec<usize> = (0..self.lengths.len()).filter(|&s| first < self.lengths[s]).collect();
            let end = |s: usize| (first + per_step).min(self.lengths[s]);
            let (mut starts, mut rows) = (vec![0], Vec::new());
            for &s in &active {
                rows.extend_from_slice(&self.qkv[s][first * heads.columns()..end(s) * heads.columns()]);
                starts.push(starts.last().unwrap() + (end(s) - first) as u32);
            }
            let tokens = *starts.last().unwrap() as usize;
            let blocks: Vec<u32> = active
                .iter()
                .flat_map(|&s| (0..per_seq).map(move |b| (b * self.lengths.len() + s) as u32))
                .collect();
            let bounds: Vec<u32> = (0..=active.len()).map(|i| (i * per_seq) as u32).collect();
            let step = Step {
                tokens: &vec![0; tokens],
                seq_start: &starts,
                seq_pos: &vec![first as u32; active.len()],
                block_start: &bounds,
                blocks: &blocks,
                rows: &[],
                copies: &[],
            };
            device.begin(&step, &mut batch, &mut cache).unwrap();
            let mut qkv = filled(tokens, heads.columns(), &rows);
            device.rope_store(&batch, &mut qkv, heads, None, &rope, 1, &mut cache).unwrap();
            let mut out = device.buffer(tokens, heads.query * heads.dim, Precision::Work).unwrap();
            device.attention(&batch, &qkv, 1, &cache, &self.how, &mut out).unwrap();
            for (i, &s) in active.iter().enumerate() {
                let width = heads.query * heads.dim;
                outputs[s].extend_from_slice(
                    &out.all()[starts[i] as usize * width..starts[i + 1] as usize * width],
                );
            }
        }
        outputs
    }

    fn reference(&self, seq: usize) -> Vec<f32> {
        let heads = self.how.heads;
        let kept: Vec<f32> = match self.dtype {
            Dtype::Bf16 => self.qkv[seq].iter().map(|v| bf16::from_f32(*v).to_f32()).collect(),
            _ => self.qkv[seq].clone(),
        };
        let head = |values: &[f32], t: usize, h: usize| -> Vec<f32> {
            values[t * heads.columns() + h * heads.dim..][..heads.dim].to_vec()
        };
        let mut out = vec![0.0; self.lengths[seq] * heads.query * heads.dim];
        for (i, out) in out.chunks_exact_mut(heads.dim).enumerate() {
            let (t, h) = (i / heads.query, i % heads.query);
            let kv = heads.query + h / (heads.query / heads.kv);
            let from = self.how.window.map_or(0, |w| (t + 1).saturating_sub(w));
            let keys: Vec<Vec<f32>> = (from..=t).map(|p| head(&kept, p, kv)).collect();
            let values: Vec<Vec<f32>> = (from..=t).map(|p| head(&kept, p, kv + heads.kv)).collect();
            let keys: Vec<&[f32]> = keys.iter().map(Vec::as_slice).collect();
            let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
            let query = head(&self.qkv[seq], t, h);
            reference::attention::attention(&query, &keys, &values, self.how.scale, self.how.softcap, out);
        }
        out
    }
}

#[test]
fn attention_equals_plain_loops_however_the_prompt_is_cut() {
    let mut random = Random(4);
    for index in 0..24 {
        let case = Case::new(&mut random, index);
        let want: Vec<Vec<f32>> = (0..3).map(|s| case.reference(s)).collect();
        for (name, mut device) in devices(1 + index % 3) {
            let what = format!("{name}, case {index}, {:?}, blocks of {}", case.how, case.block_tokens);
            let whole = case.run(&mut device, 200);
            for (got, want) in whole.iter().zip(&want) {
                assert_close(&what, got, want, 2e-5);
            }
            for per_step in [1, 7, 64] {
                assert!(whole == case.run(&mut device, per_step), "{what}: {per_step} tokens a step");
            }
        }
    }
}
