#include "stream.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <thread>
#include <utility>

#include "control.h"
#include "for_nccl.h"
#include "graph.h"

namespace driver {
namespace {

enum CaptureMode : int { GLOBAL = 0, THREAD_LOCAL = 1, RELAXED = 2 };

struct Stream {
    Device* device;
    bool blocking; // with respect to the null stream

    std::mutex mutex;
    std::condition_variable came, went;
    struct Given {
        Work work;
        u64 delay; // as it was set then
    };
    std::deque<Given> queue;
    u64 given = 0, done = 0;
    bool closing = false;

    // Of the capture; guarded by the mutex of `Streams`, as every thread looks for captures.
    std::shared_ptr<Graph> capture;
    bool origin = false; // the capture began here
    CaptureMode mode = GLOBAL;
    std::thread::id captured_by;

    std::thread worker;

    Stream(Device* device, bool blocking) : device(device), blocking(blocking), worker([this] { run(); }) {}

    void run() {
        std::unique_lock lock(mutex);
        for (;;) {
            came.wait(lock, [this] { return closing || !queue.empty(); });
            if (queue.empty()) return;
            auto [work, delay] = std::move(queue.front());
            queue.pop_front();
            lock.unlock();
            if (delay != 0) std::this_thread::sleep_for(std::chrono::microseconds(delay));
            work();
            work = nullptr;
            lock.lock();
            done++;
            went.notify_all();
        }
    }

    void give(Work work) {
        std::lock_guard lock(mutex);
        queue.push_back({std::move(work), faults().delay});
        given++;
        came.notify_one();
    }

    void wait() {
        std::unique_lock lock(mutex);
        u64 until = given;
        went.wait(lock, [&] { return done >= until; });
    }

    bool idle() {
        std::lock_guard lock(mutex);
        return done == given;
    }

    void close() {
        {
            std::lock_guard lock(mutex);
            closing = true;
            came.notify_one();
        }
        worker.join();
    }
};

// Held by whoever waits for one, as another thread may close it meanwhile.
using Shared = std::shared_ptr<Stream>;

struct Streams {
    std::mutex mutex;
    std::map<void*, Shared> all;
};

// Never destroyed: workers may run until the process ends.
Streams& streams() {
    static Streams& all = *new Streams;
    return all;
}

// 0 is the null stream, 1 and 2 are its other names.
bool is_null(void* stream) { return reinterpret_cast<u64>(stream) <= 2; }

Shared open(void* stream) {
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    auto found = all.all.find(stream);
    return found == all.all.end() ? nullptr : found->second;
}

template <class F> void for_each_stream(F act) {
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    for (auto& [handle, stream] : all.all) act(stream);
}

std::vector<Shared> streams_of(const Device& device, bool only_blocking) {
    std::vector<Shared> found;
    for_each_stream([&](const Shared& stream) {
        if (stream->device == &device && (stream->blocking || !only_blocking)) found.push_back(stream);
    });
    return found;
}

} // namespace

bool is_stream(void* stream) { return is_null(stream) || open(stream) != nullptr; }

std::shared_ptr<Graph> capture_of(void* stream) {
    Shared found = is_null(stream) ? nullptr : open(stream);
    std::lock_guard lock(streams().mutex);
    return found ? found->capture : nullptr;
}

void join_capture(void* stream, std::shared_ptr<Graph> graph) {
    Shared found = open(stream);
    std::lock_guard lock(streams().mutex);
    if (found != nullptr) found->capture = std::move(graph);
}

bool is_capturing(void* stream) { return capture_of(stream) != nullptr; }

bool is_capturing() {
    bool any = false;
    for_each_stream([&](const Shared& stream) { any |= stream->capture != nullptr; });
    return any;
}

bool allowed_while_capturing() {
    bool allowed = true;
    for_each_stream([&](const Shared& stream) {
        if (!stream->origin || stream->mode == RELAXED) return;
        if (stream->mode == THREAD_LOCAL && stream->captured_by != std::this_thread::get_id()) return;
        stream->capture->valid = false;
        allowed = false;
    });
    return allowed;
}

void wait_for_streams(const Device& device, bool only_blocking) {
    for (const Shared& stream : streams_of(device, only_blocking)) stream->wait();
}

Status enqueue(void* stream, Work work) {
    if (is_null(stream)) {
        Device* now = current_device();
        if (now == nullptr) return INVALID_CONTEXT;
        for (const Shared& other : streams_of(*now, true)) {
            if (is_capturing(other.get())) return CAPTURE_IMPLICIT;
        }
        wait_for_streams(*now, true);
        work();
        return now->error;
    }
    Shared found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (std::shared_ptr<Graph> graph = capture_of(stream)) graph->nodes.push_back(std::move(work));
    else found->give(std::move(work));
    return SUCCESS;
}

Status wait_for(void* stream) {
    if (is_null(stream)) {
        if (Device* now = current_device()) wait_for_streams(*now, true);
        return SUCCESS;
    }
    Shared found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (std::shared_ptr<Graph> graph = capture_of(stream)) {
        graph->valid = false;
        return CAPTURE_UNSUPPORTED;
    }
    found->wait();
    return SUCCESS;
}

} // namespace driver

using namespace driver;

API cuStreamCreate(void** out, u32 flags) {
    IN_CONTEXT(now);
    constexpr u32 non_blocking = 1;
    auto stream = std::make_shared<driver::Stream>(now, (flags & non_blocking) == 0);
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    all.all[stream.get()] = stream;
    *out = stream.get();
    return SUCCESS;
}

API cuStreamCreateWithPriority(void** out, u32 flags, int) { return cuStreamCreate(out, flags); }

API cuStreamDestroy_v2(void* stream) {
    Shared found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    {
        Streams& all = streams();
        std::lock_guard lock(all.mutex);
        all.all.erase(stream);
    }
    found->close();
    return SUCCESS;
}

API cuStreamSynchronize(void* stream) {
    IN_CONTEXT(now);
    counters.synchronisations++;
    Status status = wait_for(stream);
    return status == SUCCESS ? now->error.load() : status;
}

API cuStreamQuery(void* stream) {
    IN_CONTEXT(now);
    if (is_null(stream)) return SUCCESS;
    Shared found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (std::shared_ptr<Graph> graph = capture_of(stream)) {
        graph->valid = false;
        return CAPTURE_UNSUPPORTED;
    }
    return found->idle() ? now->error.load() : NOT_READY;
}

API cuStreamBeginCapture_v2(void* stream, int mode) {
    IN_CONTEXT(now);
    Shared found = is_null(stream) ? nullptr : open(stream);
    if (found == nullptr) return is_null(stream) ? CAPTURE_UNSUPPORTED : INVALID_HANDLE;
    std::lock_guard lock(streams().mutex);
    if (found->capture != nullptr) return INVALID_VALUE;
    found->mode = static_cast<driver::CaptureMode>(mode);
    found->captured_by = std::this_thread::get_id();
    found->capture = std::make_shared<Graph>();
    found->origin = true;
    return SUCCESS;
}

API cuStreamEndCapture(void* stream, void** out) {
    IN_CONTEXT(now);
    *out = nullptr;
    Shared found = is_null(stream) ? nullptr : open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    std::shared_ptr<Graph> graph = capture_of(stream);
    bool mine = false;
    for_each_stream([&](const Shared& other) {
        if (other == found && graph != nullptr) mine = std::exchange(other->origin, false);
    });
    if (!mine) return CAPTURE_UNMATCHED;
    for_each_stream([&](const Shared& other) {
        if (other->capture == graph) other->capture = nullptr;
    });
    if (!graph->valid) return CAPTURE_INVALIDATED;
    *out = new Graph(std::move(*graph));
    return SUCCESS;
}

API cuStreamIsCapturing(void* stream, int* status) {
    std::shared_ptr<Graph> graph = capture_of(stream);
    *status = graph == nullptr ? 0 : graph->valid ? 1 : 2;
    return SUCCESS;
}

API cuLaunchHostFunc(void* stream, void (*call)(void*), void* data) {
    IN_CONTEXT(now);
    return enqueue(stream, [call, data] { call(data); });
}

API tm_emulator_enqueue(void* stream, void (*run)(void*), void (*drop)(void*), void* data) {
    std::shared_ptr<void> held(data, drop);
    return enqueue(stream, [held, run] { run(held.get()); });
}

API tm_emulator_error(int ordinal) {
    return device(ordinal) == nullptr ? INVALID_DEVICE : device(ordinal)->error.load();
}

API tm_emulator_fail(int ordinal, Status status) {
    if (device(ordinal) == nullptr) return INVALID_DEVICE;
    device(ordinal)->error = status;
    return SUCCESS;
}
