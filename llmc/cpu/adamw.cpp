// AdamW.                                                   (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
//
//   g = grad * clip_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p - lr * (m / beta1_correction / (sqrt(v / beta2_correction) + eps) + weight_decay * p)
//
// p is the fp32 master where there is one; the storage type is then rounded from it, to nearest or (bf16 only)
// stochastically: up with the probability that keeps the mean, by the low 16 bits of philox(seed; i/4 low, i/4 high,
// step, stream << 24)[i % 4] for element i of the arena.
//
// Limit: memory, 28 bytes for each fp32 parameter.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include <algorithm>

#include "llmc/base/bf16.h"
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/math.h"
#include "llmc/base/parallel.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

// One parameter tensor of n elements; master may be null. first_index: index of element 0 in the arena, for the random
// numbers. Does nothing if state->skip.
template <typename X>
static void update_tensor(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, int64_t n,
                          int64_t first_index, float weight_decay, const AdamWOptions& options,
                          const StepState* state) {
    using A = acc_t<X>;
    if (state->skip) return;
    A beta1 = A(options.beta1), beta2 = A(options.beta2), epsilon = A(options.epsilon), decay = A(weight_decay);
    A lr = A(state->learning_rate), clip = A(state->clip_scale), step_size = lr / A(state->beta1_correction);
    A v_scale = A(1) / A(state->beta2_correction);
    auto update = [=](int64_t i, A parameter) {
        A g = grad[i] * clip;
        A m1 = m[i] = beta1 * m[i] + (A(1) - beta1) * g;
        A v1 = v[i] = beta2 * v[i] + (A(1) - beta2) * g * g;
        return parameter - (step_size * m1 / (std::sqrt(v1 * v_scale) + epsilon) + lr * decay * parameter);
    };
    constexpr int64_t block = 4096;
    parallel_blocks(n, block, [=](int64_t begin, int64_t end) {
        A unrounded[block];  // where there is no master
        A* to = master ? master + begin : unrounded;
        int64_t count = end - begin;
        if (!master)
            for (int64_t i = 0; i < count; i++) to[i] = A(p[begin + i]);
#pragma omp simd
        for (int64_t i = 0; i < count; i++) to[i] = update(begin + i, to[i]);
        if constexpr (std::is_same_v<X, bf16>) {
            if (options.stochastic_rounding) {
                constexpr int lanes = 16;
                int64_t e0 = first_index + begin;
                for (int64_t e = e0 / (4 * lanes) * (4 * lanes); e < e0 + count; e += 4 * lanes) {
                    uint32_t words[4 * lanes];
                    uint64_t group = static_cast<uint64_t>(e) / 4;
                    philox_block<lanes>(words, state->seed, static_cast<uint32_t>(group),
                                        static_cast<uint32_t>(group >> 32), state->step,
                                        static_cast<uint32_t>(Use::stochastic_rounding) << 24);
                    int64_t first = std::max<int64_t>(e0 - e, 0), last = std::min<int64_t>(e0 + count - e, 4 * lanes);
                    for (int64_t i = first; i < last; i++)
                        p[begin + (e - e0) + i].bits = round_stochastically(to[e - e0 + i], words[i]);
                }
                return;
            }
        }
#pragma omp simd
        for (int64_t i = 0; i < count; i++) store(p[begin + i], to[i]);
    });
}

template <typename X>
void adamw_update(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, const AdamWSegment* segments,
                  int count, int64_t begin, int64_t end, AdamWOptions options, const StepState* state, CpuStream) {
    for (const AdamWSegment* s = segments; s < segments + count; s++) {
        int64_t first = std::max(begin, s->begin), n = std::min(end, s->begin + s->n) - first, at = first - begin;
        if (n > 0)
            update_tensor<X>(p + at, master ? master + at : nullptr, m + at, v + at, grad + at, n, first,
                             s->weight_decay, options, state);
    }
}

// Sum of squares of a gradient arena, in double and in a fixed order: the same bits for any number of threads.
template <typename G>
void global_norm_squared(double* sum, const G* grad, int64_t n, bool add, CpuStream) {
    *sum = (add ? *sum : 0) + parallel_sum(n, 1 << 16, [=](int64_t begin, int64_t end) {
               return vector_sum<double>(end - begin, [=](int64_t i) {
                   double g = acc_t<G>(grad[begin + i]);
                   return g * g;
               });
           });
}

LLMC_INSTANTIATE(adamw_update);
template decltype(global_norm_squared<float>) global_norm_squared<float>;
template decltype(global_norm_squared<double>) global_norm_squared<double>;
