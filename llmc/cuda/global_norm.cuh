// Sum of squares of a gradient arena, in a fixed order. What follows from it, the scale that clips the gradient and the
// decision to skip the update, is in llmc/model/step_state.h.
//
//   sum = sum_i grad[i]^2
//
// Limit: memory, 4 bytes an element. Sixteen squares are added in fp32, their sums in double: an order of magnitude
// fewer double additions, which cost 64 times as much on GPUs that are not made for them.
#pragma once
#include <algorithm>
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"
#include "llmc/model/step_state.h"

// Sum over a block of whole warps; thread 0 gets it. `shared` has a double for each warp.
__device__ inline double block_sum_double(double x, double* shared) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    double sum = 0;
    if (threadIdx.x == 0)
        for (unsigned warp = 0; warp < blockDim.x / 32; warp++) sum += shared[warp];
    return sum;
}

// partial[blockIdx.x] = the block's share. Packs are dealt to the threads of all blocks in turn.
template <int W>
__global__ void __launch_bounds__(512) square_sum_kernel(double* partial, const float* grad, int64_t n) {
    constexpr int packs = 16 / W;  // that a thread loads before it uses the first
    __shared__ double sums[16];
    int64_t stride = int64_t(gridDim.x) * blockDim.x * W;
    double sum = 0;
    for (int64_t i0 = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W; i0 < n; i0 += packs * stride) {
        float x[packs][W] = {}, squares = 0;
#pragma unroll
        for (int k = 0; k < packs; k++)
            if (i0 + k * stride < n) load_pack<W, Cached::no>(x[k], grad + i0 + k * stride);
#pragma unroll
        for (int k = 0; k < packs; k++)
#pragma unroll
            for (int j = 0; j < W; j++) squares += x[k][j] * x[k][j];
        sum += static_cast<double>(squares);
    }
    sum = block_sum_double(sum, sums);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

static __global__ void __launch_bounds__(512) sum_kernel(double* sum, const double* partial, int n, bool add) {
    __shared__ double sums[16];
    double x = 0;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) x += partial[i];
    x = block_sum_double(x, sums);
    if (threadIdx.x == 0) *sum = add ? *sum + x : x;
}

// *sum (device memory) = or, where `add`, += sum of grad[i]^2, i < n; Same GPU, same bits. Workspace: partial.
template <typename G>  // float
void global_norm_squared(double* sum, const G* grad, int64_t n, bool add, cudaStream_t stream) {
    const int most = global_norm_most_blocks(device().multiprocessors);
    int blocks = static_cast<int>(std::clamp<int64_t>(n / (512 * 16), 1, most));
    double* partial = workspace<double>(static_cast<size_t>(blocks));
    const bool packs = n % 4 == 0 && reinterpret_cast<uintptr_t>(grad) % 16 == 0;
    launch(packs ? square_sum_kernel<4> : square_sum_kernel<1>, blocks, 512, 0, stream, partial, grad, n);
    launch(sum_kernel, 1, 512, 0, stream, sum, partial, blocks, add);
}
