// Causal self-attention, blocked: never a T x T buffer.
//                             (Vaswani et al. 2017; FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691)
//
//   s[i,j] = q_i . k_j / sqrt(HS) / divisor  for doc_start_i <= j <= i + (Tk - Tq)      p = softmax_j(s)
//   out_i = sum_j dropout(p)_ij v_j
//   lse[b,h,i] = log sum_j exp(s_ij), kept for the backward pass, which recomputes p tile by tile
//
//   D_i = dout_i . out_i      ds_ij = p_ij (dropout(dout_i . v_j) - D_i)
//   dv_j = sum_i dropout(p)_ij dout_i      dq_i = sum_j ds_ij k_j / sqrt(HS)      dk_j = sum_i ds_ij q_i / sqrt(HS)
//
//   q (B,Tq,NH,HS), k, v (B,Tk,NKV,HS), out (B,Tq,NH,HS): rows and samples as far apart as AttentionShape says, so that
//   q, k, v may be parts of one packed (B,T,3C); dq, dk, dv lie as q, k, v do, dout as out. lse (B,NH,Tq) float.
//   doc_start (B,Tk) or null: the first position that position i may see, at most i.
//   Head h reads keys and values h * NKV / NH; their gradients are summed over the heads of the group in order.
//   Dropout's element of a probability is (h * Tk + position) * Tk + key, see Dropout in step_state.h.
//
// Two versions: float without tensor cores (attention_fp32.cuh, read it first), bf16 with them (attention_mma.cuh); and
// cuDNN's for bf16, where --attention says so (device.cuh). Few queries with a cache of keys have a kernel of their
// own in attention_decode.cuh. All results are the same from run to run: each sum has one order, nothing is added
// atomically.
#pragma once
#include "llmc/cuda/attention_cudnn.h"
#include "llmc/cuda/layers.cuh"

// Whether cuDNN computes it. Of a training step's two passes both or none: the backward pass is what it may lack.
template <typename X>
bool attention_is_cudnn([[maybe_unused]] const AttentionShape& s, const int* doc_start, const Dropout& dropout) {
    if constexpr (std::is_same_v<X, bf16>)
        return device().attention == AttentionLibrary::cudnn && !doc_start && !dropout.active() &&
               attention_cudnn_supports(s, true);
    else return false;
}

// lse may be null (inference). Workspace: cuDNN's.
template <typename X>
void attention_forward(X* out, float* lse, const X* q, const X* k, const X* v, const AttentionShape& s,
                       const int* doc_start, Dropout dropout, cudaStream_t stream) {
    CHECK(s.Tq <= s.Tk && s.NH % s.NKV == 0 && s.HS <= 256, "Tq=%d Tk=%d NH=%d NKV=%d HS=%d", s.Tq, s.Tk, s.NH, s.NKV,
          s.HS);
    if constexpr (std::is_same_v<X, bf16>)
        if (lse && attention_is_cudnn<X>(s, doc_start, dropout))
            return attention_forward_cudnn(out, lse, q, k, v, s, workspace<char>(attention_forward_workspace_bytes(s)),
                                           stream);
    attention_own_forward(out, lse, q, k, v, s, doc_start, dropout, stream);
}

// dq, dk, dv are overwritten. Needs Tq == Tk. Our own kernels in bf16 leave the column sums of a packed (B,T,3C).
// Workspace: of whichever computes it.
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const float* lse, const AttentionShape& s, const int* doc_start, Dropout dropout, Sums<X> sums,
                        cudaStream_t stream) {
    CHECK(s.Tq == s.Tk && s.NH % s.NKV == 0 && s.HS <= 256, "Tq=%d Tk=%d NH=%d NKV=%d HS=%d", s.Tq, s.Tk, s.NH, s.NKV,
          s.HS);
    if constexpr (std::is_same_v<X, bf16>)
        if (attention_is_cudnn<X>(s, doc_start, dropout))
            return attention_backward_cudnn(dq, dk, dv, dout, q, k, v, out, lse, s,
                                            workspace<char>(attention_cudnn_workspace_bytes(s, true)), stream);
    attention_own_backward(dq, dk, dv, dout, q, k, v, out, lse, s, doc_start, dropout, sums, stream);
}
