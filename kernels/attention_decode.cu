// Attention of sequences with one query in this step, over paged keys and values: split-KV ("flash decoding") with
// online softmax in base 2 (FlashAttention-2, arXiv 2307.08691), pieces merged by their log-sum-exp.
//
//   attention_decode_<bf16|f16>_<64|80|96|128|256>        one piece of one sequence for up to 8 heads of a KV head
//   attention_decode_wide_<bf16|f16>_<64|80|96|128>       … for up to 16
//   qkv     [tokens, (query_heads + 2 kv_heads) * dim]    the query part is read
//   keys, values   one layer's planes [block][kv head][block_tokens][dim], block_tokens any power of two
//   out     [tokens, query_heads * dim]                   rows of the decoded sequences are written
//   partial f32 [sequences, query_heads, splits, dim] weighted values, then [sequences, query_heads, splits, 2]
//           their largest exponent and total weight; not touched if splits = 1
//   counters   a zero for each of the first two numbers of the grid, left zero
//   softcap 0 = none; window 0 = none, else a query sees itself and window - 1 keys before it
//   16-byte alignment of all pointers
//
// grid (sequences or more, kv_heads * ceil(query_heads / kv_heads / 8 or 16), splits), 128 threads. splits <= 64, 1 <= usual.
// sm_80 and newer.
//
// A sequence is cut by its own length: into `usual` pieces, more if it is long, fewer if it is short, and never more than
// `splits`; blocks without a piece return at once, so that one grid (and one CUDA graph) serves all lengths. The last of a
// sequence's blocks to finish merges the pieces, in their order: the same bits whoever is last.
//
// Time is that of reading keys and values once. They go from global memory into the operands of matrix instructions
// without passing shared memory: which dimension or key a lane's registers stand for may be chosen freely as long as
// both operands agree, so lanes load 16 bytes of a row at a time. Matrix instructions serve every group, 1 included:
// against plain products they save the conversion of every key and value, and the tensor cores are idle anyway. A
// warp holds 16 keys and 16 values in registers and asks for the next ones as soon as it has used those; the 4 warps
// of a block take turns on tiles of 16 keys and meet once, at the end.
//
// dim                           64    80    96   128   256
// registers, sm_80 to sm_90a   120   128   154   168   255      wide: 148   166   193   241
// static shared KiB            8.4  10.4  12.4  16.4  32.4            16.4  20.4  24.4  32.4
// blocks per SM                  4     4     3     3     2               3     3     2     2   (by registers)
// KiB on the way per SM         64    80    72    96    96     (a warp's 16 keys and 16 values, half of these at 256)
#include "attention.cuh"
#include "last_block.cuh"
#include "reduce.cuh"
#include "vector.cuh"

constexpr u32 DECODE_WARPS = 4;
constexpr u32 TILE_KEYS = 16;
constexpr u32 SHORT_PIECE = 128; // keys: a shorter piece is not worth a block
constexpr u32 LONG_PIECE = 1536; // a longer one would be waited for

// The keys [begin, end) of one piece, and how many pieces its sequence has.
struct Piece {
    u32 begin, end, pieces;
};
DEVICE Piece piece_of(u32 keys, u32 window, u32 index, u32 usual, u32 splits) {
    u32 first = window_start(keys - 1, window);
    u32 seen = keys - first, pieces = (seen + LONG_PIECE - 1) / LONG_PIECE, most = (seen + SHORT_PIECE - 1) / SHORT_PIECE;
    pieces = pieces > usual ? pieces : usual;
    pieces = pieces < most ? pieces : most;
    pieces = pieces < splits ? pieces : splits;
    u32 tiles = (seen + TILE_KEYS - 1) / TILE_KEYS;
    u32 begin = first + tiles * index / pieces * TILE_KEYS, end = first + tiles * (index + 1) / pieces * TILE_KEYS;
    return Piece{uniform(begin), uniform(end < keys ? end : keys), uniform(pieces)};
}

// One row of 16-bit values as four lanes hold it for q·k: lane q has values 32 * s + 8 * q… of every 32, and
// values 8 * q / 2… of a last 16. Words 2 * step, 2 * step + 1 are the lane's part of 16 dimensions.
template <u32 DIM> DEVICE void load_quarter(u32 (&words)[DIM / 8], const u8* row) {
    u32 quarter = lane() & 3;
#pragma unroll
    for (u32 s = 0; s < DIM / 32; s++) {
        vec16 v = load16_stream(row + s * 64 + quarter * 16);
        words[4 * s] = v.x, words[4 * s + 1] = v.y, words[4 * s + 2] = v.z, words[4 * s + 3] = v.w;
    }
    if (DIM % 32 != 0) {
        vec8 v = load8(row + DIM / 32 * 64 + quarter * 8);
        words[DIM / 8 - 2] = v.x, words[DIM / 8 - 1] = v.y;
    }
}
// The same for p·v, where eight lanes hold a row: lane g has values 64 * s + 8 * g… of every 64, then its eighth of
// the rest. Word t is two dimensions of the lane's part of 16.
template <u32 DIM> DEVICE void load_eighth(u32 (&words)[DIM / 16], const u8* row) {
    u32 eighth = lane() >> 2;
#pragma unroll
    for (u32 s = 0; s < DIM / 64; s++) {
        vec16 v = load16_stream(row + s * 128 + eighth * 16);
        words[4 * s] = v.x, words[4 * s + 1] = v.y, words[4 * s + 2] = v.z, words[4 * s + 3] = v.w;
    }
    const u8* rest = row + DIM / 64 * 128 + eighth * (DIM % 64 / 4);
    if (DIM % 64 == 32) {
        vec8 v = load8(rest);
        words[DIM / 16 - 2] = v.x, words[DIM / 16 - 1] = v.y;
    }
    if (DIM % 64 == 16) words[DIM / 16 - 1] = load4(rest);
}
// First dimension of word t of load_eighth.
template <u32 DIM> DEVICE u32 dim_of(u32 t) {
    u32 eighth = lane() >> 2;
    if (t < DIM / 64 * 4) return t / 4 * 64 + eighth * 8 + t % 4 * 2;
    return DIM / 64 * 64 + eighth * (DIM % 64 / 8) + t % 4 * 2;
}

template <u32 DIM> struct KeyTile {
    u32 words[2][DIM / 8]; // keys lane / 4 and lane / 4 + 8
};
// A part of the dimensions at a time where registers do not hold all.
template <u32 DIM> struct ValueTile {
    static constexpr u32 PARTS = DIM > 128 ? 2 : 1, WIDTH = DIM / PARTS;
    u32 words[4][WIDTH / 16]; // keys 2 * (lane % 4) + 0, 1, 8, 9
};
// Lane i knows the row of key i % 16 of the tile.
template <u32 DIM, class T> DEVICE void load_keys(KeyTile<DIM>& tile, const T* keys, u32 row) {
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        u64 at = shfl(row, (lane() >> 2) + 8 * i);
        load_quarter<DIM>(tile.words[i], reinterpret_cast<const u8*>(keys) + at * (DIM * 2));
    }
}
template <u32 DIM, class T> DEVICE void load_values(ValueTile<DIM>& tile, const T* values, u32 row, u32 part) {
    constexpr u32 WIDTH = ValueTile<DIM>::WIDTH;
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        u64 at = shfl(row, 2 * (lane() & 3) + (i & 1) + 8 * (i >> 1));
        load_eighth<WIDTH>(tile.words[i], reinterpret_cast<const u8*>(values) + at * (DIM * 2) + part * (WIDTH * 2));
    }
}

// What a warp knows of 8 * EIGHTS heads: lane 4 * g + q keeps largest and total of heads g (+ 8), and weighted values
// of heads 2 * q, 2 * q + 1 (+ 8).
template <u32 DIM, u32 EIGHTS> struct State {
    f32 sum[EIGHTS][DIM / 16][4]; // [0], [1]: the word's first dimension of both heads; [2], [3]: the second
    f32 largest[EIGHTS], total[EIGHTS];
};

// Queries as the first operand of matrix instructions, 16 rows of 16 dimensions each.
// Up to 8 heads: rows 0… take dimensions 0, 1 and 2, 3 of a lane's eight, rows 8… dimensions 4, 5 and 6, 7 of the same
// head; each half of the result is right for one half of the dimensions (a last 16 fills rows 0… only).
// Up to 16: rows 8… are heads 8….
template <u32 DIM, u32 EIGHTS> struct Query {
    u32 rows[EIGHTS == 1 ? (DIM + 31) / 32 : DIM / 16][4];
};
template <u32 DIM, u32 EIGHTS, class T> DEVICE void load_query(Query<DIM, EIGHTS>& query, const T* heads, u32 count) {
    u32 words[EIGHTS][DIM / 8];
#pragma unroll
    for (u32 e = 0; e < EIGHTS; e++) { // a head that is not there repeats the last and is not written
        u32 head = (lane() >> 2) + 8 * e;
        load_quarter<DIM>(words[e], reinterpret_cast<const u8*>(heads + (head < count ? head : count - 1) * DIM));
    }
#pragma unroll
    for (u32 s = 0; s < DIM / 16; s++) {
        u32 low = words[0][2 * s], high = words[0][2 * s + 1];
        if (EIGHTS == 2) {
            u32(&row)[4] = query.rows[EIGHTS == 2 ? s : 0];
            row[0] = low, row[1] = words[EIGHTS - 1][2 * s], row[2] = high, row[3] = words[EIGHTS - 1][2 * s + 1];
        } else {
            query.rows[s / 2][s % 2] = low, query.rows[s / 2][s % 2 + 2] = high;
        }
    }
    if (EIGHTS == 1 && DIM % 32 != 0) query.rows[DIM / 32][1] = query.rows[DIM / 32][3] = 0;
}

// score[8 keys][…] = queries · keys: [0], [1] are keys 2 * q, 2 * q + 1 of head g; [2], [3] of head g + 8.
template <class T, u32 DIM, u32 EIGHTS>
DEVICE void query_key(f32 (&score)[2][4], const Query<DIM, EIGHTS>& query, const KeyTile<DIM>& tile) {
    f32 other[2][4] = {};
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0;
#pragma unroll
        for (u32 s = 0; s < DIM / 16; s++) {
            u32 key[2] = {tile.words[i][2 * s], tile.words[i][2 * s + 1]};
            if (EIGHTS == 1) mma_16816<T>(s % 2 == 0 ? score[i] : other[i], query.rows[s / 2], key);
            if (EIGHTS == 2) mma_16816<T>(score[i], query.rows[EIGHTS == 2 ? s : 0], key);
        }
        if (EIGHTS == 1) score[i][0] += other[i][2], score[i][1] += other[i][3];
    }
}

// Scores become probabilities relative to the largest so far, and what was summed before is scaled to it.
template <class T, u32 DIM, u32 EIGHTS>
DEVICE void online_softmax(f32 (&score)[2][4], u32 (&weight)[EIGHTS][2], State<DIM, EIGHTS>& state, f32 factor) {
#pragma unroll
    for (u32 e = 0; e < EIGHTS; e++) {
        f32 high = max_f32(max_f32(score[0][2 * e], score[0][2 * e + 1]), max_f32(score[1][2 * e], score[1][2 * e + 1]));
        high = max_f32(high, shfl_xor(high, 1));
        high = max_f32(high, shfl_xor(high, 2));
        high = max_f32(high, state.largest[e]); // a tile has at least one key that is seen: never -INF
        f32 base = high * factor, shrink = exp2_fast(fma_f32(state.largest[e], factor, -base));
        state.largest[e] = high;
        f32 added = 0;
#pragma unroll
        for (u32 i = 0; i < 2; i++)
#pragma unroll
            for (u32 j = 2 * e; j < 2 * e + 2; j++) {
                score[i][j] = exp2_fast(fma_f32(score[i][j], factor, -base));
                added += score[i][j];
            }
        state.total[e] = fma_f32(state.total[e], shrink, added);
#pragma unroll
        for (u32 i = 0; i < 2; i++) weight[e][i] = pack2<T>(score[i][2 * e], score[i][2 * e + 1]);
        f32 even = shfl(shrink, (lane() & 3) * 8), odd = shfl(shrink, (lane() & 3) * 8 + 4);
#pragma unroll
        for (u32 t = 0; t < DIM / 16; t++) {
            state.sum[e][t][0] *= even, state.sum[e][t][2] *= even;
            state.sum[e][t][1] *= odd, state.sum[e][t][3] *= odd;
        }
    }
}

// sum += valuesᵀ · probabilitiesᵀ of one part: words of two keys' rows become words of two keys per dimension.
template <class T, u32 DIM, u32 EIGHTS>
DEVICE void weigh_values(State<DIM, EIGHTS>& state, const u32 (&weight)[EIGHTS][2], const ValueTile<DIM>& tile, u32 part) {
    constexpr u32 WORDS = ValueTile<DIM>::WIDTH / 16;
#pragma unroll
    for (u32 t = 0; t < WORDS; t++) {
        u32 value[4];
#pragma unroll
        for (u32 i = 0; i < 2; i++) {
            u32 first = tile.words[2 * i][t], second = tile.words[2 * i + 1][t];
            value[2 * i] = permute_bytes(first, second, 0x5410);
            value[2 * i + 1] = permute_bytes(first, second, 0x7632);
        }
#pragma unroll
        for (u32 e = 0; e < EIGHTS; e++) mma_16816<T>(state.sum[e][part * WORDS + t], value, weight[e]);
    }
}

// This warp's tiles of a piece.
template <class T, u32 DIM, u32 EIGHTS>
DEVICE void attend(State<DIM, EIGHTS>& state, const Query<DIM, EIGHTS>& query, const T* keys, const T* values,
                   const Pages& pages, const Piece& piece, f32 softmax_scale, f32 softcap) {
    u32 first = piece.begin + uniform(warp()) * TILE_KEYS;
    const f32 factor = scale_of(softmax_scale, softcap).factor;
    auto row_at = [&](u32 first_key) { // past the end: the last key again, which is masked
        u32 key = first_key + (lane() & 15);
        return page_row(pages, key < piece.end ? key : piece.end - 1);
    };
    KeyTile<DIM> key;
    ValueTile<DIM> value;
    constexpr u32 PARTS = ValueTile<DIM>::PARTS;
    u32 row = row_at(first);
    load_keys(key, keys, row);
    load_values(value, values, row, 0);
    u32 next_row = row_at(first + DECODE_WARPS * TILE_KEYS);
    for (; first < piece.end; first += DECODE_WARPS * TILE_KEYS) {
        f32 score[2][4];
        query_key<T, DIM, EIGHTS>(score, query, key);
        load_keys(key, keys, next_row);
        if (softcap > 0) {
            const Scale scale = scale_of(softmax_scale, softcap); // again: it would take registers over the loop
#pragma unroll
            for (u32 i = 0; i < 8; i++) score[i / 4][i % 4] = capped(score[i / 4][i % 4], scale);
        }
        if (first + TILE_KEYS > piece.end) {
#pragma unroll
            for (u32 i = 0; i < 8; i++)
                if (first + i / 4 * 8 + 2 * (lane() & 3) + i % 2 >= piece.end) score[i / 4][i % 4] = -INF;
        }
        u32 weight[EIGHTS][2];
        online_softmax<T>(score, weight, state, factor);
#pragma unroll
        for (u32 part = 0; part < PARTS; part++) {
            weigh_values<T, DIM, EIGHTS>(state, weight, value, part);
            load_values(value, values, part + 1 < PARTS ? row : next_row, (part + 1) % PARTS);
        }
        row = next_row;
        next_row = row_at(first + 2 * DECODE_WARPS * TILE_KEYS);
    }
}

// Where a piece's results for one head of the grid's sequence lie.
struct Partial {
    f32* values;
    f32* weight; // largest exponent of 2, total
};
DEVICE Partial partial_of(f32* partial, u32 sequence, u32 query_heads, u32 head, u32 splits, u32 piece, u32 dim) {
    u64 index = (static_cast<u64>(sequence) * query_heads + head) * splits + piece;
    u64 all = static_cast<u64>(grid_x()) * query_heads * splits;
    return Partial{partial + index * dim, partial + all * dim + index * 2};
}

// A warp puts the pieces of a head together. A lane knows the weights of pieces lane and lane + 32.
template <class T, u32 DIM> DEVICE void merge(T* out, const Partial& from, u32 pieces) {
    constexpr u32 FOURS = (DIM + 127) / 128;
    f32 share[2], total = 0, sum[FOURS][4] = {};
#pragma unroll
    for (u32 i = 0; i < 2; i++) share[i] = lane() + 32 * i < pieces ? from.weight[2 * (lane() + 32 * i)] : -INF;
    const f32 high = warp_max(max_f32(share[0], share[1]));
#pragma unroll
    for (u32 i = 0; i < 2; i++) {
        share[i] = exp2_fast(share[i] - high);
        if (lane() + 32 * i < pieces) total = fma_f32(from.weight[2 * (lane() + 32 * i) + 1], share[i], total);
    }
    total = warp_sum(total);
#pragma unroll 8
    for (u32 p = 0; p < pieces; p++) {
        const f32 of_piece = shfl(p < 32 ? share[0] : share[1], p & 31);
#pragma unroll
        for (u32 c = 0; c < FOURS; c++) {
            f32 v[4] = {};
            if (c * 128 + lane() * 4 < DIM) load_four(from.values + p * DIM + c * 128 + lane() * 4, v);
#pragma unroll
            for (u32 i = 0; i < 4; i++) sum[c][i] = fma_f32(v[i], of_piece, sum[c][i]);
        }
    }
    const f32 whole = rcp_fast(total);
#pragma unroll
    for (u32 c = 0; c < FOURS; c++) {
#pragma unroll
        for (u32 i = 0; i < 4; i++) sum[c][i] *= whole;
        if (c * 128 + lane() * 4 < DIM) store_four(out + c * 128 + lane() * 4, sum[c]);
    }
}

// The query heads of a block: up to `limit` of one KV head.
struct Heads {
    u32 kv_head, first, count;
};
DEVICE Heads heads_of(u32 index, u32 query_heads, u32 kv_heads, u32 limit) {
    u32 group = query_heads / kv_heads, chunks = (group + limit - 1) / limit;
    u32 kv_head = index / chunks, first = index % chunks * limit;
    return Heads{kv_head, kv_head * group + first, group - first < limit ? group - first : limit};
}

template <class T, u32 DIM, u32 EIGHTS>
DEVICE void attention_decode(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out, f32* partial,
                             u32* counters, u32 query_heads, u32 kv_heads, u32 block_tokens, u32 usual, u32 splits,
                             f32 softmax_scale, f32 softcap, u32 window) {
    constexpr u32 HEADS = 8 * EIGHTS;
    SHARED(f32, sums, [DECODE_WARPS][HEADS][DIM + 1]); // one more: heads begin in different banks
    SHARED(f32, weights, [DECODE_WARPS][HEADS][2]);
    SHARED(u32, kept, [3]); // what only the end needs: in registers over the loop it would spill
    if (block_x() >= batch->n_decode) return;
    u32 seq = uniform(batch_decode(batch, block_x()));
    Piece piece = piece_of(uniform(batch_seq_len(batch)[seq]), window, block_z(), usual, splits);
    if (block_z() >= piece.pieces) return;
    Heads own = heads_of(block_y(), query_heads, kv_heads, HEADS);
    u32 token = batch_seq_start(batch)[seq];
    if (thread_x() == 0) kept[0] = token, kept[1] = piece.pieces, kept[2] = block_x() * grid_y() + block_y();

    Query<DIM, EIGHTS> query;
    u64 row = static_cast<u64>(token) * (query_heads + 2 * kv_heads);
    load_query<DIM, EIGHTS>(query, qkv + (row + own.first) * DIM, own.count);
    State<DIM, EIGHTS> state = {};
#pragma unroll
    for (u32 e = 0; e < EIGHTS; e++) state.largest[e] = -INF;
    attend<T, DIM, EIGHTS>(state, query, keys, values, pages_of(batch, seq, kv_heads, own.kv_head, block_tokens),
                           piece, softmax_scale, softcap);

    // The warps meet: exponents become comparable, sums are added in the order of the warps.
#pragma unroll
    for (u32 e = 0; e < EIGHTS; e++) {
        f32 total = state.total[e];
        total += shfl_xor(total, 1);
        total += shfl_xor(total, 2);
        if ((lane() & 3) == 0) {
            weights[warp()][(lane() >> 2) + 8 * e][0] = state.largest[e] * scale_of(softmax_scale, softcap).factor;
            weights[warp()][(lane() >> 2) + 8 * e][1] = total;
        }
#pragma unroll
        for (u32 t = 0; t < DIM / 16; t++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                sums[warp()][2 * (lane() & 3) + (i & 1) + 8 * e][dim_of<DIM>(t) + (i >> 1)] = state.sum[e][t][i];
    }
    sync_block();
    own = heads_of(uniform(block_y()), uniform(query_heads), kv_heads, HEADS);
    token = kept[0];
    for (u32 i = thread_x(); i < own.count * DIM; i += DECODE_WARPS * 32) {
        u32 head = i / DIM, d = i % DIM;
        f32 high = weights[0][head][0], total = 0, sum = 0;
#pragma unroll
        for (u32 w = 1; w < DECODE_WARPS; w++) high = max_f32(high, weights[w][head][0]);
#pragma unroll
        for (u32 w = 0; w < DECODE_WARPS; w++) {
            f32 share = exp2_fast(weights[w][head][0] - high); // 0 for a warp without keys
            total = fma_f32(weights[w][head][1], share, total);
            sum = fma_f32(sums[w][head][d], share, sum);
        }
        if (kept[1] == 1) {
            T* to = out + (static_cast<u64>(token) * query_heads + own.first + head) * DIM;
            to[d] = from_f32<T>(sum * rcp_fast(total));
        } else {
            Partial to = partial_of(partial, block_x(), query_heads, own.first + head, splits, block_z(), DIM);
            to.values[d] = sum;
            if (d == 0) to.weight[0] = high, to.weight[1] = total;
        }
    }
    if (kept[1] == 1 || !is_last_block(counters + kept[2], kept[1])) return;
    for (u32 head = uniform(warp()); head < own.count; head += DECODE_WARPS) {
        T* to = out + (static_cast<u64>(token) * query_heads + own.first + head) * DIM;
        merge<T, DIM>(to, partial_of(partial, block_x(), query_heads, own.first + head, splits, 0, DIM), kept[1]);
    }
}

#define DECODE(name, T, DIM, EIGHTS, BLOCKS)                                                                           \
    KERNEL(128, BLOCKS)                                                                                                \
    name(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out, f32* partial, u32* counters,        \
         u32 query_heads, u32 kv_heads, u32 block_tokens, u32 usual, u32 splits, f32 scale, f32 softcap, u32 window) { \
        attention_decode<T, DIM, EIGHTS>(batch, qkv, keys, values, out, partial, counters, query_heads, kv_heads,      \
                                         block_tokens, usual, splits, scale, softcap, window);                         \
    }                                                                                                                  \
    REGISTER(name)
#define ENTRY(T, DIM, BLOCKS) DECODE(attention_decode_##T##_##DIM, T, DIM, 1, BLOCKS)
#define WIDE(T, DIM, BLOCKS) DECODE(attention_decode_wide_##T##_##DIM, T, DIM, 2, BLOCKS)
#define DIMS(T)                                                                                                        \
    ENTRY(T, 64, 4) ENTRY(T, 80, 4) ENTRY(T, 96, 3) ENTRY(T, 128, 3) ENTRY(T, 256, 2)                                  \
    WIDE(T, 64, 3) WIDE(T, 80, 3) WIDE(T, 96, 2) WIDE(T, 128, 2)
DIMS(bf16)
DIMS(f16)
