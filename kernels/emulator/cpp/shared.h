// Shared memory of the block in execution. It starts as NaN, and what lies behind each array must stay so.
#pragma once

#include "block.h"

namespace emulator {

constexpr u32 MAX_STATIC_SHARED = 48 * 1024;
constexpr u32 MAX_SHARED = 227 * 1024;

// The static array that `key` stands for; the same for all threads of the block.
u8* static_shared(const void* key, u32 bytes, u32 alignment);
// Where the dynamic shared memory of this OS thread's blocks is.
u8* dynamic_shared();

void poison_shared(Block& block);
// Sets the block's failure if something was written behind an array.
void check_shared(Block& block);
void check_shared_access(const Block& block, const void* at, u32 bytes, const char* operation, u32 line);

} // namespace emulator
