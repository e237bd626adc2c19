#include "llmc/cpu/dropout.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"

// y = dropout(x) or, in the backward pass, dx = dropout(dy): the same function. x, y (B, per_sample); x == y is
// allowed.
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d, CpuStream) {
    constexpr int64_t block = 4096;
    int64_t blocks = (per_sample + block - 1) / block;
    parallel_for(B * blocks, [=](int64_t i) {
        int64_t b = i / blocks, e0 = i % blocks * block, at = b * per_sample + e0, n = std::min(block, per_sample - e0);
        if (d.active()) dropout_row(y + at, x + at, n, d, static_cast<int>(b), e0);
        else if (y != x) std::copy(x + at, x + at + n, y + at);
    });
}

LLMC_INSTANTIATE(dropout_apply);
