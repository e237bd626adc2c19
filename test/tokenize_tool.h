// ./tokenize in a directory of a test's own.
#pragma once
#include <gtest/gtest.h>
#include "llmc/base/error.h"
#include "llmc/text/shards.h"
#include "llmc/text/tokenizer.h"
#include "test/command.h"

namespace fs = std::filesystem;
using std::string;

#ifndef EXPECT_MENTIONS
#define EXPECT_MENTIONS(text, part) EXPECT_NE(string(text).find(part), string::npos) << (text)
#endif

inline constexpr const char* kEnd = "<|endoftext|>";

class TokenizeTool : public testing::Test {
  protected:
    void SetUp() override {
        tool_ = program_path("TOKENIZE", "tokenize");
        if (!fs::exists(tool_)) GTEST_SKIP() << tool_ << " is not built";
    }
    CommandResult run(const string& arguments) { return run_shell("'" + tool_ + "' " + arguments, dir_.path); }
    // Runs, expects success, returns standard output.
    string good(const string& arguments) {
        const CommandResult result = run(arguments);
        EXPECT_EQ(result.exit_code, 0) << arguments << ": " << result.err;
        EXPECT_EQ(result.err, "") << arguments;
        return result.out;
    }
    // Runs, expects one line of error that mentions `part`.
    void bad(const string& arguments, const string& part, int exit_code = 1) {
        const CommandResult result = run(arguments);
        EXPECT_EQ(result.exit_code, exit_code) << arguments << ": " << result.err;
        EXPECT_EQ(result.error_lines(), 1) << result.err;
        EXPECT_EQ(result.err.rfind("tokenize: error: ", 0), 0u) << result.err;
        EXPECT_MENTIONS(result.err, part);
    }
    void write(const string& name, const string& text) {
        fs::create_directories(fs::path(dir_ / name).parent_path());
        std::ofstream(dir_ / name, std::ios::binary) << text;
    }
    // A vocabulary in v/, trained on a little text.
    void make_vocabulary() {
        string text;
        for (int i = 0; i < 50; ++i) text += "the cat and the dog said hello to the world; they're happy. ";
        write("v.txt", text);
        good("train --vocab-size 300 -o v v.txt");
    }
    std::vector<int> ids(const string& name) {
        const Shard shard(dir_ / name, 0);
        std::vector<int> out(static_cast<size_t>(shard.size()));
        shard.read(0, shard.size(), out.data());
        return out;
    }
    // Ids of documents, each with <|endoftext|> before it.
    std::vector<int> expected(const std::vector<string>& documents) {
        const Tokenizer tokenizer = Tokenizer::load(dir_ / "v");
        std::vector<int> out;
        for (const string& document : documents) {
            out.push_back(tokenizer.end_of_text());
            tokenizer.encode(document, out);
        }
        return out;
    }
    std::vector<string> names(const string& directory) {
        std::vector<string> out;
        for (const auto& entry : fs::directory_iterator(dir_ / directory)) out.push_back(entry.path().filename());
        std::sort(out.begin(), out.end());
        return out;
    }
    // Encodes everything as training data and returns its ids.
    std::vector<int> encode(const string& arguments) {
        const CommandResult result = run("encode --force --val-fraction 0 --vocab v -o out " + arguments);
        EXPECT_EQ(result.exit_code, 0) << arguments << ": " << result.err;
        return ids("out/train_000000.bin");
    }

    string tool_;
    TemporaryDirectory dir_;
};
