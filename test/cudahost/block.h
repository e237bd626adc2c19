// The block that runs: its threads as fibres, its warps, its barrier. scheduler.cpp runs them, collectives.cpp lets
// them wait for each other, shared.cpp has their shared memory and its asynchronous copies.
#pragma once
#include <boost/context/detail/fcontext.hpp>

#include <functional>
#include <vector>

#include "test/cudahost/internal.h"

namespace cudahost {

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    const void* kernel = nullptr;
    std::function<void()> thread;
};
// All blocks, one after the other. Throws Bug.
void run(const Launch& launch);
extern const Launch* running;  // null: none

// ---- threads ----

// cp.async: copies that are closed by one commit.
struct CopyGroup {
    struct Copy {
        void* to;
        const void* from;  // null: zeros
        size_t bytes;
    };
    std::vector<Copy> copies;
};

struct Fibre {
    boost::context::detail::fcontext_t context = nullptr;
    char* stack = nullptr;  // lowest address
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
    uint3 index{};
    int number = 0;
    bool done = true;
    // What it waits for: a place, and lanes of its warp, or the block (mask 0).
    const char* what = nullptr;
    uint32_t mask = 0;
    Site where;
    // Copies of closed groups that are still to land, and the open group.
    std::vector<CopyGroup> groups;
    CopyGroup open;
};
extern std::vector<Fibre> fibres;  // kMaxThreads, with their stacks, for all blocks
extern Fibre* current;             // null outside of kernels

// Lanes that wait at the same collective.
struct Gathering {
    const char* what;
    uint32_t mask, here;
    Site where;
    Complete complete;
};
struct Warp {
    uint32_t alive = 0, ready = 0;
    std::vector<Gathering> gatherings;
    void* data[32] = {};
};
struct BlockBarrier {
    int here = 0, sum = 0, result = 0;
    const char* what = nullptr;
    Vote vote = Vote::none;
    Site where;
};
struct Block {
    int thread_count = 0, warp_count = 0, alive = 0;
    Warp warps[kMaxThreads / 32];
    BlockBarrier barrier;
};
extern Block block;

// ---- scheduler.cpp ----

// The running thread waits, or has ended: on to another, or back to the host.
void run_others(bool ended = false);
// Warps get new priorities, if the schedule shuffles.
void shuffle_warps();
// In a kernel: ends the launch with this message. The other threads are never resumed.
[[noreturn]] void fail(const std::string& message);

// ---- collectives.cpp ----

// The running thread has ended: others may have waited for it alone.
void complete_without(int thread);
// Nobody can run, and not all have ended: says who waits for whom.
std::string describe_deadlock();

// ---- shared.cpp ----

void start_shared_memory(size_t dynamic_bytes);
// Throws where a thread wrote between two arrays.
void check_shared_gaps();
// All copies that the running thread has not waited for land.
void land_all_copies(Fibre& f);

// ---- names.cpp ----

std::string at(const Site& where);  // "file.cu:12"
std::string thread_name(int number);

}  // namespace cudahost
