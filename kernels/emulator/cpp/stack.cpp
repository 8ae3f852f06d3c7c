#include "stack.h"

#include <cstdint>
#include <cstring>

// The return is an indirect jump: the processor's stack of return addresses knows nothing of other stacks, so a
// `ret` would be mispredicted every time, while fibers of one kernel mostly resume at the same place.
#if defined(__x86_64__)
asm(R"(
.text
.globl tm_emulator_switch
.hidden tm_emulator_switch
.type tm_emulator_switch, @function
tm_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rcx
    jmp *%rcx
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl tm_emulator_switch
.hidden tm_emulator_switch
.type tm_emulator_switch, @function
tm_emulator_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    br x30
)");
#else
#error "the emulator switches stacks on x86-64 and aarch64 only"
#endif

namespace emulator {

#if defined(__x86_64__)
void* prepare_stack(char* top, void (*entry)()) {
    // A function expects its stack 8 bytes off a multiple of 16, as a call leaves it.
    auto** at = reinterpret_cast<void**>(reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{15});
    *--at = nullptr;
    *--at = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; i++) *--at = nullptr;
    return at;
}
#else
void* prepare_stack(char* top, void (*entry)()) {
    constexpr int link_register = 11;
    auto** at = reinterpret_cast<void**>((reinterpret_cast<std::uintptr_t>(top) & ~std::uintptr_t{15}) - 160);
    std::memset(at, 0, 160);
    at[link_register] = reinterpret_cast<void*>(entry);
    return at;
}
#endif

} // namespace emulator
