#include "shared.h"

#include <cstring>
#include <memory>

#include "guard.h"

namespace emulator {
namespace {

constexpr u32 ALIGNMENT = 1024;
constexpr u32 MAX_ARRAYS = 32;
constexpr u32 GUARD = 1024; // around dynamic memory
constexpr u32 GAP = 64;     // behind each static array

struct Array {
    const void* key;
    u32 at, bytes;
};

struct Memory {
    std::unique_ptr<u8[]> whole{new u8[ALIGNMENT + 2 * GUARD + MAX_SHARED + MAX_STATIC_SHARED + MAX_ARRAYS * GAP]};
    u8* dynamic;
    u8* fixed;
    Array arrays[MAX_ARRAYS];
    u32 n_arrays = 0;
    u32 fixed_bytes = 0;

    Memory() {
        u64 start = reinterpret_cast<u64>(whole.get()) + GUARD;
        dynamic = reinterpret_cast<u8*>((start + ALIGNMENT - 1) & ~u64{ALIGNMENT - 1});
        fixed = dynamic + MAX_SHARED + GUARD;
    }
};

Memory& memory() {
    static thread_local std::unique_ptr<Memory> mine(new Memory);
    return *mine;
}

} // namespace

u8* dynamic_shared() { return memory().dynamic; }

u8* static_shared(const void* key, u32 bytes, u32 alignment) {
    Memory& mine = memory();
    for (u32 i = 0; i < mine.n_arrays; i++) {
        if (mine.arrays[i].key == key) return mine.fixed + mine.arrays[i].at;
    }
    u32 at = (mine.fixed_bytes + alignment - 1) & ~(alignment - 1);
    if (mine.n_arrays == MAX_ARRAYS || at + bytes > MAX_STATIC_SHARED) {
        fail("more than %u bytes or %u arrays of static shared memory", MAX_STATIC_SHARED, MAX_ARRAYS);
    }
    std::memset(mine.fixed + at, POISON_BYTE, bytes + GAP);
    mine.arrays[mine.n_arrays++] = {key, at, bytes};
    mine.fixed_bytes = at + bytes + GAP;
    return mine.fixed + at;
}

void poison_shared(Block& block) {
    Memory& mine = memory();
    mine.n_arrays = 0;
    mine.fixed_bytes = 0;
    block.shared = mine.dynamic;
    std::memset(mine.dynamic - GUARD, POISON_BYTE, GUARD + block.shared_bytes + GUARD);
}

void check_shared(Block& block) {
    Memory& mine = memory();
    bool intact = is_poison(mine.dynamic - GUARD, GUARD) && is_poison(mine.dynamic + block.shared_bytes, GUARD);
    if (!intact) block.failure = "a write before or behind the dynamic shared memory of the launch";
    for (u32 i = 0; i < mine.n_arrays; i++) {
        const Array& array = mine.arrays[i];
        const u8* behind = mine.fixed + array.at + array.bytes;
        if (!is_poison(behind, GAP)) block.failure = "a write behind a static shared array";
    }
}

void check_shared_access(const Block& block, const void* at, u32 bytes, const char* operation, u32 line) {
    const Memory& mine = memory();
    const u8* byte = static_cast<const u8*>(at);
    bool dynamic = byte >= mine.dynamic && byte + bytes <= mine.dynamic + block.shared_bytes;
    bool fixed = byte >= mine.fixed && byte + bytes <= mine.fixed + mine.fixed_bytes;
    if (!dynamic && !fixed) fail("%s at %p, which is not in shared memory (line %u)", operation, at, line);
    if (reinterpret_cast<u64>(at) % bytes != 0) {
        fail("%s at shared offset %ld, which is not a multiple of %u (line %u)", operation,
             static_cast<long>(byte - (dynamic ? mine.dynamic : mine.fixed)), bytes, line);
    }
}

} // namespace emulator
