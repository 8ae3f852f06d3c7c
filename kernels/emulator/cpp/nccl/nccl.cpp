// NCCL's functions for ranks that are threads of this process, on the streams of the emulator's driver.
#include <atomic>
#include <cstring>
#include <map>
#include <string>

#include "../driver/for_nccl.h"
#include "clique.h"
#include "sum.h"

namespace nccl {
namespace {

struct Comm {
    std::shared_ptr<Clique> clique;
    int rank;
    int device;
};

using Shared = std::shared_ptr<Comm>;

Shared& shared(void* comm) { return *static_cast<Shared*>(comm); }

struct Cliques {
    std::mutex mutex;
    std::map<std::string, std::weak_ptr<Clique>> by_id;

    std::shared_ptr<Clique> find(const UniqueId& id, u32 ranks) {
        std::lock_guard lock(mutex);
        std::weak_ptr<Clique>& known = by_id[std::string(id.bytes, sizeof id.bytes)];
        std::shared_ptr<Clique> clique = known.lock();
        if (clique == nullptr) known = clique = std::make_shared<Clique>(ranks);
        return clique->ranks() == ranks ? clique : nullptr;
    }
};

Cliques& cliques() {
    static Cliques& all = *new Cliques;
    return all;
}

// What one communicator does at once in a stream.
struct Work {
    Shared comm;
    void* stream;
    std::vector<Call> calls;

    void run() const {
        // A rank whose device is lost does not come, and the others wait until someone gives up.
        if (tm_emulator_error(comm->device) == driver::SUCCESS) comm->clique->run(comm->rank, calls);
    }
};

thread_local int group_depth;
thread_local std::vector<Work> group;

Result submit(Work work) {
    driver::Status status = tm_emulator_enqueue(
        work.stream, [](void* data) { static_cast<Work*>(data)->run(); },
        [](void* data) { delete static_cast<Work*>(data); }, new Work(work));
    return status == driver::SUCCESS ? SUCCESS : CUDA_ERROR;
}

Result add(void* handle, void* stream, const Call& call) {
    if (handle == nullptr) return INVALID_ARGUMENT;
    Shared comm = shared(handle);
    bool has_peer = call.kind == Kind::Send || call.kind == Kind::Receive;
    if (has_peer && (call.peer < 0 || static_cast<u32>(call.peer) >= comm->clique->ranks())) return INVALID_ARGUMENT;
    if (comm->clique->error() != SUCCESS) return comm->clique->error();
    if (group_depth == 0) return submit({comm, stream, {call}});
    for (Work& work : group) {
        if (work.comm == comm && work.stream == stream) {
            work.calls.push_back(call);
            return SUCCESS;
        }
    }
    group.push_back({comm, stream, {call}});
    return SUCCESS;
}

} // namespace
} // namespace nccl

using namespace nccl;

NCCL ncclGetVersion(int* version) {
    *version = 22700;
    return nccl::SUCCESS;
}

NCCL ncclGetUniqueId(UniqueId* id) {
    static std::atomic<u64> next{1};
    std::memset(id->bytes, 0, sizeof id->bytes);
    u64 number = next++;
    std::memcpy(id->bytes, &number, sizeof number);
    return nccl::SUCCESS;
}

NCCL ncclCommInitRank(void** out, int ranks, UniqueId id, int rank) {
    int device;
    if (ranks < 1 || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    if (cuCtxGetDevice(&device) != driver::SUCCESS) return nccl::CUDA_ERROR;
    std::shared_ptr<Clique> clique = cliques().find(id, static_cast<u32>(ranks));
    if (clique == nullptr) return INVALID_ARGUMENT;
    *out = new Shared(new Comm{clique, rank, device});
    if (group_depth != 0) clique->join_later();
    else if (!clique->join(rank)) return SYSTEM_ERROR;
    return nccl::SUCCESS;
}

NCCL ncclCommInitAll(void** out, int ranks, const int* devices) {
    if (ranks < 1) return INVALID_ARGUMENT;
    auto clique = std::make_shared<Clique>(static_cast<u32>(ranks));
    for (int rank = 0; rank < ranks; rank++) {
        out[rank] = new Shared(new Comm{clique, rank, devices == nullptr ? rank : devices[rank]});
        clique->join_later();
    }
    return nccl::SUCCESS;
}

NCCL ncclCommDestroy(void* comm) {
    delete static_cast<Shared*>(comm);
    return nccl::SUCCESS;
}

NCCL ncclCommFinalize(void*) { return nccl::SUCCESS; }

NCCL ncclCommAbort(void* comm) {
    if (comm == nullptr) return INVALID_ARGUMENT;
    shared(comm)->clique->abort(shared(comm)->rank);
    return ncclCommDestroy(comm);
}

NCCL ncclCommGetAsyncError(void* comm, nccl::Result* error) {
    if (comm == nullptr) return INVALID_ARGUMENT;
    *error = shared(comm)->clique->error();
    return nccl::SUCCESS;
}

NCCL ncclCommCount(void* comm, int* count) {
    *count = static_cast<int>(shared(comm)->clique->ranks());
    return nccl::SUCCESS;
}

NCCL ncclCommUserRank(void* comm, int* rank) {
    *rank = shared(comm)->rank;
    return nccl::SUCCESS;
}

NCCL ncclCommCuDevice(void* comm, int* device) {
    *device = shared(comm)->device;
    return nccl::SUCCESS;
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetErrorString(nccl::Result result) {
    switch (result) {
    case nccl::SUCCESS: return "no error";
    case nccl::CUDA_ERROR: return "unhandled cuda error";
    case SYSTEM_ERROR: return "unhandled system error";
    case INTERNAL_ERROR: return "internal error";
    case INVALID_ARGUMENT: return "invalid argument";
    case INVALID_USAGE: return "invalid usage";
    case REMOTE_ERROR: return "remote process exited or there was a network error";
    case IN_PROGRESS: return "NCCL operation in progress";
    }
    return "unknown result code";
}

extern "C" __attribute__((visibility("default"))) const char* ncclGetLastError(void*) { return ""; }

NCCL ncclAllReduce(const void* from, void* to, size_t count, Type type, nccl::Operation operation, void* comm,
                   void* stream) {
    if (operation != SUM || !can_sum(type)) return INVALID_ARGUMENT; // what is not needed is not there
    return add(comm, stream, {Kind::AllReduce, from, to, count, type, 0});
}

NCCL ncclAllGather(const void* from, void* to, size_t count, Type type, void* comm, void* stream) {
    return add(comm, stream, {Kind::AllGather, from, to, count, type, 0});
}

NCCL ncclSend(const void* from, size_t count, Type type, int peer, void* comm, void* stream) {
    return add(comm, stream, {Kind::Send, from, nullptr, count, type, peer});
}

NCCL ncclRecv(void* to, size_t count, Type type, int peer, void* comm, void* stream) {
    return add(comm, stream, {Kind::Receive, nullptr, to, count, type, peer});
}

NCCL ncclGroupStart() {
    group_depth++;
    return nccl::SUCCESS;
}

NCCL ncclGroupEnd() {
    if (group_depth == 0) return INVALID_USAGE;
    if (--group_depth != 0) return nccl::SUCCESS;
    nccl::Result result = nccl::SUCCESS;
    for (Work& work : group) {
        if (result == nccl::SUCCESS) result = submit(std::move(work));
    }
    group.clear();
    return result;
}
