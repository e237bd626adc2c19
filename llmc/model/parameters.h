// The parameter table: every tensor of the model, by name, in the order in which it lies in memory.
//
// Initialisation, optimizer, checkpoints and ZeRO walk this table; nobody counts tensors by hand. Names are those of
// Hugging Face transformers' GPT2LMHeadModel. Memory orientation of a linear layer's weight is (OC, C), as in llm.c;
// transformers' Conv1D keeps (C, OC) in files, so those rows say `transposed_in_file`. The LM head is wte (weight
// tying): no row of its own.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include "llmc/model/config.h"

enum class Init {
    zeros,
    ones,
    normal,
    normal_residual
};  // normal: std 0.02; normal_residual: 0.02 / sqrt(2 L)  (GPT-2, 2.3)

struct Parameter {
    std::string name;     // "transformer.h.3.attn.c_attn.weight"
    int64_t rows, cols;   // logical shape in memory; cols = 1 for a vector (then one dimension in files)
    int64_t padded_rows;  // wte: Vp, else rows. Padding rows are zero and stay zero.
    int64_t offset;       // in elements from the start of each arena (weights, gradients, m, v)
    int64_t index;        // the offset that it has in an arena of one rank: what random numbers are addressed by
    int layer;            // -1 outside the blocks
    int shard_axis;       // 0: rows may be split between ranks (ZeRO, tensor parallelism); 1: cols; -1: not worth it
    bool weight_decay, trainable, transposed_in_file;
    Init init;
    int64_t size() const { return rows * cols; }  // elements without padding: the first size() at offset
    int64_t padded_size() const { return padded_rows * cols; }
};

inline constexpr int64_t kArenaAlignment = 64;  // elements; each tensor starts on such a boundary, gaps are zero

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// With several ranks the embeddings, each block and the final layernorm start on multiples of kArenaAlignment * world,
// so that each of them divides into one part for each rank (zero.h).
inline std::vector<Parameter> parameter_table(const ModelConfig& m, int world = 1) {
    std::vector<Parameter> table;
    int64_t C = m.C, end = 0, index = 0;
    auto add = [&](const std::string& name, int layer, int64_t rows, int64_t cols, Init init, int shard_axis,
                   bool linear) {
        int64_t padded = name == "transformer.wte.weight" ? m.Vp() : rows;
        if (!table.empty() && table.back().layer != layer) end = round_up(end, kArenaAlignment * world);
        table.push_back({name, rows, cols, padded, end, index, layer, shard_axis, cols > 1, true, linear, init});
        end += round_up(padded * cols, kArenaAlignment), index += round_up(padded * cols, kArenaAlignment);
    };
    auto vector = [&](const std::string& name, int layer, int64_t n, Init init) {
        add(name, layer, n, 1, init, -1, false);
    };
    auto linear = [&](const std::string& name, int layer, int64_t OC, int64_t IC, Init init, int shard_axis) {
        add(name + ".weight", layer, OC, IC, init, shard_axis, true);
        vector(name + ".bias", layer, OC, Init::zeros);
    };
    auto norm = [&](const std::string& name, int layer) {
        vector(name + ".weight", layer, C, Init::ones);
        vector(name + ".bias", layer, C, Init::zeros);
    };
    add("transformer.wte.weight", -1, m.V, C, Init::normal, 0, false);
    add("transformer.wpe.weight", -1, m.T, C, Init::normal, 0, false);
    for (int l = 0; l < m.L; l++) {
        std::string h = "transformer.h." + std::to_string(l) + ".";
        norm(h + "ln_1", l);
        linear(h + "attn.c_attn", l, 3 * C, C, Init::normal, 0);
        linear(h + "attn.c_proj", l, C, C, Init::normal_residual, 1);
        norm(h + "ln_2", l);
        linear(h + "mlp.c_fc", l, 4 * C, C, Init::normal, 0);
        linear(h + "mlp.c_proj", l, C, 4 * C, Init::normal_residual, 1);
    }
    norm("transformer.ln_f", -1);
    return table;
}

// Elements of an arena that holds the whole table.
inline int64_t arena_size(const std::vector<Parameter>& table, int world = 1) {
    return round_up(table.back().offset + table.back().padded_size(), kArenaAlignment * world);
}

// Typed pointers into an arena, by name. X may be a weight or a gradient type.
template <typename X>
struct BlockPointers {
    X *ln1w, *ln1b, *qkvw, *qkvb, *attprojw, *attprojb, *ln2w, *ln2b, *fcw, *fcb, *fcprojw, *fcprojb;
};
template <typename X>
struct ModelPointers {
    X *wte, *wpe, *lnfw, *lnfb;
    std::vector<BlockPointers<X>> h;

    ModelPointers() = default;
    ModelPointers(const std::vector<Parameter>& table, X* arena)
        : ModelPointers(table, [=](const Parameter& p) { return arena + p.offset; }) {}
    // at(row) gives a tensor's address.
    template <typename At>
    ModelPointers(const std::vector<Parameter>& table, At at) {  // in the order of parameter_table()
        auto row = table.begin();
        auto next = [&] { return at(*row++); };
        wte = next(), wpe = next();
        while (row->layer >= 0) {
            BlockPointers<X> b;
            for (X** p : {&b.ln1w, &b.ln1b, &b.qkvw, &b.qkvb, &b.attprojw, &b.attprojb, &b.ln2w, &b.ln2b, &b.fcw,
                          &b.fcb, &b.fcprojw, &b.fcprojb})
                *p = next();
            h.push_back(b);
        }
        lnfw = next(), lnfb = next();
    }
};
