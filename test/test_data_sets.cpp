// Each data set's script, from the network to token shards.
#include "test/fetch_fixture.h"

namespace {

std::string bytes_of(const std::vector<int32_t>& values) {
    return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(int32_t)};
}

std::string shard_of(int tokens, int magic = 20240520, int version = 1, int width = 2) {
    std::vector<int32_t> header(256);
    header[0] = magic, header[1] = version, header[2] = tokens;
    return bytes_of(header) + std::string(static_cast<size_t>(tokens * width), '\x07');
}

std::string safetensors_of(size_t values) {
    std::string header = R"({"wte":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}, "b":{"dtype":"F32","shape":[)" +
                         std::to_string(values) + R"(],"data_offsets": [24, )" + std::to_string(24 + 4 * values) +
                         "]}}";
    uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string(24 + 4 * values, '\x01');
}

class DataSets : public Fetch {};

TEST_F(DataSets, FinewebShards) {
    const std::string from = "/hf/datasets/kjj0/fineweb10B-gpt2/resolve/main/fineweb_",
                      gpt2 = "/hf/openai-community/gpt2/resolve/main/";
    server.files[gpt2 + "vocab.json"] = "{\"a\": 0}";
    server.files[gpt2 + "merges.txt"] = "#version: 0.2\na b\n";
    server.files[from + "val_000000.bin"] = shard_of(1001);
    server.files[from + "train_000001.bin"] = shard_of(5000);
    server.files[from + "train_000002.bin"] = shard_of(3);
    CommandResult result = run("data/fineweb.sh fineweb 2");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / "data/fineweb/train_000001.bin"), shard_of(5000));
    for (const char* name : {"val_000000.bin", "train_000002.bin", "vocab.json", "merges.txt"})
        EXPECT_TRUE(exists(std::string("data/fineweb/") + name)) << name;
    EXPECT_EQ(server.total_requests(), 5);

    server.files[from + "train_000003.bin"] = shard_of(3).substr(0, 1028);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "header promises 3 tokens");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240521);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "wrong magic number");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240520, 2);
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "wrong magic number or version");
    server.files[from + "train_000003.bin"] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\n";
    expect_refused(run("data/fineweb.sh fineweb 3"), "data/fineweb/train_000003.bin", "Git LFS pointer");
    server.files[from + "train_000003.bin"] = shard_of(3, 20240801, 7, 4);  // wide tokens are shards too
    EXPECT_EQ(run("data/fineweb.sh fineweb 3").exit_code, 0);
    for (const char* arguments :
         {"fineweb 0", "fineweb 104", "fineweb many", "fineweb -1", "fineweb_edu 1002", "coarseweb"}) {
        CommandResult bad = run(std::string("data/fineweb.sh ") + arguments);
        EXPECT_EQ(bad.exit_code, 2) << arguments;
        EXPECT_EQ(bad.error_lines(), 1) << bad.err;
    }
}

TEST_F(DataSets, FinewebEduShards) {
    const std::string from = "/hf/datasets/karpathy/fineweb-edu-100B-gpt2-token-shards/resolve/main/edu_fineweb_";
    const std::string gpt2 = "/hf/openai-community/gpt2/resolve/main/";
    server.files = {{from + "val_000000.bin", shard_of(7)},
                    {from + "train_000001.bin", shard_of(8)},
                    {gpt2 + "vocab.json", "{}"},
                    {gpt2 + "merges.txt", "#version: 0.2\n"}};
    CommandResult result = run("data/fineweb.sh fineweb_edu");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / "data/fineweb_edu/train_000001.bin"), shard_of(8));
    EXPECT_EQ(read_text(dir / "data/fineweb_edu/val_000000.bin"), shard_of(7));
}

TEST_F(DataSets, Hellaswag) {
    const std::string path = "/gh/rowanz/hellaswag/master/data/hellaswag_val.jsonl",
                      name = "data/hellaswag/hellaswag_val.jsonl";
    server.files[path] = "{\"ctx\": \"A man\", \"label\": 3}\n{\"ctx\": \"A wom";
    expect_refused(run("data/hellaswag.sh"), name, "is not whole JSON");
    server.files[path] = "";
    expect_refused(run("data/hellaswag.sh"), name, "is not whole JSON");
    server.files[path] = "{\"ctx\": \"A man\", \"label\": 3}\n{\"ctx\": \"A woman\", \"label\": 1}\n";
    EXPECT_EQ(run("data/hellaswag.sh").exit_code, 0);
    EXPECT_EQ(read_text(dir / name), server.files[path]);
}

TEST_F(DataSets, Gpt2) {
    const std::string from = "/hf/openai-community/gpt2-medium/resolve/main/", model = "gpt2-medium/model.safetensors";
    server.files[from + "config.json"] = "{\"model_type\": \"gpt2\"}\n";
    server.files[from + "vocab.json"] = "{\"a\": 0}";
    server.files[from + "merges.txt"] = "#version: 0.2\na b\n";
    server.files[from + "generation_config.json"] = "{}";
    server.files[from + "model.safetensors"] = safetensors_of(100);
    CommandResult result = run("data/gpt2.sh gpt2-medium");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(read_text(dir / model), safetensors_of(100));
    for (const char* name : {"config.json", "vocab.json", "merges.txt", "generation_config.json"})
        EXPECT_TRUE(exists(std::string("gpt2-medium/") + name)) << name;
    EXPECT_FALSE(exists("gpt2-medium/tokenizer_config.json"));

    std::string too_long = safetensors_of(100), huge = safetensors_of(100),
                no_tensors = std::string("\x02\0\0\0\0\0\0\0{}", 10);
    too_long += "x";
    huge[7] = '\x7f';
    for (const std::string& bad :
         {safetensors_of(100).substr(0, 300), too_long, huge, no_tensors, std::string("PK\x03\x04"), std::string()}) {
        fs::remove(dir / model);
        server.files[from + "model.safetensors"] = bad;
        expect_refused(run("data/gpt2.sh gpt2-medium"), model, "refused gpt2-medium/model.safetensors");
    }
    EXPECT_EQ(run("data/gpt2.sh gpt3").exit_code, 2);

    // a file that a model may lack is still not to be had half
    server.files[from + "model.safetensors"] = safetensors_of(100);
    server.files[from + "tokenizer_config.json"] = "{\"model_max";
    expect_refused(run("data/gpt2.sh gpt2-medium"), model, "tokenizer_config.json");
}

// From the network to token shards, with the tokenizer.
class FetchText : public Fetch {
  protected:
    void SetUp() override {
        Fetch::SetUp();
        if (!IsSkipped() && !fs::exists(program_path("TOKENIZE", "tokenize")))
            GTEST_SKIP() << "./tokenize is not built";
    }
    void expect_data_set(const std::string& name) {
        for (const char* file : {"train_000000.bin", "val_000000.bin", "vocab.json", "merges.txt"})
            EXPECT_TRUE(exists("data/" + name + "/" + file)) << name << "/" << file;
        EXPECT_FALSE(exists("data/" + name + ".part"));
    }
};

TEST_F(FetchText, DefaultDataSet) {
    serve_shakespeare();
    CommandResult result = run("data/text.sh", "VOCAB_SIZE=300");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_NE(result.out.find("data set: data/tinyshakespeare\n"), std::string::npos) << result.out;
    expect_data_set("tinyshakespeare");
    auto before = fs::last_write_time(dir / "data/tinyshakespeare/train_000000.bin");
    result = run("data/text.sh");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_EQ(fs::last_write_time(dir / "data/tinyshakespeare/train_000000.bin"), before);
    EXPECT_EQ(server.total_requests(), 1);
}

TEST_F(FetchText, OwnText) {
    write("books/my book.txt", text_of(60000));
    CommandResult result = run("data/text.sh 'books/my book.txt'", "VOCAB_SIZE=280");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("my_book");
    // the same name for another text would mix two data sets up
    write("my book.txt", text_of(50000));
    result = run("data/text.sh 'my book.txt'", "VOCAB_SIZE=280");
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.error_lines(), 1) << result.err;
    EXPECT_NE(result.err.find("was made from books/my book.txt"), std::string::npos) << result.err;
    result = run("data/text.sh 'my book.txt'", "VOCAB_SIZE=280 NAME=other");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("other");
    result = run("data/text.sh nowhere.txt");
    EXPECT_EQ(result.exit_code, 2);
    EXPECT_EQ(result.error_lines(), 1) << result.err;
    EXPECT_EQ(server.total_requests(), 0);
}

TEST_F(FetchText, FailedTokenizerLeavesNoDataSet) {
    write("empty.txt", "");
    EXPECT_NE(run("data/text.sh empty.txt").exit_code, 0);
    EXPECT_FALSE(exists("data/empty"));
    write("data/hellaswag/hellaswag_val.jsonl", "{}");
    write("hellaswag.txt", text_of(50000));
    CommandResult result = run("data/text.sh hellaswag.txt");
    EXPECT_NE(result.exit_code, 0);
    EXPECT_NE(result.err.find("another name"), std::string::npos) << result.err;
    EXPECT_EQ(read_text(dir / "data/hellaswag/hellaswag_val.jsonl"), "{}");
}

TEST_F(FetchText, TinyStories) {
    const std::string from = "/hf/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-";
    server.files[from + "train.txt"] = text_of(30000) + "\n<|endoftext|>\n" + text_of(20000);
    server.files[from + "valid.txt"] = text_of(5000) + "\n<|endoftext|>\n" + text_of(1000);
    server.replies[from + "train.txt"] = {{.send_only = 20000}, {}};
    CommandResult result = run("data/tinystories.sh", "VOCAB_SIZE=300");
    EXPECT_EQ(result.exit_code, 0) << result.err;
    expect_data_set("tinystories");
    EXPECT_EQ(server.body_bytes,
              static_cast<int64_t>(server.files[from + "train.txt"].size() + server.files[from + "valid.txt"].size()));
    EXPECT_EQ(run("data/tinystories.sh").exit_code, 0);
    EXPECT_EQ(server.total_requests(), 3);
}

}  // namespace
