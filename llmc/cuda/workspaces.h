// How much working memory the CUDA layers need: plain arithmetic, so that who plans a run without a GPU can ask, too.
//
// The GPU comes in by its number of multiprocessors. (test/cuda/test_plan.cu holds this to the layers.)
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>
#include "llmc/model/config.h"

// Bytes, of a micro-batch of B sequences of T tokens: own matrix products, attention to a cache; backward passes of
// layernorm, bias, encoder (CUB's sort counted as its second pair of buffers), attention; global norm.
inline std::vector<size_t> gpu_workspaces(const ModelConfig& m, int64_t B, int T, int multiprocessors) {
    auto ceil = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
    int64_t N = B * T, C = m.C, NH = m.NH, SM = multiprocessors, decode = 0;
    for (int64_t queries = std::min(m.T, 128); queries > 0; queries--) {  // attention_decode.cuh
        int64_t tiles = ceil(queries, queries == 1 ? 1 : 4), steps = ceil(m.T, 64);
        int64_t want = std::clamp(1024 / (NH * tiles), ceil(m.T, 2048), steps);
        decode = std::max(decode, NH * queries * ceil(m.T, ceil(steps, want) * 64) * (m.HS() + 2) * 4);
    }
    int64_t norm_threads = 32 * ceil(C, 32 * (C <= 512 * 8 ? 8 : 24));
    int64_t norm_blocks = std::min(SM * std::max<int64_t>(1, 512 / norm_threads), ceil(N, 16));
    int64_t bias_rows = std::max<int64_t>(32, ceil(ceil(N, 256), 8) * 8), index = ceil(4 * N, 256) * 256;
    std::vector<size_t> all;
    for (int64_t bytes : {SM * 5 * 128 * 256 * 4, decode, norm_blocks * 2 * C * 4, ceil(N, bias_rows) * 4 * C * 4,
                          3 * index + 2 * 4 * N, 8 * B * NH * ceil(T, 128) * 128, 4 * 8 * SM})
        all.push_back(static_cast<size_t>(bytes));
    return all;
}

// Of cuBLASLt, by NVIDIA's recommendation.
inline size_t cublaslt_recommended_bytes(int capability) { return capability >= 90 ? 32 << 20 : 4 << 20; }
