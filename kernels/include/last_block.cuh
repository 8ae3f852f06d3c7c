// Several blocks work on one result, and the last of them to finish puts it together.
#pragma once
#include "device.cuh"

// Whether this block is the last of `blocks` to call it with this counter; what all of them wrote before is then seen. The
// counter is zero before and after, so that a CUDA graph can replay the launch. All threads of the block call it.
DEVICE bool is_last_block(u32* counter, u32 blocks) {
    SHARED(u32, before, [1]);
    // Every thread's writes are out before thread 0 says so.
    fence();
    sync_block();
    if (thread_x() == 0) {
        before[0] = atomic_add(counter, 1u);
        if (before[0] == blocks - 1) *counter = 0;
    }
    sync_block();
    fence();
    return before[0] == blocks - 1;
}
