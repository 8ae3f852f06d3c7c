// Split-K: several blocks work on the same tile of the output, each over its own range of K (grid_y of them, this is
// block_y), and the last one to finish adds their partial sums in the order of the ranges: the same bits whoever is last.
#pragma once
#include "device.cuh"

// `values`: what each thread holds of its block's partial sum. `partials`: [tile][split][value][thread] f32;
// `counters`: a zero per tile, left zero, so that a CUDA graph can replay the launch.
// True in the block that goes on, with the whole sums in `values`. All THREADS of the block call it.
template <u32 THREADS, u32 A, u32 B>
DEVICE bool split_k_sum(f32 (&values)[A][B], f32* partials, u32* counters, u32 tile) {
    constexpr u32 all = A * B;
    const u32 splits = grid_y();
    if (splits == 1) {
        return true;
    }
    f32* first = partials + static_cast<u64>(tile * splits) * (all * THREADS) + thread_x();
    f32* mine = first + static_cast<u64>(block_y()) * (all * THREADS);
#pragma unroll
    for (u32 i = 0; i < all; i++) {
        mine[i * THREADS] = values[i / B][i % B];
    }
    // Every thread's writes are out before thread 0 says so.
    fence();
    sync_block();
    SHARED(u32, finished, [1]);
    if (thread_x() == 0) {
        finished[0] = atomic_add(counters + tile, 1u);
    }
    sync_block();
    if (finished[0] != splits - 1) {
        return false;
    }
    if (thread_x() == 0) {
        counters[tile] = 0;
    }
    fence();
    // A few values at a time: their loads are under way together, and all of them would not fit the registers.
    constexpr u32 some = all < 16 ? all : 16;
#pragma unroll
    for (u32 i = 0; i < all; i += some) {
#pragma unroll
        for (u32 j = i; j < i + some; j++) {
            values[j / B][j % B] = 0;
        }
#pragma unroll 1
        for (u32 split = 0; split < splits; split++) {
            const f32* part = first + static_cast<u64>(split) * (all * THREADS);
#pragma unroll
            for (u32 j = i; j < i + some; j++) {
                values[j / B][j % B] += part[j * THREADS];
            }
        }
    }
    return true;
}
