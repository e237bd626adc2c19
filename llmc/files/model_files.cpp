#include "llmc/files/model_files.h"

#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/config_json.h"
#include "llmc/files/llmc_bin.h"
#include "llmc/files/parameter_files.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/text/tokenizer.h"

namespace fs = std::filesystem;

namespace {

bool is_file(const std::string& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
}

bool is_directory(const std::string& path) {
    std::error_code error;
    return fs::is_directory(path, error);
}

std::string vocabulary_in(const std::string& dir) { return Tokenizer::present(dir) ? dir : ""; }

Json read_json_object(const std::string& path) { return parse_json_object(read_file(path), path); }

// The safetensors files of a model directory.
std::vector<std::unique_ptr<SafetensorsFile>> open_weights(const std::string& dir) {
    std::vector<std::unique_ptr<SafetensorsFile>> files;
    std::string index = dir + "/model.safetensors.index.json";
    if (is_file(dir + "/model.safetensors")) {
        files.push_back(std::make_unique<SafetensorsFile>(dir + "/model.safetensors"));
    } else if (is_file(index)) {
        Json j = read_json_object(index);
        Json map = j.value("weight_map", Json());
        if (!map.is_object() || map.empty()) throw Error(strf("%s has no weight_map", index.c_str()));
        std::set<std::string> names;
        for (auto& [tensor, name] : map.items()) {
            if (!name.is_string() || name.get<std::string>().find('/') != std::string::npos)
                throw Error(strf("%s: weight_map of %s is no file name", index.c_str(), tensor.c_str()));
            names.insert(name.get<std::string>());
        }
        for (const std::string& name : names) files.push_back(std::make_unique<SafetensorsFile>(dir + "/" + name));
    } else if (is_file(dir + "/pytorch_model.bin")) {
        throw Error(
            strf("%s has its weights as pytorch_model.bin only; save it as model.safetensors with transformers' "
                 "save_pretrained",
                 dir.c_str()));
    } else {
        throw Error(strf("%s has no model.safetensors", dir.c_str()));
    }
    return files;
}

}  // namespace

ModelSource find_model(const std::string& what) {
    ModelSource source;
    if (!is_directory(what) && parse_model_size(what, &source.config)) return source;

    bool published = what == "gpt2" || what == "gpt2-medium" || what == "gpt2-large" || what == "gpt2-xl";
    std::vector<std::string> paths = {what};
    if (published) paths.push_back("data/" + what);
    for (const std::string& path : paths) {
        if (is_directory(path)) {
            source.kind = ModelSource::Kind::directory;
            source.path = is_file(path + "/config.json") ? path : newest_checkpoint(path);
            if (source.path.empty()) continue;
            source.config = read_model_config(source.path);
            source.vocabulary = vocabulary_in(source.path);
            return source;
        }
        if (is_file(path)) {
            source.kind = ModelSource::Kind::llmc_bin;
            source.path = path;
            source.config = read_llmc_bin_config(path);
            std::string dir = fs::path(path).parent_path().string();
            source.vocabulary = vocabulary_in(dir.empty() ? "." : dir);
            return source;
        }
    }
    if (published)
        throw UsageError(
            strf("--model %s: neither %s nor data/%s is a model directory; get GPT-2's weights with: make gpt2 "
                 "SIZE=%s",
                 what.c_str(), what.c_str(), what.c_str(), what.c_str()));
    if (is_directory(what))
        throw UsageError(
            strf("--model %s: the directory holds neither a model (config.json and model.safetensors) nor the "
                 "checkpoints of a run (step_00001000, ...)",
                 what.c_str()));
    throw UsageError(
        strf("--model '%s' is no size and there is no such file or directory; it may be a Hugging Face model "
             "directory, a run's directory, an llm.c .bin, or one of the sizes %s",
             what.c_str(), model_size_names().c_str()));
}

void load_weights(const ModelSource& source, const ModelTensors& tensors) {
    CHECK(source.kind != ModelSource::Kind::size, "a size has no weights");
    if (source.kind == ModelSource::Kind::llmc_bin) return load_llmc_bin(source.path, source.config, tensors);

    auto files = open_weights(source.path);
    std::map<std::string, std::pair<const SafetensorsFile*, const TensorInfo*>> found;  // by transformers' full name
    for (auto& file : files)
        for (const TensorInfo& t : file->tensors()) {
            if (t.name == "lm_head.weight" || t.name.ends_with(".attn.bias") || t.name.ends_with(".attn.masked_bias"))
                continue;  // wte again; causal masks, which old files carry
            std::string name = t.name.starts_with("transformer.") ? t.name : "transformer." + t.name;
            if (!found.insert({name, {file.get(), &t}}).second)
                throw Error(strf("%s: tensor %s is there twice", file->path().c_str(), t.name.c_str()));
        }
    for (const Parameter& p : tensors.table) {
        auto it = found.find(p.name);
        if (it == found.end()) throw Error(strf("%s: tensor %s is missing", files[0]->path().c_str(), p.name.c_str()));
        auto [file, t] = it->second;
        read_parameter(*file, t->name, p, tensors, weight_buffers(tensors));
        found.erase(it);
    }
    if (!found.empty())
        throw Error(strf("%s: tensor %s is none of a GPT-2 model with the sizes of config.json",
                         found.begin()->second.first->path().c_str(), found.begin()->second.second->name.c_str()));
}

std::vector<WrittenFile> write_model_directory(const std::string& dir, const ModelConfig& config,
                                               const ModelTensors& tensors, const std::string& vocabulary) {
    std::vector<WrittenFile> written;
    auto write_text = [&](const std::string& name, const std::string& text) {
        written.push_back({name, write_file(dir + "/" + name, text), text.size()});
    };

    int end_of_text = -1;
    if (!vocabulary.empty()) {
        for (const char* name : Tokenizer::kFiles) write_text(name, read_file(vocabulary + "/" + name));
        write_text("tokenizer_config.json", tokenizer_config_json(config));
        const Json ids = read_json_object(vocabulary + "/vocab.json");
        end_of_text = ids.value(std::string(kEndOfText), -1);
    } else if (config.V == kGpt2Vocabulary) {
        end_of_text = kGpt2Vocabulary - 1;  // its files are not at hand, but the size says that it is meant
    }
    write_text("config.json", config_json(config, tensors.bf16, end_of_text));
    write_text("generation_config.json", generation_config_json(end_of_text));

    const char* dtype = tensors.bf16 ? "BF16" : "F32";
    std::vector<TensorInfo> infos;
    for (const Parameter& p : tensors.table) infos.push_back(file_tensor(p, p.name, dtype));
    SafetensorsWriter file(dir + "/model.safetensors", infos);
    for (const Parameter& p : tensors.table) write_parameter(&file, dtype, p, tensors, Buffer::weights);
    std::string checksum = file.close();
    written.push_back({"model.safetensors", checksum, file.file_bytes()});
    return written;
}
