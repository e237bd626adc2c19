// The layers of the model on a CPU: what gpt2.h calls. Each stands in a .cpp file of its own in this directory, with its
// maths on top, for X = float, bf16 and double; so a change of one layer compiles that file alone.
//
// Same names and arguments as llmc/plain/layers.h, which has the mathematics as loops, and as the CUDA kernels' launchers.
// The last argument says where a layer runs. What is not declared here runs as in plain/ (CpuStream is a Plain).
//
// Shapes: B sequences of T tokens, N = B*T rows of C channels, V words padded to Vp. A backward pass adds to gradients of
// weights (+=) and overwrites gradients of activations, unless a comment says otherwise.
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/step_state.h"

// encoder.cpp: out (B,T,C) = dropout(wte[tokens] + wpe[positions]); wte (V,C), wpe (maxT,C); positions null: 0 .. T-1;
// tokens below 0: prompts, -1 the first of (P,C), which may be null where there are none
template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, const X* prompts,
                     int B, int T, int C, Dropout dropout, CpuStream = {});
template <typename X>
void encoder_backward(grad_t<X>* dwte, grad_t<X>* dwpe, const X* dout, const int* tokens, const int* positions, int B,
                      int T, int C, int V, Dropout dropout, CpuStream = {});

// dropout.cpp: y = dropout(x) or, in the backward pass, dx = dropout(dy); x, y (B, per_sample), y may be x
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d, CpuStream = {});

// layernorm.cpp: x, y, r (N,C); w, bias (C); mean, rstd (N). r = a + dropout(b), r may be a; rows_per_sample = T.
// Backward: dx += (it holds what came down the residual stream); dw and dbias may be null.
template <typename X>
void layernorm_forward(X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* x, const X* w, const X* bias, int N, int C,
                       float epsilon, CpuStream = {});
template <typename X>
void residual_layernorm_forward(X* r, X* y, acc_t<X>* mean, acc_t<X>* rstd, const X* a, const X* b, const X* w,
                                const X* bias, int N, int C, int rows_per_sample, Dropout dropout, float epsilon,
                                CpuStream = {});
template <typename X>
void layernorm_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w,
                        const acc_t<X>* mean, const acc_t<X>* rstd, int N, int C, Sums<X> = nullptr, CpuStream = {});

// gelu.cpp: the tanh approximation, and GELU itself; x, y (n); dx may be dy
template <typename X>
void gelu_forward(X* y, const X* x, int64_t n, CpuStream = {});
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n, CpuStream = {});
template <typename X>
void gelu_erf_forward(X* y, const X* x, int64_t n, CpuStream = {});
template <typename X>
void gelu_erf_backward(X* dx, const X* x, const X* dy, int64_t n, CpuStream = {});

// matmul.cpp: y (N,OC) = x (N,C) w (OC,C)^T + bias (OC), then GELU where pre_gelu, which keeps what went into it, is
// given or gelu is true. Backward: dx, dw, dbias may each be null; pre_gelu: dx goes through the GELU whose output x was;
// dw = instead of += where dw_accumulate is false.
template <typename X, typename O>
void matmul(const Matmul<X, O>& args, CpuStream = {});
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu = false,
                    CpuStream = {});
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu,
                     int N, int C, int OC, bool dw_accumulate = true, Sums<X> = nullptr, CpuStream = {});
template <typename X>
void bias_backward(grad_t<X>* dbias, const X* dy, int N, int OC, CpuStream = {});

// attention.cpp: out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference). doc_start (B,Tk) or null: first position that
// position i may see, at most i. dq, dk, dv have the strides of q, k, v; dout those of out.
template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& shape,
                       const int* doc_start, Dropout dropout, CpuStream = {});
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& shape, const int* doc_start, Dropout dropout,
                        Sums<X> = nullptr, CpuStream = {});
// Sampling: Tq new queries of each of B texts to the keys of their text up to their own. Tk is the room that a
// text has in the cache, texts (B) its place there, positions (B,Tq) those of the queries.
template <typename X>
void attention_decode(X* out, const X* q, const X* k, const X* v, const AttentionShape& shape, const int* texts,
                      const int* positions, CpuStream = {});

// classifier.cpp: losses (N) from logits (N,Vp), whose place their gradient takes where write_dlogits; weights (N) or
// null; targets -1: not counted
template <typename X>
void fused_classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, const StepState* state,
                      int N, int V, int Vp, bool write_dlogits, CpuStream = {});

// distill_loss.cpp: the same beside a teacher's logits (N,Vp) (plain/distill_loss.h)
template <typename X>
void distill_loss(X* logits, acc_t<X>* losses, const X* teacher, const int* targets, const acc_t<X>* weights,
                  const StepState* state, float temperature, float mix, int N, int V, int Vp, bool write_dlogits,
                  CpuStream = {});

// optimizer.cpp: sum = sum of grad[i]^2, i < n. Then each tensor's rule for elements [begin, end) of the arena (optimizer.h); nothing
// where state->skip
template <typename G>
void global_norm_squared(double* sum, const G* grad, int64_t n, bool add, CpuStream = {});
template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      OptimizerOptions options, const StepState* state, CpuStream = {});
