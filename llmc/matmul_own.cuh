// Matrix products by the program's own kernels.
#pragma once
#include "llmc/cuda_common.cuh"
#include "llmc/gelu.cuh"
#include "llmc/layer_arguments.h"
#include "llmc/pack.cuh"

inline bool aligned_16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
inline size_t matmul_own_workspace_bytes() { return 0; }

// The end of W neighbouring outputs of row m, from column n on: sum is complete but for bias, accumulation, epilogue.
template <int W, typename X, typename O>
__device__ inline void finish_outputs(const Matmul<X, O>& args, int m, int n, float (&sum)[W]) {
    int64_t at = int64_t(m) * args.N + n;
    for (int i = 0; i < W; i++) {
        if (args.bias) sum[i] += static_cast<float>(args.bias[n + i]);
        if (args.accumulate) sum[i] += static_cast<float>(args.out[at + i]);
        if (args.epilogue == Epilogue::gelu) {
            if (args.aux) args.aux[at + i] = X(sum[i]), sum[i] = static_cast<float>(args.aux[at + i]);
            sum[i] = gelu_value(sum[i]);
        }
        if (args.epilogue == Epilogue::gelu_backward) sum[i] *= gelu_derivative(static_cast<float>(args.aux[at + i]));
        args.out[at + i] = O(sum[i]);
    }
}

template <typename X, typename O>
__global__ void matmul_own_kernel(Matmul<X, O> args) {
    int n = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    if (n >= args.N) return;
    float sum[1] = {};
    for (int64_t k = 0; k < args.K; k++)
        sum[0] += static_cast<float>(args.a[args.a_transposed ? k * args.M + m : int64_t(m) * args.K + k]) *
                  static_cast<float>(args.b[args.b_transposed ? int64_t(n) * args.K + k : k * args.N + n]);
    finish_outputs(args, m, n, sum);
}

template <typename X, typename O>
void matmul_own(const Matmul<X, O>& args, cudaStream_t stream) {
    launch(matmul_own_kernel<X, O>, dim3(ceil_div(args.N, 128), args.M), 128, 0, stream, args);
}
