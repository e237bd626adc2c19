#include "llmc/cpu/gelu.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/base/parallel.h"

template <typename X>
void gelu_forward(X* y, const X* x, int64_t n, CpuStream) {
    parallel_blocks(n, 4096, [=](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) store(y[i], gelu(acc_t<X>(x[i])));
    });
}

// dx = dy * gelu'(x); dx may be dy.
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n, CpuStream) {
    parallel_blocks(n, 4096, [=](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) store(dx[i], acc_t<X>(dy[i]) * gelu_gradient(acc_t<X>(x[i])));
    });
}

template <typename X>
void gelu_erf_forward(X* y, const X* x, int64_t n, CpuStream) {
    parallel_blocks(n, 4096, [=](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            acc_t<X> v = x[i], density;
            store(y[i], v * normal_cdf(v, &density));
        }
    });
}

template <typename X>
void gelu_erf_backward(X* dx, const X* x, const X* dy, int64_t n, CpuStream) {
    parallel_blocks(n, 4096, [=](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; i++) {
            acc_t<X> v = x[i], density, cdf = normal_cdf(v, &density);
            store(dx[i], acc_t<X>(dy[i]) * (cdf + v * density));
        }
    });
}

LLMC_INSTANTIATE(gelu_forward);
LLMC_INSTANTIATE(gelu_backward);
LLMC_INSTANTIATE(gelu_erf_forward);
LLMC_INSTANTIATE(gelu_erf_backward);
