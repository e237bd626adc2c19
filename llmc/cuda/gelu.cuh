// GELU: its tanh approximation (GPT-2's "gelu_new"), and itself.            (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)
//
//   y = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)
//     = x s, s = 1 / (1 + exp(-2u))                    the same, without the cancellation of 1 + tanh at negative x
//   dy/dx = s + x s (1 - s) 2 du/dx
//
//   y = x P(x), P(x) = erfc(-x / sqrt(2)) / 2, dy/dx = P(x) + x exp(-x^2 / 2) / sqrt(2 pi)
//
// Limit: memory. Forward moves 2 n sizeof(X) bytes, backward 3 n sizeof(X); each thread moves 16 bytes at a time.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"

// ---- device functions, for epilogues of matrix products too ----

// s. __expf and __fdividef are the GPU's short forms, right to about 2 units in the last place here: an exponential
// that overflows gives 0, as it should.
__device__ inline float gelu_sigmoid(float x) {
    constexpr float a = 1.5957691216057308f, b = 1.5957691216057308f * 0.044715f;  // 2u = x (a + b x^2)
    return __fdividef(1.0f, 1.0f + __expf(-x * (a + b * x * x)));
}
__device__ inline float gelu_value(float x) { return x * gelu_sigmoid(x); }
__device__ inline float gelu_derivative(float x) {
    constexpr float a = 1.5957691216057308f, b = 1.5957691216057308f * 0.044715f;
    float s = gelu_sigmoid(x);
    return s + x * s * (1.0f - s) * (a + 3.0f * b * x * x);
}

__device__ inline float normal_cdf(float x) { return 0.5f * erfcf(-0.70710678f * x); }
__device__ inline float gelu_erf_value(float x) { return x * normal_cdf(x); }
__device__ inline float gelu_erf_derivative(float x) { return normal_cdf(x) + x * 0.39894228f * __expf(-0.5f * x * x); }

// ---- kernels ----

// Thread i takes elements W i and on. dy = null: out = GELU(x), else out = dy * GELU'(x). ERF: GELU itself.
template <bool ERF, int W, typename X>
__global__ void gelu_kernel(X* out, const X* x, const X* dy, int64_t n) {
    int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    if (i >= n) return;
    float v[W], d[W];
    load_pack(v, x + i);
    if (dy) load_pack<W, Cached::no>(d, dy + i);
#pragma unroll
    for (int j = 0; j < W; j++) {
        if constexpr (ERF) v[j] = dy ? d[j] * gelu_erf_derivative(v[j]) : gelu_erf_value(v[j]);
        else v[j] = dy ? d[j] * gelu_derivative(v[j]) : gelu_value(v[j]);
    }
    store_pack(out + i, v);
}

template <bool ERF, typename X>
void gelu_launch(X* out, const X* x, const X* dy, int64_t n, cudaStream_t stream) {
    constexpr int W = pack_width<X>;
    auto aligned = [](const X* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
    int64_t packs = aligned(out) && aligned(x) && aligned(dy) ? n / W : 0, rest = n - packs * W, at = packs * W;
    if (packs) launch(gelu_kernel<ERF, W, X>, ceil_div(packs, 256), 256, 0, stream, out, x, dy, at);
    if (rest)
        launch(gelu_kernel<ERF, 1, X>, ceil_div(rest, 256), 256, 0, stream, out + at, x + at, dy ? dy + at : dy, rest);
}

template <typename X>
void gelu_forward(X* y, const X* x, int64_t n, cudaStream_t stream) {
    gelu_launch<false, X>(y, x, nullptr, n, stream);
}

// dx = dy * gelu'(x); dx may be dy.
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n, cudaStream_t stream) {
    gelu_launch<false, X>(dx, x, dy, n, stream);
}

template <typename X>
void gelu_erf_forward(X* y, const X* x, int64_t n, cudaStream_t stream) {
    gelu_launch<true, X>(y, x, nullptr, n, stream);
}
template <typename X>
void gelu_erf_backward(X* dx, const X* x, const X* dy, int64_t n, cudaStream_t stream) {
    gelu_launch<true, X>(dx, x, dy, n, stream);
}
