#include "llmc/files/adapter_files.h"

#include <cmath>
#include <filesystem>
#include <map>
#include <regex>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/parameter_files.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/model/adapter.h"

namespace fs = std::filesystem;

namespace {

constexpr char kConfig[] = "/adapter_config.json", kWeights[] = "/adapter_model.safetensors";

Json read_config(const std::string& dir) { return parse_json_object(read_file(dir + kConfig), dir + kConfig); }

// PEFT: a text is an expression that the whole name must match, a list holds ends of names; "all-linear" is all.
bool is_target(const Json& targets, const std::string& name) {
    if (targets == "all-linear") return true;
    if (targets.is_string()) return std::regex_match(name, std::regex(targets.get<std::string>()));
    for (const Json& t : targets)
        if (name == t.get<std::string>() || name.ends_with("." + t.get<std::string>())) return true;
    return false;
}

// Fields of PEFT's LoraConfig that would make another computation of it, and what they are in ours.
void refuse_other_adapters(const Json& j, const std::string& where) {
    const auto refuse = [&](const std::string& field, const std::string& remedy) {
        throw Error(strf("%s: %s is %s; %s", where.c_str(), field.c_str(), j[field].dump().c_str(), remedy.c_str()));
    };
    if (j.value("peft_type", Json()) != "LORA") {
        if (!j.contains("peft_type")) throw Error(where + " has no peft_type");
        refuse("peft_type", "adapters here are of the type LORA");
    }
    if (const Json bias = j.value("bias", Json("none")); bias != "none") refuse("bias", "here it is \"none\"");
    for (const char* field : {"use_dora", "lora_bias", "use_qalora"})
        if (j.value(field, Json(false)) == true) refuse(field, "here it is false");
    for (const char* field : {"modules_to_save", "rank_pattern", "alpha_pattern", "exclude_modules",
                              "target_parameters", "trainable_token_indices", "layer_replication"})
        if (const Json v = j.value(field, Json()); !v.is_null() && !v.empty()) refuse(field, "here there is none");
}

}  // namespace

bool is_adapter_directory(const std::string& dir) { return is_file(dir + kConfig); }

std::string adapter_base(const std::string& dir) {
    const Json base = read_config(dir).value("base_model_name_or_path", Json());
    return base.is_string() ? base.get<std::string>() : "";
}

AdapterInfo read_adapter_config(const std::string& dir, const ModelConfig& config) {
    const Json j = read_config(dir);
    const std::string where = dir + kConfig;
    refuse_other_adapters(j, where);
    AdapterInfo info;
    info.path = dir, info.base = adapter_base(dir);
    try {
        if (!json_whole(j.at("r"), &info.config.lora.rank)) throw Error(where + ": r is no whole number");
        info.config.lora.alpha = j.value("lora_alpha", 8.0f), info.config.lora.dropout = j.value("lora_dropout", 0.0f);
        info.config.lora.rank_stabilised = j.value("use_rslora", false);
        Json targets = j.value("target_modules", Json()), layers = j.value("layers_to_transform", Json());
        if (targets.is_null() || (targets.is_array() && targets.empty())) throw Error(where + " has no target_modules");
        if (layers.is_number()) layers = Json::array({layers});
        info.config.lora.linears = 0;
        for (Linear which : kLinears) {
            const std::string name = block_prefix(0) + kLinearNames[static_cast<int>(which)];
            if (is_target(targets, name)) info.config.lora.linears |= 1u << static_cast<int>(which);
        }
        if (info.config.lora.linears == 0)
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
        if (!layers.is_null() && !layers.empty()) info.config.lora.layers = layers.get<std::vector<int>>();
    } catch (const JsonError&) {
        throw Error(where + ": a field is missing or has the wrong type");
    } catch (const std::regex_error&) {
        throw Error(where + ": target_modules is no regular expression");
    }
    if (info.config.lora.rank < 1 || info.config.lora.rank > 65536 || !(info.config.lora.alpha > 0) ||
        !(info.config.lora.dropout >= 0) || !(info.config.lora.dropout < 1))
        throw Error(where + ": r, lora_alpha or lora_dropout has no possible value");
    for (int layer : info.config.lora.layers)
        if (layer < 0 || layer >= config.L)
            throw Error(strf("%s: layers_to_transform has %d; the model has %d layers: is it an adapter of another?",
                             where.c_str(), layer, config.L));
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
    if (!is_file(dir + kWeights)) throw Error(dir + " has no adapter_model.safetensors");
    const SafetensorsFile file(dir + kWeights);
    std::map<std::string, const TensorInfo*> there;
    for (const TensorInfo& t : file.tensors()) there[t.name] = &t;
    for (const Parameter& p : tensors.table) {
        const std::string name = kAdapterPrefix + p.name;
        const auto found = there.find(name);
        if (found == there.end()) throw Error(strf("%s: tensor %s is missing", file.path().c_str(), name.c_str()));
        if (found->second->shape != file_tensor(p, name, "").shape)
            throw Error(strf("%s: tensor %s does not fit the model: it is an adapter of another one",
                             file.path().c_str(), name.c_str()));
        read_parameter(file, name, p, tensors, weight_buffers(tensors));
        there.erase(found);
    }
    if (!there.empty())
        throw Error(strf("%s: tensor %s has no place in the model: it is an adapter of another one",
                         file.path().c_str(), there.begin()->first.c_str()));
}

void merge_adapter(const AdapterInfo& adapter, const ModelConfig& config, const ModelTensors& model) {
    ModelTensors tensors{.table = adapter_table(config, adapter.config), .read = {}, .write = {}};
    std::vector<float> values(static_cast<size_t>(arena_size(tensors.table)));
    tensors.write = [&](Buffer, int64_t offset, int64_t n, const float* in) {
        std::copy_n(in, n, values.begin() + offset);
    };
    load_adapter(adapter.path, tensors);
    std::map<std::string, const Parameter*> rows;
    for (const Parameter& p : model.table) rows[p.name] = &p;
    const int64_t R = adapter.config.lora.rank;
    for (size_t i = 0; i < tensors.table.size(); i += 2) {
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

std::vector<WrittenFile> write_adapter_directory(const std::string& dir, const AdapterInfo& adapter,
                                                 const ModelConfig& config, const ModelTensors& tensors,
                                                 const Tokenizer* tokenizer) {
    std::vector<WrittenFile> written;
    auto write_text = [&](const std::string& name, const std::string& text) {
        written.push_back({name, write_file(dir + "/" + name, text), text.size()});
    };
    if (tokenizer)
        for (const auto& [name, text] : tokenizer->model_files(config.T)) write_text(name, text);
    const LoraConfig& lora = adapter.config.lora;
    Json targets = Json::array();
    for (Linear which : kLinears)
        if (lora.linears >> static_cast<int>(which) & 1) targets.push_back(kLinearNames[static_cast<int>(which)]);
    OrderedJson j = {{"peft_type", "LORA"},
                     {"task_type", "CAUSAL_LM"},
                     {"base_model_name_or_path", adapter.base},
                     {"r", lora.rank},
                     {"lora_alpha", lora.alpha},
                     {"lora_dropout", lora.dropout},
                     {"target_modules", targets},
                     {"layers_to_transform", nullptr},
                     {"use_rslora", lora.rank_stabilised},
                     {"bias", "none"},
                     {"fan_in_fan_out", true},  // of Conv1D, which keeps weights (in,out)
                     {"modules_to_save", nullptr},
                     {"inference_mode", true}};
    if (!lora.layers.empty()) j["layers_to_transform"] = lora.layers;
    write_text("adapter_config.json", j.dump(2) + "\n");

    const char* dtype = tensors.bf16 ? "BF16" : "F32";
    std::vector<TensorInfo> infos;
    for (const Parameter& p : tensors.table) infos.push_back(file_tensor(p, kAdapterPrefix + p.name, dtype));
    SafetensorsWriter file(dir + kWeights, infos);
    for (const Parameter& p : tensors.table) write_parameter(&file, dtype, p, tensors, Buffer::weights);
    std::string checksum = file.close();
    written.push_back({kWeights + 1, checksum, file.file_bytes()});
    return written;
}
