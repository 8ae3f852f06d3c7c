#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "../settings.h"
#include "control.h"
#include "memory.h"
#include "stream.h"

namespace driver {
namespace {

Device devices[MAX_DEVICES];
thread_local Device* current;

constexpr u32 MAX_STATIC_SHARED = 48 * 1024;

struct Attribute {
    int number, value;
};

// Of an A100 or an H100, by the numbers of CUdevice_attribute.
int attribute(int number) {
    bool hopper = compute_capability() >= 90;
    const Attribute all[] = {
        {1, 1024},                                   // threads of a block
        {2, 1024},                                   // of its x, y, z
        {3, 1024},
        {4, 64},
        {5, 2147483647},                             // blocks in x, y, z
        {6, 65535},
        {7, 65535},
        {8, MAX_STATIC_SHARED},                      // shared memory of a block
        {9, 65536},                                  // constant memory
        {10, 32},                                    // warp
        {12, 65536},                                 // registers of a block
        {13, 1410000},                               // kHz
        {16, static_cast<int>(emulator::setting("TM_EMULATOR_SMS", hopper ? 132 : 108))},
        {36, 1593000},                               // memory kHz
        {37, 5120},                                  // bus bits
        {38, 40 << 20},                              // L2 bytes
        {39, 2048},                                  // threads of a multiprocessor
        {41, 1},                                     // unified addresses
        {75, compute_capability() / 10},
        {76, compute_capability() % 10},
        {81, static_cast<int>(max_shared_of_block() + 1024)}, // shared memory of a multiprocessor
        {82, 65536},                                 // its registers
        {95, 1},                                     // cooperative launch
        {97, static_cast<int>(max_shared_of_block())},
        {106, 32},                                   // blocks of a multiprocessor
        {115, 1},                                    // memory pools
    };
    for (const Attribute& one : all) {
        if (one.number == number) return one.value;
    }
    return 0;
}

} // namespace

int device_count() {
    return static_cast<int>(std::min<u64>(faults().devices, MAX_DEVICES));
}

int compute_capability() { return static_cast<int>(emulator::setting("TM_EMULATOR_CC", 80)); }

u32 max_shared_of_block() { return (compute_capability() >= 90 ? 227 : 163) * 1024; }

Device* device(int ordinal) {
    if (ordinal < 0 || ordinal >= device_count()) return nullptr;
    devices[ordinal].ordinal = ordinal;
    return &devices[ordinal];
}

Device* current_device() { return current; }

void set_error_of_all(Status status) {
    for (Device& one : devices) one.error = status;
}

} // namespace driver

using namespace driver;

API cuInit(u32) { return device_count() == 0 ? NO_DEVICE : SUCCESS; }

API cuDriverGetVersion(int* version) {
    *version = 13000;
    return SUCCESS;
}

API cuDeviceGetCount(int* count) {
    *count = device_count();
    return SUCCESS;
}

API cuDeviceGet(int* out, int ordinal) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    *out = ordinal;
    return SUCCESS;
}

API cuDeviceGetName(char* name, int bytes, int ordinal) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    std::snprintf(name, static_cast<size_t>(bytes), "Tokenmill emulator %d", ordinal);
    return SUCCESS;
}

API cuDeviceGetUuid_v2(char* uuid, int ordinal) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    std::memset(uuid, 0, 16);
    uuid[15] = static_cast<char>(ordinal);
    return SUCCESS;
}

API cuDeviceGetUuid(char* uuid, int ordinal) { return cuDeviceGetUuid_v2(uuid, ordinal); }

API cuDeviceTotalMem_v2(size_t* bytes, int ordinal) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    *bytes = faults().memory;
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int number, int ordinal) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    *value = attribute(number);
    return SUCCESS;
}

API cuDeviceCanAccessPeer(int* can, int ordinal, int peer) {
    if (device(ordinal) == nullptr || device(peer) == nullptr) return INVALID_DEVICE;
    *can = ordinal != peer;
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** context, int ordinal) {
    Device* found = device(ordinal);
    if (found == nullptr) return INVALID_DEVICE;
    *context = found;
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int ordinal) { return device(ordinal) == nullptr ? INVALID_DEVICE : SUCCESS; }

API cuCtxSetCurrent(void* context) {
    driver::current = static_cast<Device*>(context);
    return SUCCESS;
}

API cuCtxGetCurrent(void** context) {
    *context = driver::current;
    return SUCCESS;
}

API cuCtxGetDevice(int* ordinal) {
    if (driver::current == nullptr) return INVALID_CONTEXT;
    *ordinal = driver::current->ordinal;
    return SUCCESS;
}

API cuCtxEnablePeerAccess(void*, u32) { return SUCCESS; }

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

API cuCtxSynchronize() {
    IN_CONTEXT(now);
    if (is_capturing()) return CAPTURE_UNSUPPORTED;
    counters.synchronisations++;
    wait_for_streams(*now, false);
    return now->error;
}
