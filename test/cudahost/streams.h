// Streams, events and graphs as the runtime has them: queues of functions. What is in a queue runs at once, or as late
// as somebody waits for it, as the schedule says.
#pragma once
#include <chrono>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "test/cudahost/internal.h"

// Memory that takes part in a captured operation of a communicator, which NCCL registers (NCCL_GRAPH_REGISTER).
struct Registered {
    const void* communicator;
    const char* begin;
    size_t bytes;
};

struct CUgraph_st {
    struct Node {
        std::function<void()> work;
        std::vector<int> after;
    };
    std::vector<Node> nodes;
    bool invalid = false, ended = false;
    cudaStream_t origin = nullptr;
    int last_collective = -1;  // node
    std::vector<Registered> registered;
};
struct CUgraphExec_st {
    CUgraph_st graph;
};

struct CUstream_st {
    bool blocking = true;  // with the legacy stream
    bool destroyed = false;
    int priority = 0;
    struct Work {
        uint64_t number;
        std::function<void()> run;
        std::vector<std::pair<cudaStream_t, uint64_t>> after;
    };
    std::deque<Work> queue;
    uint64_t last = 0;                                     // number of the newest piece of work that it got
    std::vector<std::pair<cudaStream_t, uint64_t>> waits;  // for the next piece of work
    std::shared_ptr<CUgraph_st> capture;
    std::vector<int> tail;  // nodes that the next node comes after
};
struct CUevent_st {
    bool timing = true;
    cudaStream_t stream = nullptr;  // where it was recorded last; null: never
    uint64_t number = 0;
    uint64_t recorded = 0, done = 0;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<CUgraph_st> capture;
    std::vector<int> nodes;
};

namespace cudahost {

struct Runtime {
    std::vector<std::unique_ptr<CUstream_st>> streams;
    CUstream_st legacy, per_thread;
    uint64_t next_number = 1;
    cudaError_t last_error = cudaSuccess;
    std::map<const void*, int> dynamic_shared;  // cudaFuncSetAttribute
    std::set<const void*> loaded;               // kernels
    std::set<CUgraphExec_st*> executables;
    std::vector<Registered> let_go;     // of graphs that have ended, until the communicator's next call
    std::function<void()> before_next;  // the workspace's fill
    bool working = false;
    std::chrono::nanoseconds planted{0};  // by which events' clock is ahead: time that a stand-in says it has taken
    std::exception_ptr pending_bug;       // found where no exception could leave
};
Runtime& the();

cudaError_t result(cudaError_t error);  // also for cudaGetLastError()
// The stream that is meant. The first call of all starts the schedule.
cudaStream_t resolve(cudaStream_t stream);
template <typename F>
void for_each_stream(F f) {
    f(&the().legacy);
    f(&the().per_thread);
    for (const auto& s : the().streams) f(s.get());
}

// ---- work ----

// Gives work to a stream, or to the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work);
// A collective operation: transfer(), which waits for other processes, then land(). The first is done at once with all
// that it comes after, or at once where a graph that has it is launched: processes then wait for each other in the
// order of their calls, whatever their schedules are. The second is work of the stream, done as late as any.
cudaError_t enqueue_collective(cudaStream_t stream, std::function<void()> transfer, std::function<void()> land);

// Work of the stream up to `number`, and what it must come after.
void run_until(cudaStream_t stream, uint64_t number);
inline void run_all(cudaStream_t stream) { run_until(stream, UINT64_MAX); }
void run_everything();
void drop_all_work();
// What was found where no exception could leave: thrown now.
void throw_pending_bug();
// f(), from where no exception may leave: what it throws is thrown by a later call.
template <typename F>
void keep_bug(F f) {
    try {
        f();
    } catch (...) {
        if (!the().pending_bug) the().pending_bug = std::current_exception();
    }
}

// ---- graphs.cpp ----

void add_node(CUstream_st& stream, std::function<void()> work);
// For calls that a capture forbids: marks it as broken.
bool breaks_capture();
#define NOT_WHILE_CAPTURING \
    if (breaks_capture()) return result(cudaErrorStreamCaptureUnsupported)

}  // namespace cudahost
