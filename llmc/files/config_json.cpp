#include "llmc/files/config_json.h"

#include "llmc/base/files.h"
#include "llmc/base/json.h"

// Refuses what the programs would run wrongly; a field that is absent has GPT2Config's default, which is ours.
static void check_is_our_gpt2(const Json& j, const std::string& path, int C) {
    auto must_be = [&](const char* field, const Json& ours, const Json& also) {
        if (!j.contains(field) || j[field] == ours || j[field] == also) return;
        throw Error(strf("%s: %s is %s; only %s is supported", path.c_str(), field, j[field].dump().c_str(),
                         ours.dump().c_str()));
    };
    must_be("activation_function", "gelu_new", "gelu_pytorch_tanh");  // two names of the tanh approximation
    must_be("layer_norm_epsilon", 1e-5, 1e-5);
    must_be("scale_attn_weights", true, true);
    must_be("scale_attn_by_inverse_layer_idx", false, nullptr);
    must_be("add_cross_attention", false, nullptr);
    must_be("tie_word_embeddings", true, true);
    must_be("n_inner", 4 * static_cast<int64_t>(C), nullptr);
}

ModelConfig read_model_config(const std::string& dir) {
    const std::string path = dir + "/config.json";
    const Json j = parse_json_object(read_file(path), path);
    if (j.value("model_type", Json()) != "gpt2")
        throw Error(strf("%s: model_type is %s; only \"gpt2\" is supported", path.c_str(),
                         j.value("model_type", Json("missing")).dump().c_str()));
    ModelConfig m;
    for (const ConfigField& f : kConfigFields) {
        if (!j.contains(f.key) && f.has_names()) continue;  // its first name
        if (!j.contains(f.key)) throw Error(strf("%s: %s is missing", path.c_str(), f.key));
        const Json& value = j[f.key];
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (value.is_string() != f.has_names() || !f.assign(text, &m))
            throw Error(strf("%s: %s is %s; it must be %s", path.c_str(), f.key, value.dump().c_str(),
                             f.possible_text().c_str()));
    }
    check_model_config(m, path);
    check_is_our_gpt2(j, path, m.C);
    return m;
}

static OrderedJson id_json(int end_of_text) { return end_of_text < 0 ? OrderedJson() : OrderedJson(end_of_text); }

std::string config_json(const ModelConfig& m, bool bf16, int end_of_text) {
    OrderedJson j = {{"architectures", {"GPT2LMHeadModel"}}, {"model_type", "gpt2"}};
    for (const ConfigField& f : kConfigFields) {
        if (f.has_names() && f.get(m) == 0) continue;  // goes without saying
        j[f.key] = f.has_names() ? OrderedJson(f.value_text(m)) : OrderedJson(f.get(m));
    }
    j.update({{"n_ctx", m.T},
              {"n_inner", nullptr},
              {"activation_function", "gelu_new"},
              {"layer_norm_epsilon", 1e-5},
              {"tie_word_embeddings", true},
              {"scale_attn_weights", true},
              {"initializer_range", 0.02},
              {"attn_pdrop", 0.0},
              {"embd_pdrop", 0.0},
              {"resid_pdrop", 0.0},
              {"bos_token_id", id_json(end_of_text)},
              {"eos_token_id", id_json(end_of_text)},
              {"torch_dtype", bf16 ? "bfloat16" : "float32"},
              {"use_cache", true}});
    return j.dump(2) + "\n";
}

std::string generation_config_json(int end_of_text) {
    const OrderedJson id = id_json(end_of_text);
    return OrderedJson{{"bos_token_id", id}, {"eos_token_id", id}}.dump(2) + "\n";
}

std::string tokenizer_config_json(const ModelConfig& m) {
    OrderedJson j = {{"tokenizer_class", "GPT2Tokenizer"},
                     {"model_max_length", m.T},
                     {"add_prefix_space", false},
                     {"errors", "replace"}};
    for (const char* token : {"bos_token", "eos_token", "unk_token"}) j[token] = kEndOfText;
    return j.dump(2) + "\n";
}
