#include "sum.h"

#include "../numbers.h"

namespace nccl {
namespace {

f32 read(f32 v) { return v; }
f32 read(bf16 v) { return emulator::widen_one(v); }
f32 read(f16 v) { return emulator::widen_one(v); }
void write(f32 v, f32& out) { out = v; }
void write(f32 v, bf16& out) { out = emulator::narrow_bf16(v); }
void write(f32 v, f16& out) { out = emulator::narrow_f16(v); }

template <class T> void sum_of(const void* const* inputs, u32 n_inputs, void* out, size_t count) {
    for (size_t i = 0; i < count; i++) {
        f32 total = 0;
        for (u32 rank = 0; rank < n_inputs; rank++) total += read(static_cast<const T*>(inputs[rank])[i]);
        write(total, static_cast<T*>(out)[i]);
    }
}

} // namespace

bool can_sum(Type type) { return type == FLOAT16 || type == FLOAT32 || type == BFLOAT16; }

void sum(Type type, const void* const* inputs, u32 n_inputs, void* out, size_t count) {
    if (type == FLOAT32) sum_of<f32>(inputs, n_inputs, out, count);
    if (type == FLOAT16) sum_of<f16>(inputs, n_inputs, out, count);
    if (type == BFLOAT16) sum_of<bf16>(inputs, n_inputs, out, count);
}

} // namespace nccl
