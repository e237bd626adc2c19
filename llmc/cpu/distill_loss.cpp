// Distillation (plain/distill_loss.h has the formula): loss and the gradient of the student's logits.
//
// Three visits to the two rows, which stay in the L2 cache: the largest of each; the sums of exponentials and
// sum_v e^((teacher_v - top) / t) (teacher_v - logits_v), of which the divergence is made; the gradient. Where both rows are
// the same, so is every term: loss and gradient are exactly 0.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include <algorithm>

#include "llmc/base/parallel.h"
#include "llmc/cpu/math.h"

template <typename X>
static acc_t<X> largest(const X* x, int V) {
    using A = acc_t<X>;
    A m = A(-1e30);
#pragma omp simd reduction(max : m)
    for (int v = 0; v < V; v++) m = A(x[v]) > m ? A(x[v]) : m;
    return m;
}

template <typename X>
void distill_loss(X* logits, acc_t<X>* losses, const X* teacher, const int* targets, const acc_t<X>* weights,
                  const StepState* state, float temperature, float mix, int N, int V, int Vp, bool write_dlogits,
                  CpuStream) {
    using A = acc_t<X>;
    const A normaliser = A(state->loss_normaliser), t = A(temperature), hard = A(mix), soft = 1 - hard;
    parallel_for(N, [=](int64_t i) {
        X* x = logits + i * Vp;
        const X* y = teacher + i * Vp;
        const int target = targets[i];
        if (target < 0) {
            losses[i] = 0;
            if (write_dlogits) std::fill(x, x + Vp, X(0));
            return;
        }
        const A top = largest(x, V), top_q = largest(y, V), cold = 1 / t;
        A sum_p = 0, sum_s = 0, sum_q = 0, gap = 0;
        for (int v0 = 0; v0 < V; v0 += 1024) {  // in pieces: one sum over the whole row would round more
            const int v1 = std::min(V, v0 + 1024);
            A p = 0, s = 0, q = 0, g = 0;
#pragma omp simd reduction(+ : p, s, q, g)
            for (int v = v0; v < v1; v++) {
                const A a = A(x[v]) - top, b = A(y[v]) - top_q, e = fast_exp(b * cold);
                p += fast_exp(a), s += fast_exp(a * cold), q += e, g += e * (b - a);
            }
            sum_p += p, sum_s += s, sum_q += q, gap += g;
        }
        const A kl = gap / sum_q * cold + std::log(sum_s / sum_q), at_target = A(x[target]) - top;
        losses[i] = soft * t * t * kl + hard * (std::log(sum_p) - at_target);
        if (!write_dlogits) return;
        const A weight = (weights ? weights[i] : A(1)) * normaliser, of_p = weight * hard, of_s = weight * soft * t;
        const auto gradient = [=](A a,
                                  A b) {  // quotients, whose difference is 0 where they are equal: no fused rounding
            return of_s * (fast_exp((a - top) * cold) / sum_s - fast_exp((b - top_q) * cold) / sum_q) +
                   of_p * (fast_exp(a - top) / sum_p);
        };
        const A of_target = gradient(A(x[target]), A(y[target])) - of_p;
#pragma omp simd
        for (int v = 0; v < V; v++) store(x[v], gradient(A(x[v]), A(y[v])));
        store(x[target], of_target);
        std::fill(x + V, x + Vp, X(0));
    });
}

LLMC_INSTANTIATE(distill_loss);
