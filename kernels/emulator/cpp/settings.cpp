#include "settings.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <thread>

namespace emulator {

u64 setting(const char* name, u64 otherwise) {
    const char* text = std::getenv(name);
    return text == nullptr || *text == 0 ? otherwise : std::strtoull(text, nullptr, 10);
}

u32 emulator_threads() {
    u64 cores = std::max(1u, std::thread::hardware_concurrency());
    return static_cast<u32>(std::clamp<u64>(setting("TM_EMULATOR_THREADS", cores), 1, 64));
}

namespace {

constexpr u64 IN_TURN = 3;

std::atomic<u64>& wanted_schedule() {
    static std::atomic<u64> wanted{setting("TM_EMULATOR_SCHEDULE", IN_TURN)};
    return wanted;
}

} // namespace

Schedule schedule_of(u32 turn) {
    u64 wanted = wanted_schedule();
    return static_cast<Schedule>(wanted < IN_TURN ? wanted : turn % IN_TURN);
}

void set_schedule(u64 number) { wanted_schedule() = number; }

} // namespace emulator
