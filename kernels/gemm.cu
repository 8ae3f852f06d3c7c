// Linear layers of many rows: out[m, column + n] = sum_k x[m, k] * w[n, k] + bias[n].
//
// x T [M, K], w T [N, K], bias f32 [N] or null, out f32 or T with its own row stride; T = bf16, f16; f32 accumulation.
// K a multiple of 8, x and w 16-byte aligned, any M and N. A kernel per tile, gemm_<T>_<M>x<N>:
//   grid (tiles of M * tiles of N, splits of K), GemmTile::threads threads, GemmTile::shared_bytes dynamic shared
//   memory, partials and counters as in split_k.cuh with tile M * tile N / threads values per thread.
// sm_80 and newer (mma.sync, ldmatrix, cp.async). Occupancy, by registers and shared memory:
//   256x128  8 warps, 144 KB: one block per multiprocessor      (<= 255 registers)
//   128x128  4 warps,  64 KB: two blocks per multiprocessor     (<= 255)
//    64x128  4 warps,  72 KB: three of 228 KB, two of 164 KB    (<= 168)
//    64x64   4 warps,  64 KB: three of 228 KB, two of 164 KB    (<= 168)
//
// What limits an mma.sync kernel is reading fragments from shared memory, so a warp's tile is 64x64 where it can be: 8
// ldmatrix for 32 mma. The widest block tile also halves what is read from L2. Copies run STAGES - 1 tiles of K
// ahead; fragments are read one mma step ahead, over the edge between two tiles too; each step starts its share of copies.
#include "device.cuh"
#include "split_k.cuh"

// M x N outputs per block of WARPS_M x WARPS_N warps; K of one stage.
template <u32 M, u32 N, u32 K, u32 WARPS_M, u32 WARPS_N, u32 STAGES> struct GemmTile {
    static constexpr u32 m = M, n = N, k = K, stages = STAGES;
    static constexpr u32 threads = WARPS_M * WARPS_N * 32;
    static constexpr u32 warps_n = WARPS_N;
    static constexpr u32 warp_m = M / WARPS_M, warp_n = N / WARPS_N;
    static constexpr u32 row_bytes = K * 2;
    static constexpr u32 x_bytes = M * row_bytes;
    static constexpr u32 stage_bytes = (M + N) * row_bytes;
    static constexpr u32 shared_bytes = STAGES * stage_bytes;
    static constexpr u32 steps = K / 16;
    // 16-byte pieces of a row, and how far apart a thread's rows are when all copy.
    static constexpr u32 pieces = K / 8;
    static constexpr u32 rows_apart = threads / pieces;
    static constexpr u32 x_copies = M / rows_apart, w_copies = N / rows_apart;
    // Blocks that run at the same time take about 2048 rows of x and as many of w.
    static constexpr u32 group = 2048 / M;
    static_assert(x_copies % steps == 0 && w_copies % steps == 0, "each step copies the same share");
};

// Where a piece of a row lies within its row: 8 rows' pieces of the same K are in different banks.
template <class Tile> DEVICE u32 swizzle(u32 row, u32 piece) {
    return (piece ^ (Tile::pieces == 8 ? row & 7 : row >> 1 & 3)) << 4;
}

// What a thread copies: a piece of K of every rows_apart-th row. Rows of x beyond M are zeros: many that read one row in its
// place would all wait for the same bank of L2. Rows beyond N, of which there are few, read the last one. Neither is stored.
template <class Tile> struct GemmSource {
    const u8* x;
    const u8* w;
    u32 x_row[Tile::x_copies]; // offsets in bytes
    u32 w_row[Tile::w_copies];
    u32 x_there; // a bit for each row of x that is there
    u32 at; // k of this thread's piece
    u32 to; // its place in a stage
};

template <class T, class Tile>
DEVICE GemmSource<Tile> gemm_source(const T* x, const T* w, u32 m0, u32 n0, u32 m, u32 n, u32 k, u32 first) {
    GemmSource<Tile> source;
    const u32 row = thread_x() / Tile::pieces, piece = thread_x() % Tile::pieces;
    source.at = first * Tile::k + piece * 8;
    source.x_there = 0;
    source.to = row * Tile::row_bytes + swizzle<Tile>(row, piece);
    source.x = reinterpret_cast<const u8*>(x + static_cast<u64>(m0) * k + source.at);
    source.w = reinterpret_cast<const u8*>(w + static_cast<u64>(n0) * k + source.at);
#pragma unroll
    for (u32 i = 0; i < Tile::x_copies; i++) {
        const u32 mine = row + i * Tile::rows_apart;
        source.x_there |= (mine < m - m0 ? 1 : 0) << i;
        source.x_row[i] = (mine < m - m0 ? mine : 0) * k * 2;
    }
#pragma unroll
    for (u32 i = 0; i < Tile::w_copies; i++) {
        const u32 mine = row + i * Tile::rows_apart;
        source.w_row[i] = (mine < n - n0 ? mine : n - n0 - 1) * k * 2;
    }
    return source;
}

// Starts one of Tile::steps equal shares of the copies of a tile of K; the last share moves on to the next tile.
template <class Tile> DEVICE void copy_share(u8* stage, GemmSource<Tile>& source, u32 share, u32 k) {
    constexpr u32 x_share = Tile::x_copies / Tile::steps, w_share = Tile::w_copies / Tile::steps;
    const bool valid = source.at < k;
    u8* to = stage + source.to;
#pragma unroll
    for (u32 i = share * x_share; i < (share + 1) * x_share; i++) {
        cp_async16(to + i * (Tile::rows_apart * Tile::row_bytes), source.x + source.x_row[i],
                   valid && (source.x_there >> i & 1));
    }
#pragma unroll
    for (u32 i = share * w_share; i < (share + 1) * w_share; i++) {
        cp_async16(to + Tile::x_bytes + i * (Tile::rows_apart * Tile::row_bytes), source.w + source.w_row[i], valid);
    }
    if (share == Tile::steps - 1) {
        source.x += Tile::row_bytes;
        source.w += Tile::row_bytes;
        source.at += Tile::k;
    }
}

// A warp's operands of one mma step: warp_m rows of x, warp_n rows of w, 16 of K.
template <class Tile> struct Fragments {
    u32 x[Tile::warp_m / 16][4];
    u32 w[Tile::warp_n / 8][2];
};

// Where a lane's ldmatrix rows begin in a stage.
struct FragmentRows {
    u32 x, x_piece, w, w_piece;
};

template <class Tile> DEVICE FragmentRows fragment_rows() {
    const u32 x_row = warp() / Tile::warps_n * Tile::warp_m + (lane() & 15);
    const u32 w_row = warp() % Tile::warps_n * Tile::warp_n + (lane() & 7) + (lane() >> 4) * 8;
    return {x_row * Tile::row_bytes, swizzle<Tile>(x_row, lane() >> 4),
            Tile::x_bytes + w_row * Tile::row_bytes, swizzle<Tile>(w_row, lane() >> 3 & 1)};
}

template <class Tile>
DEVICE void read_fragments(Fragments<Tile>& fragments, const u8* stage, const FragmentRows& rows, u32 step) {
    // A step is two pieces further: an exclusive or commutes with the swizzle.
    const u8* x = stage + rows.x + (rows.x_piece ^ step << 5);
    const u8* w = stage + rows.w + (rows.w_piece ^ step << 5);
#pragma unroll
    for (u32 i = 0; i < Tile::warp_m / 16; i++) {
        ldmatrix_x4(fragments.x[i], x + i * (16 * Tile::row_bytes));
    }
#pragma unroll
    for (u32 j = 0; j < Tile::warp_n / 16; j++) {
        u32 two[4];
        ldmatrix_x4(two, w + j * (16 * Tile::row_bytes));
        fragments.w[j * 2][0] = two[0];
        fragments.w[j * 2][1] = two[1];
        fragments.w[j * 2 + 1][0] = two[2];
        fragments.w[j * 2 + 1][1] = two[3];
    }
}

// A warp's sums: [16 rows][8 columns][fragment].
template <class Tile> struct Sums {
    static constexpr u32 across = Tile::warp_n / 8;
    f32 of[Tile::warp_m / 16 * across][4];
};

template <class T, class Tile> DEVICE void multiply(Sums<Tile>& sums, const Fragments<Tile>& fragments) {
#pragma unroll
    for (u32 i = 0; i < Tile::warp_m / 16; i++) {
#pragma unroll
        for (u32 j = 0; j < Sums<Tile>::across; j++) {
            // Back and forth, so that the operand last read is used again.
            const u32 at = i & 1 ? Sums<Tile>::across - 1 - j : j;
            mma_16816<T>(sums.of[i * Sums<Tile>::across + at], fragments.x[i], fragments.w[at]);
        }
    }
}

// Sums over `count` tiles of K.
template <class T, class Tile>
DEVICE void accumulate(Sums<Tile>& sums, u8* shared, GemmSource<Tile>& source, u32 k, u32 count) {
    constexpr u32 last = (Tile::stages - 1) * Tile::stage_bytes;
#pragma unroll
    for (u32 i = 0; i + 1 < Tile::stages; i++) {
        if (i < count) {
#pragma unroll
            for (u32 share = 0; share < Tile::steps; share++) {
                copy_share(shared + i * Tile::stage_bytes, source, share, k);
            }
        }
        cp_async_commit();
    }
    const FragmentRows rows = fragment_rows<Tile>();
    Fragments<Tile> fragments[2];
    u32 read = 0, write = last;
    cp_async_wait<Tile::stages - 2>();
    sync_block();
    read_fragments(fragments[0], shared, rows, 0);
    for (u32 i = 0; i < count; i++) {
        const bool more = i + Tile::stages - 1 < count;
#pragma unroll
        for (u32 step = 0; step < Tile::steps; step++) {
            if (more) {
                copy_share(shared + write, source, step, k);
            }
            if (step == Tile::steps - 1) {
                cp_async_commit();
                cp_async_wait<Tile::stages - 2>();
                // Everyone has the next tile, and has read this one, which is written next.
                sync_block();
                write = read;
                read = read == last ? 0 : read + Tile::stage_bytes;
            }
            read_fragments(fragments[(step + 1) & 1], shared + read, rows, (step + 1) % Tile::steps);
            multiply<T>(sums, fragments[step & 1]);
        }
    }
    cp_async_wait<0>();
}

// A block's outputs and how they are stored.
struct GemmOut {
    void* out;
    u32 row, n; // first row and column of the warp's tile
    u32 m_end, n_end;
    u32 stride, column;
};

template <class V> DEVICE V* out_at(const GemmOut& to, u32 m, u32 n) {
    return static_cast<V*>(to.out) + static_cast<u64>(m) * to.stride + to.column + n;
}

// Whether columns that are a multiple of `count` have addresses that are multiples of `count` elements of `size` bytes.
DEVICE bool out_aligned(const GemmOut& to, u32 count, u32 size) {
    return (reinterpret_cast<u64>(to.out) % (count * size) | ((to.stride | to.column) & (count - 1))) == 0;
}

template <class V> DEVICE void write_two(u8* at, f32 first, f32 second) {
    if constexpr (sizeof(V) == 4) {
        store8(at, {bits(first), bits(second)});
    } else {
        store4(at, pack2<V>(first, second));
    }
}

// Through the warp's own shared memory, 16 rows at a time, so that 8 or 16 lanes write the contiguous bytes of a row.
template <class V, class Tile> DEVICE void store(const Sums<Tile>& sums, u8* shared, const GemmOut& to) {
    constexpr u32 size = sizeof(V), row_bytes = Tile::warp_n * size, piece = 16 / size;
    // The rows of a fragment are 4 (V = T) or 8 (f32) banks apart: its lanes hit all 32.
    constexpr u32 pitch = row_bytes + 8 * size;
    constexpr u32 lanes = row_bytes / 16, at_once = 32 / lanes;
    static_assert(Tile::threads / 32 * 16 * pitch <= Tile::shared_bytes, "the rows take the place of the stages");
    u8* mine = shared + warp() * (16 * pitch);
    u8* fragment = mine + (lane() >> 2) * pitch + (lane() & 3) * (2 * size);
    const u8* from = mine + lane() / lanes * pitch + lane() % lanes * 16;
    const bool whole = out_aligned(to, piece, size);
    const u32 n = to.n + lane() % lanes * piece;
#pragma unroll
    for (u32 i = 0; i < Tile::warp_m / 16; i++) {
        sync_warp();
#pragma unroll
        for (u32 j = 0; j < Sums<Tile>::across; j++) {
            const f32(&four)[4] = sums.of[i * Sums<Tile>::across + j];
            write_two<V>(fragment + j * (8 * size), four[0], four[1]);
            write_two<V>(fragment + j * (8 * size) + 8 * pitch, four[2], four[3]);
        }
        sync_warp();
#pragma unroll
        for (u32 row = 0; row < 16; row += at_once) {
            const u32 m = to.row + i * 16 + row + lane() / lanes;
            if (m >= to.m_end || n >= to.n_end) {
                continue;
            }
            if (whole && n + piece <= to.n_end) {
                store16(out_at<V>(to, m, n), load16(from + row * pitch));
                continue;
            }
            const u32 count = to.n_end - n < piece ? to.n_end - n : piece;
#pragma unroll 1
            for (u32 k = 0; k < count; k++) {
                *out_at<V>(to, m, n + k) = reinterpret_cast<const V*>(from + row * pitch)[k];
            }
        }
    }
}

template <class Tile> DEVICE void add_bias(Sums<Tile>& sums, const f32* bias, u32 n, u32 n_end) {
#pragma unroll
    for (u32 j = 0; j < Sums<Tile>::across; j++) {
        const u32 at = n + j * 8 + (lane() & 3) * 2;
        const f32 first = at < n_end ? bias[at] : 0, second = at + 1 < n_end ? bias[at + 1] : 0;
#pragma unroll
        for (u32 i = 0; i < Tile::warp_m / 16; i++) {
            f32(&four)[4] = sums.of[i * Sums<Tile>::across + j];
            four[0] += first;
            four[1] += second;
            four[2] += first;
            four[3] += second;
        }
    }
}

template <class T, class Tile>
DEVICE void gemm(const T* x, const T* w, const f32* bias, void* out, u32 m, u32 n, u32 k, u32 out_stride, u32 column,
                 u32 out_f32, f32* partials, u32* counters) {
    SHARED_BYTES(shared);
    // Groups of rows of tiles, column by column, for L2.
    const u32 tiles_m = (m + Tile::m - 1) / Tile::m, tiles_n = (n + Tile::n - 1) / Tile::n;
    const u32 group = block_x() / (Tile::group * tiles_n), within = block_x() % (Tile::group * tiles_n);
    const u32 height = tiles_m - group * Tile::group < Tile::group ? tiles_m - group * Tile::group : Tile::group;
    const u32 m0 = (group * Tile::group + within % height) * Tile::m, n0 = within / height * Tile::n;

    const u32 all = (k + Tile::k - 1) / Tile::k;
    const u32 begin = all * block_y() / grid_y(), end = all * (block_y() + 1) / grid_y();
    GemmSource<Tile> source = gemm_source<T, Tile>(x, w, m0, n0, m, n, k, begin);
    Sums<Tile> sums = {};
    accumulate<T>(sums, shared, source, k, end - begin);
    if (!split_k_sum<Tile::threads>(sums.of, partials, counters, block_x())) {
        return;
    }
    const GemmOut to{out, m0 + warp() / Tile::warps_n * Tile::warp_m, n0 + warp() % Tile::warps_n * Tile::warp_n,
                     m, n, out_stride, column};
    if (bias) {
        add_bias(sums, bias, to.n, n);
    }
    sync_block(); // the stages are read
    if (out_f32) {
        store<f32>(sums, shared, to);
    } else {
        store<T>(sums, shared, to);
    }
}

#define ENTRY(T, M, N, K, WARPS_M, WARPS_N, STAGES, BLOCKS)                                                            \
    KERNEL(WARPS_M * WARPS_N * 32, BLOCKS)                                                                             \
    gemm_##T##_##M##x##N(const T* x, const T* w, const f32* bias, void* out, u32 m, u32 n, u32 k, u32 out_stride,      \
                         u32 column, u32 out_f32, f32* partials, u32* counters) {                                      \
        gemm<T, GemmTile<M, N, K, WARPS_M, WARPS_N, STAGES>>(x, w, bias, out, m, n, k, out_stride, column, out_f32,    \
                                                             partials, counters);                                      \
    }                                                                                                                  \
    REGISTER(gemm_##T##_##M##x##N)
#define ENTRIES(T)                                                                                                     \
    ENTRY(T, 256, 128, 64, 4, 2, 3, 1)                                                                                 \
    ENTRY(T, 128, 128, 32, 2, 2, 4, 2)                                                                                 \
    ENTRY(T, 64, 128, 64, 2, 2, 3, 3)                                                                                  \
    ENTRY(T, 64, 64, 64, 2, 2, 4, 3)
ENTRIES(bf16)
ENTRIES(f16)
