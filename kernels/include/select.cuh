// The largest of many numbers without sorting them: histograms over the bits of f32.
//
// Sums of probability are in fixed point (2^-40 of the largest), so that they are exact and do not depend on the order
// of adding: a result is the same whatever thread came first.
#pragma once
#include "reduce.cuh"
#include "vector.cuh"

constexpr u32 BINS = 1024;

// Numbers as integers in the same order; -0 is 0.
DEVICE u32 order_of(f32 v) {
    const u32 b = bits(v + 0.0f);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}

DEVICE f32 number_of(u32 order) { return float_of(order & 0x80000000u ? order & 0x7fffffffu : ~order); }

constexpr u32 LOWEST = 0x007fffffu;   // order_of(-INF)
constexpr u32 INFINITE = 0xff800000u; // order_of(INF)

// 64-bit counters of 32-bit halves: 32-bit atomics are what the hardware has in shared memory.
struct Counters {
    u32* low;
    u32* high;
};

DEVICE void add_wide(const Counters& to, u32 index, u64 v) {
    const u32 low = static_cast<u32>(v), before = atomic_add(to.low + index, low);
    const u32 high = static_cast<u32>(v >> 32) + (before + low < before ? 1 : 0);
    if (high > 0) atomic_add(to.high + index, high);
}

DEVICE u64 wide(const Counters& of, u32 index) { return (u64(of.high[index]) << 32) | of.low[index]; }

// Calls f(value, index) for every value, many loads at a time. Every thread of the block takes part.
template <class F> DEVICE void each(const f32* values, u32 n, F f) {
    constexpr u32 AT_ONCE = 4;
    for (u32 first = 0; first < n; first += AT_ONCE * 4 * block_threads()) {
        f32 v[AT_ONCE][4];
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            const u32 at = first + (j * block_threads() + thread_x()) * 4;
            if (at < n) load_four_of(values, at, n, v[j]);
        }
#pragma unroll
        for (u32 j = 0; j < AT_ONCE; j++) {
            const u32 at = first + (j * block_threads() + thread_x()) * 4;
#pragma unroll
            for (u32 k = 0; k < 4; k++) {
                if (at + k < n) f(v[j][k], at + k);
            }
        }
    }
}

// Where a running sum over bins reaches a target.
struct Reached {
    u32 bin;    // the first whose sum with all before it is at least the target; BINS if none
    u64 before; // sum of the bins before it
};

// Room for finding and selecting; each block has one.
struct SelectRoom {
    u64 sums[WARPS];
    u32 low[BINS];
    u32 high[BINS];
    Reached reached;
};

// The first bin where the running sum reaches `target` (at least 1). The block has at most BINS threads.
DEVICE Reached find(SelectRoom& room, const Counters& bins, u64 target) {
    const u32 share = BINS / block_threads();
    sync_block();
    if (thread_x() == 0) room.reached = {BINS, 0};
    u64 mine = 0;
    for (u32 i = 0; i < share; i++) mine += wide(bins, thread_x() * share + i);
    u64 before = block_sum_before(mine, room.sums); // also makes `reached` seen
    if (before < target && target <= before + mine) {
        u32 bin = thread_x() * share;
        for (u64 here = wide(bins, bin); before + here < target; here = wide(bins, bin)) {
            before += here;
            bin++;
        }
        room.reached = {bin, before};
    }
    sync_block();
    return room.reached;
}

struct Selected {
    u32 order; // of the value sought
    u64 above; // sum over all larger ones
};

// The largest value such that `amount` summed over it and all larger ones reaches `target`; there must be one. Looks at
// values whose order is low..=high. Narrows that range by BINS with each pass over the values.
template <class F>
DEVICE Selected select(SelectRoom& room, const f32* values, u32 n, u32 low, u32 high, u64 target, F amount) {
    const Counters bins = {room.low, room.high};
    u64 above = 0;
    for (;;) {
        const u32 range = high - low, shift = range < BINS ? 0 : 22 - clz(range);
        sync_block();
        for (u32 i = thread_x(); i < BINS; i += block_threads()) room.low[i] = room.high[i] = 0;
        sync_block();
        each(values, n, [&](f32 v, u32) {
            const u32 order = order_of(v);
            if (order < low || order > high) return;
            const u64 more = amount(v);
            if (more > 0) add_wide(bins, (high - order) >> shift, more);
        });
        const Reached reached = find(room, bins, target - above);
        above += reached.before;
        high -= reached.bin << shift;
        const u32 width = (1u << shift) - 1;
        if (high - low > width) low = high - width;
        if (shift == 0 || reached.bin == BINS) return {high, above};
    }
}
