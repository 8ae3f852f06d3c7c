// Events: a place in a stream that others wait for.
#include <chrono>
#include <condition_variable>
#include <memory>

#include "control.h"
#include "graph.h"

namespace driver {
namespace {

struct Event {
    std::mutex mutex;
    std::condition_variable passed;
    u64 recorded = 0, reached = 0; // times
    double at = 0;                 // milliseconds, when it was reached last
    std::weak_ptr<Graph> capture;  // it was recorded into

    void reach(u64 number) {
        std::lock_guard lock(mutex);
        reached = std::max(reached, number);
        at = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
        passed.notify_all();
    }

    void wait(u64 number) {
        std::unique_lock lock(mutex);
        passed.wait(lock, [&] { return reached >= number; });
    }
};

using Shared = std::shared_ptr<Event>;

Shared& shared(void* event) { return *static_cast<Shared*>(event); }

} // namespace
} // namespace driver

using namespace driver;

API cuEventCreate(void** out, u32) {
    IN_CONTEXT(now);
    *out = new Shared(new driver::Event);
    return SUCCESS;
}

API cuEventDestroy_v2(void* event) {
    if (event == nullptr) return INVALID_HANDLE;
    delete static_cast<Shared*>(event);
    return SUCCESS;
}

API cuEventRecord(void* event, void* stream) {
    IN_CONTEXT(now);
    if (event == nullptr) return INVALID_HANDLE;
    Shared held = shared(event);
    if (std::shared_ptr<Graph> graph = capture_of(stream)) {
        held->capture = graph;
        return SUCCESS;
    }
    u64 number;
    {
        std::lock_guard lock(held->mutex);
        held->capture.reset();
        number = ++held->recorded;
    }
    return enqueue(stream, [held, number] { held->reach(number); });
}

API cuStreamWaitEvent(void* stream, void* event, u32) {
    IN_CONTEXT(now);
    if (event == nullptr) return INVALID_HANDLE;
    Shared held = shared(event);
    // A graph does its work in the order of capture, so the wait is met by itself.
    if (std::shared_ptr<Graph> graph = held->capture.lock()) {
        join_capture(stream, graph);
        return SUCCESS;
    }
    u64 number;
    {
        std::lock_guard lock(held->mutex);
        number = held->recorded;
    }
    return enqueue(stream, [held, number] { held->wait(number); });
}

API cuEventSynchronize(void* event) {
    IN_CONTEXT(now);
    if (event == nullptr) return INVALID_HANDLE;
    Shared held = shared(event);
    if (held->capture.lock() != nullptr) return CAPTURE_UNSUPPORTED;
    counters.synchronisations++;
    u64 number;
    {
        std::lock_guard lock(held->mutex);
        number = held->recorded;
    }
    held->wait(number);
    return now->error;
}

API cuEventQuery(void* event) {
    IN_CONTEXT(now);
    if (event == nullptr) return INVALID_HANDLE;
    Shared held = shared(event);
    std::lock_guard lock(held->mutex);
    return held->reached >= held->recorded ? SUCCESS : NOT_READY;
}

API cuEventElapsedTime(float* out, void* start, void* end) {
    IN_CONTEXT(now);
    if (start == nullptr || end == nullptr) return INVALID_HANDLE;
    Shared first = shared(start), last = shared(end);
    std::scoped_lock lock(first->mutex, last->mutex);
    if (first->recorded == 0 || last->recorded == 0) return INVALID_HANDLE;
    if (first->reached < first->recorded || last->reached < last->recorded) return NOT_READY;
    *out = static_cast<float>(last->at - first->at);
    return SUCCESS;
}

API cuEventElapsedTime_v2(float* out, void* start, void* end) { return cuEventElapsedTime(out, start, end); }
