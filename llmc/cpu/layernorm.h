// Layer normalisation, and the same fused with the residual add before it.  (Ba et al. 2016, https://arxiv.org/abs/1607.06450)
//
//   r = a + dropout(b)                 r, a, b, y (N,C), N = B*T rows
//   y = (r - mean) * rstd * w + bias   mean, rstd (N), kept for the backward pass; eps 1e-5
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/dropout.h"

template <typename X>
void layernorm_forward(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int N, int C);

// r may be a. rows_per_sample = T: row n belongs to sample n / T, element (n % T) * C + c of it.
template <typename X>
void residual_layernorm_forward(X* r, X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* a, const X* b, const X* w, const X* bias,
                                int N, int C, int rows_per_sample, Dropout dropout);

// dx += gradient through the norm (dx already holds what came down the residual stream); dw (C) +=, db (C) +=.
// The sums over rows do not depend on the number of threads.
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>* db, const X* dy, const X* x, const X* w, const acc_t<X>* mean,
                        const acc_t<X>* rstd, int N, int C);
