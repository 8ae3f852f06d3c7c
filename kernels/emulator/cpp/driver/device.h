// Devices and their primary contexts, which are the same thing here.
#pragma once

#include <atomic>
#include <mutex>
#include <string>

#include "../../../include/types.cuh"
#include "status.h"

namespace driver {

constexpr u32 MAX_DEVICES = 8;

struct Device {
    int ordinal;
    std::atomic<Status> error{SUCCESS}; // once set, every call reports it
    std::atomic<u64> used{0};           // bytes of memory
};

int device_count();            // TM_EMULATOR_DEVICES
int compute_capability();      // TM_EMULATOR_CC: 80, 90
u32 max_shared_of_block();     // after cuFuncSetAttribute
Device* device(int ordinal);
Device* current_device();      // of this thread's context; null if there is none
void set_error_of_all(Status status);

} // namespace driver

// Opens a function that needs a context.
#define IN_CONTEXT(name)                                                  \
    driver::Device* name = driver::current_device();                      \
    if (name == nullptr) return driver::INVALID_CONTEXT;                  \
    if (driver::Status error = name->error; error != driver::SUCCESS) return error
