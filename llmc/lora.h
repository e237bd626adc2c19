// A block's linear layer, forward and backward, with what an adapter adds to it, made of the layers that there are;
// model/lora.h has the formula.
#pragma once
#include "llmc/model/arguments.h"
#include "llmc/model/lora.h"
#include "llmc/model/step_state.h"

// Sizes of a linear layer (N,C) to (N,OC), N = B*T, and of its adapter of rank R.
struct LoraShape {
    int B, T, C, OC, R;
    float scale;
    Dropout dropout;
    int N() const { return B * T; }
};
// The adapter's matrices, null where there are none; h (N,R), which the backward pass needs, too; room for dropout(x) (N,C)
// and for the gradient of h.
template <typename X>
struct Lora {
    LoraMatrices<X> w;
    X *h, *dropped, *dh;
};

// y (N,OC) = x w^T + bias + h B^T, where h = s dropout(x) A^T; then GELU, where pre_gelu keeps what goes into that. The
// adapter's part comes first and the product is added onto it: so bf16 rounds once, and bias needs no pass of its own.
template <typename X, class Stream>
void linear_forward(X* y, X* pre_gelu, const X* x, LinearPointers<X> layer, const Lora<X>& lora, const LoraShape& s,
                    Stream stream) {
    const int N = s.N();
    if (!lora.w.a)
        return matmul_forward<X>(y, pre_gelu, x, layer.w, layer.b, N, s.C, s.OC, pre_gelu != nullptr, stream);
    const X* dropped = x;
    if (s.dropout.active())
        dropout_apply(lora.dropped, x, s.B, int64_t(s.T) * s.C, s.dropout, stream), dropped = lora.dropped;
    X* sum = pre_gelu ? pre_gelu : y;
    matmul_forward<X>(lora.h, nullptr, dropped, lora.w.a, nullptr, N, s.C, s.R, false, stream);  // (N,C) -> (N,R)
    scale_by(lora.h, s.scale, int64_t(N) * s.R, stream);
    matmul_forward<X>(sum, nullptr, lora.h, lora.w.b, nullptr, N, s.R, s.OC, false, stream);  // (N,R) -> (N,OC)
    Matmul<X> frozen{.out = sum, .a = x, .b = layer.w, .M = N, .N = s.OC, .K = s.C};
    frozen.b_transposed = frozen.accumulate = true, frozen.bias = layer.b;
    matmul(frozen, stream);  // (N,C) -> (N,OC)
    if (pre_gelu) gelu_forward(y, pre_gelu, int64_t(N) * s.OC, stream);
}

// dx (N,C) from dy (N,OC), through the GELU that x came out of where pre_gelu is given, and gradients of what is trained:
// dw += or, unless `add`, =.
template <typename X, class Stream>
void linear_backward(X* dx, const X* dy, const X* x, const X* pre_gelu, LinearPointers<X> layer,
                     LinearPointers<grad_t<X>> dlayer, const Lora<X>& lora, LoraMatrices<grad_t<X>> dlora,
                     const LoraShape& s, bool add, ColumnSums<X>* sums, Stream stream) {
    const int N = s.N();
    if (!lora.w.a)
        return matmul_backward<X>(dx, dlayer.w, dlayer.b, dy, x, layer.w, pre_gelu, N, s.C, s.OC, add, sums, stream);
    const int64_t sample = int64_t(s.T) * s.C;
    const X* dropped = s.dropout.active() ? lora.dropped : x;
    matmul_backward<X>(lora.dh, dlora.b, nullptr, dy, lora.h, lora.w.b, nullptr, N, s.R, s.OC, add, nullptr,
                       stream);  // (N,OC) -> (N,R), (OC,R)
    scale_by(lora.dh, s.scale, int64_t(N) * s.R, stream);
    if (s.dropout.active()) dropout_apply(lora.dropped, x, s.B, sample, s.dropout, stream);
    matmul_backward<X>(dx, dlora.a, nullptr, lora.dh, dropped, lora.w.a, nullptr, N, s.C, s.R, add, nullptr,
                       stream);  // (N,R) -> (N,C), (R,C)
    if (s.dropout.active()) dropout_apply(dx, dx, s.B, sample, s.dropout, stream);
    Matmul<X> frozen{.out = dx, .a = dy, .b = layer.w, .M = N, .N = s.C, .K = s.OC};
    frozen.accumulate = true;
    matmul(frozen, stream);  // (N,OC) -> (N,C)
    if (pre_gelu) gelu_backward(dx, pre_gelu, dx, int64_t(N) * s.C, stream);
}
