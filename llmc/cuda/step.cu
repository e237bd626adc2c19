// The small kernels of a step, between its layers; what each does, layers.cuh says.
#include <cstdio>
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"

static __global__ void load_micro_batch_kernel(MicroBatch<float> to, StepTokens step, const StepState* state, int N,
                                               int T) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= N) return;
    int64_t from = state->first_token + i;
    to.inputs[i] = step.inputs[from], to.targets[i] = step.targets[from];
    if (!to.weights) return;
    int start = step.doc_start[from];
    to.weights[i] = step.weights[from], to.doc_start[i] = start, to.positions[i] = i % T - start;
    if (to.signals) to.signals[i] = step.signals[from];
    if (!to.labels) return;
    int partner = step.partners[from];
    to.labels[i] = step.labels[from], to.partners[i] = partner < 0 ? -1 : i - i % T + partner;
}
void load_micro_batch(MicroBatch<float> to, StepTokens step, const StepState* state, int N, int T,
                      cudaStream_t stream) {
    launch(load_micro_batch_kernel, ceil_div(N, 256), 256, 0, stream, to, step, state, N, T);
}

static __global__ void next_micro_batch_kernel(StepState* state, int B, int T, int skip) {
    state->first_sample += static_cast<uint32_t>(B + skip), state->first_token += B * T;
}
void next_micro_batch(StepState* state, int B, int T, int skip, cudaStream_t stream) {
    launch(next_micro_batch_kernel, 1, 1, 0, stream, state, B, T, skip);
}

// One block: each thread sums its losses, then the block the threads' sums.
static __global__ void __launch_bounds__(1024)
    add_losses_kernel(double* to, const float* losses, const float* weights, int N) {
    __shared__ float sums[32];
    float sum = 0;
#pragma unroll 8
    for (int i = static_cast<int>(threadIdx.x); i < N; i += static_cast<int>(blockDim.x))
        sum += weights ? losses[i] * weights[i] : losses[i];
    sum = block_sum(sum, sums);
    if (threadIdx.x == 0) *to += sum;
}

void add_losses(double* to, const float* losses, const float* weights, int N, cudaStream_t stream) {
    launch(add_losses_kernel, 1, 1024, 0, stream, to, losses, weights, N);
}

static __global__ void finish_gradients_kernel(StepState* state, const double* norm_squared, float grad_clip) {
    finish_gradients(*state, *norm_squared, grad_clip);
}

void finish_gradients(StepState* state, const double* norm_squared, float grad_clip, cudaStream_t stream) {
    launch(finish_gradients_kernel, 1, 1, 0, stream, state, norm_squared, grad_clip);
}

static __global__ void add_kernel(float* sum, const float* x, int64_t n) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) sum[i] += x[i];
}
void add_to(float* sum, const float* x, int64_t n, cudaStream_t stream) {
    launch(add_kernel, ceil_div(n, 256), 256, 0, stream, sum, x, n);
}

template <typename X>
__global__ void scale_kernel(X* x, float factor, int64_t n) {
    int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) x[i] = X(static_cast<float>(x[i]) * factor);
}
template <typename X>
void scale_by(X* x, float factor, int64_t n, cudaStream_t stream) {
    launch(scale_kernel<X>, ceil_div(n, 256), 256, 0, stream, x, factor, n);
}
template void scale_by(float*, float, int64_t, cudaStream_t);
template void scale_by(bf16*, float, int64_t, cudaStream_t);

// ---- for open_device() ----

const void* any_kernel() { return reinterpret_cast<const void*>(next_micro_batch_kernel); }

const char* machine_code_for() {
#ifdef __CUDA_ARCH_LIST__  // nvcc's: 800,900
    static char text[200];
    int length = 0;
    for (int arch : {__CUDA_ARCH_LIST__})
        length +=
            snprintf(text + length, sizeof text - length, "%s%d.%d", length ? " " : "", arch / 100, arch / 10 % 10);
    return text;
#else
    return "the CPU";
#endif
}
