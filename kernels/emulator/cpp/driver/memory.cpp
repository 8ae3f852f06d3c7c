#include "memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include "../guard.h"
#include "control.h"
#include "stream.h"

namespace driver {
namespace {

constexpr u64 ALIGNMENT = 256;
constexpr u64 GUARD = 256;
// Around each allocation: a kernel that writes further than the guards stops there.
constexpr u64 FENCE = 1 << 20;
constexpr u64 PAGE = 4096;

struct Allocation {
    u8* at;
    u64 bytes;
    u64 padded; // with what is missing to the alignment
    Device* device;

    bool intact() const {
        return emulator::is_poison(at - GUARD, GUARD) && emulator::is_poison(at + bytes, padded - bytes + GUARD);
    }
};

// By address. Memory that kernels may still be using after main stays: the tables are never destroyed.
struct Table {
    std::mutex mutex;
    std::map<u64, Allocation> all;

    const Allocation* find(const void* at, u64 bytes) const {
        u64 address = reinterpret_cast<u64>(at);
        auto after = all.upper_bound(address);
        if (after == all.begin()) return nullptr;
        const Allocation& found = std::prev(after)->second;
        u64 offset = address - reinterpret_cast<u64>(found.at);
        return offset <= found.bytes && bytes <= found.bytes - offset ? &found : nullptr;
    }
};

Table& device_memory() {
    static Table& table = *new Table;
    return table;
}

Table& pinned_memory() {
    static Table& table = *new Table;
    return table;
}

u64 whole_bytes(u64 padded) { return (padded + 2 * GUARD + PAGE - 1) / PAGE * PAGE; }

// Memory that is NaN, with a fence on both sides; null if there is none.
u8* map_poisoned(u64 bytes) {
    void* mapped = mmap(nullptr, bytes + 2 * FENCE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return nullptr;
    u8* whole = static_cast<u8*>(mapped) + FENCE;
    if (mprotect(whole, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(mapped, bytes + 2 * FENCE);
        return nullptr;
    }
    std::memset(whole, emulator::POISON_BYTE, bytes);
    return whole;
}

std::string describe(const Allocation& allocation) {
    return "a write outside of an allocation of " + std::to_string(allocation.bytes) + " bytes";
}

} // namespace

void* allocate(Device& device, u64 bytes, Status& status) {
    status = INVALID_VALUE;
    if (bytes == 0) return nullptr;
    u64 padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    status = OUT_OF_MEMORY;
    if (padded > faults().memory || device.used + padded > faults().memory) return nullptr;
    u8* whole = map_poisoned(whole_bytes(padded));
    if (whole == nullptr) return nullptr;
    device.used += padded;
    counters.allocations++;
    Table& table = device_memory();
    std::lock_guard lock(table.mutex);
    table.all[reinterpret_cast<u64>(whole + GUARD)] = {whole + GUARD, bytes, padded, &device};
    status = SUCCESS;
    return whole + GUARD;
}

Status release(void* at) {
    if (at == nullptr) return SUCCESS;
    Table& table = device_memory();
    std::lock_guard lock(table.mutex);
    auto found = table.all.find(reinterpret_cast<u64>(at));
    if (found == table.all.end()) return INVALID_VALUE;
    Allocation allocation = found->second;
    table.all.erase(found);
    allocation.device->used -= allocation.padded;
    bool intact = allocation.intact();
    munmap(allocation.at - GUARD - FENCE, whole_bytes(allocation.padded) + 2 * FENCE);
    if (intact) return SUCCESS;
    set_report(describe(allocation) + ", seen when it was freed");
    allocation.device->error = ILLEGAL_ADDRESS;
    return ILLEGAL_ADDRESS;
}

bool is_device_memory(const void* at, u64 bytes) {
    Table& table = device_memory();
    std::lock_guard lock(table.mutex);
    return table.find(at, bytes) != nullptr;
}

bool is_pinned(const void* at, u64 bytes) {
    Table& table = pinned_memory();
    std::lock_guard lock(table.mutex);
    return table.find(at, bytes) != nullptr;
}

bool check_guards(const Device& device, std::string& where) {
    Table& table = device_memory();
    std::lock_guard lock(table.mutex);
    for (auto& [address, allocation] : table.all) {
        if (allocation.device != &device || allocation.intact()) continue;
        where = describe(allocation);
        return false;
    }
    return true;
}

} // namespace driver

using namespace driver;

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    IN_CONTEXT(now);
    u64 memory = faults().memory, used = now->used;
    *total = memory;
    *free = memory > used ? memory - used : 0;
    return SUCCESS;
}

API cuMemAlloc_v2(u64* out, size_t bytes) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_UNSUPPORTED;
    Status status;
    *out = reinterpret_cast<u64>(allocate(*now, bytes, status));
    return status;
}

// Waits for the work under way, as the real one does.
API cuMemFree_v2(u64 at) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_UNSUPPORTED;
    wait_for_streams(*now, false);
    return release(reinterpret_cast<void*>(at));
}

API cuMemAllocAsync(u64* out, size_t bytes, void* stream) {
    IN_CONTEXT(now);
    if (is_capturing(stream)) return CAPTURE_UNSUPPORTED;
    Status status;
    *out = reinterpret_cast<u64>(allocate(*now, bytes, status));
    return status;
}

API cuMemFreeAsync(u64 at, void* stream) {
    IN_CONTEXT(now);
    if (is_capturing(stream)) return CAPTURE_UNSUPPORTED;
    if (!is_device_memory(reinterpret_cast<void*>(at), 1)) return INVALID_VALUE;
    return enqueue(stream, [at] { release(reinterpret_cast<void*>(at)); });
}

API cuMemHostAlloc(void** out, size_t bytes, u32) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_UNSUPPORTED;
    if (bytes == 0) return INVALID_VALUE;
    u64 padded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    auto* at = static_cast<u8*>(std::aligned_alloc(4096, (padded + 4095) / 4096 * 4096));
    if (at == nullptr) return OUT_OF_MEMORY;
    std::memset(at, emulator::POISON_BYTE, bytes);
    counters.host_allocations++;
    Table& table = pinned_memory();
    std::lock_guard lock(table.mutex);
    table.all[reinterpret_cast<u64>(at)] = {at, bytes, padded, now};
    *out = at;
    return SUCCESS;
}

API cuMemAllocHost_v2(void** out, size_t bytes) { return cuMemHostAlloc(out, bytes, 0); }

API cuMemFreeHost(void* at) {
    IN_CONTEXT(now);
    wait_for_streams(*now, false);
    Table& table = pinned_memory();
    std::lock_guard lock(table.mutex);
    if (table.all.erase(reinterpret_cast<u64>(at)) == 0) return INVALID_VALUE;
    std::free(at);
    return SUCCESS;
}

API cuMemHostRegister_v2(void* at, size_t bytes, u32) {
    IN_CONTEXT(now);
    Table& table = pinned_memory();
    std::lock_guard lock(table.mutex);
    table.all[reinterpret_cast<u64>(at)] = {static_cast<u8*>(at), bytes, bytes, now};
    return SUCCESS;
}

API cuMemHostUnregister(void* at) {
    Table& table = pinned_memory();
    std::lock_guard lock(table.mutex);
    return table.all.erase(reinterpret_cast<u64>(at)) == 0 ? INVALID_VALUE : SUCCESS;
}

API cuMemHostGetDevicePointer_v2(u64* out, void* at, u32) {
    if (!is_pinned(at, 1)) return INVALID_VALUE;
    *out = reinterpret_cast<u64>(at);
    return SUCCESS;
}
