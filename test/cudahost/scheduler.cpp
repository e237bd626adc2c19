// Runs the blocks of a kernel, one or two at a time: switches from fibre to fibre, and draws which is next.
//
// A fibre runs until it waits or ends, and then jumps directly into the next one. Warps have priorities, drawn anew for
// each block, at each block barrier and, in some blocks, now and then between: the first warp that can run does, so
// that one may be far ahead of another, as far as barriers allow. The lanes of a warp run in random order.
#include <sys/mman.h>

#include <exception>

#include "test/cudahost/fibres.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cudahost {

int current_lane = 0;
Schedule schedule;
const Launch* running = nullptr;
alignas(64) Fibre fibres[kMaxThreads + 1];
FibreMemory fibre_memory[kMaxThreads + 1];
Fibre* current = nullptr;
Block block;
uint32_t change_one_in = 0, pause_one_in = 0;

namespace {

#if defined(CUDAHOST_ASAN) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 1 << 20;  // address space; pages that are never touched cost nothing
#else
constexpr size_t kStackBytes = 256 << 10;
#endif

std::exception_ptr failure;

// ---- a thread's life ----

void thread_main() {
#ifdef CUDAHOST_ASAN
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (!memory_of(host).stack)
        memory_of(host).stack = static_cast<char*>(const_cast<void*>(bottom)), memory_of(host).stack_bytes = bytes;
#endif
    bool failed = false;
    try {
        running->thread();
        land_all_copies();
        current->done = true;
        complete_without(current->number);
    } catch (...) {
        failure = std::current_exception();
        failed = true;
    }
    if (failed) switch_to(host, true);
    else run_others(true);
    __builtin_unreachable();
}

// ---- two blocks in flight ----

// Where the block is that pauses. It goes on in the place of the running one, to which pointers of both point.
struct Other {
    Block block;
    Fibre fibres[kMaxThreads];
    FibreMemory memory[kMaxThreads];
    uint3 index;
    bool there;
} other;

void swap_blocks() {
    std::swap_ranges(block.warps, block.warps + block.warp_count, other.block.warps);
    std::swap_ranges(block.by_rank, block.by_rank + block.warp_count, other.block.by_rank);
    std::swap(block.alive, other.block.alive);
    std::swap(block.ready, other.block.ready);
    std::swap(block.barrier, other.block.barrier);
    std::swap_ranges(fibres, fibres + block.thread_count, other.fibres);
    std::swap_ranges(fibre_memory, fibre_memory + block.thread_count, other.memory);
    std::swap(blockIdx, other.index);
    swap_shared_memory();
}

// Stacks for the first `threads` fibres; kept for later blocks.
void make_stacks(int threads, FibreMemory* of, int& made) {
    for (; made < threads; made++) {
        void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (p == MAP_FAILED) throw Bug("no memory for the stacks of a block's threads");
        mprotect(p, 4096, PROT_NONE);  // an overflow is a SIGSEGV
        of[made].stack = static_cast<char*>(p) + 4096;
        // Tops at different offsets of a page: else all threads' locals would compete for the same lines of the cache.
        of[made].stack_bytes = kStackBytes - 4096 - size_t(made) * 704 % 4096 / 64 * 64;
    }
}

// Until the block has ended or pauses.
void go_on() {
    block.paused = false;
    current = host;
    switch_to(pick());
    current = nullptr;
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    if (!block.paused) check_shared_gaps();
}

void begin_block() {
    start_shared_memory(running->shared_bytes);
    block.alive = block.thread_count;
    block.barrier = BlockBarrier{};
    block.ready = 0;
    failure = nullptr;
    for (int w = 0; w < block.warp_count; w++) {
        int lanes = std::min(32, block.thread_count - w * 32);
        Warp& warp = block.warps[w];
        warp.alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warp.ready = 0;
        warp.gathering_count = 0;
        block.by_rank[warp.rank = w] = &warp;
        block.make_ready(warp, warp.alive);
    }
    // In half of the blocks a warp runs as far ahead of the others as barriers let it.
    constexpr uint32_t chances[] = {0, 0, 64, 1024};
    change_one_in = schedule.shuffle && block.warp_count > 1 ? chances[schedule.random.below(4)] : 0;
    shuffle_warps();
    for (int i = 0; i < block.thread_count; i++) {
        Fibre& f = fibres[i];
        FibreMemory& m = fibre_memory[i];
#ifdef CUDAHOST_ASAN
        // Frames that never returned left their guards: those of thread_main's last calls, or a whole unfinished
        // thread's.
        size_t stale = f.done ? 16 << 10 : m.stack_bytes;
        __asan_unpoison_memory_region(m.stack + m.stack_bytes - stale, stale);
#endif
        f.done = false;
        m.groups.clear();
        m.open.copies.clear();
        f.context = nullptr;
    }
}

}  // namespace

void run(const Launch& launch) {
    if (current) throw Bug("a kernel launches a kernel");
    running = &launch;
    gridDim = launch.grid, blockDim = launch.block;
    block.thread_count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    block.warp_count = (block.thread_count + 31) / 32;
    static int made = 0, made_for_other = 0;
    make_stacks(block.thread_count, fibre_memory, made);
    make_stacks(block.thread_count, other.memory, made_for_other);
    for (int i = 0; i < block.thread_count; i++) {
        unsigned n = static_cast<unsigned>(i), x = launch.block.x, y = launch.block.y;
        fibres[i].index = {n % x, n / x % y, n / x / y};
        fibres[i].number = i;
        other.fibres[i].index = fibres[i].index, other.fibres[i].number = i;
    }
    size_t blocks = size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    std::vector<uint32_t> order(blocks);
    for (size_t i = 0; i < blocks; i++) order[i] = static_cast<uint32_t>(i);
    if (schedule.shuffle)
        for (size_t i = blocks; i-- > 1;)
            std::swap(order[i], order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
    // In half of the launches a block pauses now and then at a barrier, and another one begins or goes on.
    constexpr uint32_t chances[] = {0, 0, 2, 8};
    pause_one_in = schedule.shuffle && blocks > 1 ? chances[schedule.random.below(4)] : 0;
    other.there = false;
    size_t begun = 0;
    for (bool here = false;;) {
        if (!here && begun < blocks && !(other.there && schedule.random.chance(2))) {
            uint32_t b = order[begun++];
            blockIdx = {b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y};
            begin_block();
        } else if (!here) {
            if (!std::exchange(other.there, false)) break;
            swap_blocks();
        }
        go_on();
        here = block.paused;
        if (here && (other.there || begun < blocks)) swap_blocks(), std::swap(here, other.there);
    }
    running = nullptr;
}

void shuffle_warps() {
    if (!schedule.shuffle) return;
    Warp** order = block.by_rank;
    for (int i = block.warp_count - 1; i > 0; i--)
        std::swap(order[i], order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
    block.ready = 0;
    for (int i = 0; i < block.warp_count; i++) {
        order[i]->rank = i;
        block.make_ready(*order[i], 0);
    }
}

void start_thread(Fibre* self, Fibre* next) {
    const FibreMemory& m = memory_of(next);
    start(&self->context, m.stack + m.stack_bytes, m.stack_bytes, thread_main);
}

void fail_for_deadlock() {
    failure = std::make_exception_ptr(Bug(kernel_name(running->kernel) +
                                          format(", block (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z) +
                                          describe_deadlock()));
}

std::string position() {
    if (!current || current == host || !running) return "";
    return kernel_name(running->kernel) + format(", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
                                                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}
void fail(const std::string& message) { throw Bug(position() + ": " + message); }

void needs_capability(int capability, const char* instruction, const Site& where) {
    if (device_limits().capability < capability)
        fail(format("%s at %s: a device of capability %d has no such instruction, it needs %d", instruction,
                    at(where).c_str(), device_limits().capability, capability));
}

void trap(Site where) { fail("__trap() at " + at(where)); }

void more_threads_than(int promised) {
    fail(format("launched with %d threads a block, more than the %d of its __launch_bounds__", block.thread_count,
                promised));
}

}  // namespace cudahost

// The sanitizers call these before they end the process: which thread was it?
namespace {
void say_position() {
    std::string where = cudahost::position();
    if (!where.empty()) fprintf(stderr, "cudahost: in %s\n", where.c_str());
}
}  // namespace
extern "C" void __asan_on_error() { say_position(); }
extern "C" void __ubsan_on_report() { say_position(); }
