// OS threads that help with grids of more than one block.
#pragma once

#include "../../include/types.cuh"

namespace emulator {

// Several threads may be in `run` at once; it returns when nothing is left to start.
struct Job {
    virtual void run() = 0;

  protected:
    ~Job() = default;
};

// Runs the job on this thread and on idle helpers, as far as there are parts for them. Returns when all are done.
void run_in_pool(Job& job, u64 parts);

} // namespace emulator
