// Sum of squares of a gradient arena, in double and in a fixed order: the same bits for any number of threads.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/parallel.h"

template <typename G>
double global_norm_squared(const G* grad, int64_t n) {
    return parallel_sum(n, 1 << 16, [=](int64_t begin, int64_t end) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = begin; i < end; i++) sum += double(acc_t<G>(grad[i])) * double(acc_t<G>(grad[i]));
        return sum;
    });
}
