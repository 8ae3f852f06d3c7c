// What is said of a block that cannot go on.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "block.h"
#include "stack.h"
#include "warp.h"

namespace emulator {
namespace {

constexpr unsigned long REPORT_BYTES = 2048;

char* report() {
    static thread_local std::unique_ptr<char[]> text(new char[REPORT_BYTES]);
    return text.get();
}

} // namespace

void fail(const char* format, ...) {
    char* text = report();
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, REPORT_BYTES, format, values);
    va_end(values);
    if (current == nullptr) {
        std::fprintf(stderr, "emulator: outside of a kernel: %s\n", text);
        std::abort();
    }
    current->block->failure = text;
    void* forgotten;
    tm_emulator_switch(&forgotten, current->block->host_stack);
    std::abort();
}

void report_deadlock(Block& block) {
    char* text = report();
    int at = std::snprintf(text, REPORT_BYTES, "deadlock, %u of %u threads stuck:", block.live, block.threads);
    auto say = [&](const char* format, auto... values) {
        if (at < static_cast<int>(REPORT_BYTES)) at += std::snprintf(text + at, REPORT_BYTES - at, format, values...);
    };
    for (u32 id = 0; id < NAMED_BARRIERS; id++) {
        const Barrier& barrier = block.barriers[id];
        if (barrier.arrived == 0) continue;
        u32 wanted = barrier.threads ? barrier.threads : block.live;
        say(" barrier %u (line %u) has %u of %u threads;", id, barrier.line, barrier.arrived, wanted);
    }
    for (u32 index = 0; index < block.n_warps; index++) {
        const Warp& warp = block.warps[index];
        if (warp.arrived == 0) continue;
        say(" warp %u: lanes %08x of %08x wait at %s (line %u);", index, warp.arrived, warp.live,
            name_of(warp.operation), warp.line);
    }
    block.failure = text;
}

void report_mixed(const Warp& warp, Operation operation, u32 line) {
    fail("lanes of warp %u meet at different operations: %s (line %u) and %s (line %u)", warp.index,
         name_of(warp.operation), warp.line, name_of(operation), line);
}

} // namespace emulator
