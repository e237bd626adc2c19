// The loss of a head's scores, and their gradient.                                   (llmc/plain/layers.h has the formula)
//
//   scores, dscores (N,Kp) of which K count; labels (N), kNoLabel: loss and gradient 0; partners (N): -1, or the row
//   whose scores are added or, where one of two texts was preferred, subtracted
//
// Limit: none worth a thought. Nearly all rows have no label; a warp looks at one, writes zeros and is gone.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"

template <typename X>
__global__ void __launch_bounds__(256)
    score_loss_kernel(X* dscores, float* losses, const X* scores, const float* labels, const int* partners,
                      const StepState* state, int N, int K, int Kp, bool preferred) {
    int n = static_cast<int>(blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32),
        lane = static_cast<int>(threadIdx.x % 32);
    if (n >= N) return;
    X* d = dscores + int64_t(n) * Kp;
    float label = labels[n];
    if (!has_label(label)) {
        for (int k = lane; k < Kp; k += 32) d[k] = X(0.0f);
        if (lane == 0) losses[n] = 0;
        return;
    }
    int partner = partners[n];
    float share = partner < 0 ? 1.0f : 0.5f, normaliser = state->loss_normaliser;
    auto score = [&](int k) {
        float s = static_cast<float>(scores[int64_t(n) * Kp + k]);
        if (partner < 0) return s;
        float other = static_cast<float>(scores[int64_t(partner) * Kp + k]);
        return preferred ? s - other : s + other;
    };
    if (preferred) {
        float margin = label * score(0);
        if (lane == 0) losses[n] = share * (fmaxf(-margin, 0) + log1pf(expf(-fabsf(margin))));
        for (int k = lane; k < Kp; k += 32) d[k] = X(k == 0 ? -label / (1 + expf(margin)) * normaliser : 0.0f);
        return;
    }
    if (K == 1) {
        float difference = score(0) - label;
        if (lane == 0) losses[n] = share * difference * difference;
        for (int k = lane; k < Kp; k += 32) d[k] = X(k == 0 ? 2 * difference * normaliser : 0.0f);
        return;
    }
    float top = -1e30f, sum = 0;
    for (int k = lane; k < K; k += 32) top = fmaxf(top, score(k));
    top = warp_max(top);
    for (int k = lane; k < K; k += 32) sum += expf(score(k) - top);
    sum = warp_sum(sum);
    int right = static_cast<int>(label);
    if (lane == 0) losses[n] = share * (logf(sum) - (score(right) - top));
    for (int k = lane; k < Kp; k += 32)
        d[k] = X(k < K ? (expf(score(k) - top) / sum - (k == right ? 1.0f : 0.0f)) * normaliser : 0.0f);
}

template <typename X>
void score_loss(X* dscores, float* losses, const X* scores, const float* labels, const int* partners,
                const StepState* state, int N, int K, int Kp, bool preferred, cudaStream_t stream) {
    launch(score_loss_kernel<X>, ceil_div(N, 8), 256, 0, stream, dscores, losses, scores, labels, partners, state, N, K,
           Kp, preferred);
}
