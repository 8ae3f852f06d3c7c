// A grid of blocks over a pool of OS threads.
#pragma once

#include <string>

#include "block.h"
#include "kernel.h"

namespace emulator {

struct Launch {
    const Kernel* kernel;
    Grid grid;
    u32 threads;
    u32 shared_bytes;
    const void* const* arguments;
};

// Runs every block. False: `failure` says which block failed, and how.
bool run_grid(const Launch& launch, std::string& failure);

} // namespace emulator
