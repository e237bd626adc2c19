// Token and position embedding.
//
//   out[b,t,:] = dropout(wte[tokens[b,t],:] + wpe[positions[b,t],:])        out (B,T,C), wte (V,C), wpe (maxT,C)
//
// positions (B,T) may be null: then 0..T-1. Backward scatters without races: each thread owns columns or rows of the result, and adds
// in a fixed order.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/dropout.h"

template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, int B, int T, int C,
                     Dropout dropout);

// dwte (V,C) += , dwpe (maxT,C) +=
template <typename X>
void encoder_backward(grad_t<X>* dwte, grad_t<X>* dwpe, const X* dout, const int* tokens, const int* positions, int B, int T, int C,
                      Dropout dropout);
