// Rows sorted by token: a stable radix sort, the only thing here that comes from CUB (a library of CUDA itself). sort.cu
// alone includes it, because CUB takes long to compile. It sorts by the bits that a token can have, eight a pass: two passes for
// GPT-2's 50,257 tokens (16 bits), where all 31 bits took four.
//
// The tests on the CPU put test/cudahost's version of this header in its place.
#pragma once
#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>
#include "llmc/cuda/layers.cuh"

// For any V.
size_t sort_scratch_bytes(int N) {
    size_t bytes = 0;
    const int* in = nullptr;
    int* out = nullptr;
    CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, N, 0, 31));
    return bytes;
}

void sort_rows_by_token(int* sorted_tokens, int* sorted_rows, const int* tokens, const int* rows, int N, int V,
                        void* scratch, cudaStream_t stream) {
    size_t bytes = sort_scratch_bytes(N);
    const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<unsigned>(V - 1))));
    CUDA_CHECK(
        cub::DeviceRadixSort::SortPairs(scratch, bytes, tokens, sorted_tokens, rows, sorted_rows, N, 0, bits, stream));
}
