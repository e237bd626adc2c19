// Distillation: a small model learns what a large one holds possible          (Hinton et al. 2015, https://arxiv.org/abs/1503.02531)
//
//   loss = (1 - mix) t^2 KL(softmax(teacher / t) || softmax(student / t)) + mix cross entropy         of each token's logits
//
// The layer: distill_loss, llmc/plain/distill_loss.h. The teacher is a model of its own, of any size and the same words, built
// for inference on as many rows. It sees the very micro-batch that the student has seen, in the student's stream. Its logits,
// like the student's, exist for a chunk of rows at a time.
#pragma once
#include <memory>
#include "llmc/base/error.h"
#include "llmc/lm_head.h"

template <class M>
void learn_from_teacher(M& model, std::shared_ptr<M> teacher, float temperature, float mix) {
    using X = typename M::Storage;
    CHECK(teacher->words().Vp == model.words().Vp && teacher->words().chunk >= model.words().chunk, "%d and %d words",
          teacher->words().V, model.words().V);
    teacher->machine().work_in(model.stream());
    model.follow([&model, teacher, temperature, mix](const auto& tokens, int B, int T) {
        const LmHead<X> words = model.words(), teachers = teacher->words();
        const auto losses = model.activations().losses;
        teacher->machine().use_workspace();
        teacher->run_blocks(teacher->activations(), tokens, B, T, false, nullptr);
        model.machine().use_workspace();
        const auto distill = [&](X* logits, int64_t r, int n) {
            teacher->machine().use_workspace();
            teacher->lm_head(teachers.logits, teacher->final_stream() + r * teachers.C, n);  // (n,C) -> (n,Vp)
            model.machine().use_workspace();
            distill_loss<X>(logits, losses + r, teachers.logits, tokens.targets + r,
                            tokens.weights ? tokens.weights + r : nullptr, model.state(), temperature, mix, n, words.V,
                            words.Vp, true, model.stream());
        };
        lm_head_by_chunks<X>(model.final_gradient(), words, model.final_stream(), B * T,
                             model.trained().exchange.add_gradients(), model.stream(), distill);
        model.add_to_sum(0, losses, tokens.weights, B * T);
    });
}
