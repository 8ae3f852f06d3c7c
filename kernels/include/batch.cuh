// One step as kernels see it: a header of u32 words at the start of the step's upload, its arrays behind it.
// Written by backends/cuda/src/batch.rs; the order of the words is the contract between the two.
//
// Grids may be larger than the counts here (a CUDA graph is captured for a bucket of batch sizes), so a kernel
// checks its index against them.
#pragma once
#include "device.cuh"

// All offsets are in words from the start of the header.
struct Batch {
    u32 n_tokens;
    u32 n_seqs;
    u32 n_rows;
    u32 n_decode; // sequences with one token in this step
    u32 n_tiles;  // tiles of the other sequences' queries

    u32 tokens_at;      // [n_tokens] i32: token ids, or -1-r: what row r of the step before sampled
    u32 positions_at;   // [n_tokens]
    u32 slots_at;       // [n_tokens]: block * block_tokens + offset, where the token's key and value go
    u32 rows_at;        // [n_rows]: tokens whose logits are kept
    u32 seq_start_at;   // [n_seqs + 1]: ranges of tokens
    u32 seq_len_at;     // [n_seqs]: keys of the sequence, those of this step included
    u32 block_start_at; // [n_seqs + 1]: ranges of blocks
    u32 blocks_at;      // block ids in position order
    u32 decode_at;      // [n_decode]: sequences
    u32 tile_seq_at;    // [n_tiles]: the tile's sequence
    u32 tile_first_at;  // [n_tiles]: its first query, counted within the sequence's queries of this step
};

DEVICE const u32* batch_words(const Batch* batch, u32 at) { return reinterpret_cast<const u32*>(batch) + at; }
DEVICE i32 batch_token(const Batch* batch, u32 token) { return static_cast<i32>(batch_words(batch, batch->tokens_at)[token]); }
DEVICE u32 batch_position(const Batch* batch, u32 token) { return batch_words(batch, batch->positions_at)[token]; }
DEVICE u32 batch_slot(const Batch* batch, u32 token) { return batch_words(batch, batch->slots_at)[token]; }
DEVICE u32 batch_row(const Batch* batch, u32 row) { return batch_words(batch, batch->rows_at)[row]; }
DEVICE const u32* batch_seq_start(const Batch* batch) { return batch_words(batch, batch->seq_start_at); }
DEVICE const u32* batch_seq_len(const Batch* batch) { return batch_words(batch, batch->seq_len_at); }
// Blocks of a sequence in position order.
DEVICE const u32* batch_blocks(const Batch* batch, u32 seq) {
    return batch_words(batch, batch->blocks_at) + batch_words(batch, batch->block_start_at)[seq];
}
DEVICE u32 batch_decode(const Batch* batch, u32 index) { return batch_words(batch, batch->decode_at)[index]; }
DEVICE u32 batch_tile_seq(const Batch* batch, u32 tile) { return batch_words(batch, batch->tile_seq_at)[tile]; }
DEVICE u32 batch_tile_first(const Batch* batch, u32 tile) { return batch_words(batch, batch->tile_first_at)[tile]; }
