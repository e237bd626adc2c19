// AdamW.                                                     (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
//
//   g = grad * clip_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p - lr * (m / beta1_correction / (sqrt(v / beta2_correction) + eps) + weight_decay * p)
//
// p is the fp32 master where there is one; the storage type is then rounded from it, to nearest or stochastically
// (philox(seed; index, step, Stream::stochastic_rounding)).
#pragma once
#include "llmc/bf16.h"
#include "llmc/philox.h"
#include "llmc/step_state.h"

struct AdamWOptions { float beta1, beta2, epsilon, weight_decay; bool stochastic_rounding; };

// One parameter tensor of n elements; master may be null. first_index: index of element 0 in the arena, for the random numbers.
// Does nothing if state->skip.
template <typename X>
void adamw_update(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, int64_t n, int64_t first_index,
                  const AdamWOptions& options, const StepState* state);
