// The ranks of one communicator, all in this process. They meet in their streams' threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "types.h"

namespace nccl {

enum class Kind : u32 { AllReduce, AllGather, Send, Receive };

struct Call {
    Kind kind;
    const void* from;
    void* to;
    size_t count;
    Type type;
    int peer; // of Send and Receive
};

class Clique {
  public:
    explicit Clique(u32 ranks);

    u32 ranks() const { return static_cast<u32>(calls.size()); }
    // Waits until every rank has joined. False: it was given up.
    bool join(int rank);
    void join_later();
    // Does what a rank was asked for between two group calls; returns when its part is done or it gave up.
    Result run(int rank, const std::vector<Call>& work);
    // The rank gives up: its work returns. The others wait for it until they give up too.
    void abort(int rank);
    // What went wrong, if anything did.
    Result error();

  private:
    struct Parcel {
        const Call* call;
        bool taken = false;
    };

    std::mutex mutex;
    std::condition_variable changed;
    u32 joined = 0;
    std::vector<bool> aborted; // by rank
    bool broken = false;       // some rank gave up, so nothing is completed any more
    Result failure = SUCCESS;

    // The collective in progress.
    std::vector<const Call*> calls;
    u32 arrived = 0;
    u64 finished = 0;

    std::vector<std::deque<Parcel*>> parcels; // from rank a to rank b: [a * ranks + b]

    Result collective(std::unique_lock<std::mutex>& lock, int rank, const Call& call);
    Result receive(std::unique_lock<std::mutex>& lock, int rank, const Call& call);
    bool same_everywhere() const;
    void do_collective();
    Result fail(const char* why);
    // False: the rank gave up meanwhile.
    template <class F> bool wait(std::unique_lock<std::mutex>& lock, int rank, F until);
};

} // namespace nccl
