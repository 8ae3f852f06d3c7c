// What tests see of the driver and do to it: counters, faults, and what the last failed kernel did.
#pragma once

#include <atomic>
#include <string>

#include "../../../include/types.cuh"

namespace driver {

// The order is that of `Counters` in ../../../src/lib.rs.
struct Counters {
    std::atomic<u64> launches;       // by cuLaunchKernel, those recorded into graphs included
    std::atomic<u64> kernels;        // that ran
    std::atomic<u64> graph_launches;
    std::atomic<u64> allocations;    // of device memory
    std::atomic<u64> host_allocations;
    std::atomic<u64> synchronisations; // in which the host waited: for a stream, an event, a context, a copy
    std::atomic<u64> copies;
    std::atomic<u64> memsets;
};
extern Counters counters;

// What a test may want to be different. Set from the environment at first, or by tm_emulator_set.
struct Faults {
    std::atomic<u64> memory;        // TM_EMULATOR_MEMORY: bytes a device has
    std::atomic<u64> fail_launch;   // TM_EMULATOR_FAIL_LAUNCH: kernels until one meets an illegal address; 0 = never
    std::atomic<u64> devices;       // TM_EMULATOR_DEVICES
    std::atomic<u64> delay;         // TM_EMULATOR_DELAY: microseconds a stream's work starts late
    Faults();
};
Faults& faults();

void set_report(std::string text);

} // namespace driver
