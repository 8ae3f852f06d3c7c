// Linear layers of few rows: out[m, column + n] = sum_k x[m, k] * w[n, k] + bias[n], M <= 32.
//
// x T [M, K], w T [N, K], bias f32 [N] or null, out f32 or T with its own row stride; T = bf16, f16; f32 accumulation.
// K a multiple of 8, x and w 16-byte aligned, any N, M <= the tile's. A kernel per tile, gemm_small_<T>_<M>x<N>:
//   grid (ceil(N / tile N), splits of K), 256 threads, dynamic shared memory SmallTile::shared_bytes (72 KB),
//   partials and counters as in split_k.cuh with ceil(tile M * tile N / 256) values per thread.
// sm_80 and newer (mma.sync, ldmatrix, cp.async). Occupancy: three blocks per multiprocessor of 228 KB, two of 164 KB
// (<= 80 registers), two with 32 rows (<= 128): 32 KB of weights in flight per block, where about 20 KB per
// multiprocessor cover the latency of HBM.
//
// Bound by reading the weights once. They are the A operand of mma (16 outputs), the few rows of x the B operand (8 rows),
// which wastes less than the other way round. Warps split the outputs of the tile, and K where there are more warps
// than outputs; a warp alone uses its weights, the group of warps that works on the same range of K shares its rows of x.
// The tensor cores do M = 1 as well: unpacking bf16 for fma would take more instructions than the seven idle rows.
#include "device.cuh"
#include "split_k.cuh"

constexpr u32 SMALL_WARPS = 8;
constexpr u32 SMALL_THREADS = SMALL_WARPS * 32;
// K of one step of the pipeline, 128 bytes of a row: a line of the cache.
constexpr u32 SMALL_STEP = 64;
constexpr u32 SMALL_ROW_BYTES = SMALL_STEP * 2;
// Steps in shared memory: one in use, two on their way.
constexpr u32 SMALL_STAGES = 3;

// M: rows of x. N: outputs, 16 per warp; as many warps as that leaves split K.
template <u32 M, u32 N> struct SmallTile {
    static constexpr u32 rows = M;
    static constexpr u32 outputs = N;
    static constexpr u32 side = N / 16;
    static constexpr u32 groups = SMALL_WARPS / side;
    static constexpr u32 group_threads = side * 32;
    static constexpr u32 weight_bytes = SMALL_WARPS * 16 * SMALL_ROW_BYTES;
    static constexpr u32 x_bytes = M * SMALL_ROW_BYTES;
    static constexpr u32 stage_bytes = weight_bytes + groups * x_bytes;
    static constexpr u32 shared_bytes = SMALL_STAGES * stage_bytes;
    // 16-byte pieces of x that each thread of a group copies per step.
    static constexpr u32 x_pieces = M * 8 / group_threads;
    // Rows of partial sums: 4 (mod 16) words, so that the 32 lanes of a fragment hit 32 banks.
    static constexpr u32 pitch = N + 4;
    static constexpr u32 values = (M * N + SMALL_THREADS - 1) / SMALL_THREADS;
    static_assert(groups * M * pitch * 4 <= shared_bytes, "partial sums take the place of the stages");
};

// Rows are 128 bytes, their pieces permuted so that 8 rows' pieces of the same K are in different banks.
DEVICE u32 small_offset(u32 row, u32 piece) { return row * SMALL_ROW_BYTES + ((piece ^ (row & 7)) << 4); }

// A thread's i-th row of x.
template <class Tile> DEVICE u32 x_row(u32 i) {
    return thread_x() % Tile::group_threads / 8 + i * (Tile::group_threads / 8);
}

// What a thread copies: piece lane & 7 of every fourth of its warp's weights, and of some of its group's rows of x.
template <class Tile> struct SmallSource {
    const u8* w;
    const u8* x;
    u32 w_row[4]; // offsets in bytes
    u32 x_row[Tile::x_pieces];
    u32 at; // k of the piece
};

template <class T, class Tile>
DEVICE SmallSource<Tile> small_source(const T* x, const T* w, u32 n, u32 k, u32 step) {
    SmallSource<Tile> source;
    const u32 first = block_x() * Tile::outputs;
    source.at = step * SMALL_STEP + (lane() & 7) * 8;
    source.w = reinterpret_cast<const u8*>(w + static_cast<u64>(first) * k + source.at);
    source.x = reinterpret_cast<const u8*>(x + source.at);
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        // Rows beyond N read the last one and are not stored.
        const u32 row = warp() % Tile::side * 16 + (lane() >> 3) + i * 4;
        source.w_row[i] = (first + row < n ? row : n - 1 - first) * k * 2;
    }
#pragma unroll
    for (u32 i = 0; i < Tile::x_pieces; i++) {
        source.x_row[i] = x_row<Tile>(i) * k * 2;
    }
    return source;
}

// Starts the copies of one step and moves on to the next. `weights` is the warp's part of the stage, `rows` the group's.
template <class Tile> DEVICE void copy_step(u8* weights, u8* rows, SmallSource<Tile>& source, u32 m, u32 k) {
    const u32 piece = lane() & 7;
    const bool valid = source.at < k;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        cp_async16(weights + small_offset((lane() >> 3) + i * 4, piece), source.w + source.w_row[i], valid);
    }
#pragma unroll
    for (u32 i = 0; i < Tile::x_pieces; i++) {
        const u32 row = x_row<Tile>(i);
        cp_async16(rows + small_offset(row, piece), source.x + source.x_row[i], valid && row < m);
    }
    source.w += SMALL_ROW_BYTES;
    source.x += SMALL_ROW_BYTES;
    source.at += SMALL_STEP;
}

template <class T, class Tile>
DEVICE void multiply_step(f32 (&sums)[Tile::rows / 8][4], const u8* weights, const u8* rows) {
    const u8* w = weights + (lane() & 15) * SMALL_ROW_BYTES;
    const u8* x = rows + (lane() & 7) * SMALL_ROW_BYTES;
    const u32 w_piece = ((lane() >> 4) ^ (lane() & 7)) << 4, x_piece = ((lane() >> 3) ^ (lane() & 7)) << 4;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        u32 left[2][4], right[Tile::rows / 8][4];
        ldmatrix_x4(left[0], w + (w_piece ^ half << 6));
        ldmatrix_x4(left[1], w + (w_piece ^ half << 6 ^ 32));
#pragma unroll
        for (u32 j = 0; j < Tile::rows / 8; j++) {
            ldmatrix_x4(right[j], x + (x_piece ^ half << 6) + j * (8 * SMALL_ROW_BYTES));
        }
#pragma unroll
        for (u32 k = 0; k < 2; k++) {
#pragma unroll
            for (u32 j = 0; j < Tile::rows / 8; j++) {
                const u32 two[2] = {right[j][k * 2], right[j][k * 2 + 1]};
                mma_16816<T>(sums[j], left[k], two);
            }
        }
    }
}

template <class Tile> DEVICE void sync_group(u32 group) {
    if constexpr (Tile::side == 1) {
        sync_warp();
    } else {
        sync_named(1 + group, Tile::group_threads);
    }
}

// This warp's sums over its group's range of K.
template <class T, class Tile>
DEVICE void accumulate(f32 (&sums)[Tile::rows / 8][4], u8* shared, const T* x, const T* w, u32 m, u32 n, u32 k) {
    const u32 group = warp() / Tile::side;
    const u32 slice = block_y() * Tile::groups + group, slices = grid_y() * Tile::groups;
    const u32 all = (k + SMALL_STEP - 1) / SMALL_STEP;
    const u32 begin = all * slice / slices, steps = all * (slice + 1) / slices - begin;
    u8* weights = shared + warp() * (16 * SMALL_ROW_BYTES);
    u8* rows = shared + Tile::weight_bytes + group * Tile::x_bytes;
    SmallSource<Tile> source = small_source<T, Tile>(x, w, n, k, begin);
#pragma unroll
    for (u32 i = 0; i + 1 < SMALL_STAGES; i++) {
        if (i < steps) {
            copy_step(weights + i * Tile::stage_bytes, rows + i * Tile::stage_bytes, source, m, k);
        }
        cp_async_commit();
    }
    u32 read = 0, write = (SMALL_STAGES - 1) * Tile::stage_bytes;
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<SMALL_STAGES - 2>();
        // Now the group has x of this step, and is done with the step before, whose stage is filled next.
        sync_group<Tile>(group);
        if (step + SMALL_STAGES - 1 < steps) {
            copy_step(weights + write, rows + write, source, m, k);
        }
        cp_async_commit();
        multiply_step<T, Tile>(sums, weights + read, rows + read);
        write = read;
        read = read == (SMALL_STAGES - 1) * Tile::stage_bytes ? 0 : read + Tile::stage_bytes;
    }
    cp_async_wait<0>();
}

// Sums of the groups, in their order: thread t gets values t, t + 256, … of the tile [M][outputs].
template <class Tile>
DEVICE void sum_groups(f32 (&values)[Tile::values][1], const f32 (&sums)[Tile::rows / 8][4], f32* shared) {
    const u32 group = warp() / Tile::side;
    f32* mine = shared + group * (Tile::rows * Tile::pitch) + (warp() % Tile::side) * 16;
    const u32 output = lane() >> 2, row = (lane() & 3) * 2;
    sync_block();
#pragma unroll
    for (u32 j = 0; j < Tile::rows / 8; j++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) {
            mine[(j * 8 + row + (i & 1)) * Tile::pitch + output + (i >> 1) * 8] = sums[j][i];
        }
    }
    sync_block();
#pragma unroll
    for (u32 i = 0; i < Tile::values; i++) {
        const u32 index = thread_x() + i * SMALL_THREADS;
        values[i][0] = 0;
        if (index < Tile::rows * Tile::outputs) {
            const f32* part = shared + index / Tile::outputs * Tile::pitch + index % Tile::outputs;
            values[i][0] = part[0];
            for (u32 other = 1; other < Tile::groups; other++) {
                values[i][0] += part[other * (Tile::rows * Tile::pitch)];
            }
        }
    }
}

template <class T, class Tile>
DEVICE void gemm_small(const T* x, const T* w, const f32* bias, void* out, u32 m, u32 n, u32 k, u32 out_stride,
                       u32 column, u32 out_f32, f32* partials, u32* counters) {
    SHARED_BYTES(shared);
    f32 sums[Tile::rows / 8][4] = {};
    accumulate<T, Tile>(sums, shared, x, w, m, n, k);
    f32 values[Tile::values][1];
    sum_groups<Tile>(values, sums, reinterpret_cast<f32*>(shared));
    if (!split_k_sum<SMALL_THREADS>(values, partials, counters, block_x())) {
        return;
    }
#pragma unroll
    for (u32 i = 0; i < Tile::values; i++) {
        const u32 index = thread_x() + i * SMALL_THREADS;
        const u32 row = index / Tile::outputs, at = block_x() * Tile::outputs + index % Tile::outputs;
        if (row < m && at < n) {
            const f32 value = values[i][0] + (bias ? bias[at] : 0.0f);
            const u64 to = static_cast<u64>(row) * out_stride + column + at;
            if (out_f32) {
                static_cast<f32*>(out)[to] = value;
            } else {
                static_cast<T*>(out)[to] = from_f32<T>(value);
            }
        }
    }
}

#define ENTRY(T, M, N, BLOCKS)                                                                                        \
    KERNEL(256, BLOCKS) gemm_small_##T##_##M##x##N(const T* x, const T* w, const f32* bias, void* out, u32 m, u32 n,       \
                                              u32 k, u32 out_stride, u32 column, u32 out_f32, f32* partials,          \
                                              u32* counters) {                                                        \
        gemm_small<T, SmallTile<M, N>>(x, w, bias, out, m, n, k, out_stride, column, out_f32, partials,   \
                                                   counters);                                                         \
    }                                                                                                                 \
    REGISTER(gemm_small_##T##_##M##x##N)
#define ENTRIES(T)                                                                                                    \
    ENTRY(T, 8, 16, 3)                                                                                                \
    ENTRY(T, 16, 32, 3)                                                                                               \
    ENTRY(T, 32, 64, 2)
ENTRIES(bf16)
ENTRIES(f16)
