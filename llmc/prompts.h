// The encoder of prompts in training, forward and backward, made of the layers that there are; model/prompts.h has its
// formula.
#pragma once
#include "llmc/model/arguments.h"
#include "llmc/model/prompts.h"
#include "llmc/model/step_state.h"

// Room for its activations and their gradients.
template <typename X>
struct PromptEncoder {
    struct Layer {
        X *gates, *h, *out;  // (2,P,4H), (2,P+1,H): with the zeros before the first one, (P,2H): both directions
        acc_t<X>* cells;     // (2,P,H)
    };
    int P, C, H;
    std::array<Layer, kPromptLayers> lstm;
    X* hidden;                         // (P,2H)
    X *dprompts, *dout, *dx, *dgates;  // (P,C); (P,2H) or (P,C), twice; (2,P,4H)

    template <class Arena>
    void add_to(Arena& arena, const ModelConfig& m, const PromptConfig& config) {
        P = config.tokens, C = m.C, H = prompt_cells(m);
        const int64_t rows = P, wide = 2 * H;
        for (Layer& l : lstm) {
            arena.add(&l.gates, 2 * rows * 4 * H), arena.add(&l.h, 2 * (rows + 1) * H);
            arena.add(&l.out, rows * wide), arena.add(&l.cells, 2 * rows * H);
        }
        for (X** x : {&hidden, &dout, &dx}) arena.add(x, rows * wide);
        arena.add(&dprompts, rows * C), arena.add(&dgates, 2 * rows * 4 * H);
    }
};

// Leaves w.prompts (P,C).
template <typename X, class Stream>
void prompt_encoder_forward(const PromptEncoder<X>& e, const PromptPointers<X>& w, Stream stream) {
    const int P = e.P, H = e.H;
    const X* x = w.embedding;
    int in = e.C;
    for (int l = 0; l < kPromptLayers; l++) {
        const auto& a = e.lstm[static_cast<size_t>(l)];
        const LstmPointers<X>& of = w.lstm[static_cast<size_t>(l)];
        for (int d = 0; d < 2; d++)  // (P,in) -> (P,4H)
            matmul_forward<X>(a.gates + int64_t(d) * P * 4 * H, nullptr, x, of.wx + int64_t(d) * 4 * H * in,
                              of.b + int64_t(d) * 4 * H, P, in, 4 * H, false, stream);
        lstm_forward<X>(a.out, a.h, a.cells, a.gates, of.wh, P, H, stream);  // (2,P,4H) -> (P,2H)
        x = a.out, in = 2 * H;
    }
    matmul_forward<X>(e.hidden, nullptr, x, w.w1, w.b1, P, 2 * H, 2 * H, false, stream);  // (P,2H)
    relu_forward<X>(e.hidden, e.hidden, int64_t(P) * 2 * H, stream);
    matmul_forward<X>(w.prompts, nullptr, e.hidden, w.w2, w.b2, P, 2 * H, e.C, false, stream);  // (P,2H) -> (P,C)
}

// From e.dprompts to the gradients of all weights; add: to what is there of the matrices, as in matmul_backward.
template <typename X, class Stream>
void prompt_encoder_backward(const PromptPointers<grad_t<X>>& dw, const PromptEncoder<X>& e, const PromptPointers<X>& w,
                             bool add, Stream stream) {
    const int P = e.P, C = e.C, H = e.H;
    matmul_backward<X>(e.dx, dw.w2, dw.b2, e.dprompts, e.hidden, w.w2, nullptr, P, 2 * H, C, add, nullptr, stream);
    relu_backward<X>(e.dx, e.hidden, e.dx, int64_t(P) * 2 * H, stream);
    X *dy = e.dout, *dx = e.dx;
    matmul_backward<X>(dy, dw.w1, dw.b1, dx, e.lstm.back().out, w.w1, nullptr, P, 2 * H, 2 * H, add, nullptr, stream);
    for (int l = kPromptLayers - 1; l >= 0; l--) {
        const size_t i = static_cast<size_t>(l);
        const auto& a = e.lstm[i];
        const int in = l == 0 ? C : 2 * H;
        const X* x = l == 0 ? w.embedding : e.lstm[i - 1].out;
        lstm_backward<X>(e.dgates, dy, a.gates, a.cells, w.lstm[i].wh, P, H, stream);  // (P,2H) -> (2,P,4H)
        for (int d = 0; d < 2; d++) {
            const X *dgates = e.dgates + int64_t(d) * P * 4 * H, *wx = w.lstm[i].wx + int64_t(d) * 4 * H * in;
            const X* before = a.h + int64_t(d) * (P + 2) * H;  // of each row, the h that went into its gates
            matmul_backward<X>(nullptr, dw.lstm[i].wh + int64_t(d) * 4 * H * H, nullptr, dgates, before,
                               w.lstm[i].wh + int64_t(d) * 4 * H * H, nullptr, P, H, 4 * H, add, nullptr, stream);
            matmul_backward<X>(nullptr, dw.lstm[i].wx + int64_t(d) * 4 * H * in, dw.lstm[i].b + int64_t(d) * 4 * H,
                               dgates, x, wx, nullptr, P, in, 4 * H, add, nullptr, stream);
            Matmul<X> through{.out = dx, .a = dgates, .b = wx, .M = P, .N = in, .K = 4 * H};
            through.accumulate = d == 1;
            matmul(through, stream);  // (P,4H) -> (P,in)
        }
        std::swap(dx, dy);
    }
    prompt_backward<X>(dw.embedding, dy, nullptr, P, 1, P, C, Dropout{}, stream);
}
