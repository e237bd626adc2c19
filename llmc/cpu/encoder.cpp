// Token and position embedding.
//
//   out[b,t,:] = dropout(wte[tokens[b,t],:] + wpe[positions[b,t],:])        out (B,T,C), wte (V,C), wpe (maxT,C)
//
// positions (B,T) may be null: then 0..T-1. A token below 0 is a prompt, -1 the first of prompts (P,C). Backward scatters without races: each thread owns columns of dwte and dwpe,
// and adds the rows of dout in their order, so its result does not depend on the number of threads.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/base/bf16.h"
#include "llmc/cpu/dropout.h"
#include "llmc/model/arguments.h"

template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, const X* prompts,
                     int B, int T, int C, Dropout dropout, CpuStream) {
    parallel_for(int64_t(B) * T, [=](int64_t row) {
        int64_t b = row / T, t = row % T;
        const X* token = tokens[row] < 0 ? prompts + int64_t(-1 - tokens[row]) * C : wte + int64_t(tokens[row]) * C;
        const X* position = wpe + (positions ? positions[row] : t) * C;
        X* to = out + row * C;
#pragma omp simd
        for (int c = 0; c < C; c++) store(to[c], acc_t<X>(token[c]) + acc_t<X>(position[c]));
        if (dropout.active()) dropout_row(to, to, C, dropout, static_cast<int>(b), t * C);
    });
}

// dwte (V,C) += , dwpe (maxT,C) +=
template <typename X>
void encoder_backward(grad_t<X>* dwte, grad_t<X>* dwpe, const X* dout, const int* tokens, const int* positions, int B,
                      int T, int C, int /*V*/, Dropout dropout, CpuStream) {
    using A = acc_t<X>;
    constexpr int granule = 64;  // columns: cache lines stay whole, and so do Philox blocks
    int columns = std::min(1024, ((C + thread_count() - 1) / thread_count() + granule - 1) / granule * granule);
    parallel_blocks(C, columns, [=](int64_t begin, int64_t end) {
        int n = static_cast<int>(end - begin);
        float scale[1024];
        std::fill(scale, scale + n, 1.0f);
        for (int64_t row = 0; row < int64_t(B) * T; row++) {
            int64_t b = row / T, t = row % T;
            const X* from = dout + row * C + begin;
            A* token = dwte + int64_t(tokens[row]) * C + begin;
            A* position = dwpe + (positions ? positions[row] : t) * C + begin;
            if (dropout.active()) dropout_scales(scale, dropout, static_cast<int>(b), t * C + begin, n);
#pragma omp simd
            for (int c = 0; c < n; c++) {
                A g = A(from[c]) * A(scale[c]);
                token[c] += g, position[c] += g;
            }
        }
    });
}

LLMC_INSTANTIATE(encoder_forward);
LLMC_INSTANTIATE(encoder_backward);
