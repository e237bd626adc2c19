// What the options say of a new adapter.
#include <algorithm>
#include "llmc/base/error.h"
#include "llmc/model/parameters.h"
#include "llmc/run/options.h"

// UsageError names what is no layer.
static unsigned parse_lora_layers(const std::string& list) {
    if (list == "all") return 0b1111;
    unsigned linears = 0;
    for (size_t begin = 0; begin <= list.size();) {
        const size_t comma = std::min(list.find(',', begin), list.size());
        const std::string name = list.substr(begin, comma - begin);
        unsigned found = 0;
        for (Linear which : kLinears) {
            const std::string linear = kLinearNames[static_cast<int>(which)];  // attn.c_proj: by its end, too
            if (name == linear || linear.ends_with("." + name)) found |= 1u << static_cast<int>(which);
        }
        if (!found)
            throw UsageError(
                strf("--lora-layers: '%s' is no linear layer; there are c_attn, attn.c_proj, c_fc, mlp.c_proj "
                     "(c_proj: both), or all",
                     name.c_str()));
        linears |= found, begin = comma + 1;
    }
    return linears;
}

AdapterConfig adapter_config(const Options& o, const ModelConfig& config) {
    for (const char* name : {"lora-alpha", "lora-dropout", "lora-layers"})
        if (o.was_given(name) && o.lora_rank == 0)
            throw UsageError(strf("--%s is of a new adapter; give --lora-rank, too", name));
    if (o.was_given("prompt-encoder") && o.prompt_tokens == 0)
        throw UsageError("--prompt-encoder is of prompts that are trained; say how many with --prompt-tokens");
    if (o.lora_rank > 0 && o.prompt_tokens > 0)
        throw UsageError("--lora-rank and --prompt-tokens are two kinds of adapter; give one of them");
    AdapterConfig adapter;
    if (o.prompt_tokens >= config.T)
        throw UsageError(strf("--prompt-tokens %d leaves no room for a text in the model's context of %d; give less",
                              o.prompt_tokens, config.T));
    adapter.prompts = {o.prompt_tokens, o.prompt_tokens > 0 && o.prompt_encoder == "lstm"};
    if (o.lora_rank == 0) return adapter;
    LoraConfig& lora = adapter.lora;
    lora.rank = o.lora_rank, lora.dropout = static_cast<float>(o.lora_dropout);
    lora.alpha = static_cast<float>(o.lora_alpha > 0 ? o.lora_alpha : 2 * o.lora_rank);
    lora.linears = parse_lora_layers(o.lora_layers);
    for (Linear which : kLinears)
        if (const auto [in, out] = linear_shape(config, which); lora.rank > std::min(in, out))
            throw UsageError(strf("--lora-rank %d is more than the width %d of a linear layer; give less", lora.rank,
                                  std::min(in, out)));
    return adapter;
}
