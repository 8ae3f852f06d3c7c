// Rows of the table of embeddings, scaled.
//
//   out[t] = scale * table[token(t)]
//
// table [vocab, cols] of T, out [tokens, cols] of f32, both aligned to 16 bytes; cols * sizeof(T) is a multiple of 16.
// A token -1-r is what row r of the step before sampled: previous[r]. Where that row gave none (-1), or there is no
// step before (previous NULL), token 0 stands in: the host drops what follows from it.
// Grid: at least one block a token; 128 threads. sm_80 and newer.
#include "batch.cuh"
#include "vector.cuh"

DEVICE u32 token_id(const Batch* batch, const i32* previous, u32 token) {
    i32 id = batch_token(batch, token);
    if (id < 0) id = previous ? previous[-1 - id] : 0;
    return id < 0 ? 0 : static_cast<u32>(id);
}

template <class T>
DEVICE void embed(const Batch* batch, const i32* previous, const T* table, f32* out, u32 cols, f32 scale) {
    const u32 token = block_x();
    if (token >= batch->n_tokens) return;
    const T* from = table + u64(token_id(batch, previous, token)) * cols;
    f32* to = out + u64(token) * cols;
    for (u32 col = thread_x() * 4; col < cols; col += block_threads() * 4) {
        f32 v[4];
        load_four(from + col, v);
#pragma unroll
        for (u32 i = 0; i < 4; i++) v[i] *= scale;
        store_four(to + col, v);
    }
}

#define ENTRY(T)                                                                                                      \
    KERNEL(128, 8)                                                                                                    \
    embed_##T(const Batch* batch, const i32* previous, const T* table, f32* out, u32 cols, f32 scale) {               \
        embed<T>(batch, previous, table, out, cols, scale);                                                           \
    }                                                                                                                 \
    REGISTER(embed_##T)
ENTRY(bf16)
ENTRY(f16)
ENTRY(f32)
