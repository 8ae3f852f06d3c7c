use tokenmill_backend_model::device::{CacheShape, Dtype};
use tokenmill_cuda::buffer::Cache;
use tokenmill_cuda::ops::copy::Copies;

use crate::support::{Random, downloaded, gpu, uploaded};

fn shape(layers: usize, kv_heads: usize, head_dim: usize, block_tokens: usize) -> CacheShape {
    let dtype = Dtype::Bf16;
    CacheShape { layers, query_heads: kv_heads, kv_heads, head_dim, block_tokens, blocks: 9, dtype }
}

#[test]
fn blocks_are_copied_in_order_in_every_layer() {
    let gpu = gpu();
    // Chains, a block that is read and then written, one that is written twice.
    let pairs = [(0, 1), (0, 2), (1, 3), (4, 0), (3, 5), (6, 5), (5, 7)];
    // Blocks of 2304, 12 and 4 bytes.
    for shape in [shape(3, 2, 72, 8), shape(2, 3, 2, 1), shape(1, 1, 2, 1)] {
        let block = shape.kv_heads * shape.head_dim * shape.block_tokens;
        let elements = 2 * shape.layers * shape.blocks * block;
        // Small whole numbers, so that none is rounded.
        let mut random = Random(7);
        let mut want: Vec<f32> = (0..elements).map(|_| random.below(200) as f32).collect();
        let cache = Cache { memory: uploaded(&gpu, Dtype::Bf16, &want), shape };
        // Room for fewer than there are.
        let mut copies = Copies::new(&gpu, 2).unwrap();
        copies.run(&gpu, &cache, &[]).unwrap();
        copies.run(&gpu, &cache, &pairs).unwrap();
        for (from, to) in pairs {
            for plane in want.chunks_mut(shape.blocks * block) {
                plane.copy_within(from as usize * block..(from as usize + 1) * block, to as usize * block);
            }
        }
        assert_eq!(downloaded(&gpu, Dtype::Bf16, cache.memory.ptr(), elements), want, "{shape:?}");
    }
}
