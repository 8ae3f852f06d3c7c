// Rows and numbers on the way to logits.
//
//   gather_rows: out[r] = x[row(r)]
//   softcap:     x = cap * tanh(x / cap)   (Gemma 2, arXiv 2408.00118)
//
// All of f32, aligned to 16 bytes. gather_rows: cols a multiple of 4; grid x at least the step's rows; 128 threads.
// softcap: n = n_hi * 2^32 + n_lo numbers; any grid and block. sm_80 and newer.
#include "batch.cuh"
#include "vector.cuh"

KERNEL(128, 8) gather_rows_f32(const Batch* batch, const f32* x, f32* out, u32 cols) {
    const u32 row = block_x();
    if (row >= batch->n_rows) return;
    const f32* from = x + u64(batch_row(batch, row)) * cols;
    f32* to = out + u64(row) * cols;
    for (u32 col = thread_x() * 4; col < cols; col += block_threads() * 4) store16(to + col, load16(from + col));
}
REGISTER(gather_rows_f32)

KERNEL(256, 4) softcap_f32(f32* x, u32 n_lo, u32 n_hi, f32 cap) {
    const u64 n = (u64(n_hi) << 32) | n_lo;
    const u64 step = u64(grid_x()) * block_threads() * 4;
    for (u64 i = (u64(block_x()) * block_threads() + thread_x()) * 4; i < n; i += step) {
        if (i + 4 <= n) {
            f32 v[4];
            load_four(x + i, v);
#pragma unroll
            for (u32 j = 0; j < 4; j++) v[j] = cap * tanh_f32(v[j] / cap);
            store_four(x + i, v);
        } else {
            for (u64 j = i; j < n; j++) x[j] = cap * tanh_f32(x[j] / cap);
        }
    }
}
REGISTER(softcap_f32)
