// The search after a loss or a norm that is not finite: the first tensor, in the order of computation, that holds such a value.
#pragma once
#include <cmath>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/files/run_directory.h"
#include "llmc/model/step_state.h"

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

// Why the step after `step` was not made, and what to do. aside: where the log went of a run that left no checkpoint, or "".
inline std::string not_finite_message(const std::string& output, int64_t step, const StepState& s,
                                      const std::string& tensor, const std::string& aside) {
    std::vector<std::string> saved = list_checkpoints(output);
    std::string advice = "No checkpoint was written yet: start again";
    if (!aside.empty()) advice += " (the log is kept as " + aside + ")";
    if (!saved.empty()) {
        advice = "Go on from " + saved.back() + " with --resume";
        // A checkpoint of the very weights that gave this would give it again.
        if (saved.back().ends_with(strf("step_%08lld", static_cast<long long>(step))))
            advice = "Remove " + saved.back() + ", whose weights give this, " +
                     (saved.size() > 1 ? "go on from the checkpoint before it with --resume" : "start again");
    }
    return strf(
        "step %lld: loss %g, gradient norm %g; the first tensor that is not finite: %s. %s, and try a lower "
        "--learning-rate, a longer --warmup-steps or --on-nan rollback",
        static_cast<long long>(step + 1), static_cast<double>(s.loss), static_cast<double>(s.grad_norm), tensor.c_str(),
        advice.c_str());
}
