#include "warp.h"

#include "fragments.h"

namespace emulator {
namespace {

constexpr u32 POISON = 0xffffffff; // what a lane that is not there would have given

void need_all(const Warp& warp) {
    if (warp.live == warp.whole) return;
    fail("%s after lanes %08x have ended (line %u)", name_of(warp.operation), warp.whole & ~warp.live, warp.line);
}

void shuffle_word(const Warp& warp, const u32* word, const u32* from, u32* out) {
    if (warp.live == ~0u) {
        for (u32 lane = 0; lane < WARP; lane++) out[lane] = word[from[lane] & 31];
        return;
    }
    for (u32 lane = 0; lane < WARP; lane++) {
        u32 source = from[lane] & 31;
        out[lane] = warp.live >> source & 1 ? word[source] : POISON;
    }
}

} // namespace

void do_nothing(Warp&) {}

void do_shuffle(Warp& warp) {
    need_all(warp);
    shuffle_word(warp, warp.in[0], warp.in[1], warp.out[0]);
}

void do_shuffle_wide(Warp& warp) {
    need_all(warp);
    shuffle_word(warp, warp.in[0], warp.in[2], warp.out[0]);
    shuffle_word(warp, warp.in[1], warp.in[2], warp.out[1]);
}

void do_vote(Warp& warp) {
    need_all(warp);
    u32 yes = 0;
    for (u32 lane = 0; lane < WARP; lane++) yes |= (warp.in[0][lane] != 0 ? 1u : 0u) << lane;
    yes &= warp.live;
    for (u32 lane = 0; lane < WARP; lane++) {
        warp.out[0][lane] = yes;
        warp.out[1][lane] = warp.live;
    }
}

const char* name_of(Operation operation) {
    if (operation == do_nothing) return "sync_warp";
    if (operation == do_shuffle || operation == do_shuffle_wide) return "a shuffle";
    if (operation == do_vote) return "a vote";
    return name_of_fragment_operation(operation);
}

} // namespace emulator
