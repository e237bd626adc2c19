// The CPU layers, for tests of the CUDA layers: the functions of llmc/cpu/ in namespace cpu, for X = float and bf16.
//
// nvcc cannot parse all of llmc/cpu/, so they are only declared here; reference.cpp, which the host compiler compiles,
// has them. Arguments are host memory.
#pragma once
#include <cstdint>

#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

namespace cpu {

template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, int B, int T, int C,
                     Dropout dropout);
template <typename X>
void encoder_backward(grad_t<X>* dwte, grad_t<X>* dwpe, const X* dout, const int* tokens, const int* positions, int B,
                      int T, int C, Dropout dropout);

template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d);

template <typename X>
void layernorm_forward(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int N, int C);
template <typename X>
void residual_layernorm_forward(X* r, X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* a, const X* b, const X* w,
                                const X* bias, int N, int C, int rows_per_sample, Dropout dropout);
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>* db, const X* dy, const X* x, const X* w, const acc_t<X>* mean,
                        const acc_t<X>* rstd, int N, int C);

template <typename X>
void gelu_forward(X* y, const X* x, int64_t n);
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n);

// <float, float>, <bf16, bf16>, <bf16, float>; the portable tiles, which compute in fp32
template <typename X, typename O>
void matmul(const Matmul<X, O>& args);
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu = false);
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu,
                     int N, int C, int OC, bool dw_accumulate = true);
template <typename X>
void bias_backward(grad_t<X>* dbias, const X* dy, int N, int OC);

template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& shape,
                       const int* doc_start, Dropout dropout);
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& shape, const int* doc_start, Dropout dropout);

template <typename X>
void fused_classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, acc_t<X> normaliser,
                      int N, int V, int Vp, bool write_dlogits);

template <typename G>
double global_norm_squared(const G* grad, int64_t n);

template <typename X>
void adamw_update(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, int64_t n,
                  int64_t first_index, const AdamWOptions& options, const StepState* state);

}  // namespace cpu
