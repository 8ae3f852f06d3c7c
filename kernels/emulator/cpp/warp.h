// What the lanes of a warp do together: the last one to arrive does it for all.
#pragma once

#include <cstring>

#include "block.h"

namespace emulator {

const char* name_of(Operation operation);
void report_deadlock(Block& block);
[[noreturn]] void report_mixed(const Warp& warp, Operation operation, u32 line);

// Does the operation the warp waits at. All its lanes can go on but `running`, which does already.
inline void perform(Warp& warp, u32 running) {
    warp.operation(warp);
    u32 others = warp.arrived & ~running;
    warp.arrived = 0;
    make_ready(warp, others);
}

inline void meet(Operation operation, u32 line) {
    const Lane& lane = *current;
    Warp& warp = *lane.warp;
    if (warp.arrived == 0) {
        warp.operation = operation;
        warp.line = line;
    } else if (warp.operation != operation || warp.line != line) {
        report_mixed(warp, operation, line);
    }
    u32 bit = 1u << lane.lane;
    warp.arrived |= bit;
    if (warp.arrived == warp.live) perform(warp, bit);
    else suspend();
}

void do_nothing(Warp& warp);
void do_shuffle(Warp& warp);      // in[0] of lane in[1]
void do_shuffle_wide(Warp& warp); // in[0] and in[1] of lane in[2]
void do_vote(Warp& warp);         // out[0]: lanes whose in[0] is not 0; out[1]: those that voted

template <class V> V shuffle(V v, u32 from, u32 line) {
    const Lane& lane = *current;
    Warp& warp = *lane.warp;
    constexpr u32 words = sizeof(V) / 4;
    static_assert(words * 4 == sizeof(V) && words <= 2);
    u32 word[words];
    std::memcpy(word, &v, sizeof v);
    for (u32 i = 0; i < words; i++) warp.in[i][lane.lane] = word[i];
    warp.in[words][lane.lane] = from;
    meet(words == 1 ? do_shuffle : do_shuffle_wide, line);
    for (u32 i = 0; i < words; i++) word[i] = warp.out[i][lane.lane];
    std::memcpy(&v, word, sizeof v);
    return v;
}

inline u32 vote(bool v, u32& voters, u32 line) {
    const Lane& lane = *current;
    Warp& warp = *lane.warp;
    warp.in[0][lane.lane] = v;
    meet(do_vote, line);
    voters = warp.out[1][lane.lane];
    return warp.out[0][lane.lane];
}

} // namespace emulator
