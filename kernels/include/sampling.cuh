// How the rows of a step are sampled, as the host uploads it, and what the sampling kernels keep between them.
// Written by backends/cuda/src/ops/sample; the order of the words is the contract between the two.
#pragma once
#include "select.cuh"

// `tm_row` of tokenmill.h. Ranges are into the lists of `Sampling`. Within a range entries of one token are neighbours.
struct Row {
    u64 seed;
    f32 temperature, top_p, min_p, repetition, presence, frequency;
    u32 top_k;
    i32 forced;
    u32 bias, n_bias;
    u32 seen, n_seen;
    u32 mask; // 1 + index, 0 = none
    u32 reserved;
};
static_assert(sizeof(Row) == 64, "tm_row is frozen");

// At the start of the upload; offsets are in words from here.
struct Sampling {
    u32 n_rows;
    u32 rows_at; // even: rows begin with 64 bits
    u32 bias_token_at, bias_value_at;
    u32 seen_token_at, seen_count_at;
    u32 masks_at, mask_words;
};

DEVICE const u32* sampling_words(const Sampling* how, u32 at) { return reinterpret_cast<const u32*>(how) + at; }
DEVICE const Row* sampling_row(const Sampling* how, u32 row) {
    return reinterpret_cast<const Row*>(sampling_words(how, how->rows_at)) + row;
}

// Biases, mask and penalties make logits of the row's own.
DEVICE bool is_edited(const Row* row) {
    return row->forced < 0 && (row->n_bias > 0 || row->n_seen > 0 || row->mask > 0);
}
DEVICE bool is_drawn(const Row* row) { return row->forced < 0 && row->temperature > 0.0f; }
DEVICE bool has_top_k(const Row* row, u32 vocab) { return row->top_k > 0 && row->top_k < vocab; }
DEVICE bool has_top_p(const Row* row) { return row->top_p < 1.0f; }
DEVICE bool is_filtered(const Row* row, u32 vocab) {
    return is_drawn(row) && (has_top_k(row, vocab) || has_top_p(row));
}

// The vocabulary in pieces, one a block.
constexpr u32 PIECE = 8192;
constexpr u32 PIECE_THREADS = 256;
constexpr u32 MAX_PIECES = 256;

struct Piece {
    f32 largest;  // of the raw logits; INF if one is NaN or INF
    f32 sum;      // of exp(raw logit - largest)
    u32 best;     // order of the largest edited logit
    u32 best_id;  // its token, the lowest on a tie
    u64 weight;   // of the tokens that may be drawn: fixed point, relative to the row's best
    u64 reserved;
};

// What is kept between the kernels: for each row its pieces, a histogram (if it has a top_k or top_p) and its edited
// logits (if it has any).
struct Work {
    Piece* pieces;  // [rows][pieces]
    u32* bins;      // [rows][3][BINS]: counts, low and high halves of sums of weight
    f32* edited;    // [rows][vocab rounded up to 4]
};

DEVICE u32 piece_count(u32 vocab) { return (vocab + PIECE - 1) / PIECE; }
DEVICE f32* edited_row(const Work& work, u32 row, u32 vocab) { return work.edited + u64(row) * ((vocab + 3) / 4 * 4); }
DEVICE u32* bins_of(const Work& work, u32 row) { return work.bins + u64(row) * 3 * BINS; }
DEVICE Piece* pieces_of(const Work& work, u32 row, u32 vocab) { return work.pieces + u64(row) * piece_count(vocab); }

// How far a logit lies below the best, in units of temperature.
DEVICE f32 depth(f32 best, f32 logit, f32 temperature) { return (best - logit) / temperature; }

// Probability relative to the best token's.
DEVICE f32 weight(f32 depth) { return exp2_fast(-1.4426950409f * depth); }

// A weight as what sums are made of; 2^22 tokens of weight 1 fit.
DEVICE u64 fixed(f32 weight) { return static_cast<u64>(weight * 1099511627776.0f); }

// A histogram by depth: the finer the more likely its tokens are, and the last bin holds what is never drawn.
constexpr f32 BINS_PER_UNIT = 32.0f;
DEVICE u32 bin_of(f32 depth) {
    const f32 bin = depth * BINS_PER_UNIT;
    return bin < static_cast<f32>(BINS - 1) ? static_cast<u32>(bin) : BINS - 1;
}
