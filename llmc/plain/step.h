// The small pieces of a step between its layers, for a machine whose memory is the host's.
#pragma once
#include <algorithm>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

// The micro-batch at hand, N rows of this rank's part of the step's tokens from first_token on.
template <typename A>
void load_micro_batch(MicroBatch<A> to, StepTokens step, const StepState* state, int N, int T, Plain) {
    const int64_t from = state->first_token;
    std::copy_n(step.inputs + from, N, to.inputs), std::copy_n(step.targets + from, N, to.targets);
    if (!to.weights) return;
    std::copy_n(step.weights + from, N, to.weights), std::copy_n(step.doc_start + from, N, to.doc_start);
    for (int n = 0; n < N; n++) to.positions[n] = n % T - to.doc_start[n];
    if (to.signals) std::copy_n(step.signals + from, N, to.signals);
    if (!to.labels) return;
    std::copy_n(step.labels + from, N, to.labels);
    for (int n = 0; n < N; n++) {
        const int partner = step.partners[from + n];
        to.partners[n] = partner < 0 ? -1 : n - n % T + partner;
    }
}
// skip: numbers of samples that are other ranks' (micro_step.h).
inline void next_micro_batch(StepState* state, int B, int T, int skip, Plain) {
    state->first_sample += static_cast<uint32_t>(B + skip), state->first_token += B * T;
}

// *to += sum of losses (N), each times its weight; weights (N) or null: 1
template <typename A>
void add_losses(double* to, const A* losses, const A* weights, int N, Plain) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += double(losses[i]) * double(weights ? weights[i] : A(1));
    *to += sum;
}
// From the sum of losses and the squared norm to the step's loss, norm, clip scale and skip flag.
inline void finish_gradients(StepState* state, const double* norm_squared, float grad_clip, Plain) {
    finish_gradients(*state, *norm_squared, grad_clip);
}

// x (n) *= factor
template <typename X>
void scale_by(X* x, float factor, int64_t n, Plain) {
    for (int64_t i = 0; i < n; i++) x[i] = acc_t<X>(x[i]) * factor;
}

// Sampling, B texts with T new tokens each. The keys and values in qkv (B,T,3C) of the new tokens join the cache k, v
// (texts,capacity,C), where texts (B) and positions (B,T) say.
template <typename X>
void append_to_cache(X* k, X* v, const X* qkv, int B, int T, int C, int capacity, const int* texts,
                     const int* positions, Plain) {
    for (int i = 0; i < B * T; i++) {
        const int64_t to = int64_t(C) * (int64_t(texts[i / T]) * capacity + positions[i]);
        std::copy_n(qkv + int64_t(3 * C) * i + C, C, k + to);
        std::copy_n(qkv + int64_t(3 * C) * i + 2 * C, C, v + to);
    }
}
// last[outputs[b]] (C) = the newest token's row of x (B,T,C)
template <typename X>
void take_last_rows(X* last, const X* x, const int* outputs, int B, int T, int C, Plain) {
    for (int b = 0; b < B; b++) std::copy_n(x + (int64_t(b + 1) * T - 1) * C, C, last + int64_t(outputs[b]) * C);
}
