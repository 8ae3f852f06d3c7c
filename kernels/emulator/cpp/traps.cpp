#include "traps.h"

#include <signal.h>

#include <mutex>

#include "block.h"

namespace emulator {
namespace {

constexpr const char* TRAP = "illegal address";

struct sigaction before_segv, before_bus;

// Leaves the handler by switching to the block's host stack; SA_NODEFER keeps the signal deliverable after that.
void trap(int signal, siginfo_t* info, void* state) {
    if (current != nullptr) fail("%s %p, thread %u", TRAP, info->si_addr, current->thread);
    // Not ours: whoever handled it before does, or it happens again without a handler.
    struct sigaction& before = signal == SIGSEGV ? before_segv : before_bus;
    if ((before.sa_flags & SA_SIGINFO) != 0) before.sa_sigaction(signal, info, state);
    else sigaction(signal, &before, nullptr);
}

} // namespace

void catch_traps() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = trap;
        action.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigemptyset(&action.sa_mask);
        sigaction(SIGSEGV, &action, &before_segv);
        sigaction(SIGBUS, &action, &before_bus);
    });
}

bool was_trap(const std::string& failure) { return failure.find(TRAP) != std::string::npos; }

} // namespace emulator
