// Linear layers of few rows: out[m, column + n] = sum_k x[m, k] * w[n, k] + bias[n], M <= 64.
//
// x T [M, K], w T [N, K], bias f32 [N] or null, out f32 or T with its own row stride; T = bf16, f16; f32 accumulation.
// K a multiple of 8, x and w 16-byte aligned, any N, M <= the tile's. A kernel per tile, gemm_small_<T>_<M>x<N>:
//   grid (ceil(N / tile N), splits of K), 256 threads, dynamic shared memory SmallTile::shared_bytes (60 or 72 KB),
//   partials and counters as in split_k.cuh with ceil(tile M * tile N / 256) values per thread.
// sm_80 and newer. Occupancy: three blocks per multiprocessor of 228 KB, two of 164 KB (<= 80 registers): 32 KB of weights
// in flight per block, where about 20 KB per multiprocessor cover the latency of HBM.
//
// Bound by reading the weights once. The weights are the A operand of mma (16 outputs), the few rows of x the B operand
// (8 rows), which wastes less than the other way round. The order of K within an mma is free as long as both operands
// agree: lane q of a row takes the 16 bytes of k = 8q .. 8q + 7 for its k-pairs of two mma. So every weight is used
// by the lane that loaded it: cp.async puts it into the lane's own 16 bytes of shared memory, which serve as a queue and
// need no swizzle, no ldmatrix and no barrier. Warps split the outputs of the tile and K; rows of x are shared by
// the group of warps that works on the same range of K. The tensor cores do M = 1 as well: unpacking bf16 for
// fma would take more instructions than the seven idle rows cost.
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

// Odd rows of x swap their halves, so that the 8 lanes of a phase (two rows, four pieces each) read all 32 banks.
DEVICE u32 x_offset(u32 row, u32 piece) { return row * SMALL_ROW_BYTES + ((piece ^ ((row & 1) << 2)) << 4); }

// What a thread copies, step after step.
template <class T, class Tile> struct SmallSource {
    const T* low;  // this lane's first piece of its warp's row lane / 4 …
    const T* high; // … and of the row 8 further
    const T* x[Tile::x_pieces];
    u32 x_row;
    u32 weight_at; // this lane's k in `low` and `high`, and in `x`
    u32 x_at;
};

template <class T, class Tile>
DEVICE SmallSource<T, Tile> small_source(const T* x, const T* w, u32 n, u32 k, u32 step) {
    SmallSource<T, Tile> source;
    // Rows beyond N read the last one and are not stored.
    const u32 row = block_x() * Tile::outputs + (warp() % Tile::side) * 16 + (lane() >> 2);
    source.weight_at = step * SMALL_STEP + (lane() & 3) * 8;
    source.low = w + static_cast<u64>(row < n ? row : n - 1) * k + source.weight_at;
    source.high = w + static_cast<u64>(row + 8 < n ? row + 8 : n - 1) * k + source.weight_at;
    const u32 thread = thread_x() % Tile::group_threads;
    source.x_row = thread >> 3;
    source.x_at = step * SMALL_STEP + (thread & 7) * 8;
#pragma unroll
    for (u32 i = 0; i < Tile::x_pieces; i++) {
        source.x[i] = x + static_cast<u64>(source.x_row + i * (Tile::group_threads / 8)) * k + source.x_at;
    }
    return source;
}

// Starts the copies of one step and moves on to the next. `weights` is this lane's place in the stage, `rows` its group's.
template <class T, class Tile>
DEVICE void copy_step(u8* weights, u8* rows, SmallSource<T, Tile>& source, u32 m, u32 k) {
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const bool valid = source.weight_at + half * 32 < k;
        cp_async16(weights + half * 1024, source.low + half * 32, valid);
        cp_async16(weights + half * 1024 + 512, source.high + half * 32, valid);
    }
    source.low += SMALL_STEP;
    source.high += SMALL_STEP;
    source.weight_at += SMALL_STEP;
#pragma unroll
    for (u32 i = 0; i < Tile::x_pieces; i++) {
        const u32 row = source.x_row + i * (Tile::group_threads / 8);
        cp_async16(rows + x_offset(row, thread_x() & 7), source.x[i], row < m && source.x_at < k);
        source.x[i] += SMALL_STEP;
    }
    source.x_at += SMALL_STEP;
}

template <class T, class Tile>
DEVICE void multiply_step(f32 (&sums)[Tile::rows / 8][4], const u8* weights, const u8* rows) {
    const u32 row = lane() >> 2, piece = lane() & 3;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        const vec16 low = load16(weights + half * 1024), high = load16(weights + half * 1024 + 512);
        const u32 first[4] = {low.x, high.x, low.y, high.y};
        const u32 second[4] = {low.z, high.z, low.w, high.w};
        const u8* at = rows + x_offset(row, half * 4 + piece);
#pragma unroll
        for (u32 j = 0; j < Tile::rows / 8; j++) {
            const vec16 v = load16(at + j * (8 * SMALL_ROW_BYTES));
            const u32 left[2] = {v.x, v.y}, right[2] = {v.z, v.w};
            mma_16816<T>(sums[j], first, left);
            mma_16816<T>(sums[j], second, right);
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
    u8* weights = shared + warp() * (16 * SMALL_ROW_BYTES) + lane() * 16;
    u8* rows = shared + Tile::weight_bytes + group * Tile::x_bytes;
    SmallSource<T, Tile> source = small_source<T, Tile>(x, w, n, k, begin);
#pragma unroll
    for (u32 i = 0; i + 1 < SMALL_STAGES; i++) {
        if (i < steps) {
            copy_step<T, Tile>(weights + i * Tile::stage_bytes, rows + i * Tile::stage_bytes, source, m, k);
        }
        cp_async_commit();
    }
    u32 read = 0, write = (SMALL_STAGES - 1) * Tile::stage_bytes;
    for (u32 step = 0; step < steps; step++) {
        cp_async_wait<SMALL_STAGES - 2>();
        // Now the group has x of this step, and is done with the step before, whose stage is filled next.
        sync_group<Tile>(group);
        if (step + SMALL_STAGES - 1 < steps) {
            copy_step<T, Tile>(weights + write, rows + write, source, m, k);
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

#define ENTRY(T, M, N)                                                                                              \
    KERNEL(256, 3) gemm_small_##T##_##M##x##N(const T* x, const T* w, const f32* bias, void* out, u32 m, u32 n,       \
                                              u32 k, u32 out_stride, u32 column, u32 out_f32, f32* partials,          \
                                              u32* counters) {                                                        \
        gemm_small<T, SmallTile<M, N>>(x, w, bias, out, m, n, k, out_stride, column, out_f32, partials,   \
                                                   counters);                                                         \
    }                                                                                                                 \
    REGISTER(gemm_small_##T##_##M##x##N)
#define ENTRIES(T)                                                                                                    \
    ENTRY(T, 8, 16)                                                                                                \
    ENTRY(T, 8, 32)                                                                                                \
    ENTRY(T, 16, 32)                                                                                               \
    ENTRY(T, 16, 64)                                                                                               \
    ENTRY(T, 32, 64)                                                                                               \
    ENTRY(T, 64, 128)
ENTRIES(bf16)
ENTRIES(f16)
