// A head: what a text means, by the final representation of its last token     (GPT-1: Radford et al. 2018, sections 3.2, 3.3)
//
//   scores (N,Kp) = x (N,C) w^T (Kp,C)      of all rows, so that shapes are fixed; those of labelled tokens count
//   loss of a step = 1/S sum over its S texts of [cross entropy or squared error + lambda * mean loss of the text's tokens]
//
// lambda / n is the weight of a text's tokens in the language model's loss, which is computed as ever. Similarity has no
// order: of a pair, both orders stand as documents in one row, and their scores are added (score_loss). So stand two texts of
// which one was preferred, for a reward model: its score of that one is to be the higher one.
#pragma once
#include "llmc/model/arguments.h"
#include "llmc/model/parameters.h"
#include "llmc/model/step_state.h"

template <typename X>
struct Head {
    int K = 0, Kp = 0;  // K 0: there is none
    X* w = nullptr;     // (Kp,C)
    grad_t<X>* dw = nullptr;
};

// An adapter's own, or the model's.
template <typename X, class Adapter>
Head<X> head_of(const ModelConfig& m, const ModelPointers<X>& w, const ModelPointers<grad_t<X>>& dw,
                const Adapter* adapter) {
    const bool own = adapter && adapter->config.head.outputs > 0;
    const HeadConfig& c = own ? adapter->config.head : m.head;
    return {c.outputs, c.padded(), own ? adapter->w.score : w.score, own ? adapter->dw.score : dw.score};
}

template <typename X>
struct HeadScores {
    X *scores = nullptr, *dscores = nullptr;  // (N,Kp), room for the widest head
    template <class Arena>
    void add_to(Arena& arena, int64_t N, const ModelConfig& m, const StepOptions& o) {
        int most = m.head.padded();
        for (const AdapterConfig& adapter : o.adapters) most = std::max(most, adapter.head.padded());
        arena.add(&scores, N * most);
        if (o.training) arena.add(&dscores, N * most);
    }
};

// scores (N,Kp) of x (N,C), and from dscores to dx (N,C) and dw, = or +=.
template <typename X, class Stream>
void head_forward(const HeadScores<X>& s, const Head<X>& head, const X* x, int N, int C, Stream stream) {
    matmul_forward<X>(s.scores, nullptr, x, head.w, nullptr, N, C, head.Kp, false, stream);  // (N,C) -> (N,Kp)
}
template <typename X, class Stream>
void head_backward(X* dx, const HeadScores<X>& s, const Head<X>& head, const X* x, int N, int C, bool add_dx,
                   bool add_dw, Stream stream) {
    Matmul<X> args{.out = dx, .a = s.dscores, .b = head.w, .M = N, .N = C, .K = head.Kp};
    args.accumulate = add_dx;
    matmul(args, stream);  // (N,Kp) -> (N,C)
    if (head.dw)
        matmul_backward<X>(nullptr, head.dw, nullptr, s.dscores, x, head.w, nullptr, N, C, head.Kp, add_dw, nullptr,
                           stream);  // (Kp,C)
}
