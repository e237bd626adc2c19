// The LM head: logits of every word, the loss of each token, and their gradients.
#pragma once
#include <algorithm>
#include <functional>
#include "llmc/base/bf16.h"
#include "llmc/model/arguments.h"
#include "llmc/model/step_state.h"

template <typename X>
struct LmHead {
    int C, V, Vp;
    X* w;           // (Vp,C)
    grad_t<X>* dw;  // null: frozen
    X* logits;      // (chunk,Vp)
    int64_t chunk;  // rows at a time, so that the (N,Vp) logits never exist as a whole
};

// x (N,C) to logits, a chunk of n rows from row r on at a time, of which loss(logits (n,Vp), r, n) makes losses and, in their
// place, their gradient. dx (N,C) null: nothing more; else dx and dw (+= where `add`) get the gradients.
template <typename X, class Stream, class Loss>
void lm_head_by_chunks(X* dx, const LmHead<X>& h, const X* x, int64_t N, bool add, Stream stream, Loss loss) {
    for (int64_t r = 0; r < N; r += h.chunk) {
        const int n = static_cast<int>(std::min(h.chunk, N - r));
        matmul_forward<X>(h.logits, nullptr, x + r * h.C, h.w, nullptr, n, h.C, h.Vp, false, stream);  // (n,Vp)
        loss(h.logits, r, n);
        if (dx)
            matmul_backward<X>(dx + r * h.C, h.dw, nullptr, h.logits, x + r * h.C, h.w, nullptr, n, h.C, h.Vp,
                               add || r > 0, nullptr, stream);  // (n,Vp) -> (n,C), (Vp,C)
    }
}
// The language model's: losses (N), of which dx and dw get the gradient together, each times its weight; weights (N) or null: 1.
template <typename X, class Stream>
void lm_head_and_loss(X* dx, acc_t<X>* losses, const LmHead<X>& h, const X* x, const int* targets,
                      const acc_t<X>* weights, const StepState* state, int64_t N, bool add, Stream stream) {
    lm_head_by_chunks<X>(dx, h, x, N, add, stream, [&](X* logits, int64_t r, int n) {
        fused_classifier<X>(logits, losses + r, targets + r, weights ? weights + r : nullptr, state, n, h.V, h.Vp,
                            dx != nullptr, stream);
    });
}

// What is minimised (llmc/objectives/): made of GPT2's lm_losses(), lm_gradient(), head_scores() and the like, it leaves the
// gradient of the last layernorm's output and of the heads, and adds to the step's sums. It is a part of what a GPU captures.
template <typename A>
using Objective = std::function<void(const MicroBatch<A>& tokens, int B, int T)>;
