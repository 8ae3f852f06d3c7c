// What the NCCL of the emulator asks of its driver.
#pragma once

#include "status.h"

// Work for a stream: `run` once per execution, `drop` when it will not be executed any more.
API tm_emulator_enqueue(void* stream, void (*run)(void*), void (*drop)(void*), void* data);
// The error of a device; SUCCESS while it works.
API tm_emulator_error(int ordinal);
API tm_emulator_fail(int ordinal, driver::Status status);
API cuCtxGetDevice(int* ordinal);
