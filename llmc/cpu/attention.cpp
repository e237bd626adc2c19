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
                        const acc_t<X>* lse, const AttentionShape& s, const int* doc_start, Dropout dropout, Sums<X>,
                        CpuStream) {
    attention_detail::backward<X, attention_detail::operand_t<X>>(dq, dk, dv, dout, q, k, v, out, lse, s, doc_start,
                                                                  dropout);
}
template <typename X>
void attention_decode(X* out, const X* q, const X* k, const X* v, const AttentionShape& s, const int* texts,
                      const int* positions, CpuStream stream) {
    std::vector<attention_detail::DecodeText<X>> all;
    for (int b = 0; b < s.B; b++) {
        const int64_t kv = texts[b] * s.kv_batch;
        all.push_back(
            {out + b * s.out_batch, nullptr, q + b * s.q_batch, k + kv, v + kv, nullptr, positions[b * s.Tq] + s.Tq});
    }
    if (s.Tq <= attention_detail::kDecodeQueries) return attention_detail::decode(all, s);
    AttentionShape one = s;
    one.B = 1;
    for (const auto& text : all) {
        one.Tk = text.Tk;
        attention_forward<X>(text.out, nullptr, text.q, text.k, text.v, one, nullptr, Dropout{}, stream);
    }
}

LLMC_INSTANTIATE(attention_forward);
LLMC_INSTANTIATE(attention_backward);
LLMC_INSTANTIATE(attention_decode);
