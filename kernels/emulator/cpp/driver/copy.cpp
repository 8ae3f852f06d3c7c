// Copies and fills.
//
// Host memory that is not pinned is read at the call, and written before the call returns: so does the real driver,
// by way of a buffer of its own. Pinned memory is read and written when the stream gets there.
#include <cstring>
#include <vector>

#include "control.h"
#include "memory.h"
#include "stream.h"

namespace driver {
namespace {

const void* pointer(u64 at) { return reinterpret_cast<const void*>(at); }
void* pointer_mut(u64 at) { return reinterpret_cast<void*>(at); }

Status host_to_device(u64 to, const void* from, size_t bytes, void* stream) {
    if (bytes == 0) return SUCCESS;
    if (!is_device_memory(pointer(to), bytes)) return INVALID_VALUE;
    counters.copies++;
    if (is_pinned(from, bytes)) return enqueue(stream, [=] { std::memcpy(pointer_mut(to), from, bytes); });
    if (is_capturing(stream)) return CAPTURE_UNSUPPORTED; // the real one would read it at each launch
    const u8* first = static_cast<const u8*>(from);
    std::vector<u8> staged(first, first + bytes);
    return enqueue(stream, [to, staged = std::move(staged)] {
        std::memcpy(pointer_mut(to), staged.data(), staged.size());
    });
}

Status device_to_host(void* to, u64 from, size_t bytes, void* stream) {
    if (bytes == 0) return SUCCESS;
    if (!is_device_memory(pointer(from), bytes)) return INVALID_VALUE;
    counters.copies++;
    bool pinned = is_pinned(to, bytes);
    if (!pinned && is_capturing(stream)) return CAPTURE_UNSUPPORTED;
    Status status = enqueue(stream, [=] { std::memcpy(to, pointer(from), bytes); });
    if (status != SUCCESS || pinned) return status;
    counters.synchronisations++;
    return wait_for(stream);
}

Status device_to_device(u64 to, u64 from, size_t bytes, void* stream) {
    if (bytes == 0) return SUCCESS;
    if (!is_device_memory(pointer(to), bytes) || !is_device_memory(pointer(from), bytes)) return INVALID_VALUE;
    counters.copies++;
    return enqueue(stream, [=] { std::memmove(pointer_mut(to), pointer(from), bytes); });
}

template <class V> Status fill(u64 at, V value, size_t n, void* stream) {
    if (n == 0) return SUCCESS;
    if (!is_device_memory(pointer(at), n * sizeof(V)) || at % sizeof(V) != 0) return INVALID_VALUE;
    counters.memsets++;
    return enqueue(stream, [=] {
        auto* words = static_cast<V*>(pointer_mut(at));
        for (size_t i = 0; i < n; i++) words[i] = value;
    });
}

Status finished(Status status) {
    counters.synchronisations++;
    if (status != SUCCESS) return status;
    return wait_for(nullptr);
}

} // namespace
} // namespace driver

using namespace driver;

API cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void* stream) {
    IN_CONTEXT(now);
    return host_to_device(to, from, bytes, stream);
}

API cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void* stream) {
    IN_CONTEXT(now);
    Status status = device_to_host(to, from, bytes, stream);
    return status == SUCCESS ? now->error.load() : status;
}

API cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, void* stream) {
    IN_CONTEXT(now);
    return device_to_device(to, from, bytes, stream);
}

API cuMemcpyPeerAsync(u64 to, void*, u64 from, void*, size_t bytes, void* stream) {
    IN_CONTEXT(now);
    return device_to_device(to, from, bytes, stream);
}

API cuMemcpyHtoD_v2(u64 to, const void* from, size_t bytes) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_IMPLICIT;
    return finished(host_to_device(to, from, bytes, nullptr));
}

API cuMemcpyDtoH_v2(void* to, u64 from, size_t bytes) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_IMPLICIT;
    return finished(device_to_host(to, from, bytes, nullptr));
}

API cuMemcpyDtoD_v2(u64 to, u64 from, size_t bytes) {
    IN_CONTEXT(now);
    if (!allowed_while_capturing()) return CAPTURE_IMPLICIT;
    return finished(device_to_device(to, from, bytes, nullptr));
}

API cuMemsetD8Async(u64 at, u8 value, size_t n, void* stream) {
    IN_CONTEXT(now);
    return fill(at, value, n, stream);
}

API cuMemsetD16Async(u64 at, u16 value, size_t n, void* stream) {
    IN_CONTEXT(now);
    return fill(at, value, n, stream);
}

API cuMemsetD32Async(u64 at, u32 value, size_t n, void* stream) {
    IN_CONTEXT(now);
    return fill(at, value, n, stream);
}

API cuMemsetD8_v2(u64 at, u8 value, size_t n) {
    IN_CONTEXT(now);
    return finished(fill(at, value, n, nullptr));
}

API cuMemsetD32_v2(u64 at, u32 value, size_t n) {
    IN_CONTEXT(now);
    return finished(fill(at, value, n, nullptr));
}
