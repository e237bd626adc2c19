// Rows sorted by token: a stable radix sort, the only thing here that comes from CUB (a library of CUDA itself). sort.cu
// alone includes it, because CUB takes long to compile.
//
// The tests on the CPU put test/cudahost's version of this header in its place.
#pragma once
#include <cub/device/device_radix_sort.cuh>
#include "llmc/cuda/layers.cuh"

size_t sort_scratch_bytes(int N) {
    size_t bytes = 0;
    const int* in = nullptr;
    int* out = nullptr;
    CUDA_CHECK(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, N, 0, 31));
    return bytes;
}

void sort_rows_by_token(int* sorted_tokens, int* sorted_rows, const int* tokens, const int* rows, int N, void* scratch,
                        cudaStream_t stream) {
    size_t bytes = sort_scratch_bytes(N);
    CUDA_CHECK(
        cub::DeviceRadixSort::SortPairs(scratch, bytes, tokens, sorted_tokens, rows, sorted_rows, N, 0, 31, stream));
}
