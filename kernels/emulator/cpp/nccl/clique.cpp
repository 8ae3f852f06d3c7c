#include "clique.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "sum.h"

namespace nccl {
namespace {

// Ranks that are never joined by the others hang for ever on GPUs; tests should end.
std::chrono::seconds patience() {
    const char* text = std::getenv("TM_EMULATOR_NCCL_TIMEOUT");
    return std::chrono::seconds(text ? std::atoi(text) : 120);
}

} // namespace

Clique::Clique(u32 ranks) : aborted(ranks), calls(ranks), parcels(size_t{ranks} * ranks) {}

template <class F> bool Clique::wait(std::unique_lock<std::mutex>& lock, int rank, F until) {
    auto gave_up = [&] { return aborted[static_cast<size_t>(rank)] || failure != SUCCESS; };
    if (!changed.wait_for(lock, patience(), [&] { return gave_up() || (!broken && until()); })) {
        fail("ranks wait for one another for too long");
    }
    return !gave_up();
}

Result Clique::fail(const char* why) {
    std::fprintf(stderr, "emulator: NCCL: %s\n", why);
    if (failure == SUCCESS) failure = INVALID_USAGE;
    changed.notify_all();
    return failure;
}

void Clique::join_later() {
    std::lock_guard lock(mutex);
    joined++;
    changed.notify_all();
}

bool Clique::join(int rank) {
    join_later();
    std::unique_lock lock(mutex);
    return wait(lock, rank, [this] { return joined >= ranks(); });
}

void Clique::abort(int rank) {
    std::lock_guard lock(mutex);
    aborted[static_cast<size_t>(rank)] = true;
    broken = true;
    changed.notify_all();
}

Result Clique::error() {
    std::lock_guard lock(mutex);
    return failure;
}

bool Clique::same_everywhere() const {
    for (const Call* call : calls) {
        const Call& first = *calls[0];
        if (call->kind != first.kind || call->count != first.count || call->type != first.type) return false;
    }
    return true;
}

void Clique::do_collective() {
    const Call& first = *calls[0];
    size_t bytes = first.count * bytes_of(first.type);
    if (first.kind == Kind::AllGather) {
        for (const Call* to : calls) {
            for (u32 rank = 0; rank < ranks(); rank++) {
                std::memmove(static_cast<u8*>(to->to) + rank * bytes, calls[rank]->from, bytes);
            }
        }
        return;
    }
    std::vector<const void*> inputs;
    for (const Call* call : calls) inputs.push_back(call->from);
    std::vector<u8> total(bytes); // inputs may be outputs
    sum(first.type, inputs.data(), ranks(), total.data(), first.count);
    for (const Call* call : calls) std::memcpy(call->to, total.data(), bytes);
}

Result Clique::collective(std::unique_lock<std::mutex>& lock, int rank, const Call& call) {
    calls[static_cast<size_t>(rank)] = &call;
    u64 mine = finished;
    if (++arrived == ranks() && !broken) {
        if (!same_everywhere()) return fail("ranks meet at different collectives");
        do_collective();
        arrived = 0;
        finished++;
        changed.notify_all();
        return SUCCESS;
    }
    return wait(lock, rank, [&] { return finished != mine; }) ? SUCCESS : REMOTE_ERROR;
}

Result Clique::receive(std::unique_lock<std::mutex>& lock, int rank, const Call& call) {
    auto& queue = parcels[static_cast<size_t>(call.peer) * ranks() + static_cast<size_t>(rank)];
    if (!wait(lock, rank, [&] { return !queue.empty(); })) return REMOTE_ERROR;
    Parcel& parcel = *queue.front();
    const Call& sent = *parcel.call;
    if (sent.count != call.count || sent.type != call.type) return fail("a rank receives what was not sent");
    std::memcpy(call.to, sent.from, call.count * bytes_of(call.type));
    queue.pop_front();
    parcel.taken = true;
    changed.notify_all();
    return SUCCESS;
}

Result Clique::run(int rank, const std::vector<Call>& work) {
    std::unique_lock lock(mutex);
    if (aborted[static_cast<size_t>(rank)] || failure != SUCCESS) return REMOTE_ERROR;
    // All that is sent is on its way before anything is waited for, as calls of a group do not wait for one another.
    std::deque<Parcel> sent;
    for (const Call& call : work) {
        if (call.kind != Kind::Send) continue;
        sent.push_back({&call});
        parcels[static_cast<size_t>(rank) * ranks() + static_cast<size_t>(call.peer)].push_back(&sent.back());
    }
    changed.notify_all();
    Result result = SUCCESS;
    for (const Call& call : work) {
        if (result != SUCCESS) break;
        if (call.kind == Kind::Receive) result = receive(lock, rank, call);
        else if (call.kind != Kind::Send) result = collective(lock, rank, call);
    }
    for (Parcel& parcel : sent) {
        if (result == SUCCESS && !wait(lock, rank, [&] { return parcel.taken; })) result = REMOTE_ERROR;
    }
    // After a failure or an abort nobody takes parcels any more, so that those here may go.
    return result;
}

} // namespace nccl
