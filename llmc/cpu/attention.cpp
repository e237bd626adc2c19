// The layer of layers.h (attention.h has the maths and the algorithm).
#include "llmc/cpu/attention.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/cpu/layers.h"

namespace attention_detail {
LLMC_ATTENTION(, float);
LLMC_ATTENTION(, double);
LLMC_ATTENTION(, bf16);
template decltype(forward<bf16, amx_pair>) forward<bf16, amx_pair>;
template decltype(backward<bf16, amx_pair>) backward<bf16, amx_pair>;
}  // namespace attention_detail

template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s,
                       const int* doc_start, Dropout dropout, CpuStream) {
    if constexpr (std::is_same_v<X, bf16>)
        if (amx_available()) return attention_detail::forward<X, amx_pair>(out, lse, q, k, v, s, doc_start, dropout);
    attention_detail::forward<X, attention_detail::operand_t<X>>(out, lse, q, k, v, s, doc_start, dropout);
}
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& s, const int* doc_start, Dropout dropout,
                        CpuStream) {
    if constexpr (std::is_same_v<X, bf16>)
        if (amx_available())
            return attention_detail::backward<X, amx_pair>(dq, dk, dv, dout, q, k, v, out, lse, s, doc_start, dropout);
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
