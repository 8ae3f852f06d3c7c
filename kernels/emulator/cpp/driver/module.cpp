// Modules, functions and launches.
//
// The code of a module's image is not run: the kernel of the same name in this library is. An image that lacks the
// name is noticed all the same.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../launch.h"
#include "../traps.h"
#include "control.h"
#include "device.h"
#include "memory.h"
#include "stream.h"

namespace driver {
namespace {

// Of a block, its static arrays included: those are known only once it runs, but SHARED_BYTES alone takes 1 KB.
constexpr u32 DEFAULT_SHARED = 47 * 1024;

struct Module {
    std::string image;
    std::vector<std::unique_ptr<struct Function>> functions;
    std::mutex mutex;
};

struct Function {
    const emulator::Kernel* kernel;
    u32 max_shared = DEFAULT_SHARED;
};

u64 bytes_of_elf(const u8* image) {
    u64 sections;
    u16 size, count;
    std::memcpy(&sections, image + 40, 8);
    std::memcpy(&size, image + 58, 2);
    std::memcpy(&count, image + 60, 2);
    return sections + u64{size} * count;
}

// A cubin, a fat binary, or text.
u64 bytes_of_image(const void* data) {
    constexpr u32 fat_magic = 0xba55ed50;
    const u8* image = static_cast<const u8*>(data);
    u32 magic;
    std::memcpy(&magic, image, 4);
    if (std::memcmp(image, "\x7f" "ELF", 4) == 0) return bytes_of_elf(image);
    if (magic != fat_magic) return std::strlen(static_cast<const char*>(data));
    u16 header;
    u64 body;
    std::memcpy(&header, image + 6, 2);
    std::memcpy(&body, image + 8, 8);
    return header + body;
}

// A launch with its own copy of the arguments, as often as a graph repeats it.
struct Prepared {
    Device* device;
    const emulator::Kernel* kernel;
    emulator::Grid grid;
    u32 threads, shared_bytes;
    std::vector<u8> bytes;

    void take_arguments(void** arguments) {
        constexpr u32 slot = 16;
        bytes.resize(slot * kernel->n_arguments);
        for (u32 i = 0; i < kernel->n_arguments; i++) {
            std::memcpy(&bytes[i * slot], arguments[i], std::min(kernel->argument_bytes[i], slot));
        }
    }

    void run() const {
        if (device->error != SUCCESS) return;
        const void* arguments[emulator::MAX_ARGUMENTS];
        for (u32 i = 0; i < kernel->n_arguments; i++) arguments[i] = &bytes[i * 16];
        emulator::Launch launch{kernel, grid, threads, shared_bytes, arguments};
        std::string failure;
        counters.kernels++;
        if (is_last_one()) {
            failure = std::string("kernel ") + kernel->name + ": the illegal address that a test asked for";
            stop(ILLEGAL_ADDRESS, failure);
        } else if (!emulator::run_grid(launch, failure)) {
            stop(emulator::was_trap(failure) ? ILLEGAL_ADDRESS : LAUNCH_FAILED, failure);
        } else if (!check_guards(*device, failure)) {
            stop(ILLEGAL_ADDRESS, std::string("kernel ") + kernel->name + ": " + failure);
        }
    }

    void stop(Status status, std::string text) const {
        set_report(std::move(text));
        device->error = status;
    }

    static bool is_last_one() {
        u64 left = faults().fail_launch;
        while (left != 0 && !faults().fail_launch.compare_exchange_weak(left, left - 1)) {
        }
        return left == 1;
    }
};

Status refuse(const emulator::Kernel& kernel, const char* why) {
    set_report(std::string("launch of ") + kernel.name + ": " + why);
    return INVALID_VALUE;
}

Status check_launch(const Function& function, emulator::Grid grid, emulator::Grid block, u32 shared_bytes) {
    const emulator::Kernel& kernel = *function.kernel;
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return refuse(kernel, "no blocks");
    if (grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) return refuse(kernel, "too many blocks");
    if (block.y != 1 || block.z != 1) return refuse(kernel, "kernels have blocks of one dimension");
    if (block.x == 0 || block.x > 1024) return refuse(kernel, "0 or more than 1024 threads");
    if (block.x > kernel.max_threads) return refuse(kernel, "more threads than its launch bounds");
    if (shared_bytes > function.max_shared) return refuse(kernel, "more dynamic shared memory than was asked for");
    return SUCCESS;
}

} // namespace
} // namespace driver

using namespace driver;

API cuModuleLoadData(void** out, const void* image) {
    IN_CONTEXT(now);
    if (image == nullptr) return INVALID_VALUE;
    if (bytes_of_image(image) == 0) return INVALID_IMAGE;
    auto* module = new driver::Module;
    module->image.assign(static_cast<const char*>(image), bytes_of_image(image));
    *out = module;
    return SUCCESS;
}

API cuModuleLoadDataEx(void** out, const void* image, u32, void*, void*) { return cuModuleLoadData(out, image); }

API cuModuleUnload(void* module) {
    if (Device* now = current_device()) wait_for_streams(*now, false);
    delete static_cast<driver::Module*>(module);
    return SUCCESS;
}

API cuModuleGetFunction(void** out, void* handle, const char* name) {
    IN_CONTEXT(now);
    auto* module = static_cast<driver::Module*>(handle);
    if (module == nullptr) return INVALID_HANDLE;
    const emulator::Kernel* kernel = emulator::find_kernel(name);
    if (kernel == nullptr || module->image.find(name) == std::string::npos) return NOT_FOUND;
    std::lock_guard lock(module->mutex);
    module->functions.push_back(std::make_unique<Function>(Function{kernel}));
    *out = module->functions.back().get();
    return SUCCESS;
}

API cuModuleGetGlobal_v2(u64*, size_t*, void*, const char*) { return NOT_FOUND; }

namespace {

// By the numbers of CUfunction_attribute.
enum FunctionAttribute : int {
    MAX_THREADS = 0,
    REGISTERS = 4,
    PTX_VERSION = 5,
    BINARY_VERSION = 6,
    MAX_DYNAMIC_SHARED = 8,
};

} // namespace

API cuFuncGetAttribute(int* value, int number, void* handle) {
    const auto* function = static_cast<const Function*>(handle);
    if (function == nullptr) return INVALID_HANDLE;
    switch (number) {
    case MAX_THREADS: *value = static_cast<int>(function->kernel->max_threads); break;
    case REGISTERS: *value = 64; break;
    case PTX_VERSION:
    case BINARY_VERSION: *value = compute_capability(); break;
    case MAX_DYNAMIC_SHARED: *value = static_cast<int>(function->max_shared); break;
    default: *value = 0;
    }
    return SUCCESS;
}

API cuFuncSetAttribute(void* handle, int number, int value) {
    auto* function = static_cast<Function*>(handle);
    if (function == nullptr) return INVALID_HANDLE;
    if (number != MAX_DYNAMIC_SHARED) return SUCCESS;
    if (value < 0 || static_cast<u32>(value) > max_shared_of_block()) return INVALID_VALUE;
    function->max_shared = static_cast<u32>(value);
    return SUCCESS;
}

API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* handle, int threads, size_t shared_bytes) {
    if (handle == nullptr || threads <= 0) return INVALID_VALUE;
    u64 by_threads = 2048 / static_cast<u64>(threads);
    u64 by_shared = (max_shared_of_block() + 1024) / (shared_bytes + 1024);
    *blocks = static_cast<int>(std::min<u64>(std::min(by_threads, by_shared), 32));
    return SUCCESS;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* handle, int threads, size_t shared, u32) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, handle, threads, shared);
}

API cuLaunchKernel(void* handle, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z,
                   u32 shared_bytes, void* stream, void** arguments, void** extra) {
    IN_CONTEXT(now);
    const auto* function = static_cast<const Function*>(handle);
    if (function == nullptr) return INVALID_HANDLE;
    if (extra != nullptr || (arguments == nullptr && function->kernel->n_arguments != 0)) return INVALID_VALUE;
    emulator::Grid grid{grid_x, grid_y, grid_z};
    Status status = check_launch(*function, grid, {block_x, block_y, block_z}, shared_bytes);
    if (status != SUCCESS) return status;
    auto prepared = std::make_shared<Prepared>(Prepared{now, function->kernel, grid, block_x, shared_bytes, {}});
    prepared->take_arguments(arguments);
    counters.launches++;
    return enqueue(stream, [prepared] { prepared->run(); });
}
