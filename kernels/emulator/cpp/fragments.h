// ldmatrix and mma: fragments of matrices spread over the lanes of a warp.
#pragma once

#include "warp.h"

namespace emulator {

void do_ldmatrix_x4(Warp& warp);
void do_ldmatrix_x4_trans(Warp& warp);
void do_ldmatrix_x2(Warp& warp);
void do_ldmatrix_x2_trans(Warp& warp);
void do_mma_bf16(Warp& warp); // in: a[4], b[2], d[4]
void do_mma_f16(Warp& warp);
const char* name_of_fragment_operation(Operation operation);

template <u32 N> void ldmatrix(Operation operation, u32 (&r)[N], const void* row, u32 line) {
    const Lane& lane = *current;
    Warp& warp = *lane.warp;
    warp.from[lane.lane] = row;
    meet(operation, line);
    for (u32 i = 0; i < N; i++) r[i] = warp.out[i][lane.lane];
}

inline void mma(Operation operation, f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], u32 line) {
    const Lane& lane = *current;
    Warp& warp = *lane.warp;
    u32 at = lane.lane;
    for (u32 i = 0; i < 4; i++) warp.in[i][at] = a[i];
    for (u32 i = 0; i < 2; i++) warp.in[4 + i][at] = b[i];
    for (u32 i = 0; i < 4; i++) std::memcpy(&warp.in[6 + i][at], &d[i], 4);
    meet(operation, line);
    for (u32 i = 0; i < 4; i++) std::memcpy(&d[i], &warp.out[i][at], 4);
}

} // namespace emulator
