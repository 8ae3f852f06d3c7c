// What the environment says of the emulator.
#pragma once

#include "block.h"

namespace emulator {

// TM_EMULATOR_THREADS: OS threads that run blocks; as many as there are cores if it is not set.
u32 emulator_threads();

// TM_EMULATOR_SCHEDULE: 0 forward, 1 reverse, 2 random. If it is not set, blocks take turns: `turn` counts them.
Schedule schedule_of(u32 turn);
void set_schedule(u64 number);

// A number in the environment.
u64 setting(const char* name, u64 otherwise);

} // namespace emulator
