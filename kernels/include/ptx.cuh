// device.cuh on the GPU: sm_80 and newer. Comments say what the PTX manual leaves to the reader.
#pragma once

#define DEVICE static __device__ __forceinline__
#define TM_INSTANCE __device__ __forceinline__ // a specialization may not say static
#define KERNEL(threads, min_blocks) extern "C" __global__ void __launch_bounds__(threads, min_blocks)
#define REGISTER(name)
#define SHARED(type, name, extent) __shared__ type name extent
#define SHARED_BYTES(name)                                        \
    extern __shared__ __align__(1024) u8 tm_dynamic_shared[];      \
    u8* name = tm_dynamic_shared
#define INF __int_as_float(0x7f800000)

constexpr u32 TM_ALL_LANES = 0xffffffffu;

// Where a thread is.
DEVICE u32 thread_x() { return threadIdx.x; }
DEVICE u32 block_x() { return blockIdx.x; }
DEVICE u32 block_y() { return blockIdx.y; }
DEVICE u32 block_z() { return blockIdx.z; }
DEVICE u32 grid_x() { return gridDim.x; }
DEVICE u32 grid_y() { return gridDim.y; }
DEVICE u32 grid_z() { return gridDim.z; }
DEVICE u32 block_threads() { return blockDim.x; }
DEVICE u32 lane() { return threadIdx.x & 31; }
DEVICE u32 warp() { return threadIdx.x >> 5; }

// Barriers.
DEVICE void sync_block() { __syncthreads(); }
DEVICE void sync_warp() { __syncwarp(); }
DEVICE void sync_named(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
DEVICE void fence() { __threadfence(); }

// Bits and numbers.
DEVICE u32 bits(f32 v) { return __float_as_uint(v); }
DEVICE f32 float_of(u32 v) { return __uint_as_float(v); }
DEVICE u32 popc(u32 v) { return __popc(v); }
DEVICE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }
DEVICE u32 ffs(u32 v) { return __ffs(v); }
DEVICE u32 clz(u32 v) { return __clz(v); }
DEVICE f32 exp_f32(f32 v) { return expf(v); }
DEVICE f32 log_f32(f32 v) { return logf(v); }
DEVICE f32 tanh_f32(f32 v) { return tanhf(v); }
DEVICE f32 erf_f32(f32 v) { return erff(v); }
DEVICE f32 sqrt_f32(f32 v) { return sqrtf(v); }
DEVICE f32 abs_f32(f32 v) { return fabsf(v); }
DEVICE f32 fma_f32(f32 a, f32 b, f32 c) { return fmaf(a, b, c); }
DEVICE f32 mul_f32(f32 a, f32 b) { return __fmul_rn(a, b); }
DEVICE f32 max_f32(f32 a, f32 b) { return fmaxf(a, b); }
DEVICE f32 min_f32(f32 a, f32 b) { return fminf(a, b); }
#define TM_APPROXIMATION(name, instruction)                        \
    DEVICE f32 name(f32 v) {                                        \
        f32 r;                                                      \
        asm(instruction " %0, %1;" : "=f"(r) : "f"(v));             \
        return r;                                                   \
    }
TM_APPROXIMATION(exp2_fast, "ex2.approx.ftz.f32")
TM_APPROXIMATION(log2_fast, "lg2.approx.ftz.f32")
TM_APPROXIMATION(rcp_fast, "rcp.approx.ftz.f32")
TM_APPROXIMATION(rsqrt_fast, "rsqrt.approx.ftz.f32")
TM_APPROXIMATION(tanh_fast, "tanh.approx.f32")
#undef TM_APPROXIMATION

// Storage formats.
DEVICE f32 to_f32(f32 v) { return v; }
DEVICE f32 to_f32(bf16 v) { return float_of(static_cast<u32>(v.bits) << 16); }
DEVICE f32 to_f32(f16 v) {
    f32 r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(v.bits));
    return r;
}
template <class T> DEVICE T from_f32(f32 v);
template <> TM_INSTANCE f32 from_f32<f32>(f32 v) { return v; }
template <> TM_INSTANCE bf16 from_f32<bf16>(f32 v) {
    bf16 r;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
template <> TM_INSTANCE f16 from_f32<f16>(f32 v) {
    f16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
    return r;
}
template <class T> DEVICE u32 pack2(f32 lo, f32 hi);
template <> TM_INSTANCE u32 pack2<bf16>(f32 lo, f32 hi) {
    u32 r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo)); // the first operand is the upper half
    return r;
}
template <> TM_INSTANCE u32 pack2<f16>(f32 lo, f32 hi) {
    u32 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
template <class T> DEVICE void unpack2(u32 v, f32& lo, f32& hi) {
    lo = to_f32(T{static_cast<u16>(v)});
    hi = to_f32(T{static_cast<u16>(v >> 16)});
}

// Memory.
DEVICE u32 load4(const void* at) { return *static_cast<const u32*>(at); }
DEVICE vec8 load8(const void* at) { return *static_cast<const vec8*>(at); }
DEVICE vec16 load16(const void* at) { return *static_cast<const vec16*>(at); }
DEVICE vec16 load16_stream(const void* at) {
    vec16 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(at));
    return r;
}
DEVICE void store4(void* at, u32 v) { *static_cast<u32*>(at) = v; }
DEVICE void store8(void* at, vec8 v) { *static_cast<vec8*>(at) = v; }
DEVICE void store16(void* at, vec16 v) { *static_cast<vec16*>(at) = v; }
DEVICE u32 atomic_add(u32* at, u32 v) { return atomicAdd(at, v); }
DEVICE f32 atomic_add(f32* at, f32 v) { return atomicAdd(at, v); }
DEVICE u32 atomic_max(u32* at, u32 v) { return atomicMax(at, v); }
DEVICE u32 atomic_cas(u32* at, u32 expected, u32 wanted) { return atomicCAS(at, expected, wanted); }

// Shuffles and votes.
template <class V> DEVICE V shfl(V v, u32 from) { return __shfl_sync(TM_ALL_LANES, v, from); }
template <class V> DEVICE V shfl_xor(V v, u32 mask) { return __shfl_xor_sync(TM_ALL_LANES, v, mask); }
template <class V> DEVICE V shfl_up(V v, u32 n) { return __shfl_up_sync(TM_ALL_LANES, v, n); }
template <class V> DEVICE V shfl_down(V v, u32 n) { return __shfl_down_sync(TM_ALL_LANES, v, n); }
DEVICE u32 ballot(bool v) { return __ballot_sync(TM_ALL_LANES, v); }
DEVICE bool any(bool v) { return __any_sync(TM_ALL_LANES, v); }
DEVICE bool all(bool v) { return __all_sync(TM_ALL_LANES, v); }

// Copies from global to shared memory behind the thread's back. A source size of 0 fills with zeros.
DEVICE u32 shared_address(const void* shared) { return static_cast<u32>(__cvta_generic_to_shared(shared)); }
DEVICE void cp_async16(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
DEVICE void cp_async4(void* shared, const void* global, bool valid = true) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 4 : 0)
                 : "memory");
}
DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <u32 N> DEVICE void cp_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Fragments. Lane i gives the address of row i (x4: 32 rows of 16 bytes, x2: the first 16 lanes').
DEVICE void ldmatrix_x4(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row)));
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row)));
}
DEVICE void ldmatrix_x2_trans(u32 (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row)));
}
template <class T> DEVICE void mma_16816(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]);
#define TM_MMA(type)                                                                                                 \
    template <> TM_INSTANCE void mma_16816<type>(f32 (&d)[4], const u32 (&a)[4], const u32 (&b)[2]) {                 \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." #type "." #type ".f32 "                                 \
                     "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                 \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                             \
    }
TM_MMA(bf16)
TM_MMA(f16)
#undef TM_MMA
