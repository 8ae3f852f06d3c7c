// Norm of query and key heads, rotary positions (arXiv 2104.09864) and the store into the paged cache, in one pass.
//
// On rows [query heads | key heads | value heads] * dim of T: heads are normed where a norm is given (RMSNorm over the
// head, arXiv 1910.07467); dimensions i and i + half turn by the position's angle (half-split pairs, i < half), those
// from 2 * half on stay. Queries are written back; keys and values go into the cache alone:
// keys and values [block][kv head][block_tokens][dim] of T, at the token's slot.
//
// qkv, keys, values aligned to 16 bytes, dim even, 2 * half <= dim; cos and sin [positions, half] of f32; norms [dim]
// of f32, or NULL both. Arithmetic is in f32, rounded once.
// Grid: x at least the tokens, y * warps of a block at least the heads; 128 threads, a warp a head. sm_80 and newer.
#include "batch.cuh"
#include "reduce.cuh"
#include "vector.cuh"

// What happens to one query or key head.
struct Turn {
    const f32* cos; // of the position
    const f32* sin;
    u32 half;
    const f32* norm; // or NULL
    f32 scale;       // of the norm
};

template <class T> DEVICE f32 norm_scale(const T* head, u32 dim, f32 eps) {
    f32 squares = 0;
    for (u32 i = lane() * 2; i < dim; i += 64) {
        f32 v[2];
        load_two(head + i, v);
        squares += v[0] * v[0] + v[1] * v[1];
    }
    return 1.0f / sqrt_f32(warp_sum(squares) / static_cast<f32>(dim) + eps);
}

DEVICE void norm_two(const Turn& turn, u32 i, f32 (&v)[2]) {
    if (!turn.norm) return;
    v[0] *= turn.scale * turn.norm[i];
    v[1] *= turn.scale * turn.norm[i + 1];
}

DEVICE void turn_pair(const Turn& turn, u32 i, f32& a, f32& b) {
    const f32 c = turn.cos[i], s = turn.sin[i], old = a;
    a = old * c - b * s;
    b = b * c + old * s;
}

// Pairs two by two: both halves begin at even dimensions.
template <class T> DEVICE void turn_even(const Turn& turn, const T* head, T* to) {
    for (u32 i = lane() * 2; i < turn.half; i += 64) {
        f32 a[2], b[2];
        load_two(head + i, a);
        load_two(head + turn.half + i, b);
        norm_two(turn, i, a);
        norm_two(turn, turn.half + i, b);
        turn_pair(turn, i, a[0], b[0]);
        turn_pair(turn, i + 1, a[1], b[1]);
        store_two(to + i, a);
        store_two(to + turn.half + i, b);
    }
}

template <class T> DEVICE void turn_odd(const Turn& turn, const T* head, T* to) {
    for (u32 i = lane(); i < turn.half; i += 32) {
        const u32 j = turn.half + i;
        f32 a = to_f32(head[i]), b = to_f32(head[j]);
        if (turn.norm) {
            a *= turn.scale * turn.norm[i];
            b *= turn.scale * turn.norm[j];
        }
        turn_pair(turn, i, a, b);
        to[i] = from_f32<T>(a);
        to[j] = from_f32<T>(b);
    }
}

// `to` may be the head itself: a lane writes what it alone reads.
template <class T> DEVICE void turn_head(const Turn& turn, const T* head, T* to, u32 dim) {
    if (turn.half % 2 == 0) {
        turn_even(turn, head, to);
    } else {
        turn_odd(turn, head, to);
    }
    for (u32 i = 2 * turn.half + lane() * 2; i < dim; i += 64) {
        f32 v[2];
        load_two(head + i, v);
        norm_two(turn, i, v);
        store_two(to + i, v);
    }
}

template <class T>
DEVICE void rope_store(const Batch* batch, T* qkv, const f32* cos, const f32* sin, const f32* query_norm,
                       const f32* key_norm, T* keys, T* values, u32 query_heads, u32 kv_heads, u32 dim, u32 half,
                       u32 block_tokens, f32 eps) {
    const u32 token = block_x(), heads = query_heads + 2 * kv_heads;
    const u32 head = block_y() * (block_threads() / 32) + warp();
    if (token >= batch->n_tokens || head >= heads) return;

    const u32 slot = batch_slot(batch, token), block = slot / block_tokens, offset = slot % block_tokens;
    const u32 kv = head < query_heads ? 0 : (head - query_heads) % kv_heads;
    const u64 stored = ((u64(block) * kv_heads + kv) * block_tokens + offset) * dim;
    T* from = qkv + (u64(token) * heads + head) * dim;
    if (head >= query_heads + kv_heads) {
        for (u32 i = lane() * 2; i < dim; i += 64) {
            f32 v[2];
            load_two(from + i, v);
            store_two(values + stored + i, v);
        }
        return;
    }
    const bool query = head < query_heads;
    const u64 angle = u64(batch_position(batch, token)) * half;
    Turn turn = {cos + angle, sin + angle, half, query ? query_norm : key_norm, 1.0f};
    if (turn.norm) turn.scale = norm_scale(from, dim, eps);
    turn_head(turn, from, query ? from : keys + stored, dim);
}

#define ENTRY(T)                                                                                                      \
    KERNEL(128, 8)                                                                                                    \
    rope_store_##T(const Batch* batch, T* qkv, const f32* cos, const f32* sin, const f32* query_norm,                 \
                   const f32* key_norm, T* keys, T* values, u32 query_heads, u32 kv_heads, u32 dim, u32 half,         \
                   u32 block_tokens, f32 eps) {                                                                       \
        rope_store<T>(batch, qkv, cos, sin, query_norm, key_norm, keys, values, query_heads, kv_heads, dim, half,     \
                      block_tokens, eps);                                                                             \
    }                                                                                                                 \
    REGISTER(rope_store_##T)
ENTRY(bf16)
ENTRY(f16)
ENTRY(f32)
