// The parameter table: every tensor of the model, by name, in the order in which it lies in memory.
//
// Initialisation, optimizer, checkpoints and ZeRO walk this table; nobody counts tensors by hand. Names are those of
// Hugging Face transformers' GPT2LMHeadModel. A linear layer's weight is (OC, C) in memory, as in llm.c; transformers'
// Conv1D keeps (C, OC) in files, so those rows say `transposed_in_file`. The LM head is wte (weight tying) and has no row
// of its own, unless the model says so.
#pragma once
#include <algorithm>
#include <cstdint>
#include <iterator>
#include <string>
#include <utility>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/model/config.h"
#include "llmc/model/adapter_config.h"

// normal: standard deviation 0.02; normal_residual: 0.02 / sqrt(2 L)         (GPT-2: Radford et al. 2019, section 2.3)
// uniform: in +-1 / sqrt(cols)                                                (a linear layer's in PyTorch and in PEFT)
// unit_normal: standard deviation 1                                                       (an embedding's in PyTorch)
enum class Init { zeros, ones, normal, normal_residual, uniform, unit_normal };

struct Parameter {
    std::string name;     // "transformer.h.3.attn.c_attn.weight"
    int64_t rows, cols;   // logical shape in memory; cols = 1 for a vector (then one dimension in files)
    int64_t padded_rows;  // wte: Vp, else rows. Padding rows are zero and stay zero.
    int64_t offset;       // in elements from the start of each arena (weights, gradients, m, v)
    int64_t index;        // the offset that it has in an arena of one rank: what random numbers are addressed by
    int layer;            // -1 outside the blocks
    bool weight_decay, trainable, transposed_in_file;
    Init init;
    int64_t rows_in_use;  // the others are never computed nor changed: of words that never occur
    bool by_product;      // its gradient is written by a matrix product first, which overwrites what was there
    int matrices = 0;     // so many (rows / matrices, cols) ones, stacked, which Muon orthogonalises; 0: AdamW's
    int64_t size() const { return rows * cols; }  // elements without padding: the first size() at offset
    int64_t padded_size() const { return padded_rows * cols; }
    int64_t size_in_use() const { return rows_in_use * cols; }
    bool has_row_per_word() const { return name == "transformer.wte.weight" || name == "lm_head.weight"; }
};

inline constexpr int64_t kArenaAlignment = 64;  // elements; each tensor starts on such a boundary, gaps are zero

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

inline std::string block_prefix(int layer) { return "transformer.h." + std::to_string(layer) + "."; }

// Lays rows one behind the other. With several ranks the embeddings, each block and what follows the last one start on
// multiples of kArenaAlignment * world, so that each of them divides into one part for each rank (zero.h).
class TableBuilder {
  public:
    std::vector<Parameter> table;
    explicit TableBuilder(int world) : world_(world) {}

    // One tensor (rows,cols). `padded`: rows in memory. `linear`: its gradient is a matrix product; in_file: transposed.
    void add(const std::string& name, int layer, int64_t rows, int64_t cols, int64_t padded, Init init, bool product,
             bool transposed, int matrices = 0) {
        if (!table.empty() && table.back().layer != layer) end_ = round_up(end_, kArenaAlignment * world_);
        table.push_back(
            {name, rows, cols, padded, end_, index_, layer, cols > 1, true, transposed, init, rows, product, matrices});
        end_ += round_up(padded * cols, kArenaAlignment), index_ += round_up(padded * cols, kArenaAlignment);
    }

  private:
    int64_t world_, end_ = 0, index_ = 0;
};

// A head's row, which is the last of a model's or of an adapter's.
inline constexpr char kValueHead[] = "value_head.weight";
inline void add_score(TableBuilder& builder, const ModelConfig& m, const HeadConfig& head) {
    builder.add(head.value ? kValueHead : "score.weight", -1, head.outputs, m.C, head.padded(),
                head.value ? Init::zeros : Init::normal, true, false);
}
inline std::vector<Parameter> parameter_table(const ModelConfig& m, int world = 1) {
    TableBuilder builder(world);
    const int64_t C = m.C, F = m.F();
    auto vector = [&](const std::string& name, int layer, int64_t n, Init init) {
        builder.add(name, layer, n, 1, n, init, false, false);
    };
    auto words = [&](const std::string& name, bool product) {
        builder.add(name, -1, m.V, C, m.padded(m.V), Init::normal, product, false);
        builder.table.back().rows_in_use = m.words();
    };
    auto linear = [&](const std::string& name, int layer, int64_t OC, int64_t IC, Init init, int matrices = 1) {
        builder.add(name + ".weight", layer, OC, IC, OC, init, true, true, matrices);
        vector(name + ".bias", layer, OC, Init::zeros);
    };
    auto norm = [&](const std::string& name, int layer) {
        vector(name + ".weight", layer, C, Init::ones);
        vector(name + ".bias", layer, C, Init::zeros);
    };
    words("transformer.wte.weight", !m.untied);
    builder.add("transformer.wpe.weight", -1, m.T, C, m.T, Init::normal, false, false);
    for (int l = 0; l < m.L; l++) {
        std::string h = block_prefix(l);
        norm(h + "ln_1", l);
        linear(h + "attn.c_attn", l, 3 * C, C, Init::normal, 3);
        linear(h + "attn.c_proj", l, C, C, Init::normal_residual);
        norm(h + "ln_2", l);
        linear(h + "mlp.c_fc", l, F, C, Init::normal);
        linear(h + "mlp.c_proj", l, C, F, Init::normal_residual);
    }
    norm("transformer.ln_f", -1);
    if (m.untied) words("lm_head.weight", true);
    if (m.head.outputs > 0) add_score(builder, m, m.head);
    return std::move(builder.table);
}

// Elements of an arena that holds the whole table.
inline int64_t arena_size(const std::vector<Parameter>& table, int world = 1) {
    return round_up(table.back().offset + table.back().padded_size(), kArenaAlignment * world);
}

// What of the elements [begin, end) of such an arena a step reads and changes: all but the words that never occur. Pairs of begin
// and end.
inline std::vector<std::pair<int64_t, int64_t>> ranges_in_use(const std::vector<Parameter>& table, int64_t begin,
                                                              int64_t end) {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    const auto add = [&](int64_t to) {
        if (begin < std::min(to, end)) ranges.emplace_back(begin, std::min(to, end));
    };
    for (const Parameter& p : table)
        if (p.rows_in_use < p.rows) {
            add(p.offset + p.size_in_use());
            begin = std::max(begin, round_up(p.offset + p.padded_size(), kArenaAlignment));
        }
    return add(end), ranges;
}

// Parameters of the model, without padding.
inline int64_t parameter_count(const ModelConfig& m) {
    int64_t count = 0;
    for (const Parameter& p : parameter_table(m)) count += p.size();
    return count;
}

// FLOPs of training on one token at sequence length T: 6*N + 12*L*C*T, N = parameter_count(), but for words that
// never occur: the count that most reports use.                                                             (PaLM, Chowdhery et al. 2022, appendix B)
// frozen: the weights have no gradients, which are a third of that.
inline double flops_per_token(const ModelConfig& m, int seq_len, bool frozen = false) {
    const double at_rest = static_cast<double>(m.V - m.words()) * m.C * (m.untied ? 2 : 1);
    return (frozen ? 4 : 6) * (static_cast<double>(parameter_count(m)) - at_rest) + 12.0 * m.L * m.C * seq_len;
}

// Of one of a block's linear layers: (N,in) to (N,out).
struct LinearShape {
    int in, out;
};
inline LinearShape linear_shape(const ModelConfig& m, Linear which) {
    const LinearShape shapes[] = {{m.C, 3 * m.C}, {m.C, m.C}, {m.C, m.F()}, {m.F(), m.C}};
    return shapes[static_cast<int>(which)];
}

// The tensors by name, as pointers into an arena. X: the type of weights or of their gradients.
template <typename X>
struct LinearPointers {
    X *w, *b;  // (out,in), (out)
};
template <typename X>
struct BlockPointers {
    X *ln1w, *ln1b;          // (C)
    X *qkvw, *qkvb;          // (3C,C), (3C)
    X *attprojw, *attprojb;  // (C,C), (C)
    X *ln2w, *ln2b;          // (C)
    X *fcw, *fcb;            // (F,C), (F)
    X *fcprojw, *fcprojb;    // (C,F), (C)

    LinearPointers<X> linear(Linear which) const {
        const LinearPointers<X> all[] = {{qkvw, qkvb}, {attprojw, attprojb}, {fcw, fcb}, {fcprojw, fcprojb}};
        return all[static_cast<int>(which)];
    }
};
template <typename X>
struct ModelPointers {
    X *wte, *wpe;        // (Vp,C), (T,C)
    X *lnfw, *lnfb;      // (C)
    X* head = nullptr;   // (Vp,C): wte, where it has no row of its own
    X* score = nullptr;  // (Kp,C), where there is a head of a few outputs
    std::vector<BlockPointers<X>> h;
    LinearPointers<X> norm1(int l) const {  // the layernorm in front of block l; l == L: the final one
        if (l == static_cast<int>(h.size())) return {lnfw, lnfb};
        return {h[static_cast<size_t>(l)].ln1w, h[static_cast<size_t>(l)].ln1b};
    }

    ModelPointers() = default;
    ModelPointers(const std::vector<Parameter>& table, X* arena)
        : ModelPointers(table, [=](const Parameter& p) { return arena + p.offset; }) {}
    // at(row) gives a tensor's address. Every pointer must find its row and every row its pointer.
    template <typename At>
    ModelPointers(const std::vector<Parameter>& table, At at) {
        using Block = BlockPointers<X>;
        const Named<ModelPointers> outside[] = {{"transformer.wte.weight", &ModelPointers::wte},
                                                {"transformer.wpe.weight", &ModelPointers::wpe},
                                                {"transformer.ln_f.weight", &ModelPointers::lnfw},
                                                {"transformer.ln_f.bias", &ModelPointers::lnfb},
                                                {"lm_head.weight", &ModelPointers::head},
                                                {"score.weight", &ModelPointers::score},
                                                {kValueHead, &ModelPointers::score}};
        const Named<Block> in_block[] = {{"ln_1.weight", &Block::ln1w},
                                         {"ln_1.bias", &Block::ln1b},
                                         {"attn.c_attn.weight", &Block::qkvw},
                                         {"attn.c_attn.bias", &Block::qkvb},
                                         {"attn.c_proj.weight", &Block::attprojw},
                                         {"attn.c_proj.bias", &Block::attprojb},
                                         {"ln_2.weight", &Block::ln2w},
                                         {"ln_2.bias", &Block::ln2b},
                                         {"mlp.c_fc.weight", &Block::fcw},
                                         {"mlp.c_fc.bias", &Block::fcb},
                                         {"mlp.c_proj.weight", &Block::fcprojw},
                                         {"mlp.c_proj.bias", &Block::fcprojb}};
        for (const Parameter& p : table) h.resize(std::max(h.size(), static_cast<size_t>(p.layer + 1)));
        for (const Parameter& p : table) {
            bool found = p.layer < 0 ? bind(this, outside, p.name, "", at(p))
                                     : bind(&h[p.layer], in_block, p.name, block_prefix(p.layer), at(p));
            CHECK(found, "%s has no pointer in ModelPointers", p.name.c_str());
        }
        const auto has = [&](const char* name) {
            return std::any_of(table.end() - 2, table.end(), [=](const Parameter& p) { return p.name == name; });
        };
        const bool own_head = has("lm_head.weight"), scores = has("score.weight") || has(kValueHead);
        if (!own_head) head = wte;
        size_t pointers = std::size(outside) - 1 - !own_head - !scores + h.size() * std::size(in_block);
        CHECK(table.size() == pointers, "%zu tensors for %zu pointers", table.size(), pointers);
    }

  private:
    template <class Holder>
    struct Named {
        using Pointer = X* Holder::*;
        const char* name;
        Pointer pointer;
    };
    template <class Holder, size_t n>
    static bool bind(Holder* holder, const Named<Holder> (&rows)[n], const std::string& name, const std::string& prefix,
                     X* address) {
        for (const Named<Holder>& row : rows)
            if (name == prefix + row.name) return holder->*row.pointer = address, true;
        return false;
    }
};
