// GELU, tanh approximation (GPT-2's "gelu_new").                      (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)
//
//   y = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/math.h"

template <typename X> void gelu_forward(X* y, const X* x, int64_t n);
// dx = dy * gelu'(x); dx may be dy.
template <typename X> void gelu_backward(X* dx, const X* x, const X* dy, int64_t n);
