// What a kernel may do wrong, and some things that are right but unusual: a kernel each.
#include "device.cuh"

KERNEL(256, 1) shuffle_by_half_a_warp(u32* out) {
    u32 v = thread_x();
    if (lane() < 16) v = shfl_xor(v, 1);
    sync_block();
    out[thread_x()] = v;
}
REGISTER(shuffle_by_half_a_warp)

KERNEL(256, 1) mixed_operations(u32* out) {
    u32 v = thread_x();
    if (lane() < 16) v = shfl_xor(v, 1);
    else v = ballot(true);
    out[thread_x()] = v;
}
REGISTER(mixed_operations)

KERNEL(256, 1) shuffle_after_some_have_left(u32* out) {
    if (lane() >= 24) return;
    out[thread_x()] = shfl_xor(thread_x(), 1);
}
REGISTER(shuffle_after_some_have_left)

KERNEL(256, 1) barriers_in_two_branches(u32* out) {
    if (thread_x() < 64) sync_block();
    else
        sync_block();
    out[thread_x()] = 1;
}
REGISTER(barriers_in_two_branches)

KERNEL(256, 1) named_barrier_for_too_many(u32* out) {
    if (warp() == 0) sync_named(1, 64);
    out[thread_x()] = 1;
}
REGISTER(named_barrier_for_too_many)

KERNEL(256, 1) named_barriers_of_pairs(u32* out) {
    SHARED(u32, room, [256]);
    u32 pair = warp() / 2;
    room[thread_x()] = thread_x();
    sync_named(1 + pair, 64);
    out[thread_x()] = room[thread_x() ^ 32];
}
REGISTER(named_barriers_of_pairs)

KERNEL(256, 1) write_behind_static_shared(u32* out) {
    SHARED(u32, room, [8]);
    room[8 + thread_x() % 2] = 5;
    out[thread_x()] = 1;
}
REGISTER(write_behind_static_shared)

KERNEL(256, 1) write_behind_dynamic_shared(u32* out, u32 bytes) {
    SHARED_BYTES(room);
    room[bytes] = 1;
    out[thread_x()] = room[0];
}
REGISTER(write_behind_dynamic_shared)

KERNEL(256, 1) shared_memory_as_it_starts(u32* out) {
    SHARED(u32, fixed, [256]);
    SHARED_BYTES(room);
    out[thread_x()] = load4(room + thread_x() * 4) & fixed[thread_x()];
    fixed[thread_x()] = 0;
    store4(room + thread_x() * 4, 0);
}
REGISTER(shared_memory_as_it_starts)

// A copy that is waited for, or not, before its thread reads it.
KERNEL(32, 1) late_copy(const u32* from, u32* out, u32 wait) {
    SHARED_BYTES(room);
    cp_async4(room + thread_x() * 4, from + thread_x());
    cp_async_commit();
    if (wait) cp_async_wait<0>();
    out[thread_x()] = load4(room + thread_x() * 4);
}
REGISTER(late_copy)

// The older of two groups is there; the younger may not be.
KERNEL(32, 1) groups_of_copies(const u32* from, u32* out) {
    SHARED_BYTES(room);
    for (u32 i = 0; i < 2; i++) {
        cp_async4(room + i * 128 + thread_x() * 4, from + i * 32 + thread_x(), i == 0);
        cp_async_commit();
    }
    cp_async_wait<1>();
    out[thread_x()] = load4(room + thread_x() * 4);
    out[32 + thread_x()] = load4(room + 128 + thread_x() * 4);
}
REGISTER(groups_of_copies)

KERNEL(128, 1) crooked_ldmatrix(u32* out) {
    SHARED_BYTES(room);
    u32 r[4];
    ldmatrix_x4(r, room + lane() * 16 + 8);
    out[thread_x()] = r[0];
}
REGISTER(crooked_ldmatrix)

KERNEL(256, 1) crooked_load(const u32* from, u32* out) { out[thread_x()] = load16(from + 1 + thread_x() * 4).x; }
REGISTER(crooked_load)

KERNEL(256, 1) store_at(u32* out, u32 index) {
    if (thread_x() == 0) out[index] = 7;
}
REGISTER(store_at)

KERNEL(256, 1) wild_store(u64 at) {
    if (thread_x() == 3) *reinterpret_cast<u32*>(at) = 7;
}
REGISTER(wild_store)

// Blocks whose last warp is not whole.
KERNEL(256, 1) votes_of_a_ragged_block(u32* out) {
    out[thread_x()] = ballot(true);
    sync_block();
    out[thread_x()] += shfl_xor(1u, 1) == 1 && all(true) && !any(false);
}
REGISTER(votes_of_a_ragged_block)

KERNEL(1024, 1) add_one(u32* values, u32 n) {
    u32 i = block_x() * block_threads() + thread_x();
    if (i < n) values[i] += 1;
}
REGISTER(add_one)

KERNEL(256, 1) sum_by_atomics(u32* sum, f32* total, u32* largest) {
    atomic_add(sum, 1u);
    atomic_add(total, 1.0f);
    atomic_max(largest, block_x() * block_threads() + thread_x());
}
REGISTER(sum_by_atomics)

KERNEL(32, 1) shuffles(u32* out, u64* wide) {
    u32 v = lane() * 10;
    out[lane()] = shfl(v, 31 - lane());
    out[32 + lane()] = shfl_up(v, 3);
    out[64 + lane()] = shfl_down(v, 3);
    out[96 + lane()] = shfl_xor(v, 5);
    wide[lane()] = shfl_xor(static_cast<u64>(lane()) << 40, 1);
}
REGISTER(shuffles)
