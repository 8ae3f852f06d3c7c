// The gate of a gated MLP.
//
//   out[r, c] = activation(gate_up[r, c]) * gate_up[r, cols + c]
//
// activation: 0 SiLU, x / (1 + exp(-x)); 1 GELU by tanh, 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)));
// 2 GELU, 0.5 x (1 + erf(x / sqrt 2)) (arXiv 1606.08415, 2002.05202).
//
// gate_up [rows, 2 * cols] of T, out [rows, cols] of T, aligned to 16 bytes; cols * sizeof(T) a multiple of 16.
// Arithmetic is in f32. Grid: x the rows, y blocks of 1024 columns; 256 threads. sm_80 and newer.
#include "vector.cuh"

DEVICE f32 activate(f32 x, u32 activation) {
    if (activation == 0) return x / (1.0f + exp_f32(-x));
    if (activation == 1) {
        const f32 inner = 0.7978845608f * (x + 0.044715f * x * x * x);
        return 0.5f * x * (1.0f + tanh_f32(inner));
    }
    return 0.5f * x * (1.0f + erf_f32(x * 0.7071067812f));
}

template <class T> DEVICE void gate_mul(const T* gate_up, T* out, u32 rows, u32 cols, u32 activation) {
    const u32 row = block_x(), col = (block_y() * block_threads() + thread_x()) * 4;
    if (row >= rows || col >= cols) return;
    const T* from = gate_up + u64(row) * 2 * cols + col;
    f32 gate[4], up[4];
    load_four(from, gate);
    load_four(from + cols, up);
#pragma unroll
    for (u32 i = 0; i < 4; i++) gate[i] = activate(gate[i], activation) * up[i];
    store_four(out + u64(row) * cols + col, gate);
}

#define ENTRY(T)                                                                                                      \
    KERNEL(256, 4) gate_mul_##T(const T* gate_up, T* out, u32 rows, u32 cols, u32 activation) {                       \
        gate_mul<T>(gate_up, out, rows, cols, activation);                                                            \
    }                                                                                                                 \
    REGISTER(gate_mul_##T)
ENTRY(bf16)
ENTRY(f16)
ENTRY(f32)
