#include "stacks.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "block.h"

namespace emulator {
namespace {

constexpr unsigned long STACK_BYTES = 128 * 1024;
// Tops of stacks a power of two apart would all fall into the same few cache lines.
constexpr unsigned long COLOURS = 32, COLOUR_BYTES = 5 * 64;

struct Stacks {
    char* memory;
    char* free[MAX_THREADS];
    unsigned n_free;

    Stacks() {
        void* mapped = mmap(nullptr, MAX_THREADS * STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) {
            std::fputs("emulator: no memory for the stacks of a block\n", stderr);
            std::abort();
        }
        memory = static_cast<char*>(mapped);
        refill();
    }
    ~Stacks() { munmap(memory, MAX_THREADS * STACK_BYTES); }

    void refill() {
        for (unsigned long i = 0; i < MAX_THREADS; i++) {
            free[MAX_THREADS - 1 - i] = memory + (i + 1) * STACK_BYTES - i % COLOURS * COLOUR_BYTES;
        }
        n_free = MAX_THREADS;
    }
};

Stacks& stacks() {
    // A library that is loaded late has little room for what is a thread's own.
    static thread_local std::unique_ptr<Stacks> mine(new Stacks);
    return *mine;
}

} // namespace

char* take_stack() {
    Stacks& mine = stacks();
    return mine.free[--mine.n_free];
}

void give_stack(char* top) {
    Stacks& mine = stacks();
    mine.free[mine.n_free++] = top;
}

void forget_stacks() { stacks().refill(); }

} // namespace emulator
