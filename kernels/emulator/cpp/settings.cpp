#include "settings.h"

#include <algorithm>
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

Schedule schedule_of(u32 turn) {
    constexpr u64 in_turn = 3;
    static const u64 wanted = setting("TM_EMULATOR_SCHEDULE", in_turn);
    return static_cast<Schedule>(wanted < in_turn ? wanted : turn % in_turn);
}

} // namespace emulator
