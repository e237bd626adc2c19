// An adapter's part of a linear layer, forward and backward, made of the layers that there are; model/lora.h says what it is.
#pragma once
#include "llmc/model/arguments.h"
#include "llmc/model/lora.h"
#include "llmc/model/parameter_set.h"
#include "llmc/model/step_state.h"

template <typename X, class Machine>
struct Adapter {
    LoraConfig config;
    ParameterSet<X, Machine> set;
    LoraPointers<X> w;
    LoraPointers<grad_t<X>> dw;

    Adapter(Machine& machine, const ModelConfig& m, const LoraConfig& lora, const StepOptions& o, bool trained)
        : config(lora),
          set(
              machine, [&](int world) { return lora_table(m, lora, world); }, m.L, o, trained,
              std::min(o.zero_stage, 2)) {}  // its weights are few: all ranks have them
    void allocate(const ModelConfig& m) {
        set.memory.allocate();
        w = lora_pointers<X>(m, set.memory.table, [&](const Parameter& p) { return set.memory.weight_of(p); });
        dw = lora_pointers<grad_t<X>>(m, set.memory.table,
                                      [&](const Parameter& p) { return set.memory.gradient_of(p); });
    }
};

// Sizes of a linear layer (N,C) to (N,OC), N = B*T, and of its adapter of rank R.
struct LoraShape {
    int B, T, C, OC, R;
    float scale;
    Dropout dropout;
};

// y (N,OC) = h B^T, where h (N,R) = s dropout(x) A^T, which the backward pass needs, too. dropped (N,C): room for
// dropout(x).
template <typename X, class Stream>
void lora_forward(X* y, X* h, X* dropped, const X* x, LoraMatrices<X> w, const LoraShape& s, Stream stream) {
    const int N = s.B * s.T;
    if (s.dropout.active()) dropout_apply(dropped, x, s.B, int64_t(s.T) * s.C, s.dropout, stream), x = dropped;
    matmul_forward<X>(h, nullptr, x, w.a, nullptr, N, s.C, s.R, false, stream);
    scale_by(h, s.scale, int64_t(N) * s.R, stream);
    matmul_forward<X>(y, nullptr, h, w.b, nullptr, N, s.R, s.OC, false, stream);
}
// dx (N,C) = the part of the gradient that comes through the adapter, dw += (or = unless `add`). dh (N,R): room.
template <typename X, class Stream>
void lora_backward(X* dx, X* dh, LoraMatrices<grad_t<X>> dw, X* dropped, const X* dy, const X* x, const X* h,
                   LoraMatrices<X> w, const LoraShape& s, bool add, Stream stream) {
    const int N = s.B * s.T;
    const int64_t sample = int64_t(s.T) * s.C;
    matmul_backward<X>(dh, dw.b, nullptr, dy, h, w.b, nullptr, N, s.R, s.OC, add, stream);  // (N,OC) -> (N,R), (OC,R)
    scale_by(dh, s.scale, int64_t(N) * s.R, stream);
    if (s.dropout.active()) dropout_apply(dropped, x, s.B, sample, s.dropout, stream), x = dropped;
    matmul_backward<X>(dx, dw.a, nullptr, dh, x, w.a, nullptr, N, s.C, s.R, add, stream);  // (N,R) -> (N,C), (R,C)
    if (s.dropout.active()) dropout_apply(dx, dx, s.B, sample, s.dropout, stream);
}
