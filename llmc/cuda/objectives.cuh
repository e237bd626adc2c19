// Objectives as weights of tokens; llmc/plain/objectives.h has the formulas.
//
// Limit: none worth a thought. A warp looks at a row; where that is a text's last token, it walks over both texts of the pair.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/model/head_config.h"

static __global__ void __launch_bounds__(256)
    preference_weights_kernel(float* weights, float* losses, const float* token_losses, MicroBatch<float> tokens,
                              float beta, int N, int T) {
    const int n = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32), lane = threadIdx.x % 32;
    if (n >= N || !has_label(tokens.labels[n])) return;
    auto first = [&](int last) { return last - last % T + tokens.doc_start[last]; };
    auto gain = [&](int last) {
        float sum = 0;
        for (int t = first(last) + lane; t <= last; t += 32) sum -= tokens.weights[t] * token_losses[t];
        for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
        return sum - tokens.labels[last];
    };
    const int other = tokens.partners[n];
    const float sign = n < other ? 1.0f : -1.0f, margin = sign * beta * (gain(n) - gain(other));
    if (lane == 0) losses[n] = (fmaxf(-margin, 0) + log1pf(expf(-fabsf(margin)))) / 2;
    for (int t = first(n) + lane; t <= n; t += 32) weights[t] = sign * beta / (1 + expf(margin)) * tokens.weights[t];
}
