// An adapter: what is trained beside a model that is frozen. It is a table of rows, like the model's own (parameters.h):
// matrices beside linear layers (lora.h), or prompts (prompts.h), and with either a head. Of the frozen model there are weights alone: no gradients,
// no masters, no moments.
#pragma once
#include "llmc/model/lora.h"
#include "llmc/model/prompts.h"

inline std::vector<Parameter> adapter_table(const ModelConfig& m, const AdapterConfig& adapter, int world = 1) {
    TableBuilder builder(world);
    add_prompt_rows(builder, m, adapter.prompts);
    add_lora_rows(builder, m, adapter.lora);
    if (adapter.head.outputs > 0) add_score(builder, m, adapter.head);
    return std::move(builder.table);
}

// The tensors as pointers: null where there is none.
template <typename X>
struct AdapterPointers {
    LoraPointers<X> lora;
    PromptPointers<X> prompts{};
    X* score = nullptr;  // (Kp,C)

    AdapterPointers() = default;
    // at(row) gives a tensor's address.
    template <typename At>
    AdapterPointers(const ModelConfig& m, const std::vector<Parameter>& table, At at) : lora(static_cast<size_t>(m.L)) {
        for (const Parameter& p : table)
            if (p.name == "score.weight" || p.name == kValueHead) score = at(p);
            else
                CHECK(bind_lora(lora, p, at(p)) || bind_prompts(prompts, p, at(p)), "%s has no pointer",
                      p.name.c_str());
    }
};
