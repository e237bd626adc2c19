// GELU, tanh approximation (GPT-2's "gelu_new").            (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)
//
//   y = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)
//     = x s, s = 1 / (1 + exp(-2u))                    the same, without the cancellation of 1 + tanh at negative x
//   dy/dx = s + x s (1 - s) 2 du/dx
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/cpu/math.h"

// A is float or double.
template <typename A>
inline A gelu(A x) {
    A u2 = x * (A(1.5957691216057308) + A(1.5957691216057308 * 0.044715) * x * x);  // 2u, with 2 sqrt(2/pi)
    return x / (A(1) + fast_exp(-u2));
}

template <typename A>
inline A gelu_gradient(A x) {
    A u2 = x * (A(1.5957691216057308) + A(1.5957691216057308 * 0.044715) * x * x);
    A s = A(1) / (A(1) + fast_exp(-u2));
    return s + x * s * (A(1) - s) * (A(1.5957691216057308) + A(1.5957691216057308 * 3 * 0.044715) * x * x);
}
