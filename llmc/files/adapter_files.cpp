#include "llmc/files/adapter_files.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <regex>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/config_json.h"
#include "llmc/files/parameter_files.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/model/adapter.h"

namespace fs = std::filesystem;

namespace {

constexpr char kConfig[] = "/adapter_config.json", kWeights[] = "/adapter_model.safetensors",
               kEncoderWeights[] = "/prompt_encoder.safetensors";

Json read_config(const std::string& dir) { return parse_json_object(read_file(dir + kConfig), dir + kConfig); }

// PEFT: a text is an expression that the whole name must match, a list holds ends of names; "all-linear" is all.
bool is_target(const Json& targets, const std::string& name) {
    if (targets == "all-linear") return true;
    if (targets.is_string()) return std::regex_match(name, std::regex(targets.get<std::string>()));
    for (const Json& t : targets)
        if (name == t.get<std::string>() || name.ends_with("." + t.get<std::string>())) return true;
    return false;
}

// The encoder of prompts is nothing that PEFT would look for.
bool of_encoder(const Parameter& p) { return p.name.starts_with(kPromptEncoder); }

struct Refuse {
    const Json& j;
    const std::string& where;
    void operator()(const std::string& field, const std::string& remedy) const {
        throw Error(strf("%s: %s is %s; %s", where.c_str(), field.c_str(), j.value(field, Json()).dump().c_str(),
                         remedy.c_str()));
    }
};

LoraConfig read_lora(const Json& j, const std::string& where, const ModelConfig& config) {
    // Fields of PEFT's LoraConfig that would make another computation of it, and what they are in ours.
    const Refuse refuse{j, where};
    if (const Json bias = j.value("bias", Json("none")); bias != "none") refuse("bias", "here it is \"none\"");
    for (const char* field : {"use_dora", "lora_bias", "use_qalora"})
        if (j.value(field, Json(false)) == true) refuse(field, "here it is false");
    for (const char* field : {"rank_pattern", "alpha_pattern", "exclude_modules", "target_parameters",
                              "trainable_token_indices", "layer_replication"})
        if (const Json v = j.value(field, Json()); !v.is_null() && !v.empty()) refuse(field, "here there is none");
    LoraConfig lora;
    try {
        if (!json_whole(j.at("r"), &lora.rank)) throw Error(where + ": r is no whole number");
        lora.alpha = j.value("lora_alpha", 8.0f), lora.dropout = j.value("lora_dropout", 0.0f);
        lora.rank_stabilised = j.value("use_rslora", false);
        Json targets = j.value("target_modules", Json()), layers = j.value("layers_to_transform", Json());
        if (targets.is_null() || (targets.is_array() && targets.empty())) throw Error(where + " has no target_modules");
        if (layers.is_number()) layers = Json::array({layers});
        lora.linears = 0;
        for (Linear which : kLinears) {
            const std::string name = block_prefix(0) + kLinearNames[static_cast<int>(which)];
            if (is_target(targets, name)) lora.linears |= 1u << static_cast<int>(which);
        }
        if (lora.linears == 0)
            throw Error(strf("%s: none of target_modules %s is a linear layer of GPT-2's blocks (c_attn, c_proj, c_fc)",
                             where.c_str(), targets.dump().c_str()));
        if (targets.is_array())
            for (const Json& t : targets) {
                bool used = false;
                for (const char* linear : kLinearNames)
                    used = used || is_target(Json::array({t}), block_prefix(0) + linear);
                if (!used)
                    throw Error(
                        strf("%s: target_modules has %s, which is no linear layer of GPT-2's blocks (c_attn, "
                             "c_proj, c_fc)",
                             where.c_str(), t.dump().c_str()));
            }
        if (!layers.is_null() && !layers.empty()) lora.layers = layers.get<std::vector<int>>();
    } catch (const JsonError&) {
        throw Error(where + ": a field is missing or has the wrong type");
    } catch (const std::regex_error&) {
        throw Error(where + ": target_modules is no regular expression");
    }
    if (lora.rank < 1 || lora.rank > 65536 || !(lora.alpha > 0) || !(lora.dropout >= 0) || !(lora.dropout < 1))
        throw Error(where + ": r, lora_alpha or lora_dropout has no possible value");
    for (int layer : lora.layers)
        if (layer < 0 || layer >= config.L)
            throw Error(strf("%s: layers_to_transform has %d; the model has %d layers: is it an adapter of another?",
                             where.c_str(), layer, config.L));
    return lora;
}

// A head of the adapter's own: PEFT saves it whole. Its classes are named by a config.json beside it, if there is one.
HeadConfig read_head(const std::string& dir, const Json& j) {
    const Json saved = j.value("modules_to_save", Json());
    const bool none = saved.is_null() || saved.empty();
    if (none && j.value("task_type", Json()) != "SEQ_CLS") return {};  // for which PEFT saves a head unasked
    for (const Json& module : none ? Json::array() : saved)
        if (module != "score" && module != "classifier")  // PEFT names both for every task of this kind
            throw Error(strf("%s%s: modules_to_save is %s; here it may be [\"score\"], a head", dir.c_str(), kConfig,
                             saved.dump().c_str()));
    HeadConfig head;
    if (is_file(dir + "/config.json")) head = read_model_config(dir).head;
    if (head.outputs > 0 || !is_file(dir + kWeights)) return head;
    const SafetensorsFile file(dir + kWeights);
    for (const TensorInfo& t : file.tensors())
        if (t.name == "base_model.model.score.weight" && t.shape.size() == 2)
            head.outputs = static_cast<int>(t.shape[0]);
    for (int i = 0; i < head.outputs && head.outputs > 1; i++) head.labels.push_back("LABEL_" + std::to_string(i));
    return head;
}

PromptConfig read_prompts(const Json& j, const std::string& where, const ModelConfig& config) {
    const Refuse refuse{j, where};
    PromptConfig prompts;
    if (!json_whole(j.value("num_virtual_tokens", Json()), &prompts.tokens) || prompts.tokens < 1 ||
        prompts.tokens >= config.T)
        refuse("num_virtual_tokens", strf("here it is a number from 1 to %d", config.T - 1));
    if (const Json width = j.value("token_dim", Json()); !width.is_null() && width != config.C)
        refuse("token_dim", strf("the model's is %d: is it an adapter of another?", config.C));
    for (const char* field : {"num_transformer_submodules", "num_layers", "num_attention_heads"}) {
        const Json ours = field[4] == 't' ? 1 : field[4] == 'l' ? config.L : config.NH, there = j.value(field, Json());
        if (!there.is_null() && there != ours) refuse(field, "here it is " + ours.dump());
    }
    return prompts;
}

}  // namespace

std::string adapter_tensor_name(const Parameter& p) {
    return p.name == kPromptEmbeddings || of_encoder(p) ? p.name : "base_model.model." + p.name;
}

bool is_adapter_directory(const std::string& dir) { return is_file(dir + kConfig); }

std::string adapter_base(const std::string& dir) {
    const Json base = read_config(dir).value("base_model_name_or_path", Json());
    return base.is_string() ? base.get<std::string>() : "";
}

AdapterInfo read_adapter_config(const std::string& dir, const ModelConfig& config) {
    const Json j = read_config(dir);
    const std::string where = dir + kConfig;
    AdapterInfo info;
    info.path = dir, info.base = adapter_base(dir), info.config.head = read_head(dir, j);
    const Json type = j.value("peft_type", Json());
    if (type == "LORA") info.config.lora = read_lora(j, where, config);
    else if (type == "PROMPT_TUNING" || type == "P_TUNING") info.config.prompts = read_prompts(j, where, config);
    else if (type.is_null()) throw Error(where + " has no peft_type");
    else Refuse{j, where}("peft_type", "adapters here are of the types LORA, PROMPT_TUNING and P_TUNING");
    return info;
}

AdapterInfo find_adapter(const std::string& what, const ModelConfig& config) {
    std::string dir = what;
    if (is_directory(what) && !is_adapter_directory(what)) dir = newest_checkpoint(what);
    if (dir.empty() || !is_adapter_directory(dir))
        throw UsageError(
            strf("--adapter %s: there is neither an adapter (adapter_config.json) nor a run that has trained "
                 "one; `none` is the model alone",
                 what.c_str()));
    return read_adapter_config(dir, config);
}

void load_adapter(const std::string& dir, const ModelTensors& tensors) {
    for (const bool encoder : {false, true}) {
        std::map<std::string, const Parameter*> wanted;
        for (const Parameter& p : tensors.table)
            if (of_encoder(p) == encoder) wanted[adapter_tensor_name(p)] = &p;
        if (wanted.empty()) continue;
        const std::string path = dir + (encoder ? kEncoderWeights : kWeights);
        if (!is_file(path)) throw Error(strf("%s has no %s", dir.c_str(), fs::path(path).filename().c_str()));
        const SafetensorsFile file(path);
        std::map<std::string, const TensorInfo*> there;
        for (const TensorInfo& t : file.tensors()) there[t.name] = &t;
        for (const auto& [name, p] : wanted) {
            const auto found = there.find(name);
            if (found == there.end() && p->name == kValueHead) continue;  // it begins with this run
            if (found == there.end()) throw Error(strf("%s: tensor %s is missing", path.c_str(), name.c_str()));
            if (found->second->shape != file_tensor(*p, name, "").shape)
                throw Error(strf("%s: tensor %s does not fit the model: it is an adapter of another one", path.c_str(),
                                 name.c_str()));
            read_parameter(file, name, *p, tensors, weight_buffers(tensors));
            there.erase(found);
        }
        std::erase_if(there, [](const auto& t) { return t.first.ends_with(kValueHead); });  // nobody wants it
        if (!there.empty())
            throw Error(strf("%s: tensor %s has no place in the model: it is an adapter of another one", path.c_str(),
                             there.begin()->first.c_str()));
    }
}

void merge_adapter(const AdapterInfo& adapter, const ModelConfig& config, const ModelTensors& model) {
    if (adapter.config.prompts.tokens > 0)
        throw UsageError(
            adapter.path +
            ": prompts stand among a text's tokens and cannot become a part of the weights; the directory is in PEFT's "
            "form as it is, and the model alone is " +
            adapter.base);
    ModelTensors tensors{.table = adapter_table(config, adapter.config), .read = {}, .write = {}};
    std::vector<float> values(static_cast<size_t>(arena_size(tensors.table)));
    tensors.write = [&](Buffer, int64_t offset, int64_t n, const float* in) {
        std::copy_n(in, n, values.begin() + offset);
    };
    load_adapter(adapter.path, tensors);
    std::map<std::string, const Parameter*> rows;
    for (const Parameter& p : model.table) rows[p.name] = &p;
    const int64_t R = adapter.config.lora.rank;
    if (const auto to = rows.find("score.weight"); adapter.config.head.outputs > 0 && to != rows.end()) {
        const Parameter& score = tensors.table.back();
        for (Buffer buffer : weight_buffers(model))
            model.write(buffer, to->second->offset, score.size(), &values[static_cast<size_t>(score.offset)]);
    }
    for (size_t i = 0; i + 1 < tensors.table.size(); i += 2) {
        const Parameter &a = tensors.table[i], &b = tensors.table[i + 1];
        const Parameter& w = *rows.at(a.name.substr(0, a.name.find(".lora_A")) + ".weight");
        std::vector<float> sum(static_cast<size_t>(w.size()));
        const Buffer from = model.has_master ? Buffer::master : Buffer::weights;
        model.read(from, w.offset, w.size(), sum.data());
        for (int64_t o = 0; o < w.rows; o++)
            for (int64_t r = 0; r < R; r++) {
                const float factor = adapter.config.lora.scale() * values[static_cast<size_t>(b.offset + o * R + r)];
                const float* row = &values[static_cast<size_t>(a.offset + r * a.cols)];
                float* to = &sum[static_cast<size_t>(o * w.cols)];
                for (int64_t c = 0; c < w.cols; c++) to[c] += factor * row[c];
            }
        for (Buffer buffer : weight_buffers(model)) model.write(buffer, w.offset, w.size(), sum.data());
    }
}

static OrderedJson adapter_json(const AdapterInfo& adapter, const ModelConfig& config) {
    const bool head = adapter.config.head.of_model();
    OrderedJson j = {{"peft_type", adapter.config.prompts.tokens > 0 ? "PROMPT_TUNING" : "LORA"},
                     {"task_type", head ? "SEQ_CLS" : "CAUSAL_LM"},
                     {"base_model_name_or_path", adapter.base},
                     {"inference_mode", true}};
    if (adapter.config.prompts.tokens > 0) {
        j["num_virtual_tokens"] = adapter.config.prompts.tokens, j["token_dim"] = config.C;
        j["num_transformer_submodules"] = 1, j["num_layers"] = config.L, j["num_attention_heads"] = config.NH;
        j["prompt_tuning_init"] = "RANDOM", j["prompt_tuning_init_text"] = nullptr;
        j["tokenizer_name_or_path"] = nullptr;
        return j;
    }
    const LoraConfig& lora = adapter.config.lora;
    Json targets = Json::array();
    for (Linear which : kLinears)
        if (lora.linears >> static_cast<int>(which) & 1) targets.push_back(kLinearNames[static_cast<int>(which)]);
    j["r"] = lora.rank, j["lora_alpha"] = lora.alpha, j["lora_dropout"] = lora.dropout;
    j["target_modules"] = targets, j["layers_to_transform"] = nullptr, j["use_rslora"] = lora.rank_stabilised;
    if (!lora.layers.empty()) j["layers_to_transform"] = lora.layers;
    j["bias"] = "none", j["modules_to_save"] = head ? Json::array({"score"}) : Json();
    j["fan_in_fan_out"] = true;  // of Conv1D, which keeps weights (in,out)
    return j;
}

std::vector<WrittenFile> write_adapter_directory(const std::string& dir, const AdapterInfo& adapter,
                                                 const ModelConfig& config, const ModelTensors& tensors,
                                                 const Tokenizer* tokenizer) {
    std::vector<WrittenFile> written;
    auto write_text = [&](const std::string& name, const std::string& text) {
        written.push_back({name, write_file(dir + "/" + name, text), text.size()});
    };
    if (tokenizer)
        for (const auto& [name, text] : tokenizer->model_files(config.T)) write_text(name, text);
    write_text("adapter_config.json", adapter_json(adapter, config).dump(2) + "\n");

    const char* dtype = tensors.bf16 ? "BF16" : "F32";
    if (adapter.config.head.of_model()) {  // for the names of its classes
        ModelConfig with_head = config;
        with_head.head = adapter.config.head;
        write_text("config.json", config_json(with_head, dtype, -1, {}));
    }
    for (const bool encoder : {false, true}) {
        std::vector<TensorInfo> infos;
        for (const Parameter& p : tensors.table)
            if (of_encoder(p) == encoder) infos.push_back(file_tensor(p, adapter_tensor_name(p), dtype));
        if (infos.empty()) continue;
        const char* name = encoder ? kEncoderWeights : kWeights;
        SafetensorsWriter file(dir + name, infos);
        for (const Parameter& p : tensors.table)
            if (of_encoder(p) == encoder) write_parameter(&file, dtype, p, tensors, Buffer::weights);
        const std::string checksum = file.close();
        written.push_back({name + 1, checksum, file.file_bytes()});
    }
    return written;
}
