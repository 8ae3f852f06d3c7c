// RMSNorm (arXiv 1910.07467), row by row.
//
//   add_rms_norm: residual += x; out = residual / sqrt(mean(residual^2) + eps) * weight
//   rms_norm:     x = x / sqrt(mean(x^2) + eps) * weight, in place
//
// residual and x [rows, cols] of f32, weight [cols] of f32, out [rows, cols] of T; aligned to 16 bytes, cols a
// multiple of 4. Grid: one block a row; up to 512 threads, a multiple of 32. A thread keeps 16 columns in registers,
// so up to 8192 columns are read once. sm_80 and newer.
#include "reduce.cuh"
#include "vector.cuh"

constexpr u32 HELD = 4; // groups of four columns that a thread keeps

// Reads four columns, adds `x` (if there is one) and writes the sum back: the sum of their squares.
DEVICE f32 read_four(f32* row, const f32* x, u32 col, f32 (&v)[4]) {
    load_four(row + col, v);
    if (x) {
        f32 more[4];
        load_four(x + col, more);
#pragma unroll
        for (u32 i = 0; i < 4; i++) v[i] += more[i];
        store_four(row + col, v);
    }
    return v[0] * v[0] + v[1] * v[1] + v[2] * v[2] + v[3] * v[3];
}

template <class T> DEVICE void write_four(const f32 (&v)[4], const f32* weight, f32 scale, T* out, u32 col) {
    f32 w[4];
    load_four(weight + col, w);
#pragma unroll
    for (u32 i = 0; i < 4; i++) w[i] *= v[i] * scale;
    store_four(out + col, w);
}

// `row += x` where there is an `x`, then `out` is the norm of the row; `out` may be the row.
template <class T>
DEVICE void norm_row(f32* row, const f32* x, const f32* weight, T* out, u32 cols, f32 eps) {
    SHARED(f32, room, [WARPS]);
    const u32 step = block_threads() * 4, first = thread_x() * 4;
    f32 held[HELD][4], v[4], squares = 0;
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        if (first + i * step < cols) squares += read_four(row, x, first + i * step, held[i]);
    }
    for (u32 col = first + HELD * step; col < cols; col += step) squares += read_four(row, x, col, v);

    const f32 scale = 1.0f / sqrt_f32(block_sum(squares, room) / static_cast<f32>(cols) + eps);
#pragma unroll
    for (u32 i = 0; i < HELD; i++) {
        if (first + i * step < cols) write_four(held[i], weight, scale, out, first + i * step);
    }
    for (u32 col = first + HELD * step; col < cols; col += step) {
        load_four(row + col, v);
        write_four(v, weight, scale, out, col);
    }
}

#define ENTRY(T)                                                                                                      \
    KERNEL(512, 2)                                                                                                    \
    add_rms_norm_##T(f32* residual, const f32* x, const f32* weight, T* out, u32 rows, u32 cols, f32 eps) {           \
        if (block_x() >= rows) return;                                                                                \
        const u64 at = u64(block_x()) * cols;                                                                         \
        norm_row<T>(residual + at, x + at, weight, out + at, cols, eps);                                              \
    }                                                                                                                 \
    REGISTER(add_rms_norm_##T)
ENTRY(bf16)
ENTRY(f16)
ENTRY(f32)

KERNEL(512, 2) rms_norm_f32(f32* x, const f32* weight, u32 rows, u32 cols, f32 eps) {
    if (block_x() >= rows) return;
    f32* row = x + u64(block_x()) * cols;
    norm_row<f32>(row, nullptr, weight, row, cols, eps);
}
REGISTER(rms_norm_f32)
