// The CPU layers in namespace cpu (reference.h).
#include "test/cuda/reference.h"

#include "llmc/cpu/adamw.h"
#include "llmc/cpu/attention.h"
#include "llmc/cpu/classifier.h"
#include "llmc/cpu/encoder.h"
#include "llmc/cpu/gelu.h"
#include "llmc/cpu/global_norm.h"
#include "llmc/cpu/layernorm.h"
#include "llmc/cpu/matmul.h"

namespace cpu {

template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, int B, int T, int C,
                     Dropout dropout) {
    ::encoder_forward(out, tokens, positions, wte, wpe, B, T, C, dropout);
}
template <typename X>
void encoder_backward(grad_t<X>* dwte, grad_t<X>* dwpe, const X* dout, const int* tokens, const int* positions, int B,
                      int T, int C, Dropout dropout) {
    ::encoder_backward(dwte, dwpe, dout, tokens, positions, B, T, C, dropout);
}
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d) {
    ::dropout_apply(y, x, B, per_sample, d);
}
template <typename X>
void layernorm_forward(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int N, int C) {
    ::layernorm_forward(y, mean, rstd, x, w, bias, N, C);
}
template <typename X>
void residual_layernorm_forward(X* r, X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* a, const X* b, const X* w,
                                const X* bias, int N, int C, int rows_per_sample, Dropout dropout) {
    ::residual_layernorm_forward(r, y, mean, rstd, a, b, w, bias, N, C, rows_per_sample, dropout);
}
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>* db, const X* dy, const X* x, const X* w, const acc_t<X>* mean,
                        const acc_t<X>* rstd, int N, int C) {
    ::layernorm_backward(dx, dw, db, dy, x, w, mean, rstd, N, C);
}
template <typename X>
void gelu_forward(X* y, const X* x, int64_t n) {
    ::gelu_forward(y, x, n);
}
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n) {
    ::gelu_backward(dx, x, dy, n);
}
// oneDNN may round at other places, or use another path on another machine
template <typename Call>
void with_portable_tiles(Call call) {
    bool before = matmul_use_onednn();
    matmul_use_onednn() = false;
    call();
    matmul_use_onednn() = before;
}
template <typename X, typename O>
void matmul(const Matmul<X, O>& args) {
    with_portable_tiles([&] { ::matmul(args); });
}
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu) {
    with_portable_tiles([&] { ::matmul_forward(y, pre_gelu, x, w, bias, N, C, OC, gelu); });
}
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu,
                     int N, int C, int OC, bool dw_accumulate) {
    with_portable_tiles([&] { ::matmul_backward(dx, dw, dbias, dy, x, w, pre_gelu, N, C, OC, dw_accumulate); });
}
template <typename X>
void bias_backward(grad_t<X>* dbias, const X* dy, int N, int OC) {
    ::bias_backward(dbias, dy, N, OC);
}
template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& shape,
                       const int* doc_start, Dropout dropout) {
    ::attention_forward(out, lse, q, k, v, shape, doc_start, dropout);
}
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& shape, const int* doc_start, Dropout dropout) {
    ::attention_backward(dq, dk, dv, dout, q, k, v, out, lse, shape, doc_start, dropout);
}
template <typename X>
void fused_classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, acc_t<X> normaliser,
                      int N, int V, int Vp, bool write_dlogits) {
    ::fused_classifier(logits, losses, targets, weights, normaliser, N, V, Vp, write_dlogits);
}
template <typename G>
double global_norm_squared(const G* grad, int64_t n) {
    return ::global_norm_squared(grad, n);
}
template <typename X>
void adamw_update(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, int64_t n,
                  int64_t first_index, const AdamWOptions& options, const StepState* state) {
    ::adamw_update(p, master, m, v, grad, n, first_index, options, state);
}

#define INSTANTIATE(X)                                                                                                 \
    template void encoder_forward(X*, const int*, const int*, const X*, const X*, int, int, int, Dropout);             \
    template void encoder_backward<X>(float*, float*, const X*, const int*, const int*, int, int, int, Dropout);       \
    template void dropout_apply(X*, const X*, int, int64_t, Dropout);                                                  \
    template void layernorm_forward<X>(X*, float*, float*, const X*, const X*, const X*, int, int);                    \
    template void residual_layernorm_forward<X>(X*, X*, float*, float*, const X*, const X*, const X*, const X*, int,   \
                                                int, int, Dropout);                                                    \
    template void layernorm_backward<X>(X*, float*, float*, const X*, const X*, const X*, const float*, const float*,  \
                                        int, int);                                                                     \
    template void gelu_forward(X*, const X*, int64_t);                                                                 \
    template void gelu_backward(X*, const X*, const X*, int64_t);                                                      \
    template void matmul(const Matmul<X, X>&);                                                                         \
    template void matmul_forward(X*, X*, const X*, const X*, const X*, int, int, int, bool);                           \
    template void matmul_backward<X>(X*, float*, float*, const X*, const X*, const X*, const X*, int, int, int, bool); \
    template void bias_backward<X>(float*, const X*, int, int);                                                        \
    template void attention_forward<X>(X*, float*, const X*, const X*, const X*, const AttentionShape&, const int*,    \
                                       Dropout);                                                                       \
    template void attention_backward<X>(X*, X*, X*, const X*, const X*, const X*, const X*, const X*, const float*,    \
                                        const AttentionShape&, const int*, Dropout);                                   \
    template void fused_classifier<X>(X*, float*, const int*, const float*, float, int, int, int, bool);               \
    template double global_norm_squared(const X*, int64_t);                                                            \
    template void adamw_update<X>(X*, float*, float*, float*, const float*, int64_t, int64_t, const AdamWOptions&,     \
                                  const StepState*);
INSTANTIATE(float)
INSTANTIATE(bf16)
template void matmul(const Matmul<bf16, float>&);

}  // namespace cpu
