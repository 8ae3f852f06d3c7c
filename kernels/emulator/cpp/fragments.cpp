// The layouts are those of the PTX manual's figures for .b16 matrices: register i of the 32 lanes, lane by lane,
// is an 8 x 8 matrix in row-major order (lane 4 r + c holds columns 2 c and 2 c + 1 of row r).
#include "fragments.h"

#include "numbers.h"
#include "shared.h"

namespace emulator {
namespace {

void need_whole_warp(const Warp& warp) {
    if (warp.live != ~0u) fail("%s by a part of a warp (line %u)", name_of(warp.operation), warp.line);
}

void check_rows(const Warp& warp, u32 rows) {
    need_whole_warp(warp);
    for (u32 row = 0; row < rows; row++) {
        check_shared_access(*warp.block, warp.from[row], 16, name_of(warp.operation), warp.line);
    }
}

void load_matrix(const Warp& warp, u32 matrix, u32* out) {
    for (u32 row = 0; row < 8; row++) std::memcpy(out + row * 4, warp.from[matrix * 8 + row], 16);
}

void load_transposed(const Warp& warp, u32 matrix, u32* out) {
    u16 plain[8][8], turned[8][8];
    for (u32 row = 0; row < 8; row++) std::memcpy(plain[row], warp.from[matrix * 8 + row], 16);
    for (u32 row = 0; row < 8; row++) {
        for (u32 col = 0; col < 8; col++) turned[col][row] = plain[row][col];
    }
    std::memcpy(out, turned, sizeof turned);
}

template <u32 MATRICES, void (*LOAD)(const Warp&, u32, u32*)> void load_matrices(Warp& warp) {
    check_rows(warp, MATRICES * 8);
    for (u32 matrix = 0; matrix < MATRICES; matrix++) LOAD(warp, matrix, warp.out[matrix]);
}

template <class T> void widen(const u32* matrix, f32* out) {
    u16 stored[64];
    std::memcpy(stored, matrix, sizeof stored);
    for (u32 i = 0; i < 64; i++) out[i] = widen_one(T{stored[i]});
}

typedef f32 Eight __attribute__((vector_size(32)));

// Eight rows of d: d[8, 8] += a[8, 16] b[8, 16]^T. `turned` is b^T by rows of eight.
void multiply_rows(const f32* a_first, const f32* a_second, const Eight* turned, const u32* d, u32* out) {
    Eight sums[8] = {};
    for (u32 k = 0; k < 8; k++) {
        for (u32 row = 0; row < 8; row++) {
            sums[row] += a_first[row * 8 + k] * turned[k];
            sums[row] += a_second[row * 8 + k] * turned[k + 8];
        }
    }
    // d is in two registers: lane 4 r + c holds columns 2 c (the first) and 2 c + 1 (the second) of row r.
    f32 flat[64], added[2][32];
    std::memcpy(flat, sums, sizeof flat);
    std::memcpy(added, d, sizeof added);
    for (u32 i = 0; i < 32; i++) {
        added[0][i] += flat[2 * i];
        added[1][i] += flat[2 * i + 1];
    }
    std::memcpy(out, added, sizeof added);
}

template <class T> void multiply(Warp& warp) {
    need_whole_warp(warp);
    alignas(64) f32 a[4][64], b[2][64];
    for (u32 i = 0; i < 4; i++) widen<T>(warp.in[i], a[i]);
    for (u32 i = 0; i < 2; i++) widen<T>(warp.in[4 + i], b[i]);
    alignas(64) f32 turned[16][8];
    for (u32 half = 0; half < 2; half++) {
        for (u32 k = 0; k < 8; k++) {
            for (u32 col = 0; col < 8; col++) turned[half * 8 + k][col] = b[half][col * 8 + k];
        }
    }
    const auto* rows = reinterpret_cast<const Eight*>(turned);
    multiply_rows(a[0], a[2], rows, warp.in[6], warp.out[0]);
    multiply_rows(a[1], a[3], rows, warp.in[8], warp.out[2]);
}

} // namespace

void do_ldmatrix_x4(Warp& warp) { load_matrices<4, load_matrix>(warp); }
void do_ldmatrix_x4_trans(Warp& warp) { load_matrices<4, load_transposed>(warp); }
void do_ldmatrix_x2(Warp& warp) { load_matrices<2, load_matrix>(warp); }
void do_ldmatrix_x2_trans(Warp& warp) { load_matrices<2, load_transposed>(warp); }
void do_mma_bf16(Warp& warp) { multiply<bf16>(warp); }
void do_mma_f16(Warp& warp) { multiply<f16>(warp); }

const char* name_of_fragment_operation(Operation operation) {
    if (operation == do_mma_bf16 || operation == do_mma_f16) return "mma";
    return "ldmatrix";
}

} // namespace emulator
