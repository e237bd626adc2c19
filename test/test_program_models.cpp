// Model directories and vocabularies of others, through the programs.
#include <nlohmann/json.hpp>
#include "llmc/text/shards.h"
#include "llmc/text/tokenizer.h"
#include "program_fixture.h"

namespace {

using nlohmann::json;

class ProgramModels : public Program {
  protected:
    CommandResult tokenize(const std::string& arguments) {
        return run_shell(program_path("TOKENIZE", "tokenize") + " " + arguments, dir.path);
    }
    void put(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    std::string say(const std::string& model, const std::string& prompt) {
        CommandResult r = gpt2("sample -e " + model + " --max-tokens 12 --temperature 0 --prompt '" + prompt + "'");
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return r.out + r.err;
    }
    // A run of two steps, and the model that it made: a directory that nobody keeps checksums of.
    std::string trained(const std::string& run, const std::string& more = "") {
        expect_good(train("-x 2 -o " + run + " " + more));
        fs::copy(dir / run + "/step_00000002", dir / run + "-model");
        fs::remove(dir / run + "-model/trainer_state.json");
        return run + "-model";
    }
};

}  // namespace

TEST_F(ProgramModels, ATokenizerJsonAloneSaysTheSame) {
    const std::string model = trained("run");
    const std::string before = say(model, "the cat<|endoftext|>a");
    for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json"})
        fs::remove(dir / model + "/" + name);
    EXPECT_EQ(say(model, "the cat<|endoftext|>a"), before);
    expect_good(tokenize("encode --vocab " + model + " -o data/again text.txt"));
    EXPECT_EQ(file("data/again/train_000000.bin"), file("data/t/train_000000.bin"));
}

// Five tokens more than the data's vocabulary has, and a row more than that: transformers' resize_token_embeddings.
TEST_F(ProgramModels, AModelWithMoreTokensThanItsData) {
    const std::string model = trained("run", "-e L2:H2:C32:T32:V306");  // V is believed
    put(model + "/added_tokens.json", R"({"<|user|>": 300, "<|bot|>": 301, "<|end|>": 304})");
    fs::remove(dir / model + "/tokenizer.json");
    const Tokenizer tokenizer = Tokenizer::load(dir / model);
    EXPECT_EQ(tokenizer.vocab_size(), 305);
    std::vector<int> ids;
    tokenizer.encode_with_special("<|user|>", ids);
    EXPECT_EQ(ids, std::vector<int>{300});
    say(model, "<|user|>the cat");
    expect_good(gpt2("eval -e " + model + " -j data/t/val_000000.bin"));
    expect_good(gpt2("finetune -e " + model + " -i data/t -b 2 -x 2 -o tuned"));
    EXPECT_EQ(Tokenizer::load(dir / "tuned/step_00000002").vocab_size(), 305);  // the added tokens are not lost
    expect_good(tokenize("encode --vocab " + model + " -o data/u text.txt"));
    expect_good(gpt2("finetune -e " + model + " -i data/u -b 2 -x 2 -o tuned2"));
    expect_one_error(gpt2("finetune -e run -e " + trained("small") + " -i data/u -b 2 -x 2 -o tuned3"), 1,
                     "another of 300");
}

TEST_F(ProgramModels, ShardsOfAnotherTokenizer) {
    for (int V : {1000, 128256}) {
        std::vector<int> ids(2000);
        for (size_t i = 0; i < ids.size(); i++) ids[i] = static_cast<int>(i * 7919 % static_cast<size_t>(V));
        fs::create_directory(dir / std::to_string(V));
        ShardWriter shard(dir / (std::to_string(V) + "/train_000000.bin"), V);
        shard.write(ids.data(), static_cast<int64_t>(ids.size()));
        shard.close();
    }
    expect_good(gpt2("-i 1000 -e L1:H2:C16:T16:V1000 -b 1 -x 2 -o a"));
    expect_good(gpt2("-i 128256 -e L1:H2:C16:T16:V128256 -b 1 -x 1 -o b"));
    put("1000/tokenizer.json", R"({"model": {"type": "Unigram", "vocab": []}})");
    expect_good(gpt2("-i 1000 -e L1:H2:C16:T16:V1000 -b 1 -x 2 -o e"));
    expect_one_error(gpt2("-i 1000 -e L1:H2:C16:T16 -b 1 -x 2 -o f"), 1, "its model is \"Unigram\"");
    fs::remove(dir / "1000/tokenizer.json");
    expect_one_error(gpt2("-i 1000 -e L1:H2:C16:T16:V500 -b 1 -x 2 -o c"), 1, "the vocabulary has 500");
    expect_one_error(gpt2("finetune -e " + trained("run") + " -i 1000 -o d"), 1, "copy that there");
}

TEST_F(ProgramModels, AVocabularyWithoutAnEndOfText) {
    fs::create_directory(dir / "v");
    json vocab = json::parse(file("data/t/vocab.json"));
    vocab.erase("<|endoftext|>");
    put("v/vocab.json", vocab.dump()), put("v/merges.txt", file("data/t/merges.txt"));
    CommandResult r = tokenize("encode --vocab v -o data/u text.txt");
    expect_good(r);
    EXPECT_NE(r.err.find("no end-of-text token"), std::string::npos) << r.err;
    expect_good(gpt2("-i data/u -e L1:H2:C16:T16 -b 1 -x 1 -s 1 -o run"));
    EXPECT_EQ(json::parse(file("run/step_00000001/config.json"))["eos_token_id"], json());
    say("run", "");
}

TEST_F(ProgramModels, JsonOfEndlessDepthIsOneLine) {
    const std::string model = trained("run"),
                      deep = "{\"a\":" + std::string(200000, '[') + std::string(200000, ']') + "}";
    const auto with = [&](const std::string& name, const std::string& command, const std::string& names) {
        const bool there = fs::exists(dir / name);
        const std::string before = there ? file(name) : "";
        put(name, deep);
        expect_one_error(gpt2(command), 1, names);
        there ? put(name, before) : void(fs::remove(dir / name));
    };
    with(model + "/config.json", "sample -e " + model, "config.json");
    with("run/step_00000002/trainer_state.json", small() + "-o run --resume -x 3", "trainer_state.json");
    with(model + "/tokenizer.json", "sample -e " + model + " --prompt a", "tokenizer.json");
    fs::remove(dir / model + "/tokenizer.json");
    with(model + "/vocab.json", "sample -e " + model + " --prompt a", "vocab.json");
    with("rates.json", "plan -e d12 --rates rates.json", "rates.json");
    fs::rename(dir / model + "/model.safetensors", dir / "weights");
    with(model + "/model.safetensors.index.json", "sample -e " + model + " --prompt a", "index.json");
}
