// Attention of sequences with several queries in this step, over paged keys and values: FlashAttention-2
// (arXiv 2307.08691) with m16n8k16 matrix instructions. Causal; the queries are the last of their sequence, so a chunk
// of a prompt sees everything cached before it.
//
//   attention_prefill_<bf16|f16>_<64|80|96|128|256>
//   qkv     [tokens, (query_heads + 2 kv_heads) * dim]   the query part is read
//   keys, values   one layer's planes [block][kv head][block_tokens][dim], block_tokens any power of two
//   out     [tokens, query_heads * dim]                   rows of the tiles' tokens are written
//   softcap 0 = none; window 0 = none, else a query sees itself and window - 1 keys before it
//   16-byte alignment of all pointers; query_heads is a multiple of kv_heads, their ratio at most ROWS below
//
// Grid (kv_heads, tiles or more), 128 threads, dynamic shared memory (ROWS + 2 KEYS) * dim * 2 bytes. sm_80 and newer.
//
// A tile is `tile_tokens` consecutive queries of one sequence times the query heads of one KV head: row = token * group
// + head, tile_tokens * group <= ROWS, so that a key is fetched once for the whole group. A warp owns 32 rows (16 at
// head dim 256) and all keys of a step: no reduction crosses warps, and a key fragment from shared memory serves two
// matrix instructions. One buffer of keys and one of values are filled by turns: values arrive under q·k, the next keys
// under softmax and p·v. Probabilities go from accumulators to operands in registers. Later tiles come first in the
// grid: they have more keys.
//
// dim                         64     80     96    128    256
// ROWS x KEYS             128x64 128x64 128x64 128x64  64x32
// registers, at most         255    250    255    255    255
// dynamic shared KiB          32     40     48     64     64
// blocks per SM                2      2      2      2      2   (by registers; on sm_86 and sm_89 1 from dim 128 on)
// queries kept in registers  yes     no     no     no    yes
#include "attention.cuh"

template <u32 DIM> struct Shape {
    static constexpr u32 WARPS = 4;
    static constexpr u32 FRAGMENTS = DIM > 128 ? 1 : 2; // of 16 rows, per warp
    static constexpr u32 WARP_ROWS = 16 * FRAGMENTS;
    static constexpr u32 ROWS = WARPS * WARP_ROWS;
    static constexpr u32 KEYS = DIM > 128 ? 32 : 64;
    static constexpr u32 WARP_KEYS = KEYS / WARPS; // copied by one warp
    static constexpr bool KEEP_QUERY = DIM < 80 || DIM > 128;
    // What masks need is computed when it is needed, not kept over the loop (ptxas 12.9 would spill).
    static constexpr bool HIDE_TOKENS = DIM == 96;
    static constexpr u32 QUERY_STEPS = KEEP_QUERY ? DIM / 16 : 1;
    using Shared = Rows<DIM>;
};

// One lane's address for ldmatrix_x4 in 16 rows of shared memory: row `row` of them, chunk `half` of two.
struct LaneAddress {
    const u8* row;
    u32 turned;
};
template <u32 DIM> DEVICE LaneAddress lane_address(const u8* rows, u32 row, u32 half) {
    return LaneAddress{rows + row * Rows<DIM>::BYTES, (half ^ Rows<DIM>::turn(row)) << 4};
}
// The same lane's address for 16 columns from 16 * step, `down` rows (a multiple of 16) further down.
template <u32 DIM> DEVICE const u8* at(LaneAddress lane, u32 down, u32 step) {
    constexpr u32 SPAN = Rows<DIM>::SPAN;
    u32 bytes = step * 32;
    return lane.row + (lane.turned ^ (bytes & (SPAN - 1))) + (bytes & ~(SPAN - 1)) + down * Rows<DIM>::BYTES;
}

// Copies COUNT rows to shared memory from row `first` (a multiple of 8) on. Lane i < COUNT knows where row i begins, in
// chunks of 16 bytes. As many lanes as chunks move together copy one row's piece: whole sectors, few addresses.
template <u32 DIM, u32 COUNT, class T> DEVICE void copy_rows(u8* shared, u32 first, const T* global, u32 place) {
    using R = Rows<DIM>;
    constexpr u32 ACROSS = R::SPAN / 16, DOWN = 32 / ACROSS;
    u32 down = lane() / ACROSS, across = lane() % ACROSS;
    u8* line = shared + (first + down) * R::BYTES;
    u32 turned = (across ^ R::turn(down)) << 4;
#pragma unroll
    for (u32 j = 0; j < COUNT / DOWN; j++) {
        const T* from = global + static_cast<u64>(shfl(place, j * DOWN + down) + across) * 8;
        u8* to = line + (turned ^ (R::turn(j * DOWN) << 4)) + j * DOWN * R::BYTES;
#pragma unroll
        for (u32 c = 0; c < R::CHUNKS / ACROSS; c++) cp_async16(to + c * R::SPAN, from + c * ACROSS * 8);
    }
}

// The queries of one block.
struct Tile {
    u32 seq;
    u32 first_token;    // in the step
    u32 first_position; // in the sequence
    u32 rows;           // tokens * group
    u32 end;            // keys before this position are seen by some query
};
DEVICE Tile tile_of(const Batch* batch, u32 index, u32 tile_tokens, u32 group) {
    u32 seq = batch_tile_seq(batch, index), first = batch_tile_first(batch, index);
    u32 start = batch_seq_start(batch)[seq], queries = batch_seq_start(batch)[seq + 1] - start;
    u32 tokens = queries - first < tile_tokens ? queries - first : tile_tokens;
    u32 position = batch_seq_len(batch)[seq] - queries + first;
    return Tile{seq, uniform(start + first), uniform(position), uniform(tokens * group), uniform(position + tokens)};
}

// What a row of the tile is; rows past the end repeat the last one, are computed and not written.
struct Query {
    u32 token;
    u32 head;
};
DEVICE Query lane_query(const Tile& tile, u32 row, u32 kv_head, u32 group) {
    row = row < tile.rows ? row : tile.rows - 1;
    return Query{tile.first_token + row / group, kv_head * group + row % group};
}

// score[fragment][8 keys][…] += queries · keys.
template <class T, u32 DIM>
DEVICE void query_key(f32 (&score)[Shape<DIM>::FRAGMENTS][Shape<DIM>::KEYS / 8][4], LaneAddress query_lane,
                      LaneAddress key_lane, const u32 (&kept)[Shape<DIM>::FRAGMENTS][Shape<DIM>::QUERY_STEPS][4]) {
    using S = Shape<DIM>;
#pragma unroll
    for (u32 step = 0; step < DIM / 16; step++) {
        u32 query[S::FRAGMENTS][4];
#pragma unroll
        for (u32 f = 0; f < S::FRAGMENTS; f++) {
            if (S::KEEP_QUERY) {
#pragma unroll
                for (u32 i = 0; i < 4; i++) query[f][i] = kept[f][S::KEEP_QUERY ? step : 0][i];
            } else {
                ldmatrix_x4(query[f], at<DIM>(query_lane, f * 16, step));
            }
        }
#pragma unroll
        for (u32 n = 0; n < S::KEYS / 16; n++) {
            u32 key[4];
            ldmatrix_x4(key, at<DIM>(key_lane, n * 16, step));
            u32 low[2] = {key[0], key[1]}, high[2] = {key[2], key[3]};
#pragma unroll
            for (u32 f = 0; f < S::FRAGMENTS; f++) {
                mma_16816<T>(score[f][2 * n], query[f], low);
                mma_16816<T>(score[f][2 * n + 1], query[f], high);
            }
        }
    }
}

// sum[fragment][8 columns][…] += probabilities · values.
template <class T, u32 DIM>
DEVICE void weigh_values(f32 (&sum)[Shape<DIM>::FRAGMENTS][DIM / 8][4],
                         const f32 (&p)[Shape<DIM>::FRAGMENTS][Shape<DIM>::KEYS / 8][4], LaneAddress value_lane) {
    using S = Shape<DIM>;
#pragma unroll
    for (u32 n = 0; n < S::KEYS / 16; n++) {
        u32 weight[S::FRAGMENTS][4];
#pragma unroll
        for (u32 f = 0; f < S::FRAGMENTS; f++) {
            weight[f][0] = pack2<T>(p[f][2 * n][0], p[f][2 * n][1]);
            weight[f][1] = pack2<T>(p[f][2 * n][2], p[f][2 * n][3]);
            weight[f][2] = pack2<T>(p[f][2 * n + 1][0], p[f][2 * n + 1][1]);
            weight[f][3] = pack2<T>(p[f][2 * n + 1][2], p[f][2 * n + 1][3]);
        }
#pragma unroll
        for (u32 step = 0; step < DIM / 16; step++) {
            u32 value[4];
            ldmatrix_x4_trans(value, at<DIM>(value_lane, n * 16, step));
            u32 low[2] = {value[0], value[1]}, high[2] = {value[2], value[3]};
#pragma unroll
            for (u32 f = 0; f < S::FRAGMENTS; f++) {
                mma_16816<T>(sum[f][2 * step], weight[f], low);
                mma_16816<T>(sum[f][2 * step + 1], weight[f], high);
            }
        }
    }
}

template <u32 A, u32 B> DEVICE void clear(f32 (&v)[A][B][4]) {
#pragma unroll
    for (u32 a = 0; a < A; a++)
#pragma unroll
        for (u32 b = 0; b < B; b++) v[a][b][0] = v[a][b][1] = v[a][b][2] = v[a][b][3] = 0;
}

// A lane's scores of 8 keys: [0], [1] = keys 2 * (lane % 4) + 0, 1 of row lane / 4; [2], [3] = of row lane / 4 + 8.
template <u32 FRAGMENTS, u32 EIGHTS> DEVICE void cap_scores(f32 (&score)[FRAGMENTS][EIGHTS][4], const Scale& scale) {
#pragma unroll
    for (u32 f = 0; f < FRAGMENTS; f++)
#pragma unroll
        for (u32 n = 0; n < EIGHTS; n++)
#pragma unroll
            for (u32 i = 0; i < 4; i++) score[f][n][i] = capped(score[f][n][i], scale);
}
// `tokens`: a byte for each of the lane's rows, its token counted from the tile's first.
template <u32 FRAGMENTS, u32 EIGHTS>
DEVICE void mask_scores(f32 (&score)[FRAGMENTS][EIGHTS][4], u32 tokens, u32 first_position, u32 first_key, u32 window) {
    u32 key = first_key + 2 * (lane() & 3);
#pragma unroll
    for (u32 f = 0; f < FRAGMENTS; f++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            // Seen: start <= key <= position, as one unsigned comparison.
            u32 position = first_position + (tokens >> (16 * f + 8 * h) & 255);
            u32 start = window_start(position, window), span = position - start;
#pragma unroll
            for (u32 n = 0; n < EIGHTS; n++)
#pragma unroll
                for (u32 i = 0; i < 2; i++)
                    if (key + n * 8 + i - start > span) score[f][n][2 * h + i] = -INF;
        }
}

// Scores become probabilities relative to the largest score so far; what was summed before is scaled to it.
// The four lanes of a row share its largest score; each keeps the total of its own keys.
template <u32 FRAGMENTS, u32 EIGHTS, u32 COLUMNS>
DEVICE void online_softmax(f32 (&score)[FRAGMENTS][EIGHTS][4], f32 (&sum)[FRAGMENTS][COLUMNS][4],
                           f32 (&largest)[FRAGMENTS][2], f32 (&total)[FRAGMENTS][2], f32 factor) {
#pragma unroll
    for (u32 f = 0; f < FRAGMENTS; f++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 high = largest[f][h];
#pragma unroll
            for (u32 n = 0; n < EIGHTS; n++) high = max_f32(high, max_f32(score[f][n][2 * h], score[f][n][2 * h + 1]));
            high = max_f32(high, shfl_xor(high, 1));
            high = max_f32(high, shfl_xor(high, 2));
            f32 base = high == -INF ? 0 : high * factor; // a row may have seen no key yet
            f32 shrink = exp2_fast(fma_f32(largest[f][h], factor, -base));
            largest[f][h] = high;
            f32 added = 0;
#pragma unroll
            for (u32 n = 0; n < EIGHTS; n++)
#pragma unroll
                for (u32 i = 2 * h; i < 2 * h + 2; i++) {
                    score[f][n][i] = exp2_fast(fma_f32(score[f][n][i], factor, -base));
                    added += score[f][n][i];
                }
            total[f][h] = fma_f32(total[f][h], shrink, added);
#pragma unroll
            for (u32 c = 0; c < COLUMNS; c++) {
                sum[f][c][2 * h] *= shrink;
                sum[f][c][2 * h + 1] *= shrink;
            }
        }
}

// Divides by the totals and writes the warp's rows through its own (no longer needed) rows of queries.
template <class T, u32 DIM>
DEVICE void write_rows(f32 (&sum)[Shape<DIM>::FRAGMENTS][DIM / 8][4], f32 (&total)[Shape<DIM>::FRAGMENTS][2], u8* shared,
                       u32 first_row, u32 rows, T* out, u32 place) {
    using S = Shape<DIM>;
    sync_warp();
#pragma unroll
    for (u32 f = 0; f < S::FRAGMENTS; f++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            f32 all = total[f][h];
            all += shfl_xor(all, 1);
            all += shfl_xor(all, 2);
            f32 share = rcp_fast(all);
            u32 row = first_row + f * 16 + h * 8 + lane() / 4;
#pragma unroll
            for (u32 c = 0; c < DIM / 8; c++)
                store4(shared + Rows<DIM>::at(row, c) + (lane() & 3) * 4,
                       pack2<T>(sum[f][c][2 * h] * share, sum[f][c][2 * h + 1] * share));
        }
    sync_warp();
#pragma unroll 4
    for (u32 i = 0; i < S::WARP_ROWS * Rows<DIM>::CHUNKS / 32; i++) {
        u32 index = i * 32 + lane();
        u32 row = index / Rows<DIM>::CHUNKS, chunk = index % Rows<DIM>::CHUNKS;
        u64 to = shfl(place, row) + chunk;
        if (first_row + row < rows) store16(out + to * 8, load16(shared + Rows<DIM>::at(first_row + row, chunk)));
    }
}

template <class T, u32 DIM>
DEVICE void attention_prefill(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out, u32 query_heads,
                              u32 kv_heads, u32 block_tokens, u32 tile_tokens, f32 softmax_scale, f32 softcap, u32 window) {
    using S = Shape<DIM>;
    constexpr u32 CHUNKS = Rows<DIM>::CHUNKS;
    SHARED_BYTES(shared);
    u8* shared_keys = shared + S::ROWS * Rows<DIM>::BYTES;
    u8* shared_values = shared_keys + S::KEYS * Rows<DIM>::BYTES;
    if (block_y() >= batch->n_tiles) return;
    u32 kv_head = block_x(), group = query_heads / kv_heads;
    Tile tile = tile_of(batch, batch->n_tiles - 1 - block_y(), tile_tokens, group);
    Pages pages = pages_of(batch, tile.seq, kv_heads, kv_head, block_tokens);
    Scale scale = scale_of(softmax_scale, softcap);

    u32 own_warp = uniform(warp());
    u32 first_row = own_warp * S::WARP_ROWS, last_row = tile.rows - 1;
    Query query = lane_query(tile, first_row + lane() % S::WARP_ROWS, kv_head, group);
    u32 all_heads = query_heads + 2 * kv_heads;
    copy_rows<DIM, S::WARP_ROWS>(shared, first_row, qkv, (query.token * all_heads + query.head) * CHUNKS);
    cp_async_commit();

    // Each warp copies WARP_KEYS rows of a step; keys past the end repeat the last one and are masked.
    u32 begin = window_start(tile.first_position, window);
    u32 lane_key = own_warp * S::WARP_KEYS + lane() % S::WARP_KEYS;
    auto place_at = [&](u32 first_key) {
        u32 key = first_key + lane_key;
        return page_row(pages, key < tile.end ? key : tile.end - 1) * CHUNKS;
    };
    u32 place = place_at(begin);
    copy_rows<DIM, S::WARP_KEYS>(shared_keys, own_warp * S::WARP_KEYS, keys, place);
    cp_async_commit();

    u32 tokens = 0;
#pragma unroll
    for (u32 i = 0; i < 2 * S::FRAGMENTS; i++) {
        u32 row = first_row + i * 8 + lane() / 4;
        tokens |= (row < last_row ? row : last_row) / group << (8 * i);
    }
    u32 warp_end = first_row + S::WARP_ROWS - 1;
    u32 first_position = tile.first_position + first_row / group;
    u32 last_position = tile.first_position + (warp_end < last_row ? warp_end : last_row) / group;
    u32 warp_begin = window_start(first_position, window), full_begin = window_start(last_position, window);
    u32 seen_end = first_row <= last_row ? last_position + 1 : 0; // nothing for a warp without rows

    LaneAddress query_lane = lane_address<DIM>(shared + first_row * Rows<DIM>::BYTES, lane() & 15, lane() >> 4);
    LaneAddress key_lane = lane_address<DIM>(shared_keys, (lane() & 7) + ((lane() >> 4) << 3), (lane() >> 3) & 1);
    LaneAddress value_lane = lane_address<DIM>(shared_values, lane() & 15, lane() >> 4);
    u32 kept[S::FRAGMENTS][S::QUERY_STEPS][4];
    if (S::KEEP_QUERY) {
        cp_async_wait<1>();
        sync_warp();
#pragma unroll
        for (u32 f = 0; f < S::FRAGMENTS; f++)
#pragma unroll
            for (u32 step = 0; step < S::QUERY_STEPS; step++)
                ldmatrix_x4(kept[f][step], at<DIM>(query_lane, f * 16, step));
    }

    f32 sum[S::FRAGMENTS][DIM / 8][4] = {};
    f32 largest[S::FRAGMENTS][2], total[S::FRAGMENTS][2] = {};
#pragma unroll
    for (u32 f = 0; f < S::FRAGMENTS; f++) largest[f][0] = largest[f][1] = -INF;

    for (u32 first_key = begin; first_key < tile.end; first_key += S::KEYS) {
        bool sees = first_key < seen_end && first_key + S::KEYS > warp_begin;
        cp_async_wait<0>();
        sync_block(); // keys are here, values of the step before are used up
        copy_rows<DIM, S::WARP_KEYS>(shared_values, own_warp * S::WARP_KEYS, values, place);
        cp_async_commit();
        place = place_at(first_key + S::KEYS); // the table is read long before it is needed

        f32 score[S::FRAGMENTS][S::KEYS / 8][4];
        if (sees) {
            clear(score);
            query_key<T, DIM>(score, query_lane, key_lane, kept);
            if (scale.cap > 0) cap_scores(score, scale);
            if (first_key + S::KEYS - 1 > first_position || first_key < full_begin)
                mask_scores(score, S::HIDE_TOKENS ? shfl(tokens, lane()) : tokens, tile.first_position, first_key,
                            window);
        }
        cp_async_wait<0>();
        sync_block(); // values are here, keys are used up
        copy_rows<DIM, S::WARP_KEYS>(shared_keys, own_warp * S::WARP_KEYS, keys, place);
        cp_async_commit();
        if (sees) {
            online_softmax(score, sum, largest, total, scale.factor);
            weigh_values<T, DIM>(sum, score, value_lane);
        }
    }
    cp_async_wait<0>(); // of keys that nobody needs: nothing may be on its way when the block ends
    // Found once more, from shuffled values that the compiler cannot trace: kept over the loop it would spill.
    query = lane_query(tile, first_row + lane() % S::WARP_ROWS, kv_head, uniform(group));
    write_rows<T, DIM>(sum, total, shared, first_row, tile.rows, out, (query.token * query_heads + query.head) * CHUNKS);
}

#define ENTRY(T, DIM)                                                                                                  \
    KERNEL(128, 2)                                                                                                     \
    attention_prefill_##T##_##DIM(const Batch* batch, const T* qkv, const T* keys, const T* values, T* out,            \
                                  u32 query_heads, u32 kv_heads, u32 block_tokens, u32 tile_tokens, f32 scale,         \
                                  f32 softcap, u32 window) {                                                           \
        attention_prefill<T, DIM>(batch, qkv, keys, values, out, query_heads, kv_heads, block_tokens, tile_tokens,     \
                                  scale, softcap, window);                                                             \
    }                                                                                                                  \
    REGISTER(attention_prefill_##T##_##DIM)
#define DIMS(T) ENTRY(T, 64) ENTRY(T, 80) ENTRY(T, 96) ENTRY(T, 128) ENTRY(T, 256)
DIMS(bf16)
DIMS(f16)
