// Split-K: several blocks work on the same tile of the output, each over its own range of K (grid_y of them, this is
// block_y), and the last one to finish adds their partial sums in the order of the ranges: the same bits whoever is last.
#pragma once
#include "device.cuh"

// `values`: what each thread holds of its block's partial sum. `partials`: [tile][split][value][thread] f32;
// `counters`: a zero per tile, left zero, so that a CUDA graph can replay the launch.
// True in the block that goes on, with the whole sums in `values`. All threads of the block call it.
template <u32 VALUES> DEVICE bool split_k_sum(f32 (&values)[VALUES], f32* partials, u32* counters, u32 tile) {
    const u32 splits = grid_y();
    if (splits == 1) {
        return true;
    }
    const u32 threads = block_threads();
    const u64 stride = static_cast<u64>(VALUES) * threads;
    f32* first = partials + tile * splits * stride + thread_x();
    f32* mine = first + block_y() * stride;
#pragma unroll
    for (u32 i = 0; i < VALUES; i++) {
        mine[i * threads] = values[i];
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
#pragma unroll
    for (u32 i = 0; i < VALUES; i++) {
        values[i] = first[i * threads];
    }
    for (u32 split = 1; split < splits; split++) {
        const f32* part = first + split * stride;
#pragma unroll
        for (u32 i = 0; i < VALUES; i++) {
            values[i] += part[i * threads];
        }
    }
    return true;
}
