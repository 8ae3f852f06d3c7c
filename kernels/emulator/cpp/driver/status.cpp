#include "status.h"

namespace {

struct Text {
    driver::Status status;
    const char *name, *meaning;
};

constexpr Text texts[] = {
    {driver::SUCCESS, "CUDA_SUCCESS", "no error"},
    {driver::INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {driver::OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {driver::NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {driver::NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {driver::INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {driver::INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {driver::INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {driver::INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {driver::NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {driver::NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {driver::ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {driver::LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {driver::NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {driver::CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {driver::CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {driver::CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not initiated in this stream"},
    {driver::CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream"},
};

const Text* text_of(driver::Status status) {
    for (const Text& text : texts) {
        if (text.status == status) return &text;
    }
    return nullptr;
}

} // namespace

API cuGetErrorName(driver::Status status, const char** name) {
    const Text* text = text_of(status);
    *name = text ? text->name : nullptr;
    return text ? driver::SUCCESS : driver::INVALID_VALUE;
}

API cuGetErrorString(driver::Status status, const char** meaning) {
    const Text* text = text_of(status);
    *meaning = text ? text->meaning : nullptr;
    return text ? driver::SUCCESS : driver::INVALID_VALUE;
}
