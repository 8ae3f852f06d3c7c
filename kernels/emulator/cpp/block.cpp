#include "block.h"

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "copies.h"
#include "kernel.h"
#include "shared.h"
#include "stack.h"
#include "stacks.h"
#include "warp.h"

namespace emulator {

__thread Lane* current __attribute__((tls_model("initial-exec")));

namespace {

inline u32 lowest(u32 mask) { return static_cast<u32>(__builtin_ctz(mask)); }
inline u32 highest(u32 mask) { return 31 - static_cast<u32>(__builtin_clz(mask)); }

u32 any_of(Block& block, u32 mask) {
    u32 turn = random_bits(block, 5);
    u32 turned = mask >> turn | mask << (-turn & 31);
    return (lowest(turned) + turn) & 31;
}

inline u32 choose(Block& block, u32 mask) {
    if (block.schedule == Schedule::Forward) return lowest(mask);
    if (block.schedule == Schedule::Reverse) return highest(mask);
    return any_of(block, mask);
}

inline Lane* take(Block& block, Warp& warp) {
    u32 lane = choose(block, warp.ready);
    warp.ready &= ~(1u << lane);
    if (warp.ready == 0) block.ready_warps &= ~(1u << warp.index);
    return &block.lanes[warp.index * WARP + lane];
}

// The lane that goes on; null if there is none. A warp goes on as long as it can; at random, another may come between.
inline Lane* pick(Block& block, Warp& warp) {
    bool stay = warp.ready != 0 && (block.schedule != Schedule::Random || random_bits(block, 2) != 0);
    if (stay) return take(block, warp);
    if (block.ready_warps == 0) return nullptr;
    return take(block, block.warps[choose(block, block.ready_warps)]);
}

void release(Block& block, Barrier& barrier) {
    barrier.arrived = 0;
    for (u32 warp = 0; warp < block.n_warps; warp++) {
        make_ready(block.warps[warp], barrier.waiting[warp]);
        barrier.waiting[warp] = 0;
    }
}

bool complete(const Block& block, const Barrier& barrier) {
    return barrier.arrived != 0 && barrier.arrived >= (barrier.threads ? barrier.threads : block.live);
}

// A thread that has ended is not waited for.
void end_lane(Lane& lane) {
    if (lane.copies != nullptr) finish_copies(*lane.copies);
    Block& block = *lane.block;
    Warp& warp = *lane.warp;
    lane.ended = true;
    block.live--;
    warp.live &= ~(1u << lane.lane);
    if (warp.arrived != 0 && warp.arrived == warp.live) perform(warp, 0);
    if (complete(block, block.barriers[0])) release(block, block.barriers[0]);
}

void run_lanes();

void start(Lane& lane) {
    lane.stack = take_stack();
    lane.stack_top = prepare_stack(lane.stack, run_lanes);
}

// The body of every fiber. A lane that has not started yet takes over the stack of the one that ended: threads
// that never wait cost no switch.
void run_lanes() {
    for (;;) {
        Lane& lane = *current;
        Block& block = *lane.block;
        block.kernel->call(block.arguments);
        end_lane(lane);
        Lane* next = pick(block, *lane.warp);
        void* forgotten;
        if (next == nullptr) {
            if (block.live != 0) report_deadlock(block);
            give_stack(lane.stack);
            tm_emulator_switch(&forgotten, block.host_stack);
        }
        current = next;
        if (next->stack_top == nullptr) {
            next->stack = lane.stack;
            next->stack_top = lane.stack; // started
            continue;
        }
        give_stack(lane.stack);
        tm_emulator_switch(&forgotten, next->stack_top);
    }
}

void prepare(Block& block) {
    block.live = block.threads;
    block.n_warps = (block.threads + WARP - 1) / WARP;
    block.ready_warps = 0;
    block.failure = nullptr;
    std::memset(block.barriers, 0, sizeof block.barriers);
    for (u32 index = 0; index < block.n_warps; index++) {
        Warp& warp = block.warps[index];
        u32 lanes = block.threads - index * WARP;
        warp.block = &block;
        warp.index = index;
        warp.live = lanes >= WARP ? ~0u : (1u << lanes) - 1;
        warp.whole = warp.live;
        warp.ready = 0;
        warp.arrived = 0;
        make_ready(warp, warp.live);
    }
    for (u32 thread = 0; thread < block.threads; thread++) {
        Lane& lane = block.lanes[thread];
        lane.thread = thread;
        lane.lane = thread % WARP;
        lane.warp = &block.warps[thread / WARP];
        lane.block = &block;
        lane.copies = nullptr;
        lane.stack_top = nullptr;
        lane.ended = false;
    }
}

} // namespace

u32 random_bits(Block& block, u32 bits) {
    block.random = block.random * 1664525u + 1013904223u; // Numerical Recipes; its high bits are the good ones
    return block.random >> (32 - bits);
}

void make_ready(Warp& warp, u32 lanes) {
    if (lanes == 0) return;
    warp.ready |= lanes;
    warp.block->ready_warps |= 1u << warp.index;
}

void suspend() {
    Lane* lane = current;
    Lane* next = pick(*lane->block, *lane->warp);
    if (next == nullptr) {
        report_deadlock(*lane->block);
        void* forgotten;
        tm_emulator_switch(&forgotten, lane->block->host_stack);
    }
    if (next->stack_top == nullptr) start(*next);
    current = next;
    tm_emulator_switch(&lane->stack_top, next->stack_top);
}

void wait_at_barrier(u32 id, u32 threads, u32 line) {
    Lane& lane = *current;
    Block& block = *lane.block;
    if (id >= NAMED_BARRIERS) fail("there is no barrier %u (line %u)", id, line);
    Barrier& barrier = block.barriers[id];
    if (barrier.arrived == 0) {
        barrier.threads = threads;
        barrier.line = line;
    } else if (barrier.threads != threads || (threads == 0 && barrier.line != line)) {
        // Only sync_block has to be the same one for all: warps with different jobs may share a named barrier.
        fail("threads meet at different barriers: lines %u and %u", barrier.line, line);
    }
    barrier.arrived++;
    if (complete(block, barrier)) {
        release(block, barrier);
        return;
    }
    barrier.waiting[lane.warp->index] |= 1u << lane.lane;
    suspend();
}

bool run_block(Block& block) {
    prepare(block);
    poison_shared(block);
    current = take(block, block.warps[choose(block, block.ready_warps)]);
    start(*current);
    tm_emulator_switch(&block.host_stack, current->stack_top);
    current = nullptr;
    if (block.failure != nullptr) forget_stacks();
    else check_shared(block);
    return block.failure == nullptr;
}

} // namespace emulator
