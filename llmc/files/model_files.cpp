#include "llmc/files/model_files.h"

#include <climits>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <set>

#include "llmc/base/bf16.h"
#include "llmc/files/run_directory.h"
#include "llmc/base/json.h"

namespace fs = std::filesystem;

namespace {

constexpr int64_t kPiece = 1 << 20;  // elements that are read or converted at a time: 4 MB of floats
constexpr size_t kBinHeaderInts = 256;
constexpr int kBinMagic = 20240326;

bool is_file(const std::string& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
}

bool is_directory(const std::string& path) {
    std::error_code error;
    return fs::is_directory(path, error);
}

bool ends_with(const std::string& s, const std::string& end) {
    return s.size() >= end.size() && s.compare(s.size() - end.size(), end.size(), end) == 0;
}

std::string vocabulary_in(const std::string& dir) {
    return is_file(dir + "/vocab.json") && is_file(dir + "/merges.txt") ? dir : "";
}

Json read_json_object(const std::string& path) { return parse_json_object(read_file(path), path); }

// ---- config.json ----------------------------------------------------------------------------------------------------

// Refuses what the programs would run wrongly; a field that is absent has GPT2Config's default, which is ours.
void check_is_our_gpt2(const Json& j, const std::string& path, int C) {
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

// ---- llm.c's .bin ---------------------------------------------------------------------------------------------------
// 256 int32: magic, version (3 fp32, 5 bf16), maxT, V, L, NH, C, Vp; then each kind of tensor for all layers in turn,
// weights of linear layers as (OC, C), wte with Vp rows.

struct BinHeader {
    ModelConfig config;
    int64_t element_bytes, Vp;
};

BinHeader read_bin_header(const std::string& path, const MappedFile& file) {
    int32_t h[kBinHeaderInts] = {};
    if (file.size() > 0) memcpy(h, file.data(), std::min(file.size(), sizeof h));
    if (file.size() < sizeof h || h[0] != kBinMagic) {
        const char* is = "it is no llm.c model file";
        if (file.size() >= 4 && (h[0] == 20240520 || h[0] == 20240801)) is = "it is a shard of tokens, not a model";
        if (file.size() >= 4 && h[0] == 20240327)
            is = "it is the optimizer state of an llm.c run; give its model_*.bin";
        throw Error(strf("--model %s: %s (a directory, a size or an llm.c model .bin is expected)", path.c_str(), is));
    }
    if (h[1] != 3 && h[1] != 5)
        throw Error(
            strf("%s: llm.c model file of version %d; versions 3 (fp32) and 5 (bf16) can be read", path.c_str(), h[1]));
    BinHeader header{{h[4], h[5], h[6], h[2], h[3]}, h[1] == 3 ? 4 : 2, h[7]};
    const ModelConfig& m = header.config;
    check_model_config(m, path);
    if (m.V < 1 || header.Vp < m.V)
        throw Error(strf("%s: vocabulary of %d tokens padded to %d is impossible", path.c_str(), m.V, h[7]));
    int64_t elements = parameter_count(m) + (header.Vp - m.V) * m.C;
    uint64_t expected = sizeof h + static_cast<uint64_t>(elements * header.element_bytes);
    if (file.size() != expected)
        throw Error(strf("%s has %zu bytes; its header (L=%d H=%d C=%d T=%d V=%d) calls for %llu", path.c_str(),
                         file.size(), m.L, m.NH, m.C, m.T, m.V, static_cast<unsigned long long>(expected)));
    return header;
}

// ---- tensors --------------------------------------------------------------------------------------------------------

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "(";
    for (int64_t d : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(d);
    return text + ")";
}

// Fills p in each of `buffers` from read(offset, n, out), which gives elements of the tensor as it stands in the file;
// a (C, OC) tensor is transposed on the way, a few rows of memory at a time.
template <typename Read>
void fill_parameter(const Parameter& p, bool transposed, const ModelTensors& tensors,
                    const std::vector<Buffer>& buffers, const std::string& where, Read&& read) {
    int64_t rows_at_once = std::min(p.rows, std::max<int64_t>(1, kPiece / p.cols));
    std::vector<float> rows(static_cast<size_t>(rows_at_once * p.cols)), columns(transposed ? rows.size() : 0);
    for (int64_t r0 = 0; r0 < p.rows; r0 += rows_at_once) {
        int64_t R = std::min(rows_at_once, p.rows - r0), n = R * p.cols;
        if (transposed) {
            for (int64_t c = 0; c < p.cols; c++) read(c * p.rows + r0, R, columns.data() + c * R);
            for (int64_t c0 = 0; c0 < p.cols; c0 += 16)  // 16 floats: a cache line is written at once
                for (int64_t r = 0; r < R; r++)
                    for (int64_t c = c0; c < std::min(c0 + 16, p.cols); c++)
                        rows[static_cast<size_t>(r * p.cols + c)] = columns[static_cast<size_t>(c * R + r)];
        } else {
            read(r0 * p.cols, n, rows.data());
        }
        for (int64_t i = 0; i < n; i++)
            if (!std::isfinite(rows[static_cast<size_t>(i)]))
                throw Error(strf("%s has the value %g, which no sound model has", where.c_str(),
                                 static_cast<double>(rows[static_cast<size_t>(i)])));
        for (Buffer b : buffers) tensors.write(b, p.offset + r0 * p.cols, n, rows.data());
    }
}

std::vector<Buffer> weight_buffers(const ModelTensors& tensors) {
    return tensors.has_master ? std::vector{Buffer::weights, Buffer::master} : std::vector{Buffer::weights};
}

void load_bin(const ModelSource& source, const ModelTensors& tensors) {
    MappedFile file(source.path);
    BinHeader header = read_bin_header(source.path, file);
    CHECK(header.config == source.config, "%s changed", source.path.c_str());
    const unsigned char* data = file.data() + kBinHeaderInts * 4;
    // The table goes layer by layer; the file goes kind by kind, all layers of each: a stable sort by the kind's first
    // row.
    std::vector<std::pair<size_t, const Parameter*>> order;
    std::map<std::string, size_t> kinds;
    for (const Parameter& p : tensors.table) {
        std::string layer = strf("transformer.h.%d.", p.layer);
        size_t kind = kinds.emplace(p.layer < 0 ? p.name : p.name.substr(layer.size()), kinds.size()).first->second;
        order.push_back({kind, &p});
    }
    std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.first < b.first; });
    for (auto& [kind, p] : order) {
        auto read = [&](int64_t offset, int64_t n, float* out) {
            const unsigned char* in = data + offset * header.element_bytes;
            if (header.element_bytes == 4) {
                memcpy(out, in, static_cast<size_t>(n) * 4);
            } else {
                for (int64_t i = 0; i < n; i++) {
                    bf16 x;
                    memcpy(&x, in + 2 * i, 2);
                    out[i] = x;
                }
            }
        };
        fill_parameter(*p, false, tensors, weight_buffers(tensors), source.path + ": tensor " + p->name, read);
        data += (kind == 0 ? header.Vp * p->cols : p->size()) * header.element_bytes;  // kind 0: wte
    }
}

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

TensorInfo file_tensor(const Parameter& p, const std::string& name, const std::string& dtype) {
    TensorInfo t;
    t.name = name;
    t.dtype = dtype;
    if (p.cols == 1) t.shape = {p.rows};
    else if (p.transposed_in_file) t.shape = {p.cols, p.rows};
    else t.shape = {p.rows, p.cols};
    return t;
}

void write_parameter(SafetensorsWriter* file, const std::string& dtype, const Parameter& p, const ModelTensors& tensors,
                     Buffer buffer) {
    bool transposed = p.transposed_in_file && p.cols > 1;
    // A transposed tensor is read whole: its columns lie all over it.
    std::vector<float> in(static_cast<size_t>(transposed ? p.size() : std::min(p.size(), kPiece))), out;
    if (!transposed) {
        for (int64_t i = 0; i < p.size(); i += kPiece) {
            int64_t n = std::min(kPiece, p.size() - i);
            tensors.read(buffer, p.offset + i, n, in.data());
            if (file) file->write_float(dtype, in.data(), n);
        }
        return;
    }
    tensors.read(buffer, p.offset, p.size(), in.data());
    if (!file) return;
    constexpr int64_t kColumns = 16;  // a cache line of floats is read at once
    out.resize(static_cast<size_t>(kColumns * p.rows));
    for (int64_t c0 = 0; c0 < p.cols; c0 += kColumns) {
        int64_t n = std::min(kColumns, p.cols - c0);
        for (int64_t r = 0; r < p.rows; r++)
            for (int64_t c = 0; c < n; c++)
                out[static_cast<size_t>(c * p.rows + r)] = in[static_cast<size_t>(r * p.cols + c0 + c)];
        file->write_float(dtype, out.data(), n * p.rows);
    }
}

void read_parameter(const SafetensorsFile& file, const std::string& name, const Parameter& p,
                    const ModelTensors& tensors, const std::vector<Buffer>& buffers) {
    const TensorInfo& t = file.at(name);
    std::string where = file.path() + ": tensor " + name;
    std::vector<int64_t> expected = file_tensor(p, name, t.dtype).shape;
    if (t.shape != expected)
        throw Error(strf("%s has shape %s; this model needs %s", where.c_str(), shape_text(t.shape).c_str(),
                         shape_text(expected).c_str()));
    fill_parameter(p, p.transposed_in_file && p.cols > 1, tensors, buffers, where,
                   [&](int64_t offset, int64_t n, float* out) { file.read_float(t, offset, n, out); });
}

ModelConfig read_model_config(const std::string& dir) {
    std::string path = dir + "/config.json";
    Json j = read_json_object(path);
    if (j.value("model_type", Json()) != "gpt2")
        throw Error(strf("%s: model_type is %s; only \"gpt2\" is supported", path.c_str(),
                         j.value("model_type", Json("missing")).dump().c_str()));
    auto number = [&](const char* field) {
        if (!j.contains(field)) throw Error(strf("%s: %s is missing", path.c_str(), field));
        if (!j[field].is_number_unsigned() || j[field].get<uint64_t>() < 1 || j[field].get<uint64_t>() > INT_MAX)
            throw Error(strf("%s: %s is %s; it must be a whole number from 1 to %d", path.c_str(), field,
                             j[field].dump().c_str(), INT_MAX));
        return j[field].get<int>();
    };
    ModelConfig m;
    m.L = number("n_layer");
    m.NH = number("n_head");
    m.C = number("n_embd");
    m.T = number("n_positions");
    m.V = number("vocab_size");
    check_model_config(m, path);
    check_is_our_gpt2(j, path, m.C);
    return m;
}

ModelSource find_model(const std::string& what) {
    ModelSource source;
    if (parse_model_size(what, &source.config)) return source;

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
            source.config = read_bin_header(path, MappedFile(path)).config;
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
    if (source.kind == ModelSource::Kind::llmc_bin) return load_bin(source, tensors);

    auto files = open_weights(source.path);
    std::map<std::string, std::pair<const SafetensorsFile*, const TensorInfo*>> found;  // by transformers' full name
    for (auto& file : files)
        for (const TensorInfo& t : file->tensors()) {
            if (t.name == "lm_head.weight" || ends_with(t.name, ".attn.bias") || ends_with(t.name, ".attn.masked_bias"))
                continue;  // wte again; causal masks, which old files carry
            std::string name = t.name.rfind("transformer.", 0) == 0 ? t.name : "transformer." + t.name;
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

    // The id of <|endoftext|>: the vocabulary's, or GPT-2's where there is none and the size says that it is meant.
    OrderedJson end_of_text = config.V == kGpt2Vocabulary ? OrderedJson(kGpt2Vocabulary - 1) : OrderedJson();
    if (!vocabulary.empty()) {
        Json ids = read_json_object(vocabulary + "/vocab.json");
        end_of_text = ids.contains("<|endoftext|>") ? OrderedJson(ids["<|endoftext|>"]) : OrderedJson();
        for (const char* name : {"vocab.json", "merges.txt"}) write_text(name, read_file(vocabulary + "/" + name));
        OrderedJson tokenizer = {{"tokenizer_class", "GPT2Tokenizer"},
                                 {"model_max_length", config.T},
                                 {"add_prefix_space", false},
                                 {"errors", "replace"}};
        for (const char* token : {"bos_token", "eos_token", "unk_token"}) tokenizer[token] = "<|endoftext|>";
        write_text("tokenizer_config.json", tokenizer.dump(2) + "\n");
    }

    const char* dtype = tensors.bf16 ? "BF16" : "F32";
    OrderedJson j = {{"architectures", {"GPT2LMHeadModel"}},
                     {"model_type", "gpt2"},
                     {"n_layer", config.L},
                     {"n_head", config.NH},
                     {"n_embd", config.C},
                     {"n_positions", config.T},
                     {"n_ctx", config.T},
                     {"n_inner", nullptr},
                     {"vocab_size", config.V},
                     {"activation_function", "gelu_new"},
                     {"layer_norm_epsilon", 1e-5},
                     {"tie_word_embeddings", true},
                     {"scale_attn_weights", true},
                     {"initializer_range", 0.02},
                     {"attn_pdrop", 0.0},
                     {"embd_pdrop", 0.0},
                     {"resid_pdrop", 0.0},
                     {"bos_token_id", end_of_text},
                     {"eos_token_id", end_of_text},
                     {"torch_dtype", tensors.bf16 ? "bfloat16" : "float32"},
                     {"use_cache", true}};
    write_text("config.json", j.dump(2) + "\n");
    write_text("generation_config.json",
               OrderedJson{{"bos_token_id", end_of_text}, {"eos_token_id", end_of_text}}.dump(2) + "\n");

    std::vector<TensorInfo> infos;
    for (const Parameter& p : tensors.table) infos.push_back(file_tensor(p, p.name, dtype));
    SafetensorsWriter file(dir + "/model.safetensors", infos);
    for (const Parameter& p : tensors.table) write_parameter(&file, dtype, p, tensors, Buffer::weights);
    std::string checksum = file.close();
    written.push_back({"model.safetensors", checksum, file.file_bytes()});
    return written;
}
