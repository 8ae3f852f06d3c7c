// A kernel that touches memory which is not there fails, rather than the process.
#pragma once

#include <string>

namespace emulator {

void catch_traps();
bool was_trap(const std::string& failure);

} // namespace emulator
