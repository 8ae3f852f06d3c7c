#include "kernel.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace emulator {
namespace {

// Filled before main by the initialisers of the kernels' files, in an unknown order with this one's.
std::vector<Kernel>& kernels() {
    static std::vector<Kernel> all;
    return all;
}

u32 bounds;

} // namespace

Bounds::Bounds(u32 threads) { bounds = threads; }

u32 take_bounds() { return bounds; }

const Kernel* find_kernel(const char* name) {
    for (const Kernel& kernel : kernels()) {
        if (std::strcmp(kernel.name, name) == 0) return &kernel;
    }
    return nullptr;
}

std::string kernel_names() {
    std::string names;
    for (const Kernel& kernel : kernels()) names.append(kernel.name).append("\n");
    return names;
}

void register_kernel(const Kernel& kernel) {
    if (find_kernel(kernel.name) != nullptr) {
        std::fprintf(stderr, "emulator: two kernels are called %s\n", kernel.name);
        std::abort();
    }
    kernels().push_back(kernel);
}

} // namespace emulator
