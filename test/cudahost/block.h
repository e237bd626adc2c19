// The block that runs: its threads as fibres, its warps, its barrier. scheduler.cpp runs them, collectives.cpp lets
// them wait for each other, shared.cpp has their shared memory and its asynchronous copies.
#pragma once
#include <functional>
#include <vector>

#include "test/cudahost/internal.h"
#include "test/cudahost/jump.h"

namespace cudahost {

struct Launch {
    dim3 grid, block;
    size_t shared_bytes = 0;
    const void* kernel = nullptr;
    std::function<void()> thread;
    std::vector<std::string> args;  // the bytes of each
    size_t consent = 0;             // to so much dynamic shared memory (cudaFuncSetAttribute); 0: none
};
// All blocks, one after the other. Throws Bug.
void run(const Launch& launch);
void run_on_ptx(const Launch& launch);  // ptx.cpp
extern const Launch* running;           // null: none

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

// What a switch needs stands apart from the rest: half a line of the cache.
struct Fibre {
    Context context = nullptr;
    uint3 index{};
    int number = 0;
    uint32_t mask = 0;  // what it waits for: lanes of its warp, or the block (0)
    bool done = true;
};
static_assert(sizeof(Fibre) == 32);
struct FibreMemory {
    char* stack = nullptr;  // lowest address
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
    // Copies of closed groups that are still to land, and the open group.
    std::vector<CopyGroup> groups;
    CopyGroup open;
};
// For all blocks. The last is the host: the thread that called.
alignas(64) extern Fibre fibres[kMaxThreads + 1];
extern FibreMemory fibre_memory[kMaxThreads + 1];
inline FibreMemory& memory_of(const Fibre* f) { return fibre_memory[f - fibres]; }
extern Fibre* current;  // null outside of kernels

// Lanes that wait at the same collective.
struct Gathering {
    const char* what;
    uint32_t mask, here;
    Site where;
    Complete complete;
};
struct Warp {
    uint32_t alive = 0, ready = 0;  // lanes; ready: by make_ready() alone
    int rank = 0;                   // its priority: 0 is the highest
    int gathering_count = 0;
    Gathering gatherings[32];
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
    Warp* by_rank[kMaxThreads / 32] = {};
    uint32_t ready = 0;  // ranks of warps that have lanes which can run
    BlockBarrier barrier;
    bool paused = false;  // at a barrier, and another block goes on (scheduler.cpp)

    void make_ready(Warp& warp, uint32_t lanes) {
        warp.ready |= lanes;
        if (warp.ready) ready |= 1u << warp.rank;
    }
};
extern Block block;

// ---- scheduler.cpp ----

// Warps get new priorities, if the schedule shuffles.
void shuffle_warps();
extern uint32_t pause_one_in;  // chance that a block pauses at a barrier; 0: none
// In a kernel: ends the launch with this message. The other threads are never resumed.
[[noreturn]] void fail(const std::string& message);

// ---- collectives.cpp ----

// The running thread has ended: others may have waited for it alone.
void complete_without(int thread);
// Nobody can run, and not all have ended: says who waits for whom.
std::string describe_deadlock();

// ---- shared.cpp ----

void start_shared_memory(size_t dynamic_bytes);
void swap_shared_memory();  // with that of the other block in flight
// Throws where a thread wrote between two arrays.
void check_shared_gaps();
// All copies that the running thread has not waited for land.
void land_all_copies();

// ---- names.cpp ----

std::string at(const Site& where);  // "file.cu:12"
std::string thread_name(int number);

}  // namespace cudahost
