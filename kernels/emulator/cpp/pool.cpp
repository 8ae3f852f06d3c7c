#include "pool.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "settings.h"

namespace emulator {
namespace {

struct Pool {
    struct Work {
        Job* job;
        u64 places;  // helpers that may still join
        u64 helpers; // that are in it
    };

    std::mutex mutex;
    std::condition_variable work_came, helper_left;
    std::deque<Work*> open;
    u32 helpers = emulator_threads() - 1;

    // The threads live as long as the process: the pool is never destroyed, so none waits on something gone.
    Pool() {
        for (u32 i = 0; i < helpers; i++) std::thread([this] { help(); }).detach();
    }

    [[noreturn]] void help() {
        std::unique_lock lock(mutex);
        for (;;) {
            work_came.wait(lock, [this] { return !open.empty(); });
            Work& work = *open.front();
            work.helpers++;
            if (--work.places == 0) open.pop_front();
            lock.unlock();
            work.job->run();
            lock.lock();
            work.helpers--;
            helper_left.notify_all();
        }
    }

    void run(Job& job, u64 places) {
        Work work{&job, places, 0};
        {
            std::lock_guard lock(mutex);
            open.push_back(&work);
        }
        for (u64 i = 0; i < places; i++) work_came.notify_one();
        job.run();
        std::unique_lock lock(mutex);
        auto at = std::find(open.begin(), open.end(), &work);
        if (at != open.end()) open.erase(at);
        helper_left.wait(lock, [&] { return work.helpers == 0; });
    }
};

} // namespace

void run_in_pool(Job& job, u64 parts) {
    static Pool& pool = *new Pool;
    u64 places = std::min<u64>(pool.helpers, parts - 1);
    if (places == 0) job.run();
    else pool.run(job, places);
}

} // namespace emulator
