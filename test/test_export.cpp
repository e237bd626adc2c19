// export: what other programs get, and what is refused.
#include <nlohmann/json.hpp>
#include <array>
#include <cstring>
#include <map>
#include <set>
#include "llmc/base/f16.h"
#include "llmc/files/safetensors.h"
#include "program_fixture.h"

namespace {

using nlohmann::json;

class Export : public Program {
  protected:
    void SetUp() override {
        static const std::string* trained = nullptr;  // two steps of a model, made once
        Program::SetUp();
        if (!trained) {
            static TemporaryDirectory made;
            expect_good(train("-x 2 -o run"));
            fs::copy(dir / "run", made / "run", fs::copy_options::recursive);
            trained = &made.path;
        } else {
            fs::copy(*trained + "/run", dir / "run", fs::copy_options::recursive);
        }
    }
    std::string loss(const std::string& model) {
        CommandResult r = gpt2("eval -j data/t/val_000000.bin --limit 1 -e " + model);
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return r.out;
    }
    CommandResult exported(const std::string& path, const std::string& more = "", const std::string& model = "run") {
        return gpt2("export -e " + model + " -o " + path + " " + more);
    }
    // A model directory that may be changed.
    std::string model() {
        fs::copy(dir / "run/step_00000002", dir / "m");
        fs::remove(dir / "m/trainer_state.json");
        return "m";
    }
    void change_config(const std::string& key, const json& value) {
        json j = json::parse(file("m/config.json"));
        j[key] = value;
        std::ofstream(dir / "m/config.json") << j.dump();
    }
    int leftovers() {
        int n = 0;
        for (const auto& entry : fs::directory_iterator(dir.path)) n += entry.path().filename().string()[0] == '.';
        return n;
    }
};

// A GGUF file as its documentation describes it.
struct Gguf {
    std::string data;
    size_t at = 0;
    uint32_t version;
    json keys;
    struct Tensor {
        std::vector<uint64_t> shape;
        uint32_t type;
        uint64_t offset;
    };
    std::map<std::string, Tensor> tensors;

    template <typename X>
    X take() {
        X x;
        memcpy(&x, data.data() + at, sizeof x);
        at += sizeof x;
        return x;
    }
    std::string text() {
        const auto n = take<uint64_t>();
        at += n;
        return data.substr(at - n, n);
    }
    json value(uint32_t type) {
        if (type == 4) return take<uint32_t>();
        if (type == 5) return take<int32_t>();
        if (type == 6) return take<float>();
        if (type == 7) return take<uint8_t>() != 0;
        if (type == 8) return text();
        if (type != 9) throw std::runtime_error("type " + std::to_string(type));
        const auto of = take<uint32_t>();
        json list = json::array();
        for (uint64_t n = take<uint64_t>(); n > 0; n--) list.push_back(value(of));
        return list;
    }
    explicit Gguf(const std::string& path) : data(read_text(path)) {
        if (data.substr(0, 4) != "GGUF") throw std::runtime_error("no GGUF");
        at = 4, version = take<uint32_t>();
        const auto count = take<uint64_t>(), n_keys = take<uint64_t>();
        for (uint64_t i = 0; i < n_keys; i++) {
            const std::string key = text();
            keys[key] = value(take<uint32_t>());
        }
        for (uint64_t i = 0; i < count; i++) {
            const std::string name = text();
            Tensor t;
            for (uint32_t d = take<uint32_t>(); d > 0; d--) t.shape.push_back(take<uint64_t>());
            t.type = take<uint32_t>(), t.offset = take<uint64_t>();
            tensors[name] = t;
        }
        at = (at + 31) / 32 * 32;
    }
    float f32(const std::string& name, size_t i) const {
        float x;
        memcpy(&x, data.data() + at + tensors.at(name).offset + 4 * i, 4);
        return x;
    }
};

}  // namespace

TEST_F(Export, AHuggingFaceDirectoryIsTheSameModel) {
    const std::string before = loss("run");
    CommandResult r = exported("out/");
    expect_good(r);
    EXPECT_NE(r.out.find("out: 36,"), std::string::npos) << r.out;
    EXPECT_EQ(loss("out"), before);
    for (const char* name : {"tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"})
        EXPECT_EQ(file(std::string("out/") + name), file(std::string("run/step_00000002/") + name)) << name;
    EXPECT_FALSE(fs::exists(dir / "out/trainer_state.json"));
    EXPECT_EQ(json::parse(file("out/config.json"))["torch_dtype"], "float32");
    fs::create_directory(dir / "empty");
    expect_good(exported("empty", "--shard-size 60000"));  // wte alone has 38,400 bytes
    const json index = json::parse(file("empty/model.safetensors.index.json"));
    std::set<std::string> names;
    for (const auto& [tensor, name] : index["weight_map"].items()) {
        names.insert(name);
        SafetensorsFile shard(dir / "empty/" + name.get<std::string>());
        EXPECT_NE(shard.find(tensor), nullptr) << tensor;
        EXPECT_LT(fs::file_size(shard.path()), 66000u);
    }
    EXPECT_EQ(names.size(), 3u);
    EXPECT_TRUE(names.count("model-00001-of-00003.safetensors"));
    EXPECT_EQ(loss("empty"), before);
    EXPECT_EQ(leftovers(), 0);
}

TEST_F(Export, InHalfThePrecision) {
    for (const auto& [type, dtype, name] : {std::array{"f16", "F16", "float16"}, {"bf16", "BF16", "bfloat16"}}) {
        expect_good(exported(type, std::string("--type ") + type));
        EXPECT_EQ(json::parse(file(std::string(type) + "/config.json"))["torch_dtype"], name);
        SafetensorsFile all(dir / "run/step_00000002/model.safetensors"), half(dir / type + "/model.safetensors");
        for (const TensorInfo& t : half.tensors()) {
            ASSERT_EQ(t.dtype, dtype);
            float x, y;
            all.read_float(all.at(t.name), 3, 1, &x), half.read_float(t, 3, 1, &y);
            ASSERT_NEAR(x, y, std::abs(x) * (dtype[0] == 'F' ? 0x1p-11f : 0x1p-8f) + 0x1p-25f) << t.name;
        }
    }
}

TEST_F(Export, AGgufFileHasAllThatLlamaCppAsksFor) {
    std::ofstream(dir / "run/step_00000002/added_tokens.json") << R"({"<|user|>": 301, "word": 302})";
    model();
    change_config("vocab_size", 304);
    {  // four more rows, in front of all others
        SafetensorsFile old(dir / "run/step_00000002/model.safetensors");
        std::vector<TensorInfo> infos = old.tensors();
        for (TensorInfo& t : infos)
            if (t.name == "transformer.wte.weight") t.shape[0] = 304;
        SafetensorsWriter f(dir / "m/model.safetensors", infos);
        for (const TensorInfo& t : old.tensors()) {
            f.write(old.bytes(t), t.end - t.begin);
            if (t.name == "transformer.wte.weight") f.write(old.bytes(t), 4 * 32 * 4);
        }
        f.close();
    }
    json c = json::parse(file("m/tokenizer_config.json"));
    c["chat_template"] = "{{ messages }}";
    c["added_tokens_decoder"]["302"] = {{"content", "word"}, {"special", false}};
    fs::remove(dir / "m/tokenizer.json");
    std::ofstream(dir / "m/tokenizer_config.json") << c.dump();
    expect_good(exported("m.gguf", "--format gguf", "m"));
    Gguf g(dir / "m.gguf");
    EXPECT_EQ(g.version, 3u);
    const std::pair<const char*, json> expected[] = {{"general.architecture", "gpt2"},
                                                     {"general.name", "m"},
                                                     {"general.alignment", 32},
                                                     {"general.file_type", 0},
                                                     {"gpt2.block_count", 2},
                                                     {"gpt2.context_length", 32},
                                                     {"gpt2.embedding_length", 32},
                                                     {"gpt2.feed_forward_length", 128},
                                                     {"gpt2.attention.head_count", 2},
                                                     {"gpt2.attention.layer_norm_epsilon", 1e-5f},
                                                     {"tokenizer.ggml.model", "gpt2"},
                                                     {"tokenizer.ggml.pre", "gpt-2"},
                                                     {"tokenizer.ggml.bos_token_id", 299},
                                                     {"tokenizer.ggml.eos_token_id", 299},
                                                     {"tokenizer.ggml.add_bos_token", false},
                                                     {"tokenizer.chat_template", "{{ messages }}"}};
    for (const auto& [key, value] : expected) EXPECT_EQ(g.keys[key], value) << key;
    const json &tokens = g.keys["tokenizer.ggml.tokens"], &types = g.keys["tokenizer.ggml.token_type"];
    ASSERT_EQ(tokens.size(), 304u);
    ASSERT_EQ(types.size(), 304u);
    EXPECT_EQ(tokens[0], "!");
    EXPECT_EQ(types[0], 1);
    EXPECT_EQ(json::parse(file("m/vocab.json"))[tokens[270].get<std::string>()], 270);
    EXPECT_EQ(std::pair(tokens[299], types[299]), std::pair(json("<|endoftext|>"), json(3)));
    EXPECT_EQ(std::pair(tokens[300], types[300]), std::pair(json("[PAD300]"), json(5)));
    EXPECT_EQ(std::pair(tokens[301], types[301]), std::pair(json("<|user|>"), json(3)));
    EXPECT_EQ(std::pair(tokens[302], types[302]), std::pair(json("word"), json(4)));
    const std::string merges = file("m/merges.txt");
    ASSERT_EQ(g.keys["tokenizer.ggml.merges"].size(), 43u);
    size_t line = merges.find('\n') + 1;
    EXPECT_EQ(g.keys["tokenizer.ggml.merges"][0], merges.substr(line, merges.find('\n', line) - line));

    ASSERT_EQ(g.tensors.size(), 28u);
    SafetensorsFile f(dir / "m/model.safetensors");
    EXPECT_EQ(g.tensors["token_embd.weight"].shape, (std::vector<uint64_t>{32, 304}));
    EXPECT_EQ(g.tensors["blk.1.attn_qkv.weight"].shape, (std::vector<uint64_t>{32, 96}));
    EXPECT_EQ(g.tensors["blk.1.ffn_down.weight"].shape, (std::vector<uint64_t>{128, 32}));
    float w[96 * 32];
    f.read_float(f.at("transformer.h.1.attn.c_attn.weight"), 0, 96 * 32, w);  // (C, 3C)
    EXPECT_EQ(g.f32("blk.1.attn_qkv.weight", 5 * 32 + 7), w[7 * 96 + 5]);     // (3C, C)
    f.read_float(f.at("transformer.h.0.ln_2.bias"), 9, 1, w);
    EXPECT_EQ(g.f32("blk.0.ffn_norm.bias", 9), w[0]);
    for (const auto& [name, t] : g.tensors) EXPECT_EQ(t.offset % 32, 0u) << name;

    expect_good(exported("q.gguf", "--format gguf --type q4_0", "m"));
    Gguf q(dir / "q.gguf");
    EXPECT_EQ(q.keys["general.file_type"], 2);
    EXPECT_EQ(q.tensors["token_embd.weight"].type, 8u);
    EXPECT_EQ(q.tensors["position_embd.weight"].type, 0u);
    EXPECT_EQ(q.tensors["blk.0.ffn_up.weight"].type, 2u);
    EXPECT_EQ(q.tensors["blk.0.ffn_up.bias"].type, 0u);
    EXPECT_EQ(leftovers(), 0);
}

TEST_F(Export, VectorsOfTokens) {
    expect_good(exported("v.txt", "--format vectors"));
    expect_good(exported("v.npy", "--format vectors"));
    expect_good(exported("h.npy", "--format vectors --type f16"));
    SafetensorsFile f(dir / "run/step_00000002/model.safetensors");
    std::vector<float> wte(300 * 32);
    f.read_float(f.at("transformer.wte.weight"), 0, 300 * 32, wte.data());

    std::ifstream text(dir / "v.txt");
    size_t words, width;
    text >> words >> width;
    EXPECT_EQ(std::pair(words, width), std::pair(size_t{300}, size_t{32}));
    const json vocab = json::parse(file("run/step_00000002/vocab.json"));
    for (size_t i = 0; i < words; i++) {
        std::string word, number;
        text >> word;
        ASSERT_EQ(vocab[word], i);
        for (size_t c = 0; c < width; c++) {
            text >> number;
            ASSERT_EQ(std::stof(number), wte[i * width + c]);
        }
    }
    const std::string npy = file("v.npy"), half = file("h.npy");
    ASSERT_EQ(npy.size(), 128u + 300 * 32 * 4);
    EXPECT_EQ(npy.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
    EXPECT_EQ(npy.substr(10, 62), "{'descr': '<f4', 'fortran_order': False, 'shape': (300, 32), }");
    EXPECT_EQ(npy[127], '\n');
    EXPECT_EQ(memcmp(npy.data() + 128, wte.data(), wte.size() * 4), 0);
    uint16_t h;
    memcpy(&h, half.data() + 128 + 2 * 77, 2);
    EXPECT_EQ(h, float_to_half(wte[77]));
}

TEST_F(Export, WhatIsThereStays) {
    fs::create_directory(dir / "full");
    std::ofstream(dir / "full/x") << "x";
    std::ofstream(dir / "file") << "x";
    expect_one_error(exported("full"), 2, "--output (-o) full: is there already, and not empty");
    expect_one_error(exported("file"), 2, "is a file");
    expect_one_error(exported("file", "--format gguf"), 2, "is there already");
    expect_one_error(exported("full", "--format gguf"), 2, "is a directory");
    EXPECT_EQ(file("file"), "x");
    expect_one_error(gpt2("export -e run"), 2, "--output (-o)");
    expect_one_error(exported("out", "", "d12"), 2, "is a size without weights");
}

TEST_F(Export, TypesThatAFormatDoesNotHave) {
    expect_one_error(exported("out", "--type q8_0"), 2, "--format hf has no --type q8_0; choose f32, f16 or bf16");
    expect_one_error(exported("out", "--format vectors --type bf16"), 2, "choose f32 or f16");
    expect_one_error(exported("out", "--format onnx"), 2, "--format");
    expect_good(train("-x 1 -e L1:H1:C48:T32:F80 -o odd"));
    expect_one_error(exported("out", "--format gguf --type q8_0", "odd"), 2, "this model's rows have 48");
    expect_good(exported("odd.gguf", "--format gguf --type f16", "odd"));
}

TEST_F(Export, ModelsThatLlamaCppDoesNotHave) {
    model();
    const std::tuple<const char*, json, const char*> variants[] = {
        {"activation_function", "gelu", "activation_function gelu"},
        {"scale_attn_weights", false, "scale_attn_weights false"},
        {"scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx true"}};
    const std::string config = file("m/config.json");
    for (const auto& [key, value, message] : variants) {
        std::ofstream(dir / "m/config.json") << config;
        change_config(key, value);
        expect_one_error(exported("out.gguf", "--format gguf", "m"), 2, message);
    }
}

TEST_F(Export, AModelWithoutAVocabulary) {
    model();
    for (const char* name :
         {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"})
        fs::remove(dir / "m/" + name);
    expect_one_error(exported("out.gguf", "--format gguf", "m"), 1, "no vocabulary beside it");
    expect_one_error(exported("out.txt", "--format vectors", "m"), 1, "no vocabulary beside it");
    expect_good(exported("out.npy", "--format vectors", "m"));
    CommandResult r = exported("out", "", "m");
    expect_good(r);
    EXPECT_NE(r.err.find("note: m has no vocabulary"), std::string::npos) << r.err;
    EXPECT_FALSE(fs::exists(dir / "out/vocab.json"));
}

TEST_F(Export, WhatFailsLeavesNothing) {
    model();
    SafetensorsFile old(dir / "run/step_00000002/model.safetensors");
    SafetensorsWriter f(dir / "m/model.safetensors", old.tensors());
    for (const TensorInfo& t : old.tensors()) {
        std::vector<float> x(static_cast<size_t>(t.elements()));
        old.read_float(t, 0, t.elements(), x.data());
        if (t.name == "transformer.h.1.mlp.c_fc.weight") x[5] = 1e5f;
        f.write_float("F32", x.data(), t.elements());
    }
    f.close();
    expect_one_error(exported("out", "--type f16", "m"), 1, "transformer.h.1.mlp.c_fc.weight has the value 100000");
    expect_one_error(exported("out.gguf", "--format gguf --type f16", "m"), 1, "transformer.h.1.mlp.c_fc.weight");
    EXPECT_FALSE(fs::exists(dir / "out"));
    EXPECT_FALSE(fs::exists(dir / "out.gguf"));
    CommandResult full = gpt2("export -e m -o deep/er/out", "ulimit -f 30; ");
    expect_one_error(full, 1, "model.safetensors");
    EXPECT_TRUE(fs::is_empty(dir / "deep/er"));
    EXPECT_EQ(leftovers(), 0);
    expect_good(exported("out", "--type bf16", "m"));
}
