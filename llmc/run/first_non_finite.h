// The search after a loss or a norm that is not finite: the first tensor, in the order of computation, that holds such a value.
#pragma once
#include <cmath>
#include <string>

template <class Model>
std::string first_non_finite(Model& model) {
    const auto bad = [&](const auto* x, int64_t n) {
        for (float v : model.machine().download(x, n))
            if (!std::isfinite(v)) return true;
        return false;
    };
    const auto bad_weight = [&](const auto& table, const auto* weights) -> std::string {
        for (const auto& p : table)
            if (weights && bad(weights + p.offset, p.size())) return "weight " + p.name;
        return "";
    };
    const auto& trained = model.trained().memory;
    if (std::string name = bad_weight(trained.table, trained.weights); !name.empty()) return name;
    if (std::string name = bad_weight(model.table(), model.weights()); !name.empty()) return name;
    const auto& acts = model.activations();
    const auto& m = model.config();
    const auto& o = model.options();
    const int64_t N = int64_t(o.B) * o.T, C = m.C;
    for (size_t l = 0; l + 1 < acts.h.size(); l++) {
        const auto& a = acts.h[l];
        const std::string block = "transformer.h." + std::to_string(l);
        if (bad(a.input, N * C)) return "input of " + block;
        if (o.recompute < 3 && bad(a.atty, N * C)) return "attention of " + block;
        if (o.recompute < 3 && bad(a.fch, N * m.F())) return "MLP of " + block;
    }
    if (bad(acts.h.back().input, N * C)) return "input of transformer.ln_f";
    if (bad(acts.losses, N)) return "logits";
    const auto& table = model.table();
    for (auto p = table.rbegin(); p != table.rend(); ++p)  // backwards, as gradients are made
        if (const auto* grads = model.gradients(); grads && bad(grads + p->offset, p->size()))
            return "gradient of " + p->name;
    return "none any more";
}
