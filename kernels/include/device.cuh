// The language kernels are written in: names for what a GPU does, and nothing of CUDA's own headers.
//
// On the GPU the wrappers are inline PTX (ptx.cuh). With TM_EMULATOR they are C++ that runs one fiber per thread
// (../emulator/cpp/device.h), so that every kernel is tested on a machine without a GPU.
//
// Blocks are one-dimensional. A warp-wide operation (shuffles, votes, ldmatrix, mma) is called by all 32 lanes.
#pragma once

#include "types.cuh"

#ifdef TM_EMULATOR
#include "../emulator/cpp/device.h"
#else
#include "ptx.cuh"
#endif

// Both sides provide, by these names:
//
//   KERNEL(threads, min_blocks) name(args) {…} REGISTER(name)   an entry point; DEVICE: a function it calls
//   SHARED(type, name, [n])   static shared memory        SHARED_BYTES(name)   u8*: dynamic, 1024-aligned
//   thread_x() block_x() block_y() block_z() grid_x() grid_y() grid_z() block_threads() lane() warp()
//   sync_block() sync_warp() sync_named(id, threads)
//   to_f32(v) from_f32<T>(f32) pack2<T>(lo, hi) unpack2<T>(u32, lo, hi)      round to nearest even
//   load4 load8 load16 (global or shared) load16_stream (global, read once: no L1) store4 store8 store16
//   shfl(v, lane) shfl_xor(v, mask) shfl_up(v, n) shfl_down(v, n)            u32, i32, f32, u64
//   ballot(bool) any(bool) all(bool)
//   exp2_fast log2_fast rcp_fast rsqrt_fast tanh_fast                        hardware approximations
//   exp_f32 log_f32 tanh_f32 erf_f32 sqrt_f32 fma_f32 max_f32 min_f32 abs_f32
//   mul_f32                                                                  rounded: never part of a fused multiply-add
//   bits(f32) float_of(u32) popc ffs (1-based, 0 if none) clz INF
//   permute_bytes(a, b, selector): its hexadecimal digit i picks byte i of the result, 0 to 3 from a, 4 to 7 from b
//   atomic_add(u32* | f32*, v) atomic_max(u32*, v) atomic_cas(u32*, expected, wanted): what was there
//   fence()                                                                  writes before it are seen first
//   cp_async16(shared, global, valid = true) cp_async4(…) cp_async_commit() cp_async_wait<N>()
//   ldmatrix_x4(r, row) ldmatrix_x4_trans ldmatrix_x2 ldmatrix_x2_trans
//   mma_16816<T>(d, a, b)                                 d[16, 8] += a[16, 16] b[8, 16]^T, accumulated in f32
