// Distillation: a student learns the whole distribution of a teacher, not one right word    (Hinton et al. 2015, section 2)
//
//   q = softmax(teacher / t), s = softmax(logits / t), p = softmax(logits)       logits, teacher (N,Vp), losses (N)
//   loss = (1 - mix) t^2 KL(q || s) + mix (-log p[target]),    KL(q || s) = sum_v q_v (log q_v - log s_v)
//   dlogits = ((1 - mix) t (s - q) + mix (p - onehot(target))) * weight * normaliser              in place of the logits
//
// A temperature t above 1 brings out what the teacher holds possible beside the likeliest word; t^2 keeps the gradient of
// that part as large as it is, whatever t. Targets, weights and padding as in fused_classifier (layers.h): a target of -1 is
// not counted, and columns from V on do not count and get no gradient.
#pragma once
#include <algorithm>
#include <cmath>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

// log softmax(row / t)[v] = (row[v] - top) / t - log_sum
template <typename X>
struct LogSoftmax {
    using A = acc_t<X>;
    const X* row;
    A t, top = A(-1e30), log_sum = 0;
    LogSoftmax(const X* row_, int V, A t_) : row(row_), t(t_) {
        for (int v = 0; v < V; v++) top = std::max(top, A(row[v]));
        A sum = 0;
        for (int v = 0; v < V; v++) sum += std::exp((A(row[v]) - top) / t);
        log_sum = std::log(sum);
    }
    A operator()(int v) const { return (A(row[v]) - top) / t - log_sum; }
};

template <typename X>
void distill_loss(X* logits, acc_t<X>* losses, const X* teacher, const int* targets, const acc_t<X>* weights,
                  const StepState* state, float temperature, float mix, int N, int V, int Vp, bool write_dlogits,
                  Plain) {
    using A = acc_t<X>;
    const A t = A(temperature), hard = A(mix), soft = 1 - hard;
    for (int n = 0; n < N; n++, logits += Vp, teacher += Vp) {
        const bool counts = targets[n] >= 0;
        const LogSoftmax<X> log_q(teacher, V, t), log_s(logits, V, t), log_p(logits, V, A(1));
        A kl = 0;
        for (int v = 0; v < V; v++) kl += std::exp(log_q(v)) * (log_q(v) - log_s(v));
        losses[n] = counts ? soft * t * t * kl - hard * log_p(targets[n]) : 0;
        if (!write_dlogits) continue;
        const A weight = (weights ? weights[n] : A(1)) * A(state->loss_normaliser);
        for (int v = 0; v < Vp; v++)
            logits[v] = counts && v < V ? weight * (soft * t * (std::exp(log_s(v)) - std::exp(log_q(v))) +
                                                    hard * (std::exp(log_p(v)) - A(v == targets[n])))
                                        : A(0);
    }
}
