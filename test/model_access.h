// What tests look at inside a model.
#pragma once
#include <vector>
#include "llmc/gpt2.h"

// Logits (B,T,Vp) of a whole forward pass, at sizes where they fit; of a model on the host.
template <typename X, class Machine>
std::vector<X> all_logits(GPT2<X, Machine>& model, const int* inputs, int B, int T) {
    const ModelConfig& m = model.config();
    model.machine().use_workspace();
    model.machine().copy_in(model.inputs(), inputs, static_cast<size_t>(B) * static_cast<size_t>(T));
    model.forward(B, T, false);
    std::vector<X> logits(static_cast<size_t>(int64_t(B) * T * m.Vp()));
    const X* wte = model.weights() + model.table()[0].offset;
    matmul_forward<X>(logits.data(), nullptr, model.activations().h[m.L].ln1, wte, nullptr, B * T, m.C, m.Vp(), false,
                      model.stream());
    return logits;
}
