// Switching between stacks: what a fiber is made of.
#pragma once

namespace emulator {

// Saves the caller's state on its stack, stores that stack's top in `*from`, and goes on where `to` was saved.
extern "C" void tm_emulator_switch(void** from, void* to);

// A saved state at the top of an empty stack that goes on at the start of `entry`, which never returns.
void* prepare_stack(char* top, void (*entry)());

} // namespace emulator
