// The layers of the model on a GPU: what gpt2.h calls. Each is a page of its own in this directory, encoder.cuh to
// optimizer.cuh, with its maths, its limit, its kernels and their launcher. A small file beside it, .cu (.cpp where there
// are no kernels), compiles it for X = float and bf16; so a change of one layer compiles that file alone, and who
// includes this page needs no nvcc.
//
// Same names and arguments as llmc/cpu/layers.h and llmc/plain/layers.h. The last argument is the CUDA stream that the
// kernels are put into; all pointers are to device memory. Layers marked W use the workspace (common.cuh), as much as
// workspaces.h says.
//
// Shapes: B sequences of T tokens, N = B*T rows of C channels, V words padded to Vp. A backward pass adds to gradients
// of weights (+=) and overwrites gradients of activations, unless a comment says otherwise. Where sums is not null, they
// may leave there the column sums of the gradient that they write, and a linear layer takes those of its dy from there.
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/cuda/common.cuh"
#include "llmc/cuda/workspaces.h"
#include "llmc/model/arguments.h"
#include "llmc/model/objectives.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/step_state.h"

// encoder.cuh: out (B,T,C) = dropout(wte[tokens] + wpe[positions]); wte (V,C), wpe (maxT,C); positions null: 0 .. T-1;
// tokens below 0: prompts, -1 the first of (P,C), which may be null where there are none
template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, const X* prompts,
                     int B, int T, int C, Dropout dropout, cudaStream_t stream);
template <typename X>  // W
void encoder_backward(float* dwte, float* dwpe, const X* dout, const int* tokens, const int* positions, int B, int T,
                      int C, int V, Dropout dropout, cudaStream_t stream);
// sort.cuh: sorted_tokens, sorted_rows (N) = the pairs (tokens, rows) in the order of the tokens, from 0 to V - 1; those
// with equal tokens stay in the order they have. scratch: so many bytes
void sort_rows_by_token(int* sorted_tokens, int* sorted_rows, const int* tokens, const int* rows, int N, int V,
                        void* scratch, cudaStream_t stream);
size_t sort_scratch_bytes(int N);

// prompts.cuh: dprompts (P,C) += the rows of dout whose token is a prompt, -1 for the first; tokens null: row n is prompt n.
// An LSTM in both directions, from gates (2,P,4H), whose place i, f, g, o take; h (2,P+1,H), cells (2,P,H), out (P,2H), wh
// (2,4H,H); backward to dgates. ReLU: y may be x, dx may be dy
template <typename X, typename O>
void prompt_backward(O* dprompts, const X* dout, const int* tokens, int P, int B, int T, int C, Dropout dropout,
                     cudaStream_t stream);
template <typename X>
void lstm_forward(X* out, X* h, float* cells, X* gates, const X* wh, int P, int64_t H, cudaStream_t stream);
template <typename X>
void lstm_backward(X* dgates, const X* dout, const X* gates, const float* cells, const X* wh, int P, int64_t H,
                   cudaStream_t stream);
template <typename X>
void relu_forward(X* y, const X* x, int64_t n, cudaStream_t stream);
template <typename X>
void relu_backward(X* dx, const X* y, const X* dy, int64_t n, cudaStream_t stream);

// dropout.cuh: y = dropout(x) or, in the backward pass, dx = dropout(dy); x, y (B, per_sample), y may be x
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d, cudaStream_t stream);

// layernorm.cuh: x, y, r (N,C); w, bias (C); mean, rstd (N). r = a + dropout(b), r may be a; rows_per_sample = T.
// Backward: dx += (it holds what came down the residual stream); dw and dbias may be null.
template <typename X>
void layernorm_forward(X* y, float* mean, float* rstd, const X* x, const X* w, const X* bias, int N, int C,
                       float epsilon, cudaStream_t stream);
template <typename X>
void residual_layernorm_forward(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                                int N, int C, int rows_per_sample, Dropout dropout, float epsilon, cudaStream_t stream);
template <typename X>  // W
void layernorm_backward(X* dx, float* dw, float* dbias, const X* dy, const X* x, const X* w, const float* mean,
                        const float* rstd, int N, int C, Sums<X> sums, cudaStream_t stream);

// gelu.cuh: the tanh approximation, and GELU itself; x, y (n); dx may be dy
template <typename X>
void gelu_forward(X* y, const X* x, int64_t n, cudaStream_t stream);
template <typename X>
void gelu_backward(X* dx, const X* x, const X* dy, int64_t n, cudaStream_t stream);
template <typename X>
void gelu_erf_forward(X* y, const X* x, int64_t n, cudaStream_t stream);
template <typename X>
void gelu_erf_backward(X* dx, const X* x, const X* dy, int64_t n, cudaStream_t stream);

// matmul.cuh: y (N,OC) = x (N,C) w (OC,C)^T + bias (OC), then GELU where pre_gelu, which keeps what went into it, is
// given or gelu is true. Backward: dx, dw, dbias may each be null; pre_gelu: dx goes through the GELU whose output x
// was; dw = instead of += where dw_accumulate is false. W: all of them.
template <typename X, typename O>
void matmul(const Matmul<X, O>& args, cudaStream_t stream);
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu,
                    cudaStream_t stream);
template <typename X>
void matmul_backward(X* dx, float* dw, float* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu, int N,
                     int C, int OC, bool dw_accumulate, Sums<X> sums, cudaStream_t stream);
template <typename X>  // gelu_backward, and the column sums of dx (N,F)
void gelu_backward_with_sums(X* dx, const X* x, const X* dy, int N, int F, Sums<X> sums, cudaStream_t stream);
template <typename X>
void bias_backward(float* dbias, const X* dy, int N, int OC, cudaStream_t stream);
// The two that matmul() chooses from: our own kernels (matmul_plain.cuh, matmul_own.cuh), NVIDIA's library
// (matmul_cublaslt.cuh); and bias and epilogue alone, on out as such a product left it (matmul_finish.cuh)
template <typename X, typename O>
void matmul_own(const Matmul<X, O>& args, cudaStream_t stream, Sums<X> sums = nullptr);
template <typename X, typename O>
void matmul_cublaslt(const Matmul<X, O>& args, cudaStream_t stream);
template <typename X, typename O>
void matmul_finish(Matmul<X, O> args, cudaStream_t stream);

// attention.cuh: out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference). doc_start (B,Tk) or null: first position that
// position i may see, at most i. dq, dk, dv have the strides of q, k, v; dout those of out.
template <typename X>  // W, where it is cuDNN's
void attention_forward(X* out, float* lse, const X* q, const X* k, const X* v, const AttentionShape& shape,
                       const int* doc_start, Dropout dropout, cudaStream_t stream);
template <typename X>  // W
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const float* lse, const AttentionShape& shape, const int* doc_start, Dropout dropout,
                        Sums<X> sums, cudaStream_t stream);
size_t attention_forward_workspace_bytes(const AttentionShape& shape);
size_t attention_backward_workspace_bytes(const AttentionShape& shape);
// Our own kernels, which they take unless cuDNN is there: in fp32 without tensor cores (attention_fp32.cuh), in bf16
// with them (attention_mma.cuh); backward W
void attention_own_forward(float* out, float* lse, const float* q, const float* k, const float* v,
                           const AttentionShape& shape, const int* doc_start, Dropout dropout, cudaStream_t stream);
void attention_own_forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                           const AttentionShape& shape, const int* doc_start, Dropout dropout, cudaStream_t stream);
void attention_own_backward(float* dq, float* dk, float* dv, const float* dout, const float* q, const float* k,
                            const float* v, const float* out, const float* lse, const AttentionShape& shape,
                            const int* doc_start, Dropout dropout, Sums<float> sums, cudaStream_t stream);
void attention_own_backward(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                            const bf16* out, const float* lse, const AttentionShape& shape, const int* doc_start,
                            Dropout dropout, Sums<bf16> sums, cudaStream_t stream);
// attention_decode.cuh, sampling: Tq new queries of each of B texts to the keys of their text up to their own. Tk is the room that a
// text has in the cache, texts (B) its place there, positions (B,Tq) those of the queries.  (W)
template <typename X>
void attention_decode(X* out, const X* q, const X* k, const X* v, const AttentionShape& shape, const int* texts,
                      const int* positions, cudaStream_t stream);

// classifier.cuh: losses (N) from logits (N,Vp), whose place their gradient takes where write_dlogits; weights (N) or
// null; targets -1: not counted
template <typename X>
void fused_classifier(X* logits, float* losses, const int* targets, const float* weights, const StepState* state, int N,
                      int V, int Vp, bool write_dlogits, cudaStream_t stream);

// distill_loss.cuh: the same beside a teacher's logits (N,Vp) (plain/distill_loss.h)
template <typename X>
void distill_loss(X* logits, float* losses, const X* teacher, const int* targets, const float* weights,
                  const StepState* state, float temperature, float mix, int N, int V, int Vp, bool write_dlogits,
                  cudaStream_t stream);

// score_loss.cuh: losses (N) from a head's scores (N,Kp), and their gradient; rows without a label: 0 (plain/layers.h)
template <typename X>
void score_loss(X* dscores, float* losses, const X* scores, const float* labels, const int* partners,
                const StepState* state, int N, int K, int Kp, bool preferred, cudaStream_t stream);

// objectives.cuh: weights of tokens, and losses at the last token of each text, from their losses (plain/objectives.h)
void preference_weights(float* weights, float* losses, const float* token_losses, const MicroBatch<float>& tokens,
                        float beta, int N, int T, cudaStream_t stream);
void policy_weights(PolicyNumbers<float> to, const float* token_losses, const MicroBatch<float>& tokens,
                    RewardOptions o, int N, cudaStream_t stream);
template <typename X>
void value_loss(X* dscores, float* losses, const X* scores, const MicroBatch<float>& tokens, RewardOptions o,
                const StepState* state, int N, int Kp, cudaStream_t stream);

// global_norm.cuh: sum = sum of grad[i]^2, i < n  (W, G = float). optimizer.cuh: each tensor's rule for elements
// [begin, end) of the arena (optimizer.h); nothing where state->skip. Then Muon's (muon.h) small kernels
template <typename G>
void global_norm_squared(double* sum, const G* grad, int64_t n, bool add, cudaStream_t stream);
template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      OptimizerOptions options, const StepState* state, cudaStream_t stream);
template <typename X>
void divide_by_norm(X* x, const float* u, const double* norm_squared, int64_t n, cudaStream_t stream);
template <typename X>
void newton_schulz_polynomial(X* square, const X* gram, int s, cudaStream_t stream);
template <typename X>
void scaled_copy(float* u, const X* x, float scale, int64_t n, cudaStream_t stream);

// ---- between the layers of a step: step.cu, as llmc/plain/step.h ----

// The micro-batch at hand, N rows of this rank's part of the step's tokens from first_token on, to where the layers
// read it: a captured graph has fixed addresses.
void load_micro_batch(MicroBatch<float> to, StepTokens step, const StepState* state, int N, int T, cudaStream_t stream);
void next_micro_batch(StepState* state, int B, int T, int skip, cudaStream_t stream);
// *to += sum of losses (N), each times its weight, in a fixed order; weights (N) or null: 1
void add_losses(double* to, const float* losses, const float* weights, int N, cudaStream_t stream);
// sum (n) += x: gradients that other ranks have sent join those of earlier micro-steps.
void add_to(float* sum, const float* x, int64_t n, cudaStream_t stream);
// From the sum of losses and the squared norm to the step's loss, norm, clip scale and skip flag. grad_clip 0: none.
void finish_gradients(StepState* state, const double* norm_squared, float grad_clip, cudaStream_t stream);
// x (n) *= factor
template <typename X>
void scale_by(X* x, float factor, int64_t n, cudaStream_t stream);
// attention_decode.cuh, sampling, B texts with T new tokens each. The keys and values in qkv (B,T,3C) of the new tokens
// join the cache k, v (texts,capacity,C), where texts (B) and positions (B,T) say.
template <typename X>
void append_to_cache(X* k, X* v, const X* qkv, int B, int T, int C, int capacity, const int* texts,
                     const int* positions, cudaStream_t stream);
// last[outputs[b]] (C) = the newest token's row of x (B,T,C)
template <typename X>
void take_last_rows(X* last, const X* x, const int* outputs, int B, int T, int C, cudaStream_t stream);

// ---- for open_device() (device.cuh), in step.cu too: compute capabilities that there is machine code for, "8.0 9.0" ----

const char* machine_code_for();
const void* any_kernel();
