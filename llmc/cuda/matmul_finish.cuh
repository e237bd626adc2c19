// The end of every matrix product: bias, accumulation, epilogue, store. And what the kernels ask about addresses.
#pragma once
#include <algorithm>
#include "llmc/cuda/gelu.cuh"
#include "llmc/cuda/pack.cuh"
#include "llmc/model/arguments.h"

inline bool aligned_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
// Rows of both operands are whole packs of 16 bytes, as asynchronous copies need them.
template <typename X, typename O>
bool operands_are_packs(const Matmul<X, O>& args) {
    constexpr int W = pack_width<X>;
    return (args.a_transposed ? args.M : args.K) % W == 0 && (args.b_transposed ? args.K : args.N) % W == 0 &&
           aligned_16(args.a) && aligned_16(args.b);
}
// Rows of out, bias and aux are whole packs.
template <typename X, typename O>
bool rows_are_packs(const Matmul<X, O>& args) {
    return args.N % pack_width<X> == 0 && aligned_16(args.out) && aligned_16(args.bias) && aligned_16(args.aux);
}

// x[0..W), of which `count` count; packs: all, and on a boundary of 16 bytes.
template <int W, typename T>
__device__ inline void load_some(float (&x)[W], const T* from, int count, bool packs) {
    constexpr int P = pack_width<T>;
    if (W % P == 0 && packs) {
#pragma unroll
        for (int i = 0; i + P <= W; i += P) load_pack(reinterpret_cast<float(&)[P]>(x[i]), from + i);
    } else {
#pragma unroll
        for (int i = 0; i < W; i++) x[i] = i < count ? static_cast<float>(from[i]) : 0.0f;
    }
}
template <int W, typename T>
__device__ inline void store_some(T* to, const float (&x)[W], int count, bool packs) {
    constexpr int P = pack_width<T>;
    if (W % P == 0 && packs) {
#pragma unroll
        for (int i = 0; i + P <= W; i += P) store_pack(to + i, reinterpret_cast<const float(&)[P]>(x[i]));
    } else {
#pragma unroll
        for (int i = 0; i < W; i++)
            if (i < count) to[i] = T(x[i]);
    }
}

// W neighbouring outputs of row m, from column n on: `sum` is the product alone. out_float, if there, is what args.out
// stands for; packs: rows of out, bias and aux are whole packs of 16 bytes.
template <int W, typename X, typename O>
__device__ inline void finish_outputs(const Matmul<X, O>& args, int m, int n, float (&sum)[W], bool packs = false,
                                      float* out_float = nullptr) {
    int count = args.N - n;
    int64_t at = int64_t(m) * args.N + n;
    float x[W];
    if (args.bias) {
        load_some(x, args.bias + n, count, packs);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] += x[i];
    }
    if (args.accumulate) {
        if (out_float) load_some(x, out_float + at, count, packs);
        else load_some(x, args.out + at, count, packs);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] += x[i];
    }
    if (args.epilogue == Epilogue::gelu) {
        if (args.aux) store_some(args.aux + at, sum, count, packs);
#pragma unroll
        for (int i = 0; i < W; i++)  // y is a function of what the backward pass will see
            sum[i] = gelu_value(args.aux ? static_cast<float>(X(sum[i])) : sum[i]);
    } else if (args.epilogue == Epilogue::gelu_backward) {
        load_some(x, args.aux + at, count, packs);
#pragma unroll
        for (int i = 0; i < W; i++) sum[i] *= gelu_derivative(x[i]);
    }
    if (out_float) store_some(out_float + at, sum, count, packs);
    else store_some(args.out + at, sum, count, packs);
}

// ---- that alone, for products by a library that has no such end ----

// Bias and epilogue, on out as the product left it. A thread has W neighbouring columns, and goes down the rows from
// blockIdx.y on.
template <int W, typename X, typename O>
__global__ void __launch_bounds__(256) matmul_finish_kernel(Matmul<X, O> args) {
    int n = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (n >= args.N) return;
    for (int m = static_cast<int>(blockIdx.y); m < args.M; m += static_cast<int>(gridDim.y)) {
        float sum[W];
        load_some(sum, args.out + int64_t(m) * args.N + n, W, W > 1);
        finish_outputs(args, m, n, sum, W > 1);
    }
}

// kernel(args): a block row for each of M rows, as far as there may be so many, a thread for each of their `columns`.
template <typename Args>
void launch_by_rows(void (*kernel)(Args), int M, int columns, cudaStream_t stream, const Args& args) {
    const int threads = std::min(256, ceil_div(columns, 32) * 32);
    launch(kernel, dim3(ceil_div(columns, threads), std::min(M, 65535)), threads, 0, stream, args);
}

template <typename X, typename O>
void matmul_finish(Matmul<X, O> args, cudaStream_t stream) {
    args.accumulate = false;
    constexpr int W = pack_width<X>;
    const bool packs = rows_are_packs(args);
    launch_by_rows(packs ? matmul_finish_kernel<W, X, O> : matmul_finish_kernel<1, X, O>, args.M,
                   packs ? args.N / W : args.N, stream, args);
}
