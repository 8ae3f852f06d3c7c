#include "control.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>

#include "../kernel.h"
#include "../settings.h"
#include "device.h"

#define CONTROL extern "C" __attribute__((visibility("default")))

namespace driver {

Counters counters;

namespace {

constexpr u64 DEFAULT_MEMORY = u64{1} << 30;

std::mutex report_mutex;
std::string report;

u64 copy_text(const std::string& text, char* out, u64 bytes) {
    if (bytes != 0) {
        u64 n = std::min<u64>(text.size(), bytes - 1);
        std::memcpy(out, text.data(), n);
        out[n] = 0;
    }
    return text.size();
}

} // namespace

Faults::Faults()
    : memory(emulator::setting("TM_EMULATOR_MEMORY", DEFAULT_MEMORY)),
      fail_launch(emulator::setting("TM_EMULATOR_FAIL_LAUNCH", 0)),
      devices(emulator::setting("TM_EMULATOR_DEVICES", 1)), delay(emulator::setting("TM_EMULATOR_DELAY", 0)) {}

Faults& faults() {
    static Faults all;
    return all;
}

void set_report(std::string text) {
    std::fprintf(stderr, "emulator: %s\n", text.c_str());
    std::lock_guard lock(report_mutex);
    report = std::move(text);
}

} // namespace driver

CONTROL void tm_emulator_counters(u64* out, u64 n) {
    const auto* words = reinterpret_cast<const std::atomic<u64>*>(&driver::counters);
    for (u64 i = 0; i < n && i < sizeof driver::counters / sizeof *words; i++) out[i] = words[i];
}

// 1 if there is such a fault.
CONTROL int tm_emulator_set(const char* name, u64 value) {
    driver::Faults& faults = driver::faults();
    if (std::strcmp(name, "memory") == 0) faults.memory = value;
    else if (std::strcmp(name, "fail_launch") == 0) faults.fail_launch = value;
    else if (std::strcmp(name, "devices") == 0) faults.devices = value;
    else if (std::strcmp(name, "delay") == 0) faults.delay = value;
    else if (std::strcmp(name, "schedule") == 0) emulator::set_schedule(value);
    else return 0;
    return 1;
}

// What the last kernel that failed did. Texts end with a NUL; the result is their length.
CONTROL u64 tm_emulator_report(char* out, u64 bytes) {
    std::lock_guard lock(driver::report_mutex);
    return driver::copy_text(driver::report, out, bytes);
}

// Names of all kernels, a line each.
CONTROL u64 tm_emulator_kernels(char* out, u64 bytes) {
    return driver::copy_text(emulator::kernel_names(), out, bytes);
}

// Devices work again after an error, as in a new process.
CONTROL void tm_emulator_recover() {
    driver::set_error_of_all(driver::SUCCESS);
    std::lock_guard lock(driver::report_mutex);
    driver::report.clear();
}
