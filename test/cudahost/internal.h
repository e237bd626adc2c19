// What scheduler.cpp and runtime.cpp share.
#pragma once
#include "test/cudahost/cudahost.h"

#if defined(__SANITIZE_ADDRESS__)
#define CUDAHOST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDAHOST_ASAN 1
#endif
#endif
#ifdef CUDAHOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace cudahost {

// ---- random numbers of the schedule ----

struct Random {
    uint64_t state = 0;
    uint32_t operator()() {  // xorshift64*
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return static_cast<uint32_t>(state * 0x2545F4914F6CDD1Dull >> 32);
    }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(uint64_t{(*this)()} * n >> 32); }
    bool chance(uint32_t n) { return below(n) == 0; }  // 1 in n
};

enum class Landing { early, late, random };  // when deferred work happens, within what is allowed
struct Schedule {
    uint64_t seed = 0;
    bool shuffle = false;  // order of blocks and threads
    Landing streams = Landing::early, copies = Landing::early;
    Random random;
};
extern Schedule schedule;

// ---- scheduler.cpp ----

constexpr size_t kMaxShared = 227 << 10, kMaxThreads = 1024;

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    const void* kernel = nullptr;
    std::function<void()> thread;
};
// All blocks, one after the other. Throws Bug.
void run(const Launch& launch);
// "layernorm_forward_kernel<float, 4>", of a kernel's address.
std::string kernel_name(const void* kernel);
// Where the thread that runs is: kernel, block, thread; empty outside of kernels.
std::string position();

// ---- runtime.cpp ----

// NaN bytes that nobody may touch.
void poison(void* p, size_t bytes);
void unpoison(void* p, size_t bytes);
bool all_ones(const void* p, size_t bytes);
void check_device_range(const void* p, size_t bytes, const char* what);

// Work of a stream, or of the graph that it captures.
cudaError_t enqueue_work(cudaStream_t stream, std::function<void()> work);
// A collective operation: transfer(), which waits for other processes, then land(). The first is done at once with all
// that it comes after, or at once where a graph that has it is launched: processes then wait for each other in the
// order of their calls, whatever their schedules are. The second is work of the stream, done as late as any.
cudaError_t enqueue_collective(cudaStream_t stream, std::function<void()> transfer, std::function<void()> land);
// They step over guards.
void copy_memory(void* to, const void* from, size_t bytes);
void fill_memory(void* to, int value, size_t bytes);

[[gnu::format(printf, 1, 2)]] std::string format(const char* text, ...);

}  // namespace cudahost
