// Objectives as weights of tokens; llmc/plain/objectives.h has the formulas.
//
// Limit: none worth a thought. A warp looks at a row; where that is a text's last token, it walks over both texts of the pair.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"
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

static __global__ void policy_weights_kernel(PolicyNumbers<float> to, const float* token_losses,
                                             MicroBatch<float> tokens, RewardOptions o, int N) {
    const int n = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (n >= N || tokens.weights[n] == 0) return;
    const TokenSignals s = tokens.signals[n];
    const float weight = tokens.weights[n], log_p = -token_losses[n], log_r = log_p - s.log_p, r = expf(log_r);
    const float gain = s.advantage, inside = fminf(fmaxf(r, 1 - o.clip), 1 + o.clip);
    const bool clipped = inside * gain < r * gain;
    float loss = -fminf(r * gain, inside * gain), d = clipped ? 0 : r * gain;
    if (o.kl > 0) {
        const float log_q = s.log_q - log_p;
        loss += o.kl * (expf(log_q) - log_q - 1), d -= o.kl * (1 - expf(log_q));
    }
    to.weights[n] = d * weight, to.losses[n] = loss * weight;
    to.clipped[n] = clipped, to.changes[n] = r - 1 - log_r;
}

// A thread for each token.
template <typename X>
__global__ void value_loss_kernel(X* dscores, float* losses, const X* scores, MicroBatch<float> tokens, RewardOptions o,
                                  const StepState* state, int N, int Kp) {
    const int n = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (n >= N) return;
    for (int k = 0; k < Kp; k++) dscores[int64_t(n) * Kp + k] = X(0.0f);
    const float weight = tokens.weights[n] * o.value_weight;
    losses[n] = 0;
    if (weight == 0) return;
    const TokenSignals s = tokens.signals[n];
    const float v = static_cast<float>(scores[int64_t(n) * Kp]), moved = v - s.value, error = v - s.target;
    const float held = s.value + fminf(fmaxf(moved, -o.value_clip), o.value_clip) - s.target;
    const bool clipped = held * held > error * error;
    losses[n] = weight / 2 * (clipped ? held * held : error * error);
    dscores[int64_t(n) * Kp] = X(clipped ? 0.0f : weight * state->loss_normaliser * error);
}
