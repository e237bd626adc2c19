// Prompts that are trained: vectors that stand among a text's tokens, where a template has places for them. The model is
// frozen and reads them as it reads words; where one stands, inputs (batch.h) have -1 for the first, -2 for the second ...
//
//   none: the vectors are trained themselves                                            (Lester et al. 2021, arxiv 2104.08691)
//   lstm: they come out of an encoder, which ties them to one another       (GPT Understands, Too: Liu et al. 2021, 2103.10385)
//
//   prompts = W2 relu(W1 [lstm forwards, lstm backwards](embedding) + b1) + b2     embedding (P,C), prompts (P,C)
//
// with two layers of LSTM, of H = C/2 cells in each direction, as in the paper's program. Once trained, the encoder has
// done its work: the finished prompts are all that an adapter keeps. They are a row of its table in any case; with an encoder
// one that is not trained, but computed.
#pragma once
#include <array>
#include <string>
#include "llmc/model/adapter_config.h"
#include "llmc/model/parameters.h"

inline constexpr char kPromptEmbeddings[] = "prompt_embeddings";  // as in PEFT's files
inline constexpr char kPromptEncoder[] = "prompt_encoder.";       // what the names of an encoder's rows begin with
inline constexpr int kPromptLayers = 2;                           // of LSTM

inline int prompt_cells(const ModelConfig& m) { return (m.C + 1) / 2; }  // H

// In an LSTM's matrices lie both directions, forwards first, and of each the gates i, f, g, o.
template <typename X>
struct LstmPointers {
    X *wx, *wh, *b;  // (2,4H,C or 2H), (2,4H,H), (2,4H)
};
template <typename X>
struct PromptPointers {
    X* prompts = nullptr;  // (P,C)
    // Of the encoder, null where there is none:
    X* embedding;  // (P,C)
    std::array<LstmPointers<X>, kPromptLayers> lstm;
    X *w1, *b1, *w2, *b2;  // (2H,2H), (2H), (C,2H), (C)
};

inline void add_prompt_rows(TableBuilder& builder, const ModelConfig& m, const PromptConfig& prompts) {
    const int64_t P = prompts.tokens, C = m.C, H = prompt_cells(m);
    if (P == 0) return;
    builder.add(kPromptEmbeddings, -1, P, C, P, Init::normal, false, false);
    if (!prompts.encoder) return;
    builder.table.back().trainable = false;
    const auto matrix = [&](const std::string& name, int64_t rows, int64_t cols) {
        builder.add(kPromptEncoder + name, -1, rows, cols, rows, Init::uniform, true, false);
    };
    const auto bias = [&](const std::string& name, int64_t n) {
        builder.add(kPromptEncoder + name, -1, n, 1, n, Init::zeros, false, false);
    };
    builder.add(std::string(kPromptEncoder) + "embedding.weight", -1, P, C, P, Init::unit_normal, false, false);
    for (int l = 0; l < kPromptLayers; l++) {
        const std::string lstm = "lstm." + std::to_string(l);
        matrix(lstm + ".weight_ih", 8 * H, l == 0 ? C : 2 * H);
        matrix(lstm + ".weight_hh", 8 * H, H);
        bias(lstm + ".bias", 8 * H);
    }
    matrix("mlp.0.weight", 2 * H, 2 * H), bias("mlp.0.bias", 2 * H);
    matrix("mlp.2.weight", C, 2 * H), bias("mlp.2.bias", C);
}

// Gives row p's address to the pointer that is its own, if there is one.
template <typename X>
bool bind_prompts(PromptPointers<X>& to, const Parameter& p, X* address) {
    if (p.name == kPromptEmbeddings) return to.prompts = address, true;
    if (!p.name.starts_with(kPromptEncoder)) return false;
    const std::string name = p.name.substr(std::size(kPromptEncoder) - 1);
    const auto set = [&](const char* which, X*& pointer) { return name == which && (pointer = address, true); };
    for (int l = 0; l < kPromptLayers; l++) {
        LstmPointers<X>& lstm = to.lstm[static_cast<size_t>(l)];
        const std::string prefix = "lstm." + std::to_string(l) + ".";
        if (set((prefix + "weight_ih").c_str(), lstm.wx) || set((prefix + "weight_hh").c_str(), lstm.wh) ||
            set((prefix + "bias").c_str(), lstm.b))
            return true;
    }
    return set("embedding.weight", to.embedding) || set("mlp.0.weight", to.w1) || set("mlp.0.bias", to.b1) ||
           set("mlp.2.weight", to.w2) || set("mlp.2.bias", to.b2);
}
