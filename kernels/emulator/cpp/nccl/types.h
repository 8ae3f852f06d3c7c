// Types of nccl.h, by the numbers there.
#pragma once

#include <cstddef>

#include "../../../include/types.cuh"

namespace nccl {

enum Result : int {
    SUCCESS = 0,
    CUDA_ERROR = 1,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    REMOTE_ERROR = 6,
    IN_PROGRESS = 7,
};

enum Type : int {
    INT8 = 0,
    UINT8 = 1,
    INT32 = 2,
    UINT32 = 3,
    INT64 = 4,
    UINT64 = 5,
    FLOAT16 = 6,
    FLOAT32 = 7,
    FLOAT64 = 8,
    BFLOAT16 = 9,
};

enum Operation : int { SUM = 0 };

struct UniqueId {
    char bytes[128];
};

inline size_t bytes_of(Type type) {
    switch (type) {
    case INT8:
    case UINT8: return 1;
    case FLOAT16:
    case BFLOAT16: return 2;
    case INT64:
    case UINT64:
    case FLOAT64: return 8;
    default: return 4;
    }
}

} // namespace nccl

#define NCCL extern "C" __attribute__((visibility("default"))) nccl::Result
