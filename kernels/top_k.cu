// The k largest log-probabilities of one row of raw logits, falling, the lower id first on a tie.
//
//   found[0]       1: done; 0: more than LIST logits may be among them, found holds nothing else
//   found[1 + r]   id of the r-th; found[1 + k + r] its logit minus log-sum-exp of the row, as bits of f32
//
// row [vocab] of f32; found [1 + 2 k] of u32, k at most THREADS and vocab. Each thread's largest logit is one of the
// row's, so the k-th largest of them bounds the k-th of the row from below and few logits reach it.
// Grid: one block of THREADS threads. sm_80 and newer.
#include "sampling.cuh"

constexpr u32 THREADS = 1024;
constexpr u32 LIST = 2048;

struct Room {
    SelectRoom select;
    f32 maxima[THREADS];
    u64 list[LIST]; // order and inverted id
    f32 numbers[WARPS];
    u32 listed;
};

// Of the row, at most its k-th largest order. A thread that saw no logit has -INF.
DEVICE u32 bound(Room& room, f32 mine, f32 largest, u32 k) {
    room.maxima[thread_x()] = mine;
    sync_block();
    return select(room.select, room.maxima, THREADS, 0, order_of(largest), k, [](f32) { return u64(1); }).order;
}

KERNEL(THREADS, 1) top_k_f32(const f32* row, u32* found, u32 vocab, u32 k) {
    SHARED(Room, room, );
    f32 mine = -INF, sum = 0;
    each(row, vocab, [&](f32 l, u32) { mine = order_of(l) > order_of(mine) ? l : mine; });
    const u32 highest = block_max(order_of(mine), 0u, room.select.low);
    const f32 largest = number_of(highest);
    const u32 least = bound(room, mine, largest, k);
    if (thread_x() == 0) room.listed = 0;
    sync_block();
    each(row, vocab, [&](f32 l, u32 id) {
        sum += weight(largest - l);
        if (order_of(l) < least) return;
        const u32 to = atomic_add(&room.listed, 1u);
        if (to < LIST) room.list[to] = u64(order_of(l)) << 32 | (0xffffffffu - id);
    });
    sum = block_sum(sum, room.numbers);
    const u32 n = room.listed;
    if (thread_x() == 0) found[0] = n <= LIST ? 1 : 0;
    if (n > LIST) return;

    // All entries differ, so an entry's place is the number of those above it.
    const f32 log_sum = log_f32(sum);
    for (u32 i = thread_x(); i < n; i += THREADS) {
        const u64 entry = room.list[i];
        u32 place = 0;
        for (u32 j = 0; j < n; j++) place += room.list[j] > entry ? 1 : 0;
        if (place >= k) continue;
        found[1 + place] = ~static_cast<u32>(entry);
        found[1 + k + place] = bits(number_of(static_cast<u32>(entry >> 32)) - largest - log_sum);
    }
}
REGISTER(top_k_f32)
