// Sampling of a step's rows; the order of operations stands in tokenmill.h at `tm_row`.
//
//   sample_scan   pieces of the vocabulary: extremes and log-sum-exp of the raw logits; biases, mask and penalties
//   sample_weigh  pieces: probabilities relative to the best token, their sums and a histogram of them
//   sample_pick   rows: filters and the draw; token and log-probability
//
// In this order on one stream; sample_weigh only if some row has a temperature. logits [rows, vocab] of f32 stay as they
// are, of any alignment to 4 bytes; `how` is aligned to 16 bytes; vocab at most MAX_PIECES * PIECE. tokens and logprobs
// [rows]: -1 and NaN where the row had NaN or +inf, or nothing finite to sample.
// Nothing is sorted: a histogram over the depth below the best token bounds what top_k and top_p can keep, and only
// that is looked at closely. All sums that decide are of integers, so results do not depend on the order of threads.
// Grid: scan and weigh (pieces, rows), PIECE_THREADS threads; pick (rows), 512 threads. sm_80 and newer.
#include "sampling.cuh"

constexpr u32 FOURS = PIECE / PIECE_THREADS / 4; // of neighbours a thread has in a piece
constexpr u32 LIST = 3072;                       // candidates that are looked at in shared memory
constexpr u32 PICK_THREADS = 512;
constexpr u32 PICK_SHARE = PIECE / PICK_THREADS; // neighbours a thread has in the piece that is drawn from

// Where element j of a thread's four number i lies in the piece.
DEVICE u32 place(u32 i, u32 j) { return (i * PIECE_THREADS + thread_x()) * 4 + j; }

DEVICE void load_piece(const f32* row, u32 first, u32 vocab, f32 (&v)[FOURS][4]) {
#pragma unroll
    for (u32 i = 0; i < FOURS; i++) load_four_of(row, first + place(i, 0), vocab, v[i]);
}

// f(entry) for every entry of a list whose token lies in the piece, once for all entries of the token.
template <class F> DEVICE void each_run(const u32* tokens, u32 n, u32 first, F f) {
    for (u32 i = thread_x(); i < n; i += block_threads()) {
        const u32 token = tokens[i];
        if (token - first >= PIECE || (i > 0 && tokens[i - 1] == token)) continue;
        for (u32 entry = i; entry < n && tokens[entry] == token; entry++) f(entry, token - first);
    }
}

// One rounding each, as the definition has it: a fused multiply-add would break ties.
DEVICE f32 penalised(f32 l, const Row* row, u32 count) {
    l = l > 0.0f ? l / row->repetition : mul_f32(l, row->repetition);
    return l - (mul_f32(row->frequency, static_cast<f32>(count)) + (count > 0 ? row->presence : 0.0f));
}

// Biases, mask and penalties on one piece, through shared memory.
DEVICE void edit(const Sampling* how, const Row* row, u32 first, f32* staged, f32 (&v)[FOURS][4]) {
#pragma unroll
    for (u32 i = 0; i < FOURS; i++) store_four(staged + place(i, 0), v[i]);
    sync_block();
    const f32* bias = reinterpret_cast<const f32*>(sampling_words(how, how->bias_value_at)) + row->bias;
    each_run(sampling_words(how, how->bias_token_at) + row->bias, row->n_bias, first,
             [&](u32 entry, u32 at) { staged[at] += bias[entry]; });
    sync_block();
    if (row->mask > 0) {
        const u32* mask = sampling_words(how, how->masks_at) + u64(row->mask - 1) * how->mask_words;
        for (u32 i = thread_x(); i < PIECE; i += block_threads()) {
            const u32 word = (first + i) / 32;
            if (word >= how->mask_words || (mask[word] >> (i % 32) & 1) == 0) staged[i] = -INF;
        }
        sync_block();
    }
    const u32* counts = sampling_words(how, how->seen_count_at) + row->seen;
    each_run(sampling_words(how, how->seen_token_at) + row->seen, row->n_seen, first,
             [&](u32 entry, u32 at) { staged[at] = penalised(staged[at], row, counts[entry]); });
    sync_block();
#pragma unroll
    for (u32 i = 0; i < FOURS; i++) load_four(staged + place(i, 0), v[i]);
}

// NaN and INF are both INF here: a row with either gives no token.
DEVICE f32 no_nan(f32 v) { return v < INF ? v : INF; }

KERNEL(PIECE_THREADS, 2)
sample_scan(const f32* logits, const Sampling* how, Piece* pieces, u32* bins, f32* edited, u32 vocab) {
    SHARED(f32, staged, [PIECE]);
    SHARED(f32, room, [WARPS]);
    SHARED(f32, sum_room, [WARPS]);
    SHARED(u64, best_room, [WARPS]);
    const Work work = {pieces, bins, edited};
    const u32 piece = block_x(), at = block_y(), first = piece * PIECE;
    const Row* row = sampling_row(how, at);
    f32 v[FOURS][4];
    load_piece(logits + u64(at) * vocab, first, vocab, v);

    f32 largest = -INF, sum = 0;
#pragma unroll
    for (u32 i = 0; i < FOURS * 4; i++) largest = max_f32(largest, no_nan(v[i / 4][i % 4]));
    largest = block_max(largest, -INF, room);
    if (largest > -INF) {
#pragma unroll
        for (u32 i = 0; i < FOURS * 4; i++) sum += weight(largest - v[i / 4][i % 4]);
    }
    sum = block_sum(sum, sum_room);

    if (is_edited(row)) {
        edit(how, row, first, staged, v);
        f32* to = edited_row(work, at, vocab);
#pragma unroll
        for (u32 i = 0; i < FOURS; i++) {
            if (first + place(i, 0) < vocab) store_four(to + first + place(i, 0), v[i]);
        }
    }
    u64 best = 0;
#pragma unroll
    for (u32 i = 0; i < FOURS * 4; i++) {
        const u64 order = order_of(no_nan(v[i / 4][i % 4]));
        best = larger(best, order << 32 | (0xffffffffu - (first + place(i / 4, i % 4))));
    }
    best = block_max(best, u64(0), best_room);

    if (thread_x() == 0) {
        pieces_of(work, at, vocab)[piece] = {largest, sum, static_cast<u32>(best >> 32), ~static_cast<u32>(best), 0, 0};
    }
    if (is_filtered(row, vocab)) {
        const u32 step = grid_x() * block_threads();
        for (u32 i = piece * block_threads() + thread_x(); i < 3 * BINS; i += step) bins_of(work, at)[i] = 0;
    }
}
REGISTER(sample_scan)

// A row's pieces put together; the same on every thread.
struct Whole {
    f32 largest; // raw
    f32 sum;
    u64 best;    // order and inverted token of the edited row
    u64 weight;
};

// Every warp for itself.
DEVICE Whole gather(const Piece* pieces, u32 n) {
    Whole whole = {-INF, 0, 0, 0};
    for (u32 i = lane(); i < n; i += 32) {
        whole.largest = max_f32(whole.largest, pieces[i].largest);
        whole.best = larger(whole.best, u64(pieces[i].best) << 32 | (0xffffffffu - pieces[i].best_id));
        whole.weight += pieces[i].weight;
    }
    whole.largest = warp_max(whole.largest);
    whole.best = warp_max(whole.best);
    whole.weight = warp_sum(whole.weight);
    for (u32 i = lane(); i < n; i += 32) {
        if (pieces[i].largest > -INF) whole.sum += pieces[i].sum * weight(whole.largest - pieces[i].largest);
    }
    whole.sum = warp_sum(whole.sum);
    return whole;
}

// Whether something can be sampled: neither NaN nor INF, and not all -INF.
DEVICE bool is_alive(const Whole& whole) {
    const u32 best = static_cast<u32>(whole.best >> 32);
    return whole.largest < INF && best > LOWEST && best < INFINITE;
}

// What probabilities are made of: the edited logits of a row, the best of them and the temperature.
struct Scale {
    const f32* logits;
    f32 best;
    f32 temperature;
};

DEVICE Scale scale_of(const f32* logits, const Work& work, const Row* row, const Whole& whole, u32 at, u32 vocab) {
    const f32* edited = edited_row(work, at, vocab);
    return {is_edited(row) ? edited : logits + u64(at) * vocab, number_of(static_cast<u32>(whole.best >> 32)),
            row->temperature};
}

KERNEL(PIECE_THREADS, 2)
sample_weigh(const f32* logits, const Sampling* how, Piece* pieces, u32* bins, f32* edited, u32 vocab) {
    SHARED(u32, local, [3 * BINS]);
    SHARED(u64, room, [WARPS]);
    const Work work = {pieces, bins, edited};
    const u32 piece = block_x(), at = block_y();
    const Row* row = sampling_row(how, at);
    if (!is_drawn(row)) return;
    const Whole whole = gather(pieces_of(work, at, vocab), piece_count(vocab));
    if (!is_alive(whole)) return;

    const Scale scale = scale_of(logits, work, row, whole, at, vocab);
    const bool filtered = is_filtered(row, vocab);
    const Counters sums = {local + BINS, local + 2 * BINS};
    for (u32 i = thread_x(); i < 3 * BINS; i += block_threads()) local[i] = 0;
    sync_block();
    f32 v[FOURS][4];
    load_piece(scale.logits, piece * PIECE, vocab, v);
    u64 total = 0;
    u32 deep = 0; // in the last bin: many, so counted apart
#pragma unroll
    for (u32 i = 0; i < FOURS * 4; i++) {
        const f32 l = v[i / 4][i % 4];
        if (!(l > -INF)) continue;
        const f32 below = depth(scale.best, l, scale.temperature), w = weight(below);
        if (!filtered) {
            total += w >= row->min_p ? fixed(w) : 0;
            continue;
        }
        const u32 bin = bin_of(below);
        total += fixed(w);
        if (fixed(w) > 0) add_wide(sums, bin, fixed(w));
        if (bin == BINS - 1) {
            deep++;
        } else {
            atomic_add(local + bin, 1u);
        }
    }
    total = block_sum(total, room);
    if (thread_x() == 0) pieces_of(work, at, vocab)[piece].weight = total;
    if (!filtered) return;

    deep = warp_sum(deep);
    if (lane() == 0 && deep > 0) atomic_add(local + BINS - 1, deep);
    sync_block();
    u32* to = bins_of(work, at);
    const Counters all = {to + BINS, to + 2 * BINS};
    for (u32 i = thread_x(); i < BINS; i += block_threads()) {
        if (local[i] > 0) atomic_add(to + i, local[i]);
        if (wide(sums, i) > 0) add_wide(all, i, wide(sums, i));
    }
}
REGISTER(sample_weigh)

// The tokens a draw is among.
struct Kept {
    u32 from;  // order of the least logit kept with all its ties
    u32 ties;  // of the next lower order, so many with the lowest ids are kept too
    f32 least; // weight: min_p
};

// Among what top_k and top_p choose: the row itself, or a list of its largest.
struct Candidates {
    const f32* values;
    const u32* ids; // NULL: a value's index is its token
    u32 n;
    u32 low; // order of the least candidate; smaller values are none
};

struct PickRoom {
    SelectRoom select;
    f32 values[LIST];
    u32 ids[LIST];
    u32 listed;
    u32 lowest; // inverted order
    u64 sums[WARPS];
    u32 piece_low[MAX_PIECES]; // weight of the tokens kept, by piece
    u32 piece_high[MAX_PIECES];
    u32 piece_ties[MAX_PIECES];
    u32 piece;  // that is drawn from
    u64 rest;   // of the running sum within it
    u32 ties_before;
    u32 token;
};

// All tokens in the histogram's bins up to `bin`, of which there are `n`.
DEVICE Candidates collect(PickRoom& room, const Scale& scale, u32 vocab, u32 bin, u64 n) {
    if (thread_x() == 0) room.listed = room.lowest = 0;
    sync_block();
    u32 lowest = 0;
    each(scale.logits, vocab, [&](f32 l, u32 id) {
        if (!(l > -INF) || bin_of(depth(scale.best, l, scale.temperature)) > bin) return;
        lowest = larger(lowest, ~order_of(l));
        if (n > LIST) return;
        const u32 to = atomic_add(&room.listed, 1u);
        room.values[to] = l;
        room.ids[to] = id;
    });
    lowest = warp_max(lowest);
    if (lane() == 0) atomic_max(&room.lowest, lowest);
    sync_block();
    if (n > LIST) return {scale.logits, nullptr, vocab, ~room.lowest};
    return {room.values, room.ids, room.listed, ~room.lowest};
}

DEVICE u64 mass(const Scale& scale, f32 l) { return fixed(weight(depth(scale.best, l, scale.temperature))); }

// p of a sum, at least 1.
DEVICE u64 part_of(f32 p, u64 sum) {
    const u64 part = static_cast<u64>(static_cast<f64>(p) * static_cast<f64>(sum));
    return part > 0 ? part : 1;
}

// The bins that hold everything top_k and top_p keep; BINS - 1 if they may keep all.
DEVICE u32 deepest_bin(PickRoom& room, u32* bins, const Row* row, u32 vocab, u64 total) {
    u32 deepest = BINS - 1;
    if (has_top_k(row, vocab)) {
        // Counts are 32 bits wide: the upper halves are zero.
        for (u32 i = thread_x(); i < BINS; i += block_threads()) room.select.high[i] = 0;
        const Reached reached = find(room.select, {bins, room.select.high}, row->top_k);
        if (reached.bin < BINS) deepest = reached.bin;
    } else {
        const Reached reached = find(room.select, {bins + BINS, bins + 2 * BINS}, part_of(row->top_p, total));
        if (reached.bin < BINS) deepest = reached.bin;
    }
    return deepest;
}

// Applies top_k, then top_p to what it keeps.
DEVICE Kept choose(PickRoom& room, const Candidates& among, const Scale& scale, const Row* row, u32 vocab, u64 total) {
    Kept kept = {among.low, 0, row->min_p};
    const u32 best = order_of(scale.best);
    if (has_top_k(row, vocab)) {
        u64 n = 0;
        each(among.values, among.n, [&](f32 l, u32) { n += order_of(l) >= among.low ? 1 : 0; });
        sync_block();
        n = block_sum(n, room.sums);
        if (n > row->top_k) {
            kept.from = select(room.select, among.values, among.n, among.low, best, row->top_k,
                               [](f32) { return u64(1); }).order;
        }
        total = 0;
        each(among.values, among.n, [&](f32 l, u32) { total += order_of(l) >= kept.from ? mass(scale, l) : 0; });
        sync_block();
        total = block_sum(total, room.sums);
    }
    if (has_top_p(row)) {
        const u64 target = part_of(row->top_p, total);
        const Selected edge = select(room.select, among.values, among.n, kept.from, best, target,
                                     [&](f32 l) { return mass(scale, l); });
        const u64 each_tie = mass(scale, number_of(edge.order));
        kept.from = edge.order + 1;
        kept.ties = static_cast<u32>((target - edge.above + each_tie - 1) / each_tie);
    }
    return kept;
}

// What one token adds to the running sum: its mass if it is kept for sure, and whether it is one of the ties.
struct Share {
    u64 mass;
    bool tie;
};

DEVICE Share share_of(const Kept& kept, const Scale& scale, f32 l) {
    const u32 order = order_of(l);
    if (order + 1 < kept.from) return {0, false};
    const f32 w = weight(depth(scale.best, l, scale.temperature));
    if (w < kept.least) return {0, false};
    if (order < kept.from) return {0, kept.ties > 0};
    return {fixed(w), false};
}

// Sums by piece of what is kept.
DEVICE void sum_pieces(PickRoom& room, const Candidates& among, const Kept& kept, const Scale& scale, u32 n_pieces) {
    const Counters sums = {room.piece_low, room.piece_high};
    for (u32 i = thread_x(); i < n_pieces; i += block_threads()) {
        room.piece_low[i] = room.piece_high[i] = room.piece_ties[i] = 0;
    }
    sync_block();
    if (among.ids) {
        each(among.values, among.n, [&](f32 l, u32 i) {
            const Share share = share_of(kept, scale, l);
            if (share.mass > 0) add_wide(sums, among.ids[i] / PIECE, share.mass);
            if (share.tie) atomic_add(room.piece_ties + among.ids[i] / PIECE, 1u);
        });
    } else {
        for (u32 piece = 0; piece < n_pieces; piece++) {
            const u32 first = piece * PIECE, rest = among.n - first;
            u64 mass = 0;
            u32 ties = 0;
            each(among.values + first, rest < PIECE ? rest : PIECE, [&](f32 l, u32) {
                const Share share = share_of(kept, scale, l);
                mass += share.mass;
                ties += share.tie ? 1 : 0;
            });
            mass = warp_sum(mass);
            ties = warp_sum(ties);
            if (lane() == 0 && mass > 0) add_wide(sums, piece, mass);
            if (lane() == 0 && ties > 0) atomic_add(room.piece_ties + piece, ties);
        }
    }
    sync_block();
}

// Ties that are kept of `n` after `before` others.
DEVICE u64 kept_ties(const Kept& kept, u64 before, u64 n) {
    const u64 left = before < kept.ties ? kept.ties - before : 0;
    return n < left ? n : left;
}

// (splitmix64(seed) >> 40) / 2^24 of `total`, rounded down. A sum of integers exceeds the one if it exceeds the other.
DEVICE u64 aim(u64 seed, u64 total) {
    u64 z = seed + 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    const u64 u = (z ^ (z >> 31)) >> 40;
    return (total >> 24) * u + (((total & 0xffffff) * u) >> 24);
}

// The piece where the running sum exceeds the aim.
DEVICE void draw_piece(PickRoom& room, const Kept& kept, u64 tie_mass, u64 seed, u32 n_pieces) {
    const u32 piece = thread_x();
    const bool mine = piece < n_pieces;
    const u64 ties = mine ? room.piece_ties[piece] : 0;
    const u64 ties_before = block_sum_before(ties, room.sums);
    u64 mass = mine ? wide({room.piece_low, room.piece_high}, piece) : 0;
    mass += tie_mass * kept_ties(kept, ties_before, ties);
    sync_block();
    const u64 total = block_sum(mass, room.sums);
    sync_block();
    const u64 before = block_sum_before(mass, room.sums), to = aim(seed, total);
    if (before <= to && to < before + mass) {
        room.piece = piece;
        room.rest = to - before;
        room.ties_before = static_cast<u32>(ties_before < kept.ties ? ties_before : kept.ties);
    }
    sync_block();
}

// The token of that piece.
DEVICE void draw_token(PickRoom& room, const Kept& kept, const Scale& scale, u64 tie_mass, u32 vocab) {
    const u32 first = room.piece * PIECE + thread_x() * PICK_SHARE;
    f32 v[PICK_SHARE];
#pragma unroll
    for (u32 i = 0; i < PICK_SHARE; i++) v[i] = first + i < vocab ? scale.logits[first + i] : -INF;
    u64 ties = 0, mass = 0;
#pragma unroll
    for (u32 i = 0; i < PICK_SHARE; i++) {
        const Share share = share_of(kept, scale, v[i]);
        mass += share.mass;
        ties += share.tie ? 1 : 0;
    }
    u64 ties_before = room.ties_before + block_sum_before(ties, room.sums);
    mass += tie_mass * kept_ties(kept, ties_before, ties);
    sync_block();
    u64 through = block_sum_before(mass, room.sums);
    const u64 to = room.rest;
    if (through <= to && to < through + mass) {
        u32 token = first;
#pragma unroll
        for (u32 i = 0; i < PICK_SHARE; i++) {
            const Share share = share_of(kept, scale, v[i]);
            if (through <= to) {
                through += share.mass + (share.tie ? tie_mass * kept_ties(kept, ties_before, 1) : 0);
                ties_before += share.tie ? 1 : 0;
                token = first + i;
            }
        }
        room.token = token;
    }
    sync_block();
}

KERNEL(PICK_THREADS, 1)
sample_pick(const f32* logits, const Sampling* how, Piece* pieces, u32* bins, f32* edited, i32* tokens, f32* logprobs,
            u32 vocab) {
    SHARED(PickRoom, room, );
    const Work work = {pieces, bins, edited};
    const u32 at = block_x(), n_pieces = piece_count(vocab);
    const Row* row = sampling_row(how, at);
    const Piece* parts = pieces_of(work, at, vocab);
    const Whole whole = gather(parts, n_pieces);
    i32 token = row->forced;
    if (token < 0 && is_alive(whole)) {
        token = static_cast<i32>(~static_cast<u32>(whole.best));
        if (is_drawn(row)) {
            const Scale scale = scale_of(logits, work, row, whole, at, vocab);
            Kept kept = {0, 0, row->min_p};
            if (is_filtered(row, vocab)) {
                u32* histogram = bins_of(work, at);
                const u32 bin = deepest_bin(room, histogram, row, vocab, whole.weight);
                u64 n = 0;
                for (u32 i = thread_x(); i <= bin; i += block_threads()) n += histogram[i];
                n = block_sum(n, room.sums);
                const Candidates among = collect(room, scale, vocab, bin, n);
                kept = choose(room, among, scale, row, vocab, whole.weight);
                sum_pieces(room, among, kept, scale, n_pieces);
            } else {
                for (u32 i = thread_x(); i < n_pieces; i += block_threads()) {
                    room.piece_low[i] = static_cast<u32>(parts[i].weight);
                    room.piece_high[i] = static_cast<u32>(parts[i].weight >> 32);
                    room.piece_ties[i] = 0;
                }
                sync_block();
            }
            const u64 tie_mass = kept.ties > 0 ? mass(scale, number_of(kept.from - 1)) : 0;
            draw_piece(room, kept, tie_mass, row->seed, n_pieces);
            draw_token(room, kept, scale, tie_mass, vocab);
            token = static_cast<i32>(room.token);
        }
    }
    if (whole.largest == INF) token = -1;
    if (thread_x() == 0) {
        tokens[at] = token;
        logprobs[at] = token < 0 ? INF - INF : logits[u64(at) * vocab + token] - whole.largest - log_f32(whole.sum);
    }
}
REGISTER(sample_pick)
