// One block in execution: its threads as fibers of one OS thread, grouped into warps.
//
// A lane runs until it meets something that others must reach too, or until it ends; then the block's schedule
// picks the next one. Nothing here is shared between OS threads.
#pragma once

#include "../../include/types.cuh"

namespace emulator {

constexpr u32 WARP = 32;
constexpr u32 MAX_WARPS = 32;
constexpr u32 MAX_THREADS = WARP * MAX_WARPS;
constexpr u32 NAMED_BARRIERS = 16;
constexpr u32 OPERANDS = 10;
constexpr u32 RESULTS = 4;

struct Block;
struct Warp;
struct Copies;
struct Kernel;

struct Lane {
    u32 thread; // within the block
    u32 lane;   // within the warp
    Warp* warp;
    Block* block;
    Copies* copies; // null before the first
    void* stack_top; // where it goes on; null before its start
    char* stack;
    bool ended;
};

// What the lanes of a warp do together: reads `in` and `from`, writes `out`. Its address is its identity.
using Operation = void (*)(Warp&);

struct Warp {
    alignas(64) u32 in[OPERANDS][WARP]; // operand, lane
    u32 out[RESULTS][WARP];
    const void* from[WARP]; // addresses the lanes give

    Block* block;
    u32 index;
    u32 whole;   // lanes it started with
    u32 live;    // lanes that have not ended
    u32 ready;   // lanes that can go on, the running one not among them
    u32 arrived; // lanes that wait at the operation
    Operation operation;
    u32 line; // of the source, where the first lane met the operation
};

struct Barrier {
    u32 arrived;
    u32 threads; // as the first to arrive said; 0 = all that live
    u32 line;
    u32 waiting[MAX_WARPS];
};

enum class Schedule : u32 { Forward, Reverse, Random };

struct Grid {
    u32 x, y, z;
};

struct Block {
    Grid index, grid;
    u32 threads;
    u32 shared_bytes;
    u8* shared; // dynamic
    const Kernel* kernel;
    const void* const* arguments;
    Schedule schedule;
    u32 random;

    u32 live;
    u32 n_warps;
    u32 ready_warps; // warps with a lane that can go on
    void* host_stack;
    const char* failure; // why the block was given up; null if it was not

    Barrier barriers[NAMED_BARRIERS];
    Warp warps[MAX_WARPS];
    Lane lanes[MAX_THREADS];
};

// The lane that runs on this OS thread.
extern __thread Lane* current __attribute__((tls_model("initial-exec")));

// Runs all threads of a block. False: `failure` says why they were given up.
bool run_block(Block& block);

// The current lane waits until someone makes it ready.
void suspend();
void make_ready(Warp& warp, u32 lanes);

// Gives the block up: what a GPU would call an illegal instruction, or would do silently wrong.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

void wait_at_barrier(u32 id, u32 threads, u32 line);
u32 random_bits(Block& block, u32 bits);

} // namespace emulator
