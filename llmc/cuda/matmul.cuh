// Matrix products.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (arguments.h)
//
// matmul() chooses: few rows, as in decoding, go to the kernel below, whose limit is the memory that holds b; all else
// to cuBLASLt (matmul_cublaslt.cuh) or to the program's own kernels (matmul_own.cuh), as the command line says.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/matmul_finish.cuh"
#include "llmc/cuda/pack.cuh"

// ---- few rows ----

constexpr int matmul_most_few_rows = 8;

// A warp makes two columns of out. Its lanes share the K elements of each row of b (N,K), W at a time, and read the
// rows of a, which the L1 cache holds, beside them; a sum over the warp ends it.
template <int ROWS, int W, typename X>
__global__ void __launch_bounds__(128) matmul_few_kernel(Matmul<X> args) {
    int lane = threadIdx.x % 32, n0 = (blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32) * 2;
    if (n0 >= args.N) return;
    const X *b0 = args.b + int64_t(n0) * args.K, *b1 = n0 + 1 < args.N ? b0 + args.K : b0;
    float sum[ROWS][2] = {};
#pragma unroll(ROWS == 1 ? 4 : 2)
    for (int k = lane * W; k < args.K; k += 32 * W) {
        float w0[W], w1[W], x[W];
        load_pack<W, Cached::no>(w0, b0 + k);
        load_pack<W, Cached::no>(w1, b1 + k);
#pragma unroll
        for (int m = 0; m < ROWS; m++) {
            load_pack(x, args.a + int64_t(min(m, args.M - 1)) * args.K + k);
#pragma unroll
            for (int i = 0; i < W; i++) sum[m][0] += x[i] * w0[i], sum[m][1] += x[i] * w1[i];
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS * 2; i++) {
        float total[1] = {warp_sum(sum[i / 2][i % 2])};
        int m = i / 2, n = n0 + i % 2;
        if (lane == i && m < args.M && n < args.N) finish_outputs(args, m, n, total);
    }
}

template <typename X>
void matmul_few(const Matmul<X>& args, cudaStream_t stream) {
    constexpr int W = pack_width<X>;
    bool packs = operands_are_packs(args);
    auto kernel =
        args.M == 1
            ? (packs ? matmul_few_kernel<1, W, X> : matmul_few_kernel<1, 1, X>)
            : (packs ? matmul_few_kernel<matmul_most_few_rows, W, X> : matmul_few_kernel<matmul_most_few_rows, 1, X>);
    launch(kernel, ceil_div(args.N, 8), 128, 0, stream, args);
}

// ---- the choice ----

template <typename X, typename O>
void matmul(const Matmul<X, O>& args, cudaStream_t stream) {
    if constexpr (std::is_same_v<X, O>)
        if (args.M <= matmul_most_few_rows && args.b_transposed && !args.a_transposed) return matmul_few(args, stream);
    if (device().matmul == MatmulLibrary::own) matmul_own(args, stream);
    else matmul_cublaslt(args, stream);
}

// Whether GELU is part of the product, at this level of --gelu-fusion or above. The library's is too coarse for fp32
// (matmul_cublaslt.cuh).
template <typename X>
bool gelu_is_fused(int level) {
    return device().matmul == MatmulLibrary::own || (sizeof(X) == 2 && device().gelu_fusion >= level);
}

// Linear layer: y (N,OC) = x (N,C) . w (OC,C)^T + bias (OC). With pre_gelu: y = GELU of that, and the value before goes
// to pre_gelu (pass null and gelu = true if it is not wanted).
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu,
                    cudaStream_t stream) {
    gelu = gelu || pre_gelu;
    bool fused = gelu && gelu_is_fused<X>(1);
    Matmul<X> args{.out = pre_gelu && !fused ? pre_gelu : y, .a = x, .b = w, .M = N, .N = OC, .K = C};
    args.b_transposed = true;
    args.bias = bias;
    if (fused) args.epilogue = Epilogue::gelu, args.aux = pre_gelu;
    matmul(args, stream);
    if (gelu && !fused) gelu_forward(y, args.out, int64_t(N) * OC, stream);
}

// ---- bias gradient: column sums ----

// Partial sums of the columns of dy (N,OC), one row of partial (gridDim.y,OC) for each `rows` rows. A warp reads 32 W
// neighbouring columns of every eighth row; the block's eight warps are added through shared memory, in order.
// GELU: those of dx = dy * GELU'(x), which it stores; dx may be dy.
template <bool GELU, int W, typename X>
__global__ void __launch_bounds__(256)
    column_sums_kernel(float* partial, X* dx, const X* x, const X* dy, int N, int OC, int rows) {
    __shared__ float sums[8][32 * W];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c0 = blockIdx.x * 32 * W, c = c0 + lane * W;
    int end = min(N, (blockIdx.y + 1) * rows);
    float sum[W] = {};
    if (c < OC) {
#pragma unroll 4
        for (int n = blockIdx.y * rows + warp; n < end; n += 8) {
            float d[W];
            load_pack(d, dy + int64_t(n) * OC + c);
            if constexpr (GELU) {
                float before[W];
                load_pack(before, x + int64_t(n) * OC + c);
#pragma unroll
                for (int i = 0; i < W; i++) d[i] *= gelu_derivative(before[i]);
                const auto stored = Pack<X, W>::rounded(d);
                stored.store(dx + int64_t(n) * OC + c), stored.unpack(d);
            }
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += d[i];
        }
    }
#pragma unroll
    for (int i = 0; i < W; i++) sums[warp][i * 32 + lane] = sum[i];  // lanes side by side: no bank conflicts
    __syncthreads();
    for (int j = threadIdx.x; j < 32 * W; j += 256) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < 8; w++) total += sums[w][j];
        int column = c0 + j % 32 * W + j / 32;
        if (column < OC) partial[int64_t(blockIdx.y) * OC + column] = total;
    }
}

// dbias (OC) += column sums of partial (parts,OC), a block for 32 columns.
static __global__ void __launch_bounds__(256)
    add_column_sums_kernel(float* dbias, const float* partial, int parts, int OC) {
    __shared__ float sums[8][32];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, c = blockIdx.x * 32 + lane;
    float sum = 0;
    if (c < OC) {
#pragma unroll 8
        for (int p = warp; p < parts; p += 8) sum += partial[int64_t(p) * OC + c];
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || c >= OC) return;
    float total = 0;
#pragma unroll
    for (int w = 0; w < 8; w++) total += sums[w][lane];
    dbias[c] += total;
}

inline void add_column_sums(float* dbias, const float* partial, int parts, int OC, cudaStream_t stream) {
    launch(add_column_sums_kernel, ceil_div(OC, 32), 256, 0, stream, dbias, partial, parts, OC);
}
template <bool GELU, typename X>
void column_sums(float* partial, X* dx, const X* x, const X* dy, int N, int OC, cudaStream_t stream) {
    constexpr int W = pack_width<X>;
    const int rows = bias_backward_rows(N), parts = ceil_div(N, rows);
    const bool packs = OC % W == 0 && aligned_16(dy) && aligned_16(x) && aligned_16(dx);
    launch(packs ? column_sums_kernel<GELU, W, X> : column_sums_kernel<GELU, 1, X>,
           dim3(ceil_div(OC, packs ? 32 * W : 32), parts), 256, 0, stream, partial, dx, x, dy, N, OC, rows);
}

// dbias (OC) += column sums of dy (N,OC). Workspace: partial.
template <typename X>
void bias_backward(float* dbias, const X* dy, int N, int OC, cudaStream_t stream) {
    const int parts = ceil_div(N, bias_backward_rows(N));
    float* partial = workspace<float>(static_cast<size_t>(parts) * OC);
    column_sums<false, X>(partial, nullptr, nullptr, dy, N, OC, stream);
    add_column_sums(dbias, partial, parts, OC, stream);
}

// dx (N,F) = dy * GELU'(x), whose column sums it leaves; dx may be dy.
template <typename X>
void gelu_backward_with_sums(X* dx, const X* x, const X* dy, int N, int F, Sums<X> sums, cudaStream_t stream) {
    column_sums<true, X>(sums->parts, dx, x, dy, N, F, stream);
    sums->count = ceil_div(N, bias_backward_rows(N)), sums->of = dx;
}

// dx (N,C) = dy . w, and if pre_gelu: dx *= gelu'(pre_gelu), the gradient through the GELU whose output x was;
// dw (OC,C) += dy^T . x, or = where dw_accumulate is false; dbias (OC) += column sums of dy, from sums if they are there.
// dx, dw, dbias may each be null. Where GELU is a kernel of its own or a part of our own product, leaves the column sums
// of dx. Not where it is a part of the library's: that would be DGELU_BGRAD, whose sums are of the type of the product's
// result (cublasLt.h, CUBLASLT_MATMUL_DESC_BIAS_POINTER), bf16, and so of 8 bits; nor is GELU taken out of the product
// for their sake, which would read and write dx once more to save reading it. Workspace: of bias_backward, then of each
// product.
template <typename X>
void matmul_backward(X* dx, float* dw, float* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu, int N,
                     int C, int OC, bool dw_accumulate, Sums<X> sums, cudaStream_t stream) {
    if (dbias && sums && sums->of == dy) add_column_sums(dbias, sums->parts, sums->count, OC, stream);
    else if (dbias) bias_backward(dbias, dy, N, OC, stream);
    if (sums) sums->of = nullptr;
    if (dx) {
        bool fused = pre_gelu && gelu_is_fused<X>(2);
        Matmul<X> args{.out = dx, .a = dy, .b = w, .M = N, .N = C, .K = OC};
        if (fused) args.epilogue = Epilogue::gelu_backward, args.aux = const_cast<X*>(pre_gelu);
        if (fused && device().matmul == MatmulLibrary::own) matmul_own(args, stream, sums);
        else matmul(args, stream);
        if (pre_gelu && !fused) {
            if (sums && sums->parts) gelu_backward_with_sums(dx, pre_gelu, dx, N, C, sums, stream);
            else gelu_backward(dx, pre_gelu, dx, int64_t(N) * C, stream);
        }
    }
    if (dw) {
        Matmul<X, float> args{.out = dw, .a = dy, .b = x, .M = OC, .N = C, .K = N};
        args.a_transposed = true;
        args.accumulate = dw_accumulate;
        matmul(args, stream);
    }
}
