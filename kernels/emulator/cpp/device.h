// device.cuh in the emulator.
#pragma once

#include "block.h"
#include "copies.h"
#include "fragments.h"
#include "kernel.h"
#include "numbers.h"
#include "shared.h"
#include "warp.h"

#define DEVICE static inline
#define TM_INSTANCE inline
#define TM_JOIN_(a, b) a##b
#define TM_JOIN(a, b) TM_JOIN_(a, b)
#define KERNEL(threads, min_blocks)                                                  \
    static const emulator::Bounds TM_JOIN(tm_bounds_, __COUNTER__){threads};          \
    extern "C" void
#define REGISTER(name) static const emulator::Register<name> tm_register_##name{#name};
#define SHARED(type, name, extent)                                                                               \
    typedef type tm_type_of_##name extent;                                                                        \
    static const char tm_key_of_##name = 0;                                                                       \
    tm_type_of_##name& name = *reinterpret_cast<tm_type_of_##name*>(                                              \
        emulator::static_shared(&tm_key_of_##name, sizeof(tm_type_of_##name), alignof(tm_type_of_##name)))
#define SHARED_BYTES(name) u8* name = emulator::current->block->shared
#define INF __builtin_inff()
// Operations remember the line that called them, so that lanes which meet at two different ones are told.
#define TM_LINE u32 line = __builtin_LINE()

// Where a thread is.
DEVICE u32 thread_x() { return emulator::current->thread; }
DEVICE u32 block_x() { return emulator::current->block->index.x; }
DEVICE u32 block_y() { return emulator::current->block->index.y; }
DEVICE u32 block_z() { return emulator::current->block->index.z; }
DEVICE u32 grid_x() { return emulator::current->block->grid.x; }
DEVICE u32 grid_y() { return emulator::current->block->grid.y; }
DEVICE u32 grid_z() { return emulator::current->block->grid.z; }
DEVICE u32 block_threads() { return emulator::current->block->threads; }
DEVICE u32 lane() { return emulator::current->lane; }
DEVICE u32 warp() { return emulator::current->warp->index; }

// Barriers.
DEVICE void sync_block(TM_LINE) { emulator::wait_at_barrier(0, 0, line); }
DEVICE void sync_warp(TM_LINE) { emulator::meet(emulator::do_nothing, line); }
DEVICE void sync_named(u32 id, u32 threads, TM_LINE) { emulator::wait_at_barrier(id, threads, line); }
DEVICE void fence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

// Bits and numbers.
DEVICE u32 bits(f32 v) { return emulator::bits_of(v); }
DEVICE f32 float_of(u32 v) { return emulator::from_bits(v); }
DEVICE u32 popc(u32 v) { return static_cast<u32>(__builtin_popcount(v)); }
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    u64 both = static_cast<u64>(b) << 32 | a;
    u32 r = 0;
    for (u32 i = 0; i < 4; i++) r |= static_cast<u32>(both >> (selector >> 4 * i & 7) * 8 & 255) << 8 * i;
    return r;
}
DEVICE u32 ffs(u32 v) { return static_cast<u32>(__builtin_ffs(static_cast<int>(v))); }
DEVICE u32 clz(u32 v) { return v == 0 ? 32 : static_cast<u32>(__builtin_clz(v)); }
DEVICE f32 exp_f32(f32 v) { return std::exp(v); }
DEVICE f32 log_f32(f32 v) { return std::log(v); }
DEVICE f32 tanh_f32(f32 v) { return std::tanh(v); }
DEVICE f32 erf_f32(f32 v) { return std::erf(v); }
DEVICE f32 sqrt_f32(f32 v) { return std::sqrt(v); }
DEVICE f32 abs_f32(f32 v) { return std::fabs(v); }
DEVICE f32 fma_f32(f32 a, f32 b, f32 c) { return std::fma(a, b, c); }
DEVICE f32 mul_f32(f32 a, f32 b) {
    f32 product = a * b;
    asm("" : "+m"(product)); // C++ compilers fuse too
    return product;
}
DEVICE f32 max_f32(f32 a, f32 b) { return std::fmax(a, b); }
DEVICE f32 min_f32(f32 a, f32 b) { return std::fmin(a, b); }
DEVICE f32 exp2_fast(f32 v) { return std::exp2(v); }
DEVICE f32 log2_fast(f32 v) { return std::log2(v); }
DEVICE f32 rcp_fast(f32 v) { return 1.0f / v; }
DEVICE f32 rsqrt_fast(f32 v) { return 1.0f / std::sqrt(v); }
DEVICE f32 tanh_fast(f32 v) { return std::tanh(v); }

// Storage formats.
DEVICE f32 to_f32(f32 v) { return v; }
DEVICE f32 to_f32(bf16 v) { return emulator::widen_one(v); }
DEVICE f32 to_f32(f16 v) { return emulator::widen_one(v); }
template <class T> T from_f32(f32 v);
template <> TM_INSTANCE f32 from_f32<f32>(f32 v) { return v; }
template <> TM_INSTANCE bf16 from_f32<bf16>(f32 v) { return emulator::narrow_bf16(v); }
template <> TM_INSTANCE f16 from_f32<f16>(f32 v) { return emulator::narrow_f16(v); }
template <class T> u32 pack2(f32 lo, f32 hi) {
    return from_f32<T>(lo).bits | static_cast<u32>(from_f32<T>(hi).bits) << 16;
}
template <class T> void unpack2(u32 v, f32& lo, f32& hi) {
    lo = to_f32(T{static_cast<u16>(v)});
    hi = to_f32(T{static_cast<u16>(v >> 16)});
}

// Memory: a GPU refuses an address that is not a multiple of the access's size.
template <class V> V tm_load(const void* at, u32 line) {
    if (reinterpret_cast<u64>(at) % sizeof(V) != 0) {
        emulator::fail("load of %zu bytes at %p (line %u)", sizeof(V), at, line);
    }
    return *static_cast<const V*>(at);
}
template <class V> void tm_store(void* at, V v, u32 line) {
    if (reinterpret_cast<u64>(at) % sizeof(V) != 0) {
        emulator::fail("store of %zu bytes at %p (line %u)", sizeof(V), at, line);
    }
    *static_cast<V*>(at) = v;
}
DEVICE u32 load4(const void* at, TM_LINE) { return tm_load<u32>(at, line); }
DEVICE vec8 load8(const void* at, TM_LINE) { return tm_load<vec8>(at, line); }
DEVICE vec16 load16(const void* at, TM_LINE) { return tm_load<vec16>(at, line); }
DEVICE vec16 load16_stream(const void* at, TM_LINE) { return tm_load<vec16>(at, line); }
DEVICE void store4(void* at, u32 v, TM_LINE) { tm_store(at, v, line); }
DEVICE void store8(void* at, vec8 v, TM_LINE) { tm_store(at, v, line); }
DEVICE void store16(void* at, vec16 v, TM_LINE) { tm_store(at, v, line); }
DEVICE u32 atomic_add(u32* at, u32 v) { return __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST); }
DEVICE u32 atomic_cas(u32* at, u32 expected, u32 wanted) {
    __atomic_compare_exchange_n(at, &expected, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
DEVICE u32 atomic_max(u32* at, u32 v) {
    u32 seen = __atomic_load_n(at, __ATOMIC_SEQ_CST);
    while (seen < v && !__atomic_compare_exchange_n(at, &seen, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    return seen;
}
DEVICE f32 atomic_add(f32* at, f32 v) {
    auto* word = reinterpret_cast<u32*>(at);
    u32 seen = __atomic_load_n(word, __ATOMIC_SEQ_CST);
    while (!__atomic_compare_exchange_n(word, &seen, bits(float_of(seen) + v), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST)) {
    }
    return float_of(seen);
}

// Shuffles and votes.
template <class V> V shfl(V v, u32 from, TM_LINE) { return emulator::shuffle(v, from, line); }
template <class V> V shfl_xor(V v, u32 mask, TM_LINE) { return emulator::shuffle(v, lane() ^ mask, line); }
template <class V> V shfl_up(V v, u32 n, TM_LINE) {
    return emulator::shuffle(v, lane() >= n ? lane() - n : lane(), line);
}
template <class V> V shfl_down(V v, u32 n, TM_LINE) {
    return emulator::shuffle(v, lane() + n < 32 ? lane() + n : lane(), line);
}
DEVICE u32 ballot(bool v, TM_LINE) {
    u32 voters;
    return emulator::vote(v, voters, line);
}
DEVICE bool any(bool v, TM_LINE) { return ballot(v, line) != 0; }
DEVICE bool all(bool v, TM_LINE) {
    u32 voters;
    return emulator::vote(v, voters, line) == voters;
}

// Copies behind the thread's back.
DEVICE void cp_async16(void* shared, const void* global, bool valid = true, TM_LINE) {
    emulator::start_copy(shared, valid ? global : nullptr, 16, line);
}
DEVICE void cp_async4(void* shared, const void* global, bool valid = true, TM_LINE) {
    emulator::start_copy(shared, valid ? global : nullptr, 4, line);
}
DEVICE void cp_async_commit() { emulator::end_group(); }
template <u32 N> void cp_async_wait() { emulator::wait_for_groups(N); }

// Fragments.
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row, TM_LINE) {
    emulator::ldmatrix(emulator::do_ldmatrix_x4, r, row, line);
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void* row, TM_LINE) {
    emulator::ldmatrix(emulator::do_ldmatrix_x4_trans, r, row, line);
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void* row, TM_LINE) {
    emulator::ldmatrix(emulator::do_ldmatrix_x2, r, row, line);
}
DEVICE void ldmatrix_x2_trans(u32 (&r)[2], const void* row, TM_LINE) {
    emulator::ldmatrix(emulator::do_ldmatrix_x2_trans, r, row, line);
}
template <class T> void mma_16816(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], TM_LINE);
template <> TM_INSTANCE void mma_16816<bf16>(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], u32 line) {
    emulator::mma(emulator::do_mma_bf16, d, a, b, line);
}
template <> TM_INSTANCE void mma_16816<f16>(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2], u32 line) {
    emulator::mma(emulator::do_mma_f16, d, a, b, line);
}
