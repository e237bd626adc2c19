#include "llmc/files/model_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "llmc/files/safetensors.h"
#include "llmc/text/tokenizer.h"
#include "test/fake_model.h"

namespace {

using nlohmann::json;
namespace fs = std::filesystem;

const ModelConfig kSmall{3, 5, 40, 33, 307};

bool contains(const std::string& s, const std::string& part) { return s.find(part) != std::string::npos; }

void put(const std::string& path, const std::string& text) { std::ofstream(path, std::ios::binary) << text; }

void write_vocabulary(const std::string& dir) {
    std::vector<std::pair<int, int>> merges;
    for (int i = 0; i < 50; i++) merges.push_back({64 + i % 10, 65 + i / 10});
    Tokenizer::from_merges(merges).save(dir);  // 307 tokens
}

// A model directory of kSmall with seed 1, as write_model_directory makes it.
void write_small(const std::string& dir, bool bf16_weights = false) {
    fs::create_directories(dir);
    FakeModel model(kSmall, bf16_weights, false);
    model.fill(1);
    write_model_directory(dir, kSmall, model.tensors, nullptr);
}

void change_config(const std::string& dir, const std::string& field, const json& value) {
    json j = json::parse(read_file(dir + "/config.json"));
    j[field] = value;
    put(dir + "/config.json", j.dump());
}

// The tensors of a safetensors file as others might write them: each with its dtype, shape and bytes.
struct RawTensor {
    TensorInfo info;
    std::string bytes;
};
std::vector<RawTensor> read_raw(const std::string& path) {
    SafetensorsFile f(path);
    std::vector<RawTensor> raw;
    for (const TensorInfo& t : f.tensors())
        raw.push_back({t, std::string(reinterpret_cast<const char*>(f.bytes(t)), t.end - t.begin)});
    return raw;
}
void write_raw(const std::string& path, const std::vector<RawTensor>& raw) {
    std::vector<TensorInfo> infos;
    for (auto& r : raw) infos.push_back(r.info);
    SafetensorsWriter w(path, infos);
    for (auto& r : raw) w.write(r.bytes.data(), r.bytes.size());
    w.close();
}
RawTensor& named(std::vector<RawTensor>& raw, const std::string& name) {
    for (auto& r : raw)
        if (r.info.name == name) return r;
    throw std::logic_error("no " + name);
}

std::string load_error(const std::string& path) {
    return error_of([&] {
        ModelSource s = find_model(path);
        FakeModel model(s.config, false, false);
        load_weights(s, model.tensors);
    });
}

// A model file as llm.c writes it (versions 3 and 5), with wte padded to Vp rows of -1.
std::string llmc_bin(FakeModel& model, int version, int Vp) {
    const ModelConfig& m = model.config;
    std::vector<int32_t> header(256);
    header[0] = 20240326, header[1] = version;
    header[2] = m.T, header[3] = m.V, header[4] = m.L, header[5] = m.NH, header[6] = m.C, header[7] = Vp;
    std::string out(reinterpret_cast<char*>(header.data()), 1024);
    auto number = [&](float x) {
        if (version == 3) {
            out.append(reinterpret_cast<char*>(&x), 4);
        } else {
            bf16 h(x);
            out.append(reinterpret_cast<char*>(&h), 2);
        }
    };
    ModelPointers<float> p(model.tensors.table, model.at(Buffer::weights));
    auto C = static_cast<size_t>(m.C);
    auto array = [&](const float* x, size_t n) { std::for_each(x, x + n, number); };
    auto layers = [&](float* BlockPointers<float>::*field, size_t n) {
        for (auto& block : p.h) array(block.*field, n);
    };
    using B = BlockPointers<float>;
    array(p.wte, static_cast<size_t>(m.V) * C);
    for (size_t i = 0; i < static_cast<size_t>(Vp - m.V) * C; i++) number(-1);
    array(p.wpe, static_cast<size_t>(m.T) * C);
    layers(&B::ln1w, C), layers(&B::ln1b, C);
    layers(&B::qkvw, 3 * C * C), layers(&B::qkvb, 3 * C);
    layers(&B::attprojw, C * C), layers(&B::attprojb, C);
    layers(&B::ln2w, C), layers(&B::ln2b, C);
    layers(&B::fcw, 4 * C * C), layers(&B::fcb, 4 * C);
    layers(&B::fcprojw, 4 * C * C), layers(&B::fcprojb, C);
    array(p.lnfw, C), array(p.lnfb, C);
    return out;
}

void set_int(std::string& bytes, size_t index, int32_t value) { memcpy(bytes.data() + 4 * index, &value, 4); }

}  // namespace

TEST(ModelFiles, DirectoryRoundTrip) {
    for (bool half : {false, true}) {
        TemporaryDirectory dir;
        write_vocabulary(dir.path);
        FakeModel model(kSmall, half, half);
        model.fill(1);
        fs::create_directory(dir / "m");
        std::vector<std::string> names;
        const Tokenizer tokenizer = Tokenizer::load(dir.path);
        for (const WrittenFile& f : write_model_directory(dir / "m", kSmall, model.tensors, &tokenizer)) {
            names.push_back(f.name);
            EXPECT_EQ(f.checksum, file_crc32c(dir / "m/" + f.name));
            EXPECT_EQ(f.bytes, fs::file_size(dir / "m/" + f.name));
        }
        std::sort(names.begin(), names.end());
        EXPECT_EQ(names, (std::vector<std::string>{"config.json", "generation_config.json", "merges.txt",
                                                   "model.safetensors", "special_tokens_map.json", "tokenizer.json",
                                                   "tokenizer_config.json", "vocab.json"}));
        EXPECT_EQ(read_file(dir / "m/merges.txt"), read_file(dir / "merges.txt"));
        json config = json::parse(read_file(dir / "m/config.json"));
        EXPECT_EQ(config["eos_token_id"], 306);
        EXPECT_EQ(config["vocab_size"], 307);
        EXPECT_EQ(config["torch_dtype"], half ? "bfloat16" : "float32");

        ModelSource source = find_model(dir / "m");
        EXPECT_EQ(source.kind, ModelSource::Kind::directory);
        EXPECT_EQ(source.config, kSmall);
        EXPECT_EQ(source.vocabulary, dir / "m");
        FakeModel again(kSmall, half, half);
        load_weights(source, again.tensors);
        EXPECT_EQ(again.buffers[0], model.buffers[0]);
        if (half) {
            EXPECT_EQ(again.buffers[1], model.buffers[0]);  // masters start from the weights
        }
    }
}

TEST(ModelFiles, TensorsStandAsTransformersHasThem) {
    TemporaryDirectory dir;
    write_small(dir.path);
    FakeModel model(kSmall, false, false);
    model.fill(1);
    ModelPointers<float> p(model.tensors.table, model.at(Buffer::weights));
    SafetensorsFile f(dir / "model.safetensors");
    EXPECT_EQ(f.tensors().size(), 4u + 3 * 12);
    EXPECT_EQ(f.find("lm_head.weight"), nullptr);
    EXPECT_EQ(f.at("transformer.wte.weight").shape, (std::vector<int64_t>{307, 40}));  // without padding
    EXPECT_EQ(f.at("transformer.ln_f.bias").shape, (std::vector<int64_t>{40}));
    const TensorInfo& w = f.at("transformer.h.2.attn.c_attn.weight");  // Conv1D: (C, OC) here, (OC, C) in memory
    EXPECT_EQ(w.shape, (std::vector<int64_t>{40, 120}));
    for (int c = 0; c < 40; c++)
        for (int oc = 0; oc < 120; oc++) {
            float x;
            f.read_float(w, c * 120 + oc, 1, &x);
            ASSERT_EQ(x, p.h[2].qkvw[oc * 40 + c]);
        }
}

TEST(ModelFiles, TensorsLargerThanOnePiece) {  // reads and writes go in pieces of 2^20 elements
    TemporaryDirectory dir;
    ModelConfig big{1, 4, 520, 3, 2100};
    FakeModel model(big, false, false), again(big, false, false);
    model.fill(0);
    write_model_directory(dir.path, big, model.tensors, nullptr);
    load_weights(find_model(dir.path), again.tensors);
    EXPECT_EQ(again.buffers[0], model.buffers[0]);
}

TEST(ModelFiles, FilesOfOthersLoad) {
    TemporaryDirectory dir;
    FakeModel expected(kSmall, false, false), model(kSmall, false, false);
    expected.fill(1);
    // no prefix, causal masks and the LM head in the file, as in gpt2 of the Hub; a config with defaults left out
    write_small(dir / "hub");
    auto raw = read_raw(dir / "hub/model.safetensors");
    for (auto& r : raw) r.info.name = r.info.name.substr(strlen("transformer."));
    RawTensor head = named(raw, "wte.weight");
    head.info.name = "lm_head.weight";
    raw.push_back(head);
    raw.push_back({{"h.0.attn.bias", "U8", {1, 1, 2, 2}}, std::string(4, '\1')});
    raw.push_back({{"h.0.attn.masked_bias", "F32", {}}, std::string(4, '\0')});
    write_raw(dir / "hub/model.safetensors", raw);
    put(dir / "hub/config.json",
        R"({"model_type":"gpt2","n_layer":3,"n_head":5,"n_embd":40,"n_positions":33,"vocab_size":307,
            "activation_function":"gelu_pytorch_tanh","n_inner":160,"reorder_and_upcast_attn":true})");
    load_weights(find_model(dir / "hub"), model.tensors);
    EXPECT_EQ(model.buffers[0], expected.buffers[0]);

    // in several files, with an index
    write_small(dir / "parts");
    raw = read_raw(dir / "parts/model.safetensors");
    fs::remove(dir / "parts/model.safetensors");
    json index;
    std::vector<RawTensor> parts[2];
    for (size_t i = 0; i < raw.size(); i++) {
        parts[i % 2].push_back(raw[i]);
        index["weight_map"][raw[i].info.name] = i % 2 ? "model-2.safetensors" : "model-1.safetensors";
    }
    write_raw(dir / "parts/model-1.safetensors", parts[0]);
    write_raw(dir / "parts/model-2.safetensors", parts[1]);
    put(dir / "parts/model.safetensors.index.json", index.dump());
    model.fill(9);
    load_weights(find_model(dir / "parts"), model.tensors);
    EXPECT_EQ(model.buffers[0], expected.buffers[0]);
    put(dir / "parts/model.safetensors.index.json", R"({"weight_map":{"a":"../x"}})");
    EXPECT_TRUE(contains(load_error(dir / "parts"), "weight_map of a"));
    put(dir / "parts/model.safetensors.index.json", R"({"weight_map":{"a":"model-1.safetensors"}})");
    EXPECT_TRUE(contains(load_error(dir / "parts"), "is missing"));
    put(dir / "parts/model.safetensors.index.json", "{}");
    EXPECT_TRUE(contains(load_error(dir / "parts"), "no weight_map"));
    put(dir / "parts/model.safetensors.index.json", "");
    EXPECT_TRUE(contains(load_error(dir / "parts"), "not a valid JSON"));

    // fp16
    write_small(dir / "half");
    raw = read_raw(dir / "half/model.safetensors");
    for (auto& r : raw) {
        r.info.dtype = "F16";
        r.bytes.resize(r.bytes.size() / 2);
        for (size_t i = 0; i < r.bytes.size(); i += 2) r.bytes[i] = 0, r.bytes[i + 1] = 0x3c;  // 1.0
    }
    write_raw(dir / "half/model.safetensors", raw);
    load_weights(find_model(dir / "half"), model.tensors);
    for (const Parameter& p : model.tensors.table)
        for (int64_t i = 0; i < p.size(); i++) ASSERT_EQ(model.at(Buffer::weights)[p.offset + i], 1.0f);
}

// Names as wrappers leave them; the same config.json by transformers' other names, with its defaults left out.
TEST(ModelFiles, NamesAndKeysOfOthers) {
    FakeModel expected(kSmall, false, false);
    expected.fill(1);
    for (const std::string prefix :
         {"", "transformer.", "module.transformer.", "_orig_mod.transformer.", "module.", "model.gpt."}) {
        TemporaryDirectory dir;
        write_small(dir.path);
        auto raw = read_raw(dir / "model.safetensors");
        for (auto& r : raw) r.info.name = prefix + r.info.name.substr(strlen("transformer."));
        raw.push_back({{"score.weight", "F32", {1}}, std::string(4, '\1')});
        raw.push_back({{"v_head.summary.bias", "F32", {1}}, std::string(4, '\1')});
        write_raw(dir / "model.safetensors", raw);
        put(dir / "config.json",
            R"({"architectures":["GPT2Model"],"num_hidden_layers":3,"num_attention_heads":5,"hidden_size":40,"n_ctx":33,)"
            R"("vocab_size":307,"layer_norm_epsilon":0.00001,"n_inner":null})");
        const ModelSource source = find_model(dir.path);
        EXPECT_EQ(source.config, kSmall) << model_size_text(source.config);
        ASSERT_EQ(source.notes.size(), 1u) << prefix;
        EXPECT_TRUE(contains(source.notes[0], "2 tensor(s)") && contains(source.notes[0], "score.weight"))
            << source.notes[0];
        FakeModel model(kSmall, false, false);
        load_weights(source, model.tensors);
        EXPECT_EQ(model.buffers[0], expected.buffers[0]) << prefix;
    }
    TemporaryDirectory dir;
    put(dir / "config.json", R"({"model_type":"gpt2"})");
    EXPECT_EQ(model_size_text(find_model(dir.path).config), "L12:H12:C768:T1024:V50257");
}

TEST(ModelFiles, TheHeadThatIsInTheFile) {
    TemporaryDirectory dir;
    write_small(dir.path);
    const auto raw = read_raw(dir / "model.safetensors");
    auto with_head = [&](const char* name, bool same, bool tied) {
        auto more = raw;
        RawTensor head = named(more, "transformer.wte.weight");
        head.info.name = name;
        if (!same) head.bytes[3] ^= 1;
        more.push_back(head);
        write_raw(dir / "model.safetensors", more);
        change_config(dir.path, "tie_word_embeddings", tied);
        return find_model(dir.path);
    };
    EXPECT_FALSE(with_head("lm_head.weight", true, true).config.untied);
    EXPECT_EQ(with_head("lm_head.weight", true, true).notes.size(), 0u);
    const ModelSource differs = with_head("lm_head.weight", false, true);
    EXPECT_TRUE(differs.config.untied);
    ASSERT_EQ(differs.notes.size(), 1u);
    EXPECT_TRUE(contains(differs.notes[0], "lm_head.weight is not wte")) << differs.notes[0];
    FakeModel model(differs.config, false, false);
    load_weights(differs, model.tensors);
    const Parameter& head = model.tensors.table.back();
    EXPECT_EQ(head.name, "lm_head.weight");
    EXPECT_NE(model.at(Buffer::weights)[head.offset], model.at(Buffer::weights)[0]);
    EXPECT_EQ(model.at(Buffer::weights)[head.offset + 1], model.at(Buffer::weights)[1]);
    EXPECT_TRUE(
        with_head("lm_head.weight", true, false).config.untied);  // as the file says, and training may part them
    write_raw(dir / "model.safetensors", raw);
    EXPECT_FALSE(find_model(dir.path).config.untied);
    EXPECT_TRUE(contains(find_model(dir.path).notes.at(0), "not there"));
    EXPECT_EQ(load_error(dir.path), "");
}

TEST(ModelFiles, BadWeightsAreRefused) {
    TemporaryDirectory dir;
    write_small(dir.path);
    const std::string path = dir / "model.safetensors";
    const auto good = read_raw(path);
    EXPECT_EQ(load_error(dir.path), "");
    auto with = [&](auto&& change) {
        auto raw = good;
        change(raw);
        write_raw(path, raw);
        std::string message = load_error(dir.path);
        EXPECT_TRUE(contains(message, path)) << message;
        return message;
    };
    const std::string name = "transformer.h.1.mlp.c_fc.weight";
    EXPECT_TRUE(contains(with([&](auto& raw) { raw.erase(raw.begin() + 7); }), good[7].info.name + " is missing"));
    EXPECT_TRUE(contains(with([&](auto& raw) {
                             named(raw, name).info.shape = {160, 40};
                         }),
                         name + " has shape (160, 40); this model needs (40, 160)"));
    EXPECT_TRUE(contains(with([&](auto& raw) { named(raw, name).info.name = "transformer.h.3.mlp.c_fc.weight"; }),
                         name + " is missing"));
    EXPECT_TRUE(contains(with([&](auto& raw) {
                             raw.push_back({{"h.0.lora_A", "F32", {1}}, std::string(4, '\0')});
                         }),
                         "tensor h.0.lora_A is none"));
    EXPECT_TRUE(contains(with([&](auto& raw) {
                             RawTensor twice = named(raw, name);
                             twice.info.name = "h.1.mlp.c_fc.weight";
                             raw.push_back(twice);
                         }),
                         "is there twice"));
    EXPECT_TRUE(contains(with([&](auto& raw) { named(raw, name).info.dtype = "I32"; }), "I32"));
    for (float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        EXPECT_TRUE(contains(with([&](auto& raw) { memcpy(named(raw, name).bytes.data() + 400, &bad, 4); }),
                             name + " has the value " + (bad != bad ? "nan" : "inf")));
    write_raw(path, good);
    fs::resize_file(path, fs::file_size(path) - 1);
    EXPECT_TRUE(contains(load_error(dir.path), "cut off"));
    fs::remove(path);
    EXPECT_TRUE(contains(load_error(dir.path), "no model.safetensors"));
    put(dir / "pytorch_model.bin", "x");
    EXPECT_TRUE(contains(load_error(dir.path), "pytorch_model.bin"));
}

TEST(ModelFiles, ModelsOfOtherKindsAreRefusedByField) {
    TemporaryDirectory dir;
    write_small(dir.path);
    const std::string good = read_file(dir / "config.json");
    auto refused = [&](const std::string& field, const json& value) {
        put(dir / "config.json", good);
        change_config(dir.path, field, value);
        std::string message = load_error(dir.path);
        EXPECT_TRUE(contains(message, "config.json") && contains(message, value.dump())) << message;
        return contains(message, field);
    };
    EXPECT_TRUE(refused("model_type", "llama"));
    EXPECT_TRUE(refused("activation_function", "relu"));
    EXPECT_TRUE(refused("activation_function", "quick_gelu"));
    for (const json& value : {json(0), json(-1e-5), json("x"), json(1e-300), json(1e300)})
        EXPECT_TRUE(refused("layer_norm_epsilon", value));
    EXPECT_TRUE(refused("n_inner", 0));
    EXPECT_TRUE(refused("tie_word_embeddings", "no"));
    EXPECT_TRUE(refused("add_cross_attention", true));
    for (const char* field : {"n_layer", "n_head", "n_embd", "n_positions", "vocab_size"})
        for (const json& value : {json(0), json(-1), json(2.5), json("x"), json(), json(3000000000u), json::array()})
            EXPECT_TRUE(refused(field, value)) << field;
    put(dir / "config.json", good);
    change_config(dir.path, "n_head", 7);
    EXPECT_TRUE(contains(load_error(dir.path), "H=7"));
    change_config(dir.path, "n_head", 5);
    change_config(dir.path, "n_layer", 2000000000);
    EXPECT_TRUE(contains(load_error(dir.path), "n_layer is 2000000000; it must be a whole number from 1 to 65536"));
    change_config(dir.path, "n_layer", -1234567890123456789);
    EXPECT_TRUE(contains(load_error(dir.path), "n_layer is -1234567890123456789; it must be"));
    change_config(dir.path, "n_layer", 4);
    EXPECT_TRUE(contains(load_error(dir.path), "transformer.h.3.ln_1.weight is missing"));
    change_config(dir.path, "n_layer", 2);
    EXPECT_TRUE(contains(load_error(dir.path), "tensor transformer.h.2."));
    put(dir / "config.json", R"({"model_type":"gpt2","n_layer":3,"n_head":5,"n_embd":40,"vocab_size":307})");
    EXPECT_TRUE(
        contains(load_error(dir.path), "wpe.weight has shape (33, 40); this model needs (1024, 40)"));  // the default
    for (const char* text : {"", "{", "[]", "{\"model_type\":\"gpt2\"", "\xff"}) {
        put(dir / "config.json", text);
        EXPECT_TRUE(contains(load_error(dir.path), "config.json is not a valid JSON object"));
    }
}

TEST(ModelFiles, LlmcBinVersions) {
    TemporaryDirectory dir;
    for (int version : {3, 5}) {
        FakeModel model(kSmall, version == 5, false), again(kSmall, false, true);
        model.fill(2);
        put(dir / "m.bin", llmc_bin(model, version, 384));
        ModelSource source = find_model(dir / "m.bin");
        EXPECT_EQ(source.kind, ModelSource::Kind::llmc_bin);
        EXPECT_EQ(source.config, kSmall);
        EXPECT_EQ(source.vocabulary, "");
        load_weights(source, again.tensors);
        EXPECT_EQ(again.buffers[0], model.buffers[0]) << "version " << version;
        EXPECT_EQ(again.buffers[1], model.buffers[0]);
    }
    write_vocabulary(dir.path);
    EXPECT_EQ(find_model(dir / "m.bin").vocabulary, dir.path);
}

TEST(ModelFiles, BadBinsAreRefused) {
    TemporaryDirectory dir;
    FakeModel model(kSmall, false, false);
    model.fill(2);
    const std::string good = llmc_bin(model, 3, 384), path = dir / "m.bin";
    auto with = [&](auto&& change) {
        std::string bytes = good;
        change(bytes);
        put(path, bytes);
        std::string message = load_error(path);
        EXPECT_TRUE(contains(message, path)) << message;
        return message;
    };
    EXPECT_TRUE(contains(with([](auto& b) { b.pop_back(); }), "calls for"));
    EXPECT_TRUE(contains(with([](auto& b) { b += "x"; }), "calls for"));
    EXPECT_TRUE(contains(with([](auto& b) { b.resize(1000); }), "no llm.c model"));
    EXPECT_TRUE(contains(with([](auto& b) { b.clear(); }), "no llm.c model"));
    EXPECT_TRUE(contains(with([](auto& b) { b.resize(1024); }), "calls for"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 0, 20240520); }), "shard of tokens"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 0, 20240327); }), "optimizer state"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 0, 7); }), "no llm.c model"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 1, 1); }), "version 1"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 1, 5); }), "calls for"));  // bf16 is half as long
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 4, 4); }), "calls for"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 4, 0); }), "L (layers)"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 5, 7); }), "H=7"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 3, -1); }), "V (vocabulary)"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 3, 0); }), "impossible"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 7, 300); }), "impossible"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 7, std::numeric_limits<int>::max()); }), "calls for"));
    EXPECT_TRUE(contains(with([](auto& b) { set_int(b, 1024 / 4 + 5, 0x7fc00000); }), "wte.weight has the value nan"));
}

TEST(ModelFiles, WhatModelMayName) {
    EXPECT_EQ(find_model("d12").kind, ModelSource::Kind::size);
    EXPECT_EQ(find_model("d12").config.L, 12);
    TemporaryDirectory dir;
    auto usage = [](const std::string& what) {
        try {
            find_model(what);
        } catch (const UsageError& e) {
            return std::string(e.what());
        }
        return std::string();
    };
    for (const std::string& what : {std::string("nonsense"), std::string(""), dir / "none"}) {
        std::string message = usage(what);
        EXPECT_TRUE(contains(message, "'" + what + "'") && contains(message, "d12")) << message;
    }
    EXPECT_TRUE(contains(usage("d13"), "d12"));
    EXPECT_TRUE(contains(usage(dir.path), "config.json"));
    put(dir / "text", "hello");
    EXPECT_TRUE(contains(error_of([&] { find_model(dir / "text"); }), dir / "text"));

    // GPT-2's names are looked for here and in data/
    std::string before = fs::current_path();
    fs::current_path(dir.path);
    std::string missing = usage("gpt2-medium"), found, own;
    write_small("data/gpt2");
    fs::create_directory("gpt2");  // something else of that name is no obstacle
    found = find_model("gpt2").path;
    write_small("gpt2");
    own = find_model("gpt2").path;
    fs::current_path(before);
    EXPECT_TRUE(contains(missing, "make gpt2 SIZE=gpt2-medium")) << missing;
    EXPECT_EQ(found, "data/gpt2");
    EXPECT_EQ(own, "gpt2");
}

TEST(ModelFiles, WritingFailsWithOneLine) {
    TemporaryDirectory dir;
    FakeModel model(kSmall, false, false);
    EXPECT_TRUE(
        contains(error_of([&] { write_model_directory(dir / "none", kSmall, model.tensors, nullptr); }), dir / "none"));
}
