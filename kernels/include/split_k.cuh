// Split-K: several blocks work on the same tile of the output, each over its own range of K (grid_y of them, this is
// block_y), and the last one to finish adds their partial sums in the order of the ranges: the same bits whoever is last.
#pragma once
#include "last_block.cuh"
#include "vector.cuh"

// A thread's N values of one split, WIDTH neighbours at a time.
template <u32 THREADS, u32 WIDTH, u32 N> DEVICE void load_part(f32 (&part)[N], const f32* from) {
#pragma unroll
    for (u32 i = 0; i < N; i += WIDTH) {
        if constexpr (WIDTH == 4) {
            f32 four[4];
            load_four(from + i * THREADS, four);
#pragma unroll
            for (u32 j = 0; j < 4; j++) {
                part[i + j] = four[j];
            }
        } else {
            part[i] = from[i * THREADS];
        }
    }
}

// `values`: what each thread holds of its block's partial sum. `partials`: f32 [tile][split][value / W][thread][W], W = 4
// where a thread has a multiple of four values, else 1; 16-byte aligned. `counters`: a zero per tile, left zero.
// True in the block that goes on, with the whole sums in `values`. All THREADS call it.
template <u32 THREADS, u32 A, u32 B>
DEVICE bool split_k_sum(f32 (&values)[A][B], f32* partials, u32* counters, u32 tile) {
    constexpr u32 all = A * B, width = all % 4 == 0 ? 4 : 1;
    const u32 splits = grid_y();
    if (splits == 1) {
        return true;
    }
    f32* first = partials + static_cast<u64>(tile * splits) * (all * THREADS) + thread_x() * width;
    f32* mine = first + static_cast<u64>(block_y()) * (all * THREADS);
    const auto value = [&](u32 i) -> f32& { return values[i / B][i % B]; };
#pragma unroll
    for (u32 i = 0; i < all; i += width) {
        if constexpr (width == 4) {
            const f32 four[4] = {value(i), value(i + 1), value(i + 2), value(i + 3)};
            store_four(mine + i * THREADS, four);
        } else {
            mine[i * THREADS] = value(i);
        }
    }
    if (!is_last_block(counters + tile, splits)) {
        return false;
    }
    // Some values of a few splits are loaded together: one after the other, latency would be most of the time; all of
    // them would not fit the registers.
    constexpr u32 some = all < 16 ? all : 16, together = 4;
#pragma unroll
    for (u32 i = 0; i < all; i += some) {
#pragma unroll
        for (u32 j = i; j < i + some; j++) {
            value(j) = 0;
        }
#pragma unroll 1
        for (u32 split = 0; split < splits; split += together) {
            f32 part[together][some];
#pragma unroll
            for (u32 t = 0; t < together; t++) {
                const u32 from = split + t < splits ? split + t : splits - 1;
                load_part<THREADS, width>(part[t], first + static_cast<u64>(from) * (all * THREADS) + i * THREADS);
            }
#pragma unroll
            for (u32 t = 0; t < together; t++) {
#pragma unroll
                for (u32 j = 0; j < some; j++) {
                    value(i + j) += split + t < splits ? part[t][j] : 0.0f;
                }
            }
        }
    }
    return true;
}
