// What the attention kernels share: rows of the paged cache, the window of a query, the soft cap, and rows of
// 16-bit values in shared memory laid out so that neither ldmatrix nor cp.async meets a bank conflict.
#pragma once
#include "batch.cuh"

constexpr f32 LOG2_E = 1.4426950408889634f;

// A value that is the same in all lanes, shown to the compiler as such: branches on it do not part the warp, and it is
// traced no further back (what is cheap to find again is then not kept in registers over a loop).
DEVICE u32 uniform(u32 v) { return shfl(v, 0); }

// Keys and values of one sequence and one KV head: cache layout [block][kv head][block_tokens][dim].
struct Pages {
    const Batch* batch;
    u32 first; // word of the sequence's first block in the batch: one register, where a pointer takes two
    u32 kv_heads;
    u32 kv_head;
    u32 shift; // log2(block_tokens)
};

DEVICE Pages pages_of(const Batch* batch, u32 seq, u32 kv_heads, u32 kv_head, u32 block_tokens) {
    u32 first = batch->blocks_at + batch_words(batch, batch->block_start_at)[seq];
    return Pages{batch, uniform(first), kv_heads, kv_head, 31 - clz(block_tokens)};
}
// Row of a position in the plane of keys or values, counted in rows of `dim` values.
DEVICE u32 page_row(const Pages& pages, u32 position) {
    u32 block = *batch_words(pages.batch, pages.first + (position >> pages.shift));
    u32 inside = position & ((1u << pages.shift) - 1);
    return ((block * pages.kv_heads + pages.kv_head) << pages.shift) + inside;
}

// First key that the query at `position` sees; window 0 = all before it.
DEVICE u32 window_start(u32 position, u32 window) {
    return window != 0 && position >= window ? position + 1 - window : 0;
}

// How scores q·k become exponents of 2: exp2(score * factor), where a capped score is cap * tanh(q·k * scale / cap).
struct Scale {
    f32 factor;
    f32 before; // exp2(q·k * before) = exp(2 q·k scale / cap)
    f32 cap;
};
DEVICE Scale scale_of(f32 scale, f32 softcap) {
    if (softcap > 0) return Scale{LOG2_E, 2 * LOG2_E * scale * rcp_fast(softcap), softcap};
    return Scale{scale * LOG2_E, 0, 0};
}
// tanh(x) = 1 - 2 / (exp(2 x) + 1) from two hardware approximations; an infinite exp gives 1.
DEVICE f32 capped(f32 score, const Scale& scale) {
    return scale.cap * fma_f32(-2, rcp_fast(exp2_fast(score * scale.before) + 1), 1);
}

// Rows of DIM 16-bit values in shared memory, cut into chunks of 16 bytes. ldmatrix reads one chunk column of 8
// consecutive rows; a chunk's place is XORed with row bits such that those 8 chunks lie in 8 different groups of 4
// banks: a row of n * 128 bytes needs 3 bits, of n * 128 + 64 bytes 2, of n * 128 + 32 bytes 1.
template <u32 DIM> struct Rows {
    static constexpr u32 BYTES = DIM * 2;
    static constexpr u32 CHUNKS = DIM / 8;
    static constexpr u32 BITS = DIM % 64 == 0 ? 3 : DIM % 32 == 0 ? 2 : 1;
    static constexpr u32 SPAN = 16u << BITS; // bytes within which chunks move

    DEVICE u32 turn(u32 row) { return (row >> (3 - BITS)) & ((1u << BITS) - 1); }
    DEVICE u32 at(u32 row, u32 chunk) { return row * BYTES + ((chunk ^ turn(row)) << 4); }
};
