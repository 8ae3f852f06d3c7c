// Copies whole blocks of the KV cache, in every layer's keys and values at once.
//
//   plane[to] = plane[from] for every pair and plane
//
// cache: planes (keys and values of each layer) of `blocks` blocks of `words` u32 each, one after the other; `pairs`
// are (from, to).
// No pair may write what another of the same launch reads or writes: the launch code splits them.
// Blocks are aligned to 16 bytes if words is a multiple of 4, else to 4.
// Grid: x the pairs, y the planes; 256 threads. sm_80 and newer.
#include "device.cuh"

KERNEL(256, 4) copy_blocks(u8* cache, const u32* pairs, u32 n_pairs, u32 blocks, u32 words) {
    const u32 pair = block_x();
    if (pair >= n_pairs) return;
    const u64 from = pairs[2 * pair], to = pairs[2 * pair + 1];
    u32* plane = reinterpret_cast<u32*>(cache) + u64(block_y()) * blocks * words;
    const u32* source = plane + from * words;
    u32* target = plane + to * words;
    if (words % 4 == 0) {
        for (u32 i = thread_x() * 4; i < words; i += block_threads() * 4) {
            store16(target + i, load16_stream(source + i));
        }
    } else {
        for (u32 i = thread_x(); i < words; i += block_threads()) target[i] = source[i];
    }
}
REGISTER(copy_blocks)
