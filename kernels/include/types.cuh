// Scalars and storage formats of kernels, on the GPU and in the emulator.
#pragma once

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i32 = int;
using i64 = long long;
using f32 = float;
using f64 = double;

// Storage formats; arithmetic is in f32.
struct bf16 {
    u16 bits;
};
struct f16 {
    u16 bits;
};

// What one load or store of a thread moves at most.
struct alignas(16) vec16 {
    u32 x, y, z, w;
};
struct alignas(8) vec8 {
    u32 x, y;
};
