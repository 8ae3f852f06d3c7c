#include "stream.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <set>
#include <thread>

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
    std::deque<Work> queue;
    u64 given = 0, done = 0;
    bool closing = false;

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
            Work work = std::move(queue.front());
            queue.pop_front();
            lock.unlock();
            if (u64 delay = faults().delay) std::this_thread::sleep_for(std::chrono::microseconds(delay));
            work();
            work = nullptr;
            lock.lock();
            done++;
            went.notify_all();
        }
    }

    void give(Work work) {
        std::lock_guard lock(mutex);
        queue.push_back(std::move(work));
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

struct Streams {
    std::mutex mutex;
    std::set<Stream*> all;
};

// Never destroyed: workers may run until the process ends.
Streams& streams() {
    static Streams& all = *new Streams;
    return all;
}

// 0 is the null stream, 1 and 2 are its other names.
bool is_null(void* stream) { return reinterpret_cast<u64>(stream) <= 2; }

Stream* open(void* stream) {
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    auto found = all.all.find(static_cast<Stream*>(stream));
    return found == all.all.end() ? nullptr : *found;
}

template <class F> void for_each_stream(F act) {
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    for (Stream* stream : all.all) act(*stream);
}

// Streams are not closed while someone waits for all of them: that is a race of the caller's.
std::vector<Stream*> streams_of(const Device& device, bool only_blocking) {
    std::vector<Stream*> found;
    for_each_stream([&](Stream& stream) {
        if (stream.device == &device && (stream.blocking || !only_blocking)) found.push_back(&stream);
    });
    return found;
}

} // namespace

bool is_stream(void* stream) { return is_null(stream) || open(stream) != nullptr; }

std::shared_ptr<Graph> capture_of(void* stream) {
    Stream* found = is_null(stream) ? nullptr : open(stream);
    return found ? found->capture : nullptr;
}

void join_capture(void* stream, std::shared_ptr<Graph> graph) {
    if (Stream* found = open(stream)) found->capture = std::move(graph);
}

bool is_capturing(void* stream) { return capture_of(stream) != nullptr; }

bool is_capturing() {
    bool any = false;
    for_each_stream([&](Stream& stream) { any |= stream.capture != nullptr; });
    return any;
}

bool allowed_while_capturing() {
    bool allowed = true;
    for_each_stream([&](Stream& stream) {
        if (!stream.origin || stream.mode == RELAXED) return;
        if (stream.mode == THREAD_LOCAL && stream.captured_by != std::this_thread::get_id()) return;
        stream.capture->valid = false;
        allowed = false;
    });
    return allowed;
}

void wait_for_streams(const Device& device, bool only_blocking) {
    for (Stream* stream : streams_of(device, only_blocking)) stream->wait();
}

Status enqueue(void* stream, Work work) {
    if (is_null(stream)) {
        Device* now = current_device();
        if (now == nullptr) return INVALID_CONTEXT;
        for (Stream* other : streams_of(*now, true)) {
            if (other->capture != nullptr) return CAPTURE_IMPLICIT;
        }
        wait_for_streams(*now, true);
        work();
        return now->error;
    }
    Stream* found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (found->capture != nullptr) found->capture->nodes.push_back(std::move(work));
    else found->give(std::move(work));
    return SUCCESS;
}

Status wait_for(void* stream) {
    if (is_null(stream)) {
        if (Device* now = current_device()) wait_for_streams(*now, true);
        return SUCCESS;
    }
    Stream* found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (found->capture != nullptr) {
        found->capture->valid = false;
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
    auto* stream = new driver::Stream(now, (flags & non_blocking) == 0);
    Streams& all = streams();
    std::lock_guard lock(all.mutex);
    all.all.insert(stream);
    *out = stream;
    return SUCCESS;
}

API cuStreamCreateWithPriority(void** out, u32 flags, int) { return cuStreamCreate(out, flags); }

API cuStreamDestroy_v2(void* stream) {
    driver::Stream* found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    {
        Streams& all = streams();
        std::lock_guard lock(all.mutex);
        all.all.erase(found);
    }
    found->close();
    delete found;
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
    driver::Stream* found = open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (found->capture != nullptr) {
        found->capture->valid = false;
        return CAPTURE_UNSUPPORTED;
    }
    return found->idle() ? now->error.load() : NOT_READY;
}

API cuStreamBeginCapture_v2(void* stream, int mode) {
    IN_CONTEXT(now);
    driver::Stream* found = is_null(stream) ? nullptr : open(stream);
    if (found == nullptr) return is_null(stream) ? CAPTURE_UNSUPPORTED : INVALID_HANDLE;
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
    driver::Stream* found = is_null(stream) ? nullptr : open(stream);
    if (found == nullptr) return INVALID_HANDLE;
    if (found->capture == nullptr || !found->origin) return CAPTURE_UNMATCHED;
    std::shared_ptr<Graph> graph = found->capture;
    for_each_stream([&](driver::Stream& other) {
        if (other.capture == graph) other.capture = nullptr;
    });
    found->origin = false;
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
