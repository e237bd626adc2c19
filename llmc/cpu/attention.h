// Causal self-attention, blocked: never a T x T buffer.     (Vaswani et al. 2017; Dao et al. 2022, https://arxiv.org/abs/2205.14135)
//
//   s[i,j] = q_i . k_j / sqrt(HS)  for doc_start_i <= j <= i + (Tk - Tq)      p = softmax_j(s)      out_i = sum_j dropout(p)_ij v_j
//   lse[b,h,i] = log sum_j exp(s_ij), kept for the backward pass, which recomputes p block by block
//   D_i = dout_i . out_i;  dv_j = sum_i dropout(p)_ij dout_i;  ds = p * (dropout(dout_i . v_j) - D_i);  dq = ds k, dk = ds^T q
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/dropout.h"

// Query i of sequence b, head h starts at q + b * q_batch + i * q_row + h * HS; keys and values alike, with head h * NKV / NH.
struct AttentionShape {
    int B, Tq, Tk, NH, NKV, HS;        // Tq < Tk: the queries are the last Tq positions (decoding with a KV cache)
    int64_t q_row, kv_row, out_row;    // elements from one position to the next
    int64_t q_batch, kv_batch, out_batch;
};

// Shape of a packed qkv (B,T,3C) with q = qkv, k = qkv + C, v = qkv + 2C, out (B,T,C).
inline AttentionShape packed_qkv_shape(int B, int T, int C, int NH) {
    int64_t row = 3ll * C;
    return {B, T, T, NH, NH, C / NH, row, row, C, T * row, T * row, int64_t(T) * C};
}

// out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference). doc_start (B,T) or null: first position that position i may see.
template <typename X>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s, const int* doc_start,
                       Dropout dropout);

// dq, dk, dv have the strides of q, k, v and are overwritten. Needs Tq == Tk.
template <typename X>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out, const acc_t<X>* lse,
                        const AttentionShape& s, const int* doc_start, Dropout dropout);
