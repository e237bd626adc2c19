// LoRA: a frozen linear layer y = x W^T + b learns by two thin matrices beside it    (Hu et al. 2021, arxiv 2106.09685)
//
//   y = x W^T + b + s (dropout(x) A^T) B^T        A (R,in), B (out,R), s = alpha / R; B begins as 0, so that y is as before
//
// The matrices are rows of an adapter's table (adapter.h).
#pragma once
#include <array>
#include <iterator>
#include <string>
#include <vector>
#include "llmc/model/parameters.h"

// Names as in PEFT's files, without their "base_model.model." in front.
inline std::string lora_name(int layer, Linear which, char matrix) {
    return block_prefix(layer) + kLinearNames[static_cast<int>(which)] + ".lora_" + matrix + ".weight";
}
inline void add_lora_rows(TableBuilder& builder, const ModelConfig& m, const LoraConfig& lora) {
    for (int l = 0; l < m.L; l++)
        for (Linear which : kLinears) {
            if (!lora.has(l, which)) continue;
            const auto [in, out] = linear_shape(m, which);
            builder.add(lora_name(l, which, 'A'), l, lora.rank, in, lora.rank, Init::uniform, true, false, 1);
            builder.add(lora_name(l, which, 'B'), l, out, lora.rank, out, Init::zeros, true, false, 1);
        }
}

// The matrices as pointers: null where a layer has none.
template <typename X>
struct LoraMatrices {
    X *a = nullptr, *b = nullptr;
};
template <typename X>
using LoraPointers = std::vector<std::array<LoraMatrices<X>, std::size(kLinears)>>;  // by block and Linear

// Gives row p's address to the pointer that is its own, if there is one.
template <typename X>
bool bind_lora(LoraPointers<X>& all, const Parameter& p, X* address) {
    if (p.layer < 0) return false;
    for (Linear which : kLinears)
        for (char matrix : {'A', 'B'}) {
            if (p.name != lora_name(p.layer, which, matrix)) continue;
            LoraMatrices<X>& pair = all[static_cast<size_t>(p.layer)][static_cast<size_t>(which)];
            return (matrix == 'A' ? pair.a : pair.b) = address, true;
        }
    return false;
}
