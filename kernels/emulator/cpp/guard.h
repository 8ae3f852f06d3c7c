// Memory that nobody wrote is NaN in every format; zones around what kernels may write must stay so.
#pragma once

#include <cstddef>
#include <cstring>

namespace emulator {

constexpr unsigned char POISON_BYTE = 0xff;

inline bool is_poison(const unsigned char* at, std::size_t bytes) {
    return bytes == 0 || (at[0] == POISON_BYTE && std::memcmp(at, at + 1, bytes - 1) == 0);
}

} // namespace emulator
