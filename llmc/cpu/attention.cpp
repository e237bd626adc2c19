// The layer of layers.h (attention.h has the maths and the algorithm).
#include "llmc/cpu/attention.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/cpu/layers.h"

namespace attention_detail {
LLMC_ATTENTION(, float);
LLMC_ATTENTION(, double);
LLMC_ATTENTION(, bf16);
}  // namespace attention_detail

template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s,
                       const int* doc_start, Dropout dropout, CpuStream) {
    attention_detail::forward<X, attention_detail::operand_t<X>>(out, lse, q, k, v, s, doc_start, dropout);
}
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& s, const int* doc_start, Dropout dropout,
                        CpuStream) {
    attention_detail::backward<X, attention_detail::operand_t<X>>(dq, dk, dv, dout, q, k, v, out, lse, s, doc_start,
                                                                  dropout);
}
template <typename X>
void attention_decode(X* out, const X* q, const X* k, const X* v, const AttentionShape& shape, const int* length,
                      CpuStream stream) {
    AttentionShape s = shape;
    s.Tk = *length;
    attention_forward<X>(out, nullptr, q, k, v, s, nullptr, Dropout{}, stream);
}

LLMC_INSTANTIATE(attention_forward);
LLMC_INSTANTIATE(attention_backward);
LLMC_INSTANTIATE(attention_decode);
