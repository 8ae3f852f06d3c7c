// Storage formats as f32, without branches so that loops over them are vectorised.
#pragma once

#include <cmath>
#include <cstring>

#include "../../include/types.cuh"

namespace emulator {

inline u32 bits_of(f32 v) {
    u32 r;
    std::memcpy(&r, &v, 4);
    return r;
}

inline f32 from_bits(u32 v) {
    f32 r;
    std::memcpy(&r, &v, 4);
    return r;
}

inline f32 widen_one(bf16 v) { return from_bits(static_cast<u32>(v.bits) << 16); }

// The exponent is moved by a multiplication, which also makes subnormal numbers normal.
inline f32 widen_one(f16 v) {
    u32 magnitude = v.bits & 0x7fffu;
    u32 finite = bits_of(from_bits(magnitude << 13) * 0x1p112f);
    u32 special = (magnitude << 13) | 0x7f800000u; // infinity and NaN
    return from_bits((magnitude >= 0x7c00u ? special : finite) | static_cast<u32>(v.bits & 0x8000u) << 16);
}

inline bf16 narrow_bf16(f32 v) {
    u32 word = bits_of(v);
    if ((word & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<u16>((word + 0x7fffu + (word >> 16 & 1)) >> 16)};
}

inline f16 narrow_f16(f32 v) {
    u32 word = bits_of(v);
    u16 sign = static_cast<u16>(word >> 16 & 0x8000u);
    u32 magnitude = word & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {0x7fff};
    if (magnitude >= 0x47800000u) return {static_cast<u16>(sign | 0x7c00u)}; // 65536 and above
    if (magnitude < 0x38800000u) {
        // Subnormal: adding 0.5 leaves the rounded number of 2^-24 in the last bits.
        return {static_cast<u16>(sign | (bits_of(from_bits(magnitude) + 0.5f) - 0x3f000000u))};
    }
    u32 rounded = magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1);
    return {static_cast<u16>(sign | rounded >> 13)};
}

} // namespace emulator
