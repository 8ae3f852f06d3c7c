// Device memory: host memory between zones that nobody may write, all of it NaN at first.
#pragma once

#include <string>

#include "device.h"

namespace driver {

// Null and a status if there is not enough.
void* allocate(Device& device, u64 bytes, Status& status);
Status release(void* at);
// The range lies in one allocation of device memory.
bool is_device_memory(const void* at, u64 bytes);
bool is_pinned(const void* at, u64 bytes);
// False if something was written outside of an allocation of the device; `where` says where.
bool check_guards(const Device& device, std::string& where);

} // namespace driver
