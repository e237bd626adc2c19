// A small data set and a directory of its own for each test of a program.
#pragma once
#include <gtest/gtest.h>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "command.h"
#include "llmc/base/philox.h"

namespace fs = std::filesystem;

// A directory with a text, its vocabulary and its shards, made once by ./tokenize.
inline const std::string& workshop() {
    static TemporaryDirectory dir;
    static bool made = [] {
        const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
        const char* does[] = {" sees ", " loves ", " fears ", " becomes "};
        std::ofstream text(dir / "text.txt");
        for (uint32_t i = 0; i < 3000; i++) {
            Philox4 r = philox(7, i, 0, 0, 0);
            text << who[r.v[0] % 5] << does[r.v[1] % 4] << who[r.v[2] % 5] << (r.v[3] % 4 ? ".\n" : ", and ");
        }
        text.close();
        std::string tokenize = program_path("TOKENIZE", "tokenize");
        CommandResult a = run_shell(tokenize + " train --vocab-size 300 -o data/t text.txt && " + tokenize +
                                        " encode --vocab data/t -o data/t text.txt",
                                    dir.path);
        if (a.exit_code != 0) throw std::runtime_error("tokenize: " + a.err);
        return true;
    }();
    (void)made;
    return dir.path;
}

class Program : public testing::Test {
  protected:
    TemporaryDirectory dir;
    void SetUp() override { fs::copy(workshop(), dir.path, fs::copy_options::recursive); }
    CommandResult gpt2(const std::string& arguments, const std::string& before = "") {
        return run_shell(before + program_path("TRAIN_GPT2", "train_gpt2") + " " + arguments, dir.path);
    }
    // A small run: 20 steps of 4 sequences in micro-batches of 3 and 1.
    CommandResult train(const std::string& more) { return gpt2(small() + more); }
    static std::string small() {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T32 -b 3 -d 128 -x 20 -v 10 -m 2 -l "
               "1e-2 -n 10 ";
    }
    std::string file(const std::string& name) const { return read_text(dir / name); }
    // What log.jsonl says of `key`, as text: equal text is equal bits.
    std::vector<std::string> logged(const std::string& run, const std::string& key) const {
        std::string log = file(run + "/log.jsonl"), quoted = "\"" + key + "\":";
        std::vector<std::string> all;
        for (size_t at = log.find(quoted); at != std::string::npos; at = log.find(quoted, at + 1)) {
            size_t begin = at + quoted.size();
            all.push_back(log.substr(begin, log.find_first_of(",}", begin) - begin));
        }
        return all;
    }
    std::vector<double> losses(const std::string& run) const {
        std::vector<double> all;
        for (const std::string& loss : logged(run, "loss")) all.push_back(std::stod(loss));
        return all;
    }
    void expect_close(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < want.size(); i++)
            EXPECT_NEAR(got[i] / want[i], 1.0, tolerance) << "step " << i + 1 << ": " << got[i] << ", " << want[i];
    }
    void expect_good(const CommandResult& r) { ASSERT_EQ(r.exit_code, 0) << r.out << r.err; }
    void expect_one_error(const CommandResult& r, int exit_code, const std::string& names) {
        EXPECT_EQ(r.exit_code, exit_code) << r.err;
        EXPECT_EQ(r.error_lines(), 1) << r.err;
        EXPECT_NE(r.err.find("error: "), std::string::npos) << r.err;
        EXPECT_NE(r.err.find(names), std::string::npos) << r.err;
    }
    static int count(const std::string& text, const std::string& what) {
        int n = 0;
        for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) n++;
        return n;
    }
    static double number_after(const std::string& text, const std::string& what, bool last = false) {
        size_t at = last ? text.rfind(what) : text.find(what);
        return at == std::string::npos ? NAN : std::stod(text.substr(at + what.size()));
    }
};
