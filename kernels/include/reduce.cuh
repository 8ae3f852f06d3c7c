// Sums, maxima and running sums over a warp or a block, in a fixed order: the same input gives the same bits.
//
// `room` is shared memory of WARPS entries. It is free again after the caller's next sync_block.
#pragma once
#include "device.cuh"

constexpr u32 WARPS = 32; // of a block, at most

template <class V> DEVICE V larger(V a, V b) { return a > b ? a : b; }

template <class V> DEVICE V warp_sum(V v) {
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) v += shfl_xor(v, step);
    return v;
}

template <class V> DEVICE V warp_max(V v) {
#pragma unroll
    for (u32 step = 16; step > 0; step /= 2) v = larger(v, shfl_xor(v, step));
    return v;
}

// Sum over the block, on every thread.
template <class V> DEVICE V block_sum(V v, V* room) {
    v = warp_sum(v);
    if (lane() == 0) room[warp()] = v;
    sync_block();
    return warp_sum(lane() < block_threads() / 32 ? room[lane()] : V(0));
}

// Largest of the block, on every thread; `lowest` is no larger than any of them.
template <class V> DEVICE V block_max(V v, V lowest, V* room) {
    v = warp_max(v);
    if (lane() == 0) room[warp()] = v;
    sync_block();
    return warp_max(lane() < block_threads() / 32 ? room[lane()] : lowest);
}

DEVICE u64 warp_running_sum(u64 v) {
#pragma unroll
    for (u32 step = 1; step < 32; step *= 2) {
        const u64 below = shfl_up(v, step);
        if (lane() >= step) v += below;
    }
    return v;
}

// Sum over the threads before this one.
DEVICE u64 block_sum_before(u64 v, u64* room) {
    const u64 through = warp_running_sum(v);
    if (lane() == 31) room[warp()] = through;
    sync_block();
    const u64 warps = warp_running_sum(lane() < block_threads() / 32 ? room[lane()] : 0);
    const u64 before = shfl(warps, (warp() + 31) % 32);
    return (warp() > 0 ? before : 0) + through - v;
}
