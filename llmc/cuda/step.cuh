// The small kernels of a step, between its layers.
#pragma once
#include "llmc/cuda/common.cuh"
#include "llmc/model/step_state.h"

// The micro-batch at hand, N rows of this rank's part of the step's tokens from first_sample on, to where the layers
// read it: a captured graph has fixed addresses.
static __global__ void load_micro_batch_kernel(int* inputs, int* targets, const int* step_inputs,
                                               const int* step_targets, const StepState* state, int N, int T) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= N) return;
    int64_t from = int64_t(state->first_sample - state->rank_first_sample) * T + i;
    inputs[i] = step_inputs[from], targets[i] = step_targets[from];
}
inline void load_micro_batch(int* inputs, int* targets, const int* step_inputs, const int* step_targets,
                             const StepState* state, int N, int T, cudaStream_t stream) {
    launch(load_micro_batch_kernel, ceil_div(N, 256), 256, 0, stream, inputs, targets, step_inputs, step_targets, state,
           N, T);
}

static __global__ void next_micro_batch_kernel(StepState* state, int B) {
    state->first_sample += static_cast<uint32_t>(B);
}
inline void next_micro_batch(StepState* state, int B, cudaStream_t stream) {
    launch(next_micro_batch_kernel, 1, 1, 0, stream, state, B);
}

// sum (n) += x: gradients that other ranks have sent join those of earlier micro-steps.
static __global__ void add_kernel(float* sum, const float* x, int64_t n) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) sum[i] += x[i];
}
inline void add_to(float* sum, const float* x, int64_t n, cudaStream_t stream) {
    launch(add_kernel, ceil_div(n, 256), 256, 0, stream, sum, x, n);
}

// Sampling: n more tokens; positions (n) are those after the ones seen so far.
static __global__ void next_positions_kernel(int* positions, int* length, int n) {
    int seen = *length;
    __syncthreads();  // all have read it before it changes
    for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) positions[i] = seen + i;
    if (threadIdx.x == 0) *length = seen + n;
}
inline void next_positions(int* positions, int* length, int n, cudaStream_t stream) {
    launch(next_positions_kernel, 1, 128, 0, stream, positions, length, n);
}
