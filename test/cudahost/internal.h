// What all parts of CUDA on the CPU use: which sanitizer is there, the schedule, messages.
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

// ---- the schedule ----

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

// ---- messages ----

[[gnu::format(printf, 1, 2)]] std::string format(const char* text, ...);
// "layernorm_forward_kernel<float, 4>", of a kernel's address.
std::string kernel_name(const void* kernel);
// Where the thread that runs is: kernel, block, thread; empty outside of kernels.
std::string position();

// ---- limits ----

constexpr size_t kMostShared = 227 << 10, kMaxThreads = 1024;  // of a block, on any device
struct DeviceLimits {
    int capability;
    size_t shared, shared_of_multiprocessor;  // bytes; shared: of a block that consented
    int threads_of_multiprocessor;
};
// Of the device that CUDAHOST_DEVICE names.
const DeviceLimits& device_limits();
// In a kernel: ends the launch where the device has no such instruction.
void needs_capability(int capability, const char* instruction, const Site& where);

}  // namespace cudahost
