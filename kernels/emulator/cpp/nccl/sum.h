// Sums over ranks: in f32, in the order of the ranks, rounded once.
#pragma once

#include "types.h"

namespace nccl {

bool can_sum(Type type);
void sum(Type type, const void* const* inputs, u32 n_inputs, void* out, size_t count);

} // namespace nccl
