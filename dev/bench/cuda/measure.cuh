// Times between CUDA events, and the data that is worked on.
#pragma once
#include <algorithm>
#include <vector>
#include "dev/bench/cuda/report.h"
#include "llmc/base/philox.h"
#include "llmc/cuda/memory.cuh"
#include "llmc/model/batch.h"
#include "llmc/model/tensors.h"

namespace bench {

// ---- time ----

inline double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

struct EventPair {
    cudaEvent_t begin{}, end{};
    EventPair() { CUDA_CHECK(cudaEventCreate(&begin)), CUDA_CHECK(cudaEventCreate(&end)); }
    EventPair(const EventPair&) = delete;
    EventPair& operator=(const EventPair&) = delete;
    ~EventPair() { cudaEventDestroy(begin), cudaEventDestroy(end); }
    double seconds() const {
        float ms = 0;
        CUDA_CHECK(cudaEventElapsedTime(&ms, begin, end));
        return 1e-3 * static_cast<double>(ms);
    }
};

// ---- a cold cache ----

static __global__ void read_kernel(int* sink, const uint4* from, int64_t n) {
    uint32_t bits = 0;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x)
        bits |= from[i].x | from[i].y | from[i].z | from[i].w;
    if (bits != 0) *sink = 1;  // they are all 0, which the compiler does not know
}

// Before each timed run: the L2 cache holds nothing of use, and nothing that has yet to be written to memory, which a
// kernel that only reads would have to wait for (50 MB are 17 us at 3 TB/s). So one buffer is written and then another
// one read, each twice as large as the cache.
struct Flush {
    DeviceArena arena;
    char *written = nullptr, *read = nullptr;
    size_t bytes = 2 * static_cast<size_t>(std::max(device().l2_bytes, 1 << 20));
    Flush() {
        arena.add(&written, static_cast<int64_t>(bytes)), arena.add(&read, static_cast<int64_t>(bytes));
        arena.allocate("the cache flush", true);
    }
    void operator()(cudaStream_t stream) {
        CUDA_CHECK(cudaMemsetAsync(written, 0, bytes, stream));
        launch(read_kernel, 8 * device().multiprocessors, 256, 0, stream, reinterpret_cast<int*>(written),
               reinterpret_cast<const uint4*>(read), static_cast<int64_t>(bytes / 16));
    }
};
inline void flush_cache(cudaStream_t stream) {
    static Flush flush;  // one for all that is timed
    flush(stream);
}

// Median seconds of work(), which puts something into the stream. The host runs ahead of the GPU, so that launches cost
// nothing here.
template <typename Work>
double time_alone(cudaStream_t stream, Work work, double budget = 0.25) {
    for (int i = 0; i < 2; i++) work();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    double t = now();
    work();
    CUDA_CHECK(cudaStreamSynchronize(stream));
    int n = std::clamp(static_cast<int>(budget / (now() - t)), 5, 51);
    std::vector<EventPair> events(static_cast<size_t>(n));
    for (EventPair& e : events) {
        flush_cache(stream);
        CUDA_CHECK(cudaEventRecord(e.begin, stream));
        work();
        CUDA_CHECK(cudaEventRecord(e.end, stream));
    }
    CUDA_CHECK(cudaStreamSynchronize(stream));
    std::vector<double> seconds;
    for (EventPair& e : events) seconds.push_back(e.seconds());
    return median(seconds);
}

// ---- data ----

template <typename X>
__global__ void fill_kernel(X* x, int64_t n, uint64_t seed, float scale, float mean) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x) {
        Philox4 r = philox(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0xbe9c);
        float a, b;
        normal2(r.v[0], r.v[1], &a, &b);
        x[i] = X(mean + scale * a);
    }
}
template <typename X>
void fill(cudaStream_t stream, X* x, int64_t n, float scale = 1, float mean = 0) {
    static uint64_t seed = 0;
    launch(fill_kernel<X>, 4 * device().multiprocessors, 256, 0, stream, x, n, ++seed, scale, mean);
}

inline Batch random_batch(int sequences, int T, int V) {
    Batch batch;
    batch.sequences = sequences, batch.T = T;
    uint32_t words = static_cast<uint32_t>(V);
    for (int i = 0; i < sequences * T; i++) {
        Philox4 r = philox(7, static_cast<uint32_t>(i), 0, 0, 0xbe9c);
        batch.inputs.push_back(static_cast<int>(r.v[0] % words)),
            batch.targets.push_back(static_cast<int>(r.v[1] % words));
    }
    return batch;
}

// Random weights, as large as GPT-2's at the start: the values of a short vector, again and again.
template <class Model>
void randomise(Model& model) {
    ModelTensors tensors = model.tensors();
    std::vector<float> values(1 << 20), ones(1 << 14, 1.0f);
    for (size_t i = 0; i < values.size(); i += 2) {
        Philox4 r = philox(1, static_cast<uint32_t>(i), 0, 0, 0xbe9c);
        normal2(r.v[0], r.v[1], &values[i], &values[i + 1]);
        values[i] *= 0.02f, values[i + 1] *= 0.02f;
    }
    for (const Parameter& p : tensors.table) {
        if (p.init == Init::zeros) continue;
        const std::vector<float>& from = p.init == Init::ones ? ones : values;
        for (int64_t i = 0; i < p.size(); i += static_cast<int64_t>(from.size())) {
            int64_t n = std::min(p.size() - i, static_cast<int64_t>(from.size()));
            tensors.write(Buffer::weights, p.offset + i, n, from.data());
            if (tensors.has_master) tensors.write(Buffer::master, p.offset + i, n, from.data());
        }
    }
}

}  // namespace bench
