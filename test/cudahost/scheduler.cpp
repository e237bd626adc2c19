// Runs the blocks of a kernel: switches from fibre to fibre, and draws which is next.
//
// A fibre runs until it waits or ends, and then jumps directly into the next one. Warps have priorities, drawn anew for
// each block, at each block barrier and, in some blocks, now and then between: the first warp that can run does, so
// that one may be far ahead of another, as far as barriers allow. The lanes of a warp run in random order.
#include <sys/mman.h>

#include <exception>

#include "test/cudahost/block.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cudahost {

int current_lane = 0;
Schedule schedule;
const Launch* running = nullptr;
std::vector<Fibre> fibres;
Fibre* current = nullptr;
Block block;

namespace {

namespace context = boost::context::detail;

#if defined(CUDAHOST_ASAN) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 1 << 20;  // address space; pages that are never touched cost nothing
#else
constexpr size_t kStackBytes = 256 << 10;
#endif

Fibre host;  // the thread that called
int warp_order[kMaxThreads / 32];
uint32_t change_one_in = 0;  // chance of new priorities between two barriers, at each switch; 0: none
std::exception_ptr failure;

// ---- switching ----

// Jumps into `next`; comes back when somebody jumps here. `last`: never comes back.
void switch_to(Fibre* next, bool last = false) {
    Fibre* self = current;
    current = next;
    if (next != &host) threadIdx = next->index, current_lane = next->number % 32;
#ifdef CUDAHOST_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &self->fake_stack, next->stack, next->stack_bytes);
#else
    (void)last;
#endif
    context::transfer_t from = context::jump_fcontext(next->context, self);
#ifdef CUDAHOST_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
    static_cast<Fibre*>(from.data)->context = from.fctx;
}

// The next thread to run; null: none can.
Fibre* pick() {
    if (change_one_in && schedule.random.chance(change_one_in)) shuffle_warps();
    for (int i = 0; i < block.warp_count; i++) {
        Warp& warp = block.warps[warp_order[i]];
        if (!warp.ready) continue;
        int lane;
        if (schedule.shuffle) {
            uint32_t start = schedule.random() >> 27;
            lane = static_cast<int>(
                (start + static_cast<uint32_t>(std::countr_zero(std::rotr(warp.ready, int(start))))) % 32);
        } else {
            lane = std::countr_zero(warp.ready);
        }
        warp.ready &= ~(1u << lane);
        return &fibres[static_cast<size_t>(warp_order[i] * 32 + lane)];
    }
    return nullptr;
}

// ---- a thread's life ----

void thread_main(context::transfer_t from) {
#ifdef CUDAHOST_ASAN
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (from.data == &host) host.stack = static_cast<char*>(const_cast<void*>(bottom)), host.stack_bytes = bytes;
#endif
    static_cast<Fibre*>(from.data)->context = from.fctx;
    bool failed = false;
    try {
        running->thread();
        land_all_copies(*current);
        current->done = true;
        complete_without(current->number);
    } catch (...) {
        failure = std::current_exception();
        failed = true;
    }
    if (failed) switch_to(&host, true);
    else run_others(true);
    __builtin_unreachable();
}

void make_stacks() {
    fibres.resize(kMaxThreads);
    for (size_t i = 0; i < kMaxThreads; i++) {
        void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (p == MAP_FAILED) throw Bug("no memory for the stacks of 1024 threads");
        mprotect(p, 4096, PROT_NONE);  // an overflow is a SIGSEGV
        fibres[i].stack = static_cast<char*>(p) + 4096;
        // Tops at different offsets of a page: else all threads' locals would compete for the same lines of the cache.
        fibres[i].stack_bytes = kStackBytes - 4096 - i * 704 % 4096 / 64 * 64;
    }
}

void run_block() {
    start_shared_memory(running->shared_bytes);
    block.alive = block.thread_count;
    block.barrier = BlockBarrier{};
    failure = nullptr;
    for (int w = 0; w < block.warp_count; w++) {
        int lanes = std::min(32, block.thread_count - w * 32);
        Warp& warp = block.warps[w];
        warp.alive = warp.ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warp.gatherings.clear();
        warp_order[w] = w;
    }
    // In half of the blocks a warp runs as far ahead of the others as barriers let it.
    constexpr uint32_t chances[] = {0, 0, 64, 1024};
    change_one_in = schedule.shuffle && block.warp_count > 1 ? chances[schedule.random.below(4)] : 0;
    shuffle_warps();
    for (int i = 0; i < block.thread_count; i++) {
        Fibre& f = fibres[static_cast<size_t>(i)];
#ifdef CUDAHOST_ASAN
        // Frames that never returned left their guards: those of thread_main's last calls, or a whole unfinished
        // thread's.
        size_t stale = f.done ? 16 << 10 : f.stack_bytes;
        __asan_unpoison_memory_region(f.stack + f.stack_bytes - stale, stale);
#endif
        f.done = false;
        f.groups.clear();
        f.open.copies.clear();
        f.context = context::make_fcontext(f.stack + f.stack_bytes, f.stack_bytes, thread_main);
    }
    current = &host;
    switch_to(pick());
    current = nullptr;
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    check_shared_gaps();
}

}  // namespace

void run(const Launch& launch) {
    if (current) throw Bug("a kernel launches a kernel");
    if (fibres.empty()) make_stacks();
    running = &launch;
    gridDim = launch.grid, blockDim = launch.block;
    block.thread_count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    block.warp_count = (block.thread_count + 31) / 32;
    for (int i = 0; i < block.thread_count; i++) {
        unsigned n = static_cast<unsigned>(i), x = launch.block.x, y = launch.block.y;
        fibres[static_cast<size_t>(i)].index = {n % x, n / x % y, n / x / y};
        fibres[static_cast<size_t>(i)].number = i;
    }
    size_t blocks = size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    std::vector<uint32_t> order(blocks);
    for (size_t i = 0; i < blocks; i++) order[i] = static_cast<uint32_t>(i);
    if (schedule.shuffle)
        for (size_t i = blocks; i-- > 1;)
            std::swap(order[i], order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
    for (uint32_t b : order) {
        blockIdx = {b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y};
        run_block();
    }
    running = nullptr;
}

void shuffle_warps() {
    if (!schedule.shuffle) return;
    for (int i = block.warp_count - 1; i > 0; i--)
        std::swap(warp_order[i], warp_order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
}

void run_others(bool ended) {
    Fibre* next = pick();
    if (!next && block.alive > 0) {
        failure = std::make_exception_ptr(Bug(kernel_name(running->kernel) +
                                              format(", block (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z) +
                                              describe_deadlock()));
    }
    if (!next) next = &host;
    if (next != current) switch_to(next, ended);
}

std::string position() {
    if (!current || current == &host || !running) return "";
    return kernel_name(running->kernel) + format(", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
                                                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}
void fail(const std::string& message) { throw Bug(position() + ": " + message); }

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
