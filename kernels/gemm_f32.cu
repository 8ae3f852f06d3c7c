// Linear layers of f32 models: out[m, column + n] = sum_k x[m, k] * w[n, k] + bias[n], in f32 throughout (no tf32).
//
// x f32 [M, K], w f32 [N, K], bias f32 [N] or null, out f32 with its own row stride. K a multiple of 4, x and w 16-byte
// aligned, any M and N. Every sum runs over K in an order that depends on the kernel alone.
//   gemm_f32_8x16      grid (ceil(N / 16), ceil(M / 8)), 128 threads: a warp per 4 outputs, bound by reading w
//   gemm_f32_64x64     grid (ceil(N / 64), ceil(M / 64)), 256 threads
//   gemm_f32_128x128   grid (ceil(N / 128), ceil(M / 128)), 256 threads, two blocks per multiprocessor (<= 128 registers)
// Any architecture.
#include "device.cuh"

struct F32x4 {
    f32 of[4];
};

DEVICE F32x4 load_four(const f32* at) {
    const vec16 v = load16(at);
    return {{float_of(v.x), float_of(v.y), float_of(v.z), float_of(v.w)}};
}

DEVICE F32x4 stream_four(const f32* at) {
    const vec16 v = load16_stream(at);
    return {{float_of(v.x), float_of(v.y), float_of(v.z), float_of(v.w)}};
}

// Tiles: 16x16 threads, each SIDE x SIDE outputs in groups of four, 64 apart.

template <u32 SIDE> struct TileF32 {
    static constexpr u32 side = SIDE;
    static constexpr u32 width = SIDE * 16;
    // K of a stage, so that each of 256 threads moves four numbers of x and four of w.
    static constexpr u32 k = 1024 / width;
    static constexpr u32 pitch = width + 4;
};

// Four consecutive k of one row; zeros beyond the matrix.
DEVICE F32x4 load_piece(const f32* matrix, u32 row, u32 rows, u32 at, u32 k) {
    return row < rows && at < k ? load_four(matrix + static_cast<u64>(row) * k + at) : F32x4{};
}

// Stages are transposed, [k][row].
template <class Tile> DEVICE void store_piece(f32* stage, u32 row, u32 at, const F32x4& piece) {
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        stage[(at + i) * Tile::pitch + row] = piece.of[i];
    }
}

template <class Tile> DEVICE void read_side(f32 (&values)[Tile::side], const f32* stage, u32 k, u32 at) {
#pragma unroll
    for (u32 i = 0; i < Tile::side; i += 4) {
        const F32x4 four = load_four(stage + k * Tile::pitch + i * 16 + at * 4);
#pragma unroll
        for (u32 j = 0; j < 4; j++) {
            values[i + j] = four.of[j];
        }
    }
}

template <class Tile>
DEVICE void multiply_stage(f32 (&sums)[Tile::side][Tile::side], const f32* x, const f32* w, u32 down, u32 across) {
#pragma unroll
    for (u32 k = 0; k < Tile::k; k++) {
        f32 left[Tile::side], right[Tile::side];
        read_side<Tile>(left, x, k, down);
        read_side<Tile>(right, w, k, across);
#pragma unroll
        for (u32 i = 0; i < Tile::side; i++) {
#pragma unroll
            for (u32 j = 0; j < Tile::side; j++) {
                sums[i][j] = fma_f32(left[i], right[j], sums[i][j]);
            }
        }
    }
}

template <class Tile>
DEVICE void gemm_f32(const f32* x, const f32* w, const f32* bias, f32* out, u32 m, u32 n, u32 k, u32 out_stride,
                     u32 column) {
    constexpr u32 stage = Tile::k * Tile::pitch;
    SHARED(f32, x_stages, [2 * stage]);
    SHARED(f32, w_stages, [2 * stage]);
    const u32 m0 = block_y() * Tile::width, n0 = block_x() * Tile::width;
    const u32 row = thread_x() / (Tile::k / 4), at = thread_x() % (Tile::k / 4) * 4;
    const u32 down = thread_x() / 16, across = thread_x() % 16;
    f32 sums[Tile::side][Tile::side] = {};
    F32x4 next_x = load_piece(x, m0 + row, m, at, k), next_w = load_piece(w, n0 + row, n, at, k);
    u32 now = 0;
    for (u32 first = 0; first < k; first += Tile::k) {
        store_piece<Tile>(x_stages + now, row, at, next_x);
        store_piece<Tile>(w_stages + now, row, at, next_w);
        sync_block();
        // The next stage is on its way while this one is multiplied; it goes to the other buffer, which all have read.
        next_x = load_piece(x, m0 + row, m, first + Tile::k + at, k);
        next_w = load_piece(w, n0 + row, n, first + Tile::k + at, k);
        multiply_stage<Tile>(sums, x_stages + now, w_stages + now, down, across);
        now = stage - now;
    }
#pragma unroll
    for (u32 i = 0; i < Tile::side; i++) {
        const u32 to_m = m0 + i / 4 * 64 + down * 4 + i % 4;
#pragma unroll
        for (u32 j = 0; j < Tile::side; j++) {
            const u32 to_n = n0 + j / 4 * 64 + across * 4 + j % 4;
            if (to_m < m && to_n < n) {
                out[static_cast<u64>(to_m) * out_stride + column + to_n] = sums[i][j] + (bias ? bias[to_n] : 0.0f);
            }
        }
    }
}

// Few rows: a warp's lanes share K; four outputs at a time, so that x is read a fourth as often.
constexpr u32 FEW_ROWS = 8;
constexpr u32 FEW_OUTPUTS = 4;

DEVICE void gemm_f32_few(const f32* x, const f32* w, const f32* bias, f32* out, u32 m, u32 n, u32 k, u32 out_stride,
                         u32 column) {
    const u32 m0 = block_y() * FEW_ROWS, n0 = (block_x() * 4 + warp()) * FEW_OUTPUTS;
    const u32 rows = m - m0 < FEW_ROWS ? m - m0 : FEW_ROWS;
    const f32* weights[FEW_OUTPUTS];
#pragma unroll
    for (u32 j = 0; j < FEW_OUTPUTS; j++) {
        weights[j] = w + static_cast<u64>(n0 + j < n ? n0 + j : n - 1) * k;
    }
    f32 sums[FEW_ROWS][FEW_OUTPUTS] = {};
#pragma unroll 2
    for (u32 at = lane() * 4; at < k; at += 128) {
        F32x4 four[FEW_OUTPUTS];
#pragma unroll
        for (u32 j = 0; j < FEW_OUTPUTS; j++) {
            four[j] = stream_four(weights[j] + at);
        }
#pragma unroll
        for (u32 i = 0; i < FEW_ROWS; i++) {
            if (i < rows) {
                const F32x4 v = load_four(x + static_cast<u64>(m0 + i) * k + at);
#pragma unroll
                for (u32 j = 0; j < FEW_OUTPUTS; j++) {
#pragma unroll
                    for (u32 c = 0; c < 4; c++) {
                        sums[i][j] = fma_f32(v.of[c], four[j].of[c], sums[i][j]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (u32 i = 0; i < FEW_ROWS; i++) {
#pragma unroll
        for (u32 j = 0; j < FEW_OUTPUTS; j++) {
            f32 sum = sums[i][j];
#pragma unroll
            for (u32 mask = 16; mask > 0; mask /= 2) {
                sum += shfl_xor(sum, mask);
            }
            if (lane() == i * FEW_OUTPUTS + j && i < rows && n0 + j < n) {
                out[static_cast<u64>(m0 + i) * out_stride + column + n0 + j] = sum + (bias ? bias[n0 + j] : 0.0f);
            }
        }
    }
}

#define ENTRY(TILE, THREADS, BLOCKS, BODY)                                                                              \
    KERNEL(THREADS, BLOCKS)                                                                                            \
    gemm_f32_##TILE(const f32* x, const f32* w, const f32* bias, f32* out, u32 m, u32 n, u32 k, u32 out_stride,        \
                    u32 column) {                                                                                      \
        BODY(x, w, bias, out, m, n, k, out_stride, column);                                                            \
    }                                                                                                                  \
    REGISTER(gemm_f32_##TILE)
ENTRY(8x16, 128, 4, gemm_f32_few)
ENTRY(64x64, 256, 4, gemm_f32<TileF32<4>>)
ENTRY(128x128, 256, 2, gemm_f32<TileF32<8>>)
