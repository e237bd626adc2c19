// llmc/cuda/sort.cuh for the CPU: the same function by std::stable_sort, as a kernel of one thread, so that it runs when its
// turn in the stream comes. Tokens beyond V, of which not all bits are sorted by, are an error here.
#pragma once
#include <algorithm>
#include <utility>
#include <vector>
#include "llmc/cuda/layers.cuh"

size_t sort_scratch_bytes(int) {
    CUDA_CHECK(cudaGetLastError());  // CUB reports, as its own, an error that an earlier call left behind
    return 1;
}

static __global__ void stable_sort_kernel(int* sorted_tokens, int* sorted_rows, const int* tokens, const int* rows,
                                          int N, int V) {
    std::vector<std::pair<int, int>> pairs(static_cast<size_t>(N));
    for (size_t i = 0; i < pairs.size(); i++) {
        CHECK(tokens[i] >= 0 && tokens[i] < V, "token %d of %d", tokens[i], V);
        pairs[i] = {tokens[i], rows[i]};
    }
    std::stable_sort(pairs.begin(), pairs.end(), [](auto a, auto b) { return a.first < b.first; });
    for (size_t i = 0; i < pairs.size(); i++) sorted_tokens[i] = pairs[i].first, sorted_rows[i] = pairs[i].second;
    cudahost::note_written(sorted_tokens, pairs.size() * sizeof(int), true);
    cudahost::note_written(sorted_rows, pairs.size() * sizeof(int), true);
}

void sort_rows_by_token(int* sorted_tokens, int* sorted_rows, const int* tokens, const int* rows, int N, int V,
                        void* scratch, cudaStream_t stream) {
    CHECK(scratch != nullptr, "no scratch memory");
    CUDA_CHECK(cudaGetLastError());
    launch(stable_sort_kernel, 1, 1, 0, stream, sorted_tokens, sorted_rows, tokens, rows, N, V);
}
