#include "copies.h"

#include <cstring>
#include <memory>

#include "shared.h"

namespace emulator {
namespace {

void do_copy(const Copy& copy) {
    if (copy.from == nullptr) std::memset(copy.to, 0, copy.bytes);
    else std::memcpy(copy.to, copy.from, copy.bytes);
}

void do_until(Copies& copies, u32 end) {
    while (copies.first != end) do_copy(copies.copies[copies.first++ % MAX_COPIES]);
}

bool at_once(Block& block) {
    switch (block.schedule) {
    case Schedule::Forward: return false;
    case Schedule::Reverse: return true;
    default: return random_bits(block, 1) == 0;
    }
}

Copies& copies_of(Lane& lane) {
    if (lane.copies == nullptr) {
        static thread_local std::unique_ptr<Copies[]> mine(new Copies[MAX_THREADS]);
        Copies* copies = &mine[lane.thread];
        copies->first = copies->end = copies->first_group = copies->end_group = 0;
        lane.copies = copies;
    }
    return *lane.copies;
}

} // namespace

void start_copy(void* to, const void* from, u32 bytes, u32 line) {
    Block& block = *current->block;
    check_shared_access(block, to, bytes, "cp.async", line);
    if (reinterpret_cast<u64>(from) % bytes != 0) {
        fail("cp.async from %p, which is not a multiple of %u (line %u)", from, bytes, line);
    }
    Copy copy{to, from, bytes};
    if (at_once(block)) return do_copy(copy);
    Copies& copies = copies_of(*current);
    if (copies.end - copies.first == MAX_COPIES) fail("more than %u copies are under way (line %u)", MAX_COPIES, line);
    copies.copies[copies.end++ % MAX_COPIES] = copy;
}

void end_group() {
    Copies& copies = copies_of(*current);
    if (copies.end_group - copies.first_group == MAX_GROUPS) {
        do_until(copies, copies.group_end[copies.first_group++ % MAX_GROUPS]);
    }
    copies.group_end[copies.end_group++ % MAX_GROUPS] = copies.end;
}

void wait_for_groups(u32 pending) {
    Copies& copies = copies_of(*current);
    while (copies.end_group - copies.first_group > pending) {
        do_until(copies, copies.group_end[copies.first_group++ % MAX_GROUPS]);
    }
}

void finish_copies(Copies& copies) { do_until(copies, copies.end); }

} // namespace emulator
