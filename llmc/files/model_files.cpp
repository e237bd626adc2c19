#include "llmc/files/model_files.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/adapter_files.h"
#include "llmc/files/config_json.h"
#include "llmc/files/llmc_bin.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/text/tokenizer.h"

namespace fs = std::filesystem;

namespace {

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

// The tensors of a model directory by the names of the parameter table, and those that are none of them.
struct Weights {
    struct Found {
        const SafetensorsFile* file;
        const TensorInfo* tensor;
    };
    std::vector<std::unique_ptr<SafetensorsFile>> files;
    std::map<std::string, Found> found;
    std::vector<std::string> others;

    explicit Weights(const std::string& dir) : files(open_weights(dir)) {
        // Who has wrapped the model has put something in front of all names; it is what stands before wte's.
        const std::string wte = "wte.weight";
        std::string prefix, holder;
        for (auto& file : files)
            for (const TensorInfo& t : file->tensors()) {
                if (!t.name.ends_with(wte) || (t.name.size() > wte.size() && !t.name.ends_with("." + wte))) continue;
                if (!holder.empty())
                    throw Error(strf("%s: both %s and %s are there; which of them is the model's?",
                                     file->path().c_str(), holder.c_str(), t.name.c_str()));
                holder = t.name, prefix = t.name.substr(0, t.name.size() - wte.size());
            }
        const std::string own = "transformer.";
        const std::string outer = prefix.ends_with(own) ? prefix.substr(0, prefix.size() - own.size()) : prefix;
        for (auto& file : files)
            for (const TensorInfo& t : file->tensors()) {
                if (t.name.ends_with(".attn.bias") || t.name.ends_with(".attn.masked_bias")) continue;  // causal masks
                const std::string name = t.name.starts_with(prefix) ? t.name.substr(prefix.size()) : t.name;
                const auto part = [&](const char* of_model) { return name.starts_with(of_model); };
                if (t.name == outer + "lm_head.weight" || name == "lm_head.weight") add("lm_head.weight", *file, t);
                else if (t.name == outer + "score.weight" || name == "score.weight") add("score.weight", *file, t);
                else if (name == kValueHead) add(kValueHead, *file, t);
                else if (part("h.") || part("wte.") || part("wpe.") || part("ln_f.")) add(own + name, *file, t);
                else others.push_back(t.name);
            }
    }
    // Whether the LM head is there and is not wte.
    bool has_head() const {
        const auto head = found.find("lm_head.weight"), wte = found.find("transformer.wte.weight");
        if (head == found.end() || wte == found.end()) return false;
        const auto [file, h] = head->second;
        const TensorInfo* w = wte->second.tensor;
        const size_t bytes = h->end - h->begin;
        return h->dtype != w->dtype || h->shape != w->shape || w->end - w->begin != bytes ||
               memcmp(file->bytes(*h), wte->second.file->bytes(*w), bytes) != 0;
    }

  private:
    void add(const std::string& name, const SafetensorsFile& file, const TensorInfo& t) {
        if (!found.insert({name, {&file, &t}}).second)
            throw Error(strf("%s: tensor %s is there twice", file.path().c_str(), t.name.c_str()));
    }
};

// What the files of a directory say against its config.json, and what in them is of no use here.
void look_at_weights(ModelSource* source) {
    if (!is_file(source->path + "/model.safetensors") && !is_file(source->path + "/model.safetensors.index.json"))
        return;
    try {
        const Weights weights(source->path);
        const bool head = weights.has_head();
        if (head != source->config.untied && (head || !weights.found.count("lm_head.weight"))) {
            source->config.untied = head;
            source->notes.push_back(
                strf("note: %s: tie_word_embeddings is %s, but lm_head.weight is %s: it is taken for %s",
                     source->path.c_str(), head ? "true" : "false", head ? "not wte" : "not there",
                     head ? "weights of its own" : "wte"));
        }
        std::vector<std::string> others = weights.others;
        if (source->config.head.outputs == 0 && weights.found.count("score.weight")) others.push_back("score.weight");
        std::string some;
        for (size_t i = 0; i < std::min<size_t>(3, others.size()); i++) some += (i ? ", " : "") + others[i];
        if (!others.empty())
            source->notes.push_back(
                strf("note: %s: %zu tensor(s) that are no part of the language model are left out: %s%s",
                     source->path.c_str(), others.size(), some.c_str(), others.size() > 3 ? ", ..." : ""));
    } catch (const Error&) {  // load_weights() will say it, if anybody wants to load them
    }
}

// The model of the adapter in `dir`, and the adapter.
ModelSource find_adapted(const std::string& dir, const std::string& base) {
    std::string model = base.empty() ? adapter_base(dir) : base;
    const std::string beside = dir + "/" + model;
    if (base.empty() && !path_exists(model) && path_exists(beside)) model = beside;
    if (model.empty())
        throw UsageError(strf("%s does not say which model it belongs to; name that with --base", dir.c_str()));
    if (!path_exists(model) && base.empty() && !path_exists("data/" + model))
        throw UsageError(strf("%s belongs to the model %s, which is not there; name its directory with --base",
                              dir.c_str(), model.c_str()));
    ModelSource source = find_model(model);
    if (source.kind == ModelSource::Kind::size || source.adapter)
        throw UsageError(strf("%s: its model %s is %s; name a model with weights of its own with --base", dir.c_str(),
                              model.c_str(), source.adapter ? "an adapter itself" : "a size"));
    source.adapter = read_adapter_config(dir, source.config);
    source.adapter->base = fs::absolute(source.path).lexically_normal().string();
    if (Tokenizer::present(dir)) source.vocabulary = dir;
    return source;
}

}  // namespace

ModelSource find_model(const std::string& what, const std::string& base) {
    ModelSource source;
    if (!is_directory(what) && parse_model_size(what, &source.config)) return source;

    bool published = what == "gpt2" || what == "gpt2-medium" || what == "gpt2-large" || what == "gpt2-xl";
    std::vector<std::string> paths = {what};
    if (published) paths.push_back("data/" + what);
    for (const std::string& path : paths) {
        if (is_directory(path)) {
            source.kind = ModelSource::Kind::directory;
            source.path = is_file(path + "/config.json") || is_adapter_directory(path) ? path : newest_checkpoint(path);
            if (source.path.empty()) continue;
            if (is_adapter_directory(source.path)) return find_adapted(source.path, base);
            if (source.path != path)
                for (const std::string& dir : false_checkpoints(path))
                    if (dir > source.path)
                        source.notes.push_back(
                            strf("note: %s has no trainer_state.json and is no checkpoint; %s is taken instead",
                                 dir.c_str(), source.path.c_str()));
            source.config = read_model_config(source.path);
            source.vocabulary = vocabulary_in(source.path);
            look_at_weights(&source);
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

    Weights weights(source.path);
    auto& found = weights.found;
    const std::string first = weights.files[0]->path();
    for (const Parameter& p : tensors.table) {
        const auto it = found.find(p.name);
        // a head that begins with this run
        if ((p.name == "score.weight" && source.config.head.outputs == 0) ||
            (p.name == kValueHead && it == found.end()))
            continue;
        if (it == found.end()) throw Error(strf("%s: tensor %s is missing", first.c_str(), p.name.c_str()));
        auto [file, t] = it->second;
        read_parameter(*file, t->name, p, tensors, weight_buffers(tensors));
        found.erase(it);
    }
    found.erase("lm_head.weight");                         // wte again
    found.erase("score.weight"), found.erase(kValueHead);  // nobody wants it
    if (!found.empty())
        throw Error(strf("%s: tensor %s is none of a GPT-2 model with the sizes of config.json",
                         found.begin()->second.file->path().c_str(), found.begin()->second.tensor->name.c_str()));
}

void load_weights(const ModelSource& source, const ModelTensors& tensors, const NewWords& words) {
    if (words.pieces.empty()) return load_weights(source, tensors);
    ModelTensors old = tensors;
    std::map<int64_t, std::vector<float>> tables;  // rows of the source, by their place in the arena
    for (Parameter& p : old.table)
        if (p.has_row_per_word()) {
            p.rows = source.config.V;
            tables[p.offset].resize(static_cast<size_t>(p.size()));
        }
    old.write = [&](Buffer buffer, int64_t offset, int64_t n, const float* in) {
        tensors.write(buffer, offset, n, in);
        for (auto& [begin, rows] : tables)
            if (offset >= begin && offset + n <= begin + std::ssize(rows))
                std::copy_n(in, n, rows.data() + (offset - begin));
    };
    load_weights(source, old);
    const int64_t C = source.config.C;
    std::vector<float> mean(static_cast<size_t>(C));
    for (const auto& [begin, rows] : tables)
        for (size_t i = 0; i < words.pieces.size(); i++) {
            const std::vector<int>& pieces = words.pieces[i];
            for (int64_t c = 0; c < C; c++) {
                double sum = 0;
                for (int id : pieces) sum += static_cast<double>(rows[static_cast<size_t>(id * C + c)]);
                mean[static_cast<size_t>(c)] = static_cast<float>(sum / static_cast<double>(pieces.size()));
            }
            for (Buffer b : weight_buffers(tensors))
                tensors.write(b, begin + (words.first + static_cast<int64_t>(i)) * C, C, mean.data());
        }
}

std::vector<WrittenFile> write_model_directory(const std::string& dir, const ModelConfig& config,
                                               const ModelTensors& tensors, const Tokenizer* tokenizer,
                                               const WeightFiles& how) {
    std::vector<WrittenFile> written;
    auto write_text = [&](const std::string& name, const std::string& text) {
        written.push_back({name, write_file(dir + "/" + name, text), text.size()});
    };

    int begin = -1;
    std::vector<int> ends;
    if (tokenizer) {
        for (const auto& [name, text] : tokenizer->model_files(config.T)) write_text(name, text);
        begin = tokenizer->begin_of_text(), ends = tokenizer->ends();
    } else if (config.V == kGpt2Vocabulary) {
        begin = kGpt2Vocabulary - 1, ends = {begin};  // its files are not at hand, but the size says what is meant
    }
    const std::string dtype = !how.dtype.empty() ? how.dtype : tensors.bf16 ? "BF16" : "F32";
    write_text("config.json", config_json(config, dtype, begin, ends));
    write_text("generation_config.json", generation_config_json(begin, ends));

    std::vector<FileTensor> all;
    for (const Parameter& p : tensors.table) all.push_back({&p, Buffer::weights, p.name});
    std::vector<std::string> which;
    const auto files = write_parameters(dir, "model", dtype, all, tensors, how.most, &which);
    written.insert(written.end(), files.begin(), files.end());
    if (files.size() > 1) {
        OrderedJson map;
        for (size_t i = 0; i < all.size(); i++) map[all[i].name] = which[i];
        const int64_t bytes = parameter_count(config) * (dtype == "F32" ? 4 : 2);
        write_text("model.safetensors.index.json",
                   OrderedJson{{"metadata", {{"total_size", bytes}}}, {"weight_map", map}}.dump(2) + "\n");
    }
    return written;
}
