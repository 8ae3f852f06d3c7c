// cp.async: copies a thread has asked for and not waited for yet.
//
// The hardware may do them at any time until the wait. A schedule that does them as late as possible shows a
// missing wait; one that does them at once shows a buffer that is overwritten while others still read it.
#pragma once

#include "block.h"

namespace emulator {

constexpr u32 MAX_COPIES = 512; // powers of two
constexpr u32 MAX_GROUPS = 32;

struct Copy {
    void* to;
    const void* from; // null: zeros
    u32 bytes;
};

struct Copies {
    u32 first, end;             // of the copies, counted from the start of the block
    u32 first_group, end_group; // of the groups
    u32 group_end[MAX_GROUPS];
    Copy copies[MAX_COPIES];
};

void start_copy(void* to, const void* from, u32 bytes, u32 line);
void end_group();
void wait_for_groups(u32 pending);
// What is left when a thread ends.
void finish_copies(Copies& copies);

} // namespace emulator
