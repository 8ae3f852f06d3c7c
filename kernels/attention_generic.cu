// Attention of any head dimension and type over paged keys and values, in f32 throughout: for f32 models and for head
// dimensions that attention_prefill and attention_decode do not have. Causal, online softmax (arXiv 2307.08691).
//
//   attention_generic_<bf16|f16|f32>
//   qkv     [tokens, (query_heads + 2 kv_heads) * dim]   the query part is read
//   keys, values   one layer's planes [block][kv head][block_tokens][dim], block_tokens any power of two
//   out     [tokens, query_heads * dim]
//   dim     a multiple of 8, at most 256; 16-byte alignment of all pointers
//   softcap 0 = none; window 0 = none, else a query sees itself and window - 1 keys before it
//
// Grid (tokens or more, ceil(query_heads / 4)), 128 threads: one warp for one head of one token. sm_80 and newer.
//
// A lane scores one of 32 keys against the query in shared memory; then all lanes add up the 32 values, each its own
// columns. Keys past the end repeat the last one with weight 0.
#include "attention.cuh"

constexpr u32 WARPS = 4;
constexpr u32 MAX_DIM = 256;

// The sequence whose queries hold `token`.
DEVICE u32 sequence_of(const Batch* batch, u32 token) {
    const u32* start = batch_seq_start(batch);
    u32 low = 0, high = batch->n_seqs; // start[low] <= token < start[high]
    while (high - low > 1) {
        u32 middle = (low + high) / 2;
        if (start[middle] <= token) low = middle;
        else high = middle;
    }
    return low;
}

// Eight consecutive values.
DEVICE void widen8(const f32* from, f32 (&to)[8]) {
    vec16 a = load16(from), b = load16(from + 4);
    u32 words[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
    for (u32 i = 0; i < 8; i++) to[i] = float_of(words[i]);
}
template <class T> DEVICE void widen8(const T* from, f32 (&to)[8]) {
    vec16 v = load16(from);
    unpack2<T>(v.x, to[0], to[1]);
    unpack2<T>(v.y, to[2], to[3]);
    unpack2<T>(v.z, to[4], to[5]);
    unpack2<T>(v.w, to[6], to[7]);
}
template <class T> DEVICE f32 dot(const f32* query, const T* key, u32 dim) {
    f32 sum = 0;
    for (u32 d = 0; d < dim; d += 8) {
        f32 values[8];
        widen8(key + d, values);
#pragma unroll
        for (u32 i = 0; i < 8; i++) sum = fma_f32(query[d + i], values[i], sum);
    }
    return sum;
}
DEVICE f32 largest_of(f32 v) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask /= 2) v = max_f32(v, shfl_xor(v, mask));
    return v;
}
DEVICE f32 sum_of(f32 v) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask /= 2) v += shfl_xor(v, mask);
    return v;
}

template <class T>
DEVICE void attention_generic(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out, u32 query_heads,
                              u32 kv_heads, u32 dim, u32 block_tokens, f32 scale, f32 softcap, u32 window) {
    SHARED(f32, queries, [WARPS][MAX_DIM]);
    SHARED(f32, weights, [WARPS][32]);
    SHARED(u32, rows, [WARPS][32]);
    u32 token = block_x(), head = block_y() * WARPS + warp();
    if (token >= batch->n_tokens || head >= query_heads) return;
    u32 kv_head = head / (query_heads / kv_heads), position = batch_position(batch, token);
    Pages pages = pages_of(batch, sequence_of(batch, token), kv_heads, kv_head, block_tokens);
    f32* query = queries[warp()];
    const T* from = qkv + (static_cast<u64>(token) * (query_heads + 2 * kv_heads) + head) * dim;
    for (u32 d = lane(); d < dim; d += 32) query[d] = to_f32(from[d]);

    f32 sum[MAX_DIM / 32] = {}, largest = -INF, total = 0;
    for (u32 first = window_start(position, window); first <= position; first += 32) {
        u32 key = first + lane(), count = position - first < 31 ? position - first + 1 : 32;
        u64 row = page_row(pages, key <= position ? key : position);
        sync_warp(); // the query is there, weights of the step before are used up
        f32 score = dot(query, keys + row * dim, dim) * scale;
        if (softcap > 0) score = softcap * tanh_f32(score / softcap);
        if (key > position) score = -INF;
        f32 high = max_f32(largest, largest_of(score)), shrink = exp_f32(largest - high), weight = exp_f32(score - high);
        largest = high;
        total = fma_f32(total, shrink, weight);
        weights[warp()][lane()] = weight;
        rows[warp()][lane()] = static_cast<u32>(row);
        sync_warp();
#pragma unroll
        for (u32 i = 0; i < MAX_DIM / 32; i++) {
            u32 d = i * 32 + lane();
            if (d >= dim) break;
            f32 added = 0;
            for (u32 k = 0; k < count; k++)
                added = fma_f32(weights[warp()][k], to_f32(values[static_cast<u64>(rows[warp()][k]) * dim + d]), added);
            sum[i] = fma_f32(sum[i], shrink, added);
        }
    }
    f32 share = 1 / sum_of(total);
    T* to = out + (static_cast<u64>(token) * query_heads + head) * dim;
#pragma unroll
    for (u32 i = 0; i < MAX_DIM / 32; i++)
        if (i * 32 + lane() < dim) to[i * 32 + lane()] = from_f32<T>(sum[i] * share);
}

#define ENTRY(T)                                                                                                       \
    KERNEL(128, 6)                                                                                                     \
    attention_generic_##T(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out, u32 query_heads,   \
                          u32 kv_heads, u32 dim, u32 block_tokens, f32 scale, f32 softcap, u32 window) {               \
        attention_generic<T>(batch, qkv, keys, values, out, query_heads, kv_heads, dim, block_tokens, scale, softcap,  \
                             window);                                                                                  \
    }                                                                                                                  \
    REGISTER(attention_generic_##T)
ENTRY(bf16)
ENTRY(f16)
ENTRY(f32)
