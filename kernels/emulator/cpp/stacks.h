// The stacks of this OS thread's fibers. The last one given back is taken first, as it is in the cache.
#pragma once

namespace emulator {

char* take_stack(); // its top
void give_stack(char* top);
// All are free again: the fibers on them were given up.
void forget_stacks();

} // namespace emulator
