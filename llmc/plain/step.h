// The small pieces of a step between its layers, for a machine whose memory is the host's.
#pragma once
#include <algorithm>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

// The micro-batch at hand, N rows of this rank's part of the step's tokens from first_sample on.
template <typename A>
void load_micro_batch(MicroBatch<A> to, StepTokens step, const StepState* state, int N, int T, Plain) {
    int64_t from = int64_t(state->first_sample - state->rank_first_sample) * T;
    std::copy_n(step.inputs + from, N, to.inputs), std::copy_n(step.targets + from, N, to.targets);
    if (!to.weights) return;
    std::copy_n(step.weights + from, N, to.weights), std::copy_n(step.doc_start + from, N, to.doc_start);
    for (int n = 0; n < N; n++) to.positions[n] = n % T - to.doc_start[n];
}
inline void next_micro_batch(StepState* state, int B, Plain) { state->first_sample += static_cast<uint32_t>(B); }

// state->loss_sum += sum of losses (N), each times its weight; weights (N) or null: 1
template <typename A>
void add_losses(StepState* state, const A* losses, const A* weights, int N, Plain) {
    double sum = 0;
    for (int i = 0; i < N; i++)
        sum += static_cast<double>(losses[i]) * static_cast<double>(weights ? weights[i] : A(1));
    state->loss_sum += sum;
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

// Sampling: n more tokens; positions (n) are those after the ones seen so far.
inline void next_positions(int* positions, int* length, int n, Plain) {
    for (int i = 0; i < n; i++) positions[i] = *length + i;
    *length += n;
}
// The keys and values in qkv (T,3C) of T new tokens join the cache k, v (maxT,C), of which *length tokens are in use.
template <typename X>
void append_to_cache(X* k, X* v, const X* qkv, int T, int C, const int* length, Plain) {
    for (int t = 0; t < T; t++) {
        std::copy_n(qkv + int64_t(3 * C) * t + C, C, k + int64_t(C) * (*length - T + t));
        std::copy_n(qkv + int64_t(3 * C) * t + 2 * C, C, v + int64_t(C) * (*length - T + t));
    }
}
