// Attention with a choice of what its tile products multiply, E: pairs of bf16, or X converted. attention_forward and
// attention_backward (layers.h) take what suits the CPU, operand_t<X>; tests try both.
#pragma once
#include "llmc/cpu/attention_block.h"
#include "llmc/cpu/layers.h"

namespace attention_detail {

template <typename X, typename E>
void forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& shape,
             const int* doc_start, Dropout dropout);
template <typename X, typename E>
void backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out, const acc_t<X>* lse,
              const AttentionShape& shape, const int* doc_start, Dropout dropout);

}  // namespace attention_detail
