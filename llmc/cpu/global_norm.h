// Sum of squares of a gradient arena, in double and in a fixed order: the same bits for any number of threads.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/math.h"
#include "llmc/cpu/parallel.h"

template <typename G>
double global_norm_squared(const G* grad, int64_t n) {
    return parallel_sum(n, 1 << 16, [=](int64_t begin, int64_t end) {
        return vector_sum<double>(end - begin, [=](int64_t i) {
            double g = acc_t<G>(grad[begin + i]);
            return g * g;
        });
    });
}
