#include "test/cudahost/streams.h"

#include <unistd.h>

#include "test/cudahost/closing.h"
#include "test/cudahost/heap.h"

namespace cudahost {

// ---- the state of the runtime ----

Runtime& the() {
    static Runtime* runtime = new Runtime;  // outlives all other objects
    return *runtime;
}

cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess) the().last_error = error;
    return error;
}

// Before the first thing that anybody does: the schedule that the environment names.
static void start() {
    static bool begun = false;
    if (std::exchange(begun, true)) return;
    if (const char* seed = getenv("CUDAHOST_SEED")) set_seed(strtoull(seed, nullptr, 10));
    else set_seed(1);
#ifndef CUDAHOST_ASAN
    explain_segv();
#endif
    // What was found when the last objects were destroyed, and no call came after.
    atexit([] {
        try {
            throw_pending_bug();
        } catch (const std::exception& e) {
            fflush(stdout);
            fprintf(stderr, "cudahost: %s\n", e.what());
            _exit(1);
        }
    });
}

cudaStream_t resolve(cudaStream_t stream) {
    start();
    if (stream == nullptr || stream == cudaStreamLegacy || stream == &the().legacy) return &the().legacy;
    if (stream == cudaStreamPerThread || stream == &the().per_thread) return &the().per_thread;
    for (const auto& s : the().streams)
        if (s.get() == stream && !s->destroyed) return stream;
    throw Bug("a stream that does not exist, or was destroyed");
}

void set_seed(uint64_t seed) {
    start();
    run_everything();
    schedule = Schedule{};
    schedule.seed = seed;
    schedule.random.state = (seed + 1) * 0x9E3779B97F4A7C15ull;
    schedule.shuffle = seed != 0;
    constexpr Landing landings[] = {Landing::random, Landing::early, Landing::late, Landing::random};
    if (seed != 0) {
        schedule.copies = landings[seed % 4];
        schedule.streams = landings[(seed + seed / 4) % 4];
    }
    clear_barriers_seen();
}

void throw_pending_bug() {
    if (the().pending_bug) std::rethrow_exception(std::exchange(the().pending_bug, nullptr));
}
void check() {
    run_everything();
    look_at_guards();
}

// ---- doing work ----

void drop_all_work() {
    for_each_stream([](cudaStream_t s) {
        s->queue.clear();
        s->waits.clear();
    });
    the().before_next = nullptr;
}

void run_until(cudaStream_t stream, uint64_t number) {
    if (stream->queue.empty() || stream->queue.front().number > number) return;
    Access access;
    while (!stream->queue.empty() && stream->queue.front().number <= number) {
        CUstream_st::Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        for (auto [other, n] : work.after) run_until(other, n);
        bool outer = std::exchange(the().working, true);
        try {
            work.run();
            look_at_guards();
        } catch (...) {
            the().working = outer;
            drop_all_work();
            throw;
        }
        the().working = outer;
    }
}

namespace {

// A piece of work of any stream; false: there is none.
bool run_some() {
    std::vector<cudaStream_t> busy;
    for_each_stream([&](cudaStream_t s) {
        if (!s->queue.empty()) busy.push_back(s);
    });
    if (busy.empty()) return false;
    cudaStream_t s = busy[schedule.shuffle ? schedule.random.below(static_cast<uint32_t>(busy.size())) : 0];
    run_until(s, s->queue.front().number);
    return true;
}

}  // namespace

void run_everything() {
    throw_pending_bug();
    Access access;
    while (run_some()) {
    }
}

// ---- giving work ----

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    if (!the().working) throw_pending_bug();
    stream = resolve(stream);
    if (the().before_next)
        work = [first = std::exchange(the().before_next, nullptr), then = std::move(work)] { first(), then(); };
    if (stream->capture) {
        if (stream->capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
        add_node(*stream, std::move(work));
        return cudaSuccess;
    }
    if (stream == &the().legacy) {
        cudaStream_t captured = nullptr;
        for_each_stream([&](cudaStream_t s) {
            if (s->capture && s->blocking) captured = s;
            if (s != stream && s->blocking && !s->queue.empty()) stream->waits.emplace_back(s, s->last);
        });
        if (captured) {
            captured->capture->invalid = true;
            return result(cudaErrorStreamCaptureImplicit);
        }
    } else if (stream->blocking && !the().legacy.queue.empty()) {
        stream->waits.emplace_back(&the().legacy, the().legacy.last);
    }
    stream->last = the().next_number++;
    stream->queue.push_back({stream->last, std::move(work), std::exchange(stream->waits, {})});
    if (schedule.streams == Landing::early) run_all(stream);
    else if (schedule.streams == Landing::random && schedule.random.chance(2))
        for (uint32_t n = schedule.random.below(4); n > 0 && run_some(); n--) {
        }
    return cudaSuccess;
}

cudaError_t enqueue_collective(cudaStream_t stream, std::function<void()> transfer, std::function<void()> land) {
    stream = resolve(stream);
    cudaError_t error = enqueue(stream, std::move(transfer));
    if (error != cudaSuccess) return error;
    if (CUgraph_st* graph = stream->capture.get()) {  // the same order in all processes
        if (graph->last_collective >= 0) graph->nodes.back().after.push_back(graph->last_collective);
        graph->last_collective = static_cast<int>(graph->nodes.size()) - 1;
    } else {
        run_until(stream, stream->last);
    }
    return enqueue(stream, std::move(land));
}

}  // namespace cudahost

using namespace cudahost;

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    resolve(nullptr);
    the().streams.push_back(std::make_unique<CUstream_st>());
    *stream = the().streams.back().get();
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    (*stream)->priority = priority;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    keep_bug([&] {
        stream = resolve(stream);
        run_all(stream);
    });
    stream->destroyed = true;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    throw_pending_bug();
    stream = resolve(stream);
    if (stream->capture) {
        stream->capture->invalid = true;
        return result(cudaErrorStreamCaptureUnsupported);
    }
    run_all(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    stream = resolve(stream);
    if (stream->queue.empty()) return cudaSuccess;
    run_until(stream, stream->queue.front().number);
    return result(cudaErrorNotReady);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return *priority = resolve(stream)->priority, cudaSuccess;
}

}  // extern "C"
