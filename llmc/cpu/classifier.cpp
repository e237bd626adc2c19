// Softmax and cross entropy, fused: loss and the gradient of the logits in one visit.
//
//   loss[i] = -log softmax(logits[i])[targets[i]]                 logits (N,Vp), of which V columns count; losses (N)
//   dlogits[i] = (softmax(logits[i]) - onehot(targets[i])) * weights[i] * normaliser        in place of logits; columns
//   >= V: 0
//
// A target of -1 (ignored) has weight 0 and loss 0. weights (N) may be null: 1. normaliser = 1 / sum of all weights of
// the step, known before. losses are not multiplied by weight or normaliser.
//
// Two visits to a row, which stays in the L2 cache: maximum and sum of exponentials together, a piece of the row at a
// time (the sum is rescaled where a piece raises the maximum), then the gradient.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include <algorithm>

#include "llmc/base/bf16.h"
#include "llmc/cpu/math.h"
#include "llmc/base/parallel.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

// max = max_v x[v], sum = sum_v exp(x[v] - max)
template <typename X>
inline void softmax_statistics(const X* x, int V, acc_t<X>* max, acc_t<X>* sum) {
    using A = acc_t<X>;
    A running = A(-1e30), total = 0;
    for (int v0 = 0; v0 < V; v0 += 1024) {
        int v1 = std::min(V, v0 + 1024);
        A m = running, s = 0;
#pragma omp simd reduction(max : m)
        for (int v = v0; v < v1; v++) m = A(x[v]) > m ? A(x[v]) : m;
#pragma omp simd reduction(+ : s)
        for (int v = v0; v < v1; v++) s += fast_exp(A(x[v]) - m);
        total = total * fast_exp(running - m) + s;
        running = m;
    }
    *max = running, *sum = total;
}

template <typename X>
void fused_classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, const StepState* state,
                      int N, int V, int Vp, bool write_dlogits, CpuStream) {
    using A = acc_t<X>;
    const A normaliser = A(state->loss_normaliser);
    parallel_for(N, [=](int64_t i) {
        X* row = logits + i * Vp;
        int target = targets[i];
        if (target < 0) {
            losses[i] = 0;
            if (write_dlogits) std::fill(row, row + Vp, X(0));
            return;
        }
        A max, sum;
        softmax_statistics(row, V, &max, &sum);
        A at_target = A(row[target]) - max;
        losses[i] = std::log(sum) - at_target;
        if (!write_dlogits) return;
        A weight = (weights ? weights[i] : A(1)) * normaliser, scale = weight / sum;
#pragma omp simd
        for (int v = 0; v < V; v++) store(row[v], fast_exp(A(row[v]) - max) * scale);
        store(row[target], fast_exp(at_target) * scale - weight);
        std::fill(row + V, row + Vp, X(0));
    });
}

LLMC_INSTANTIATE(fused_classifier);
