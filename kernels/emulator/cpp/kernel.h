// Kernels by name, as REGISTER enters them.
#pragma once

#include <string>
#include <type_traits>
#include <utility>

#include "../../include/types.cuh"

namespace emulator {

constexpr u32 MAX_ARGUMENTS = 32;

struct Kernel {
    const char* name;
    u32 max_threads;
    u32 n_arguments;
    u32 argument_bytes[MAX_ARGUMENTS];
    void (*call)(const void* const* arguments);
};

// Null if there is none.
const Kernel* find_kernel(const char* name);
// Names, a line each.
std::string kernel_names();
void register_kernel(const Kernel& kernel);

// KERNEL(threads, …) stands before the name it belongs to, so its number waits here for REGISTER.
struct Bounds {
    explicit Bounds(u32 threads);
};
u32 take_bounds();

template <auto FUNCTION> struct Call;
template <class... A, void (*FUNCTION)(A...)> struct Call<FUNCTION> {
    static_assert(sizeof...(A) <= MAX_ARGUMENTS);
    template <std::size_t... I> static void unpack(const void* const* arguments, std::index_sequence<I...>) {
        FUNCTION(*static_cast<const std::remove_cv_t<A>*>(arguments[I])...);
    }
    static void call(const void* const* arguments) { unpack(arguments, std::index_sequence_for<A...>{}); }
    static Kernel describe(const char* name, u32 max_threads) {
        return {name, max_threads, sizeof...(A), {static_cast<u32>(sizeof(A))...}, call};
    }
};

template <auto FUNCTION> struct Register {
    explicit Register(const char* name) { register_kernel(Call<FUNCTION>::describe(name, take_bounds())); }
};

} // namespace emulator
