// Layer normalisation, and the same fused with the residual add.        (Ba et al. 2016, https://arxiv.org/abs/1607.06450)
//
//   r = a + dropout(b)                 r, a, b, y (N,C), N = B*T rows
//   y = (r - mean) * rstd * w + bias   mean, rstd (N), kept for the backward pass
//
// Limit: memory. A row stays in the L1 cache between its passes.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/base/bf16.h"
#include "llmc/cpu/dropout.h"
#include "llmc/model/arguments.h"

// One row; the variance comes from a second pass over the row, because E[x^2] - mean^2 cancels.
template <typename X>
inline void layernorm_row(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int C,
                          float epsilon) {
    using A = acc_t<X>;
    A m = vector_sum<A>(C, [=](int64_t c) { return A(x[c]); }) / A(C);
    A variance = vector_sum<A>(C, [=](int64_t c) { return (A(x[c]) - m) * (A(x[c]) - m); }) / A(C);
    A s = A(1) / std::sqrt(variance + A(epsilon));
#pragma omp simd
    for (int c = 0; c < C; c++) store(y[c], (A(x[c]) - m) * s * A(w[c]) + A(bias[c]));
    *mean = m, *rstd = s;
}

template <typename X>
void layernorm_forward(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int N, int C,
                       float epsilon, CpuStream) {
    parallel_for(N, [=](int64_t n) { layernorm_row(y + n * C, mean + n, rstd + n, x + n * C, w, bias, C, epsilon); });
}

// r may be a. rows_per_sample = T: row n belongs to sample n / T, element (n % T) * C + c of it.
template <typename X>
void residual_layernorm_forward(X* r, X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* a, const X* b, const X* w,
                                const X* bias, int N, int C, int rows_per_sample, Dropout dropout, float epsilon,
                                CpuStream) {
    using A = acc_t<X>;
    parallel_for(N, [=](int64_t n) {
        X* sum = r + n * C;
        const X *ra = a + n * C, *rb = b + n * C;
        if (dropout.active()) {
            constexpr int chunk = 256;
            float scale[chunk];
            for (int c0 = 0; c0 < C; c0 += chunk) {
                int m = std::min(chunk, C - c0);
                dropout_scales(scale, dropout, static_cast<int>(n / rows_per_sample), n % rows_per_sample * C + c0, m);
#pragma omp simd
                for (int c = 0; c < m; c++) store(sum[c0 + c], A(ra[c0 + c]) + A(rb[c0 + c]) * A(scale[c]));
            }
        } else {
#pragma omp simd
            for (int c = 0; c < C; c++) store(sum[c], A(ra[c]) + A(rb[c]));
        }
        layernorm_row(y + n * C, mean + n, rstd + n, sum, w, bias, C, epsilon);
    });
}

// dx += gradient through the norm (dx already holds what came down the residual stream); dw (C) +=, db (C) +=,
// which may be null: frozen.
//   g = dy * w;  dx += rstd * (g - mean_c(g) - xhat * mean_c(g * xhat))      xhat = (x - mean) * rstd
// Rows are summed in blocks whose number depends on N alone, and the blocks in their order: the same bits for any
// number of threads.
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>* db, const X* dy, const X* x, const X* w, const acc_t<X>* mean,
                        const acc_t<X>* rstd, int N, int C, Sums<X>, CpuStream) {
    using A = acc_t<X>;
    int64_t block = std::max(16, (N + 127) / 128), blocks = (N + block - 1) / block;
    std::vector<A> partial(static_cast<size_t>(blocks * 2 * C));  // (blocks, 2, C)
    parallel_blocks(N, block, [=, &partial](int64_t begin, int64_t end) {
        A *pw = partial.data() + begin / block * 2 * C, *pb = pw + C;
        for (int64_t n = begin; n < end; n++) {
            const X *dyn = dy + n * C, *xn = x + n * C;
            X* dxn = dx + n * C;
            A m = mean[n], s = rstd[n];
            A mean_g = vector_sum<A>(C, [=](int64_t c) { return A(dyn[c]) * A(w[c]); }) / A(C);
            A mean_gx = vector_sum<A>(C, [=](int64_t c) { return A(dyn[c]) * A(w[c]) * (A(xn[c]) - m); }) * s / A(C);
#pragma omp simd
            for (int c = 0; c < C; c++) {
                A d = A(dyn[c]), xhat = (A(xn[c]) - m) * s;
                store(dxn[c], A(dxn[c]) + s * (d * A(w[c]) - mean_g - xhat * mean_gx));
                pw[c] += d * xhat, pb[c] += d;
            }
        }
    });
    if (!dw) return;
    parallel_blocks(C, 256, [=, &partial](int64_t begin, int64_t end) {
        for (int64_t k = 0; k < blocks; k++) {
            const A *pw = partial.data() + k * 2 * C, *pb = pw + C;
#pragma omp simd
            for (int64_t c = begin; c < end; c++) dw[c] += pw[c], db[c] += pb[c];
        }
    });
}

LLMC_INSTANTIATE(layernorm_forward);
LLMC_INSTANTIATE(residual_layernorm_forward);
LLMC_INSTANTIATE(layernorm_backward);
