#include "launch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "pool.h"
#include "settings.h"
#include "traps.h"

namespace emulator {
namespace {

struct GridJob final : Job {
    const Launch& launch;
    const u64 total;
    const u32 number; // of the launch, so that a kernel's blocks meet every schedule
    std::atomic<u64> next{0};
    std::atomic<bool> failed{false};
    std::string failure;

    GridJob(const Launch& launch, u32 number)
        : launch(launch), total(u64{launch.grid.x} * launch.grid.y * launch.grid.z), number(number) {}

    void run() override {
        static thread_local std::unique_ptr<Block> block(new Block);
        for (u64 index; !failed && (index = next++) < total;) {
            place(*block, index);
            if (run_block(*block) && block->failure == nullptr) continue;
            if (!failed.exchange(true)) failure = describe(*block);
        }
    }

    void place(Block& block, u64 index) const {
        const Grid& grid = launch.grid;
        block.index = {static_cast<u32>(index % grid.x), static_cast<u32>(index / grid.x % grid.y),
                       static_cast<u32>(index / grid.x / grid.y)};
        block.grid = grid;
        block.threads = launch.threads;
        block.shared_bytes = launch.shared_bytes;
        block.kernel = launch.kernel;
        block.arguments = launch.arguments;
        block.schedule = schedule_of(number + static_cast<u32>(index));
        block.random = static_cast<u32>(index) * 2654435761u + number * 40503u + 12345u;
    }

    std::string describe(const Block& block) const {
        return std::string("kernel ") + launch.kernel->name + ", block (" + std::to_string(block.index.x) + ", " +
               std::to_string(block.index.y) + ", " + std::to_string(block.index.z) + "): " + block.failure;
    }
};

} // namespace

bool run_grid(const Launch& launch, std::string& failure) {
    static std::atomic<u32> launches{0};
    catch_traps();
    GridJob job(launch, launches++);
    run_in_pool(job, job.total);
    failure = job.failure;
    return !job.failed;
}

} // namespace emulator
