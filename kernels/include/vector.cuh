// Two or four neighbours of a row at once, in f32. Addresses are aligned to what is moved.
#pragma once
#include "device.cuh"

template <class T> DEVICE void load_two(const T* at, f32 (&v)[2]) { unpack2<T>(load4(at), v[0], v[1]); }
template <> TM_INSTANCE void load_two<f32>(const f32* at, f32 (&v)[2]) {
    const vec8 raw = load8(at);
    v[0] = float_of(raw.x);
    v[1] = float_of(raw.y);
}

template <class T> DEVICE void store_two(T* at, const f32 (&v)[2]) { store4(at, pack2<T>(v[0], v[1])); }
template <> TM_INSTANCE void store_two<f32>(f32* at, const f32 (&v)[2]) { store8(at, vec8{bits(v[0]), bits(v[1])}); }

template <class T> DEVICE void load_four(const T* at, f32 (&v)[4]) {
    const vec8 raw = load8(at);
    unpack2<T>(raw.x, v[0], v[1]);
    unpack2<T>(raw.y, v[2], v[3]);
}
template <> TM_INSTANCE void load_four<f32>(const f32* at, f32 (&v)[4]) {
    const vec16 raw = load16(at);
    v[0] = float_of(raw.x);
    v[1] = float_of(raw.y);
    v[2] = float_of(raw.z);
    v[3] = float_of(raw.w);
}

template <class T> DEVICE void store_four(T* at, const f32 (&v)[4]) {
    store8(at, vec8{pack2<T>(v[0], v[1]), pack2<T>(v[2], v[3])});
}
template <> TM_INSTANCE void store_four<f32>(f32* at, const f32 (&v)[4]) {
    store16(at, vec16{bits(v[0]), bits(v[1]), bits(v[2]), bits(v[3])});
}

// Four neighbours of a row of `n` numbers, -INF behind its end; rows of an odd length are not aligned.
DEVICE void load_four_of(const f32* values, u32 at, u32 n, f32 (&v)[4]) {
    if (at + 4 <= n && (reinterpret_cast<u64>(values + at) & 15) == 0) {
        load_four(values + at, v);
        return;
    }
#pragma unroll
    for (u32 i = 0; i < 4; i++) v[i] = at + i < n ? values[at + i] : -INF;
}
