// What ./tokenize leaves on disk: a data set as a whole or not at all, whatever ended a run; and memory that stays constant.
#include <gtest/gtest.h>
#include <random>
#include "llmc/text/dataset_writer.h"
#include "llmc/text/splitter.h"
#include "test/tokenizer_test.h"
#include "test/tokenize_tool.h"

namespace {

using Publication = TokenizeTool;
const std::vector<string> kWhole = {"merges.txt", "train_000000.bin", "val_000000.bin", "vocab.json"};

}  // namespace

TEST_F(Publication, ADirectoryThatIsThereGetsAllFilesOrNone) {
    make_vocabulary();
    write("other.txt", "zz zz yy yy xx");
    good("encode --vocab v -o out --shard-tokens 50 v.txt");
    good("encode --vocab v -o next --shard-tokens 70 v.txt");
    const std::vector<string> before = names("out"), after = names("next");
    ASSERT_GT(before.size(), after.size());
    // a run that ended right after its files were whole, and one that ended when it had moved one of them
    for (const bool one_moved : {false, true}) {
        fs::remove_all(dir_ / "killed");
        fs::copy(dir_ / "out", dir_ / "killed");
        fs::copy(dir_ / "next", dir_ / "killed/.tokenize-publish");
        string list;
        for (const string& name : after) list += name + "\n";
        write("killed/.tokenize-publish/names", list);
        if (one_moved) fs::rename(dir_ / "killed/.tokenize-publish/train_000001.bin", dir_ / "killed/train_000001.bin");
        bad("decode killed", "killed: a ./tokenize that ended too early");
        bad("encode --vocab v -o killed other.txt", "--force");
        EXPECT_EQ(names("killed"), after);
        for (const string& name : after)
            EXPECT_EQ(read_text(dir_ / ("killed/" + name)), read_text(dir_ / ("next/" + name)));
    }
}

TEST_F(Publication, DeadRunsAreClearedAndLiveOnesLeft) {
    make_vocabulary();
    write("out/.tokenize-dead01/train_000000.bin.tmp", "half");
    write(".tokenize-dead02/vocab.json", "half");
    good("encode --vocab v -o new v.txt");
    EXPECT_EQ(names("new"), kWhole);
    good("encode --vocab v -o out v.txt");
    EXPECT_EQ(names("out"), kWhole);
    EXPECT_FALSE(fs::exists(dir_ / ".tokenize-dead02"));
    write(".tokenize-alive/vocab.json", "half");
    run_shell("flock .tokenize-alive '" + tool_ + "' encode --vocab v -o newer v.txt", dir_.path);
    EXPECT_TRUE(fs::exists(dir_ / ".tokenize-alive/vocab.json"));
    EXPECT_EQ(names("newer"), kWhole);
}

TEST_F(Publication, WhoMayReadTheDirectoryIsTheUsersToSay) {
    make_vocabulary();
    run_shell("umask 027; '" + tool_ + "' encode --vocab v -o mine v.txt", dir_.path);
    EXPECT_EQ(fs::status(dir_ / "mine").permissions(), fs::perms(0750));
}

TEST_F(Publication, FifosAreRefusedWhereAFileIsNeeded) {
    make_vocabulary();
    run_shell("mkdir fifos && mkfifo fifos/vocab.json fifos/train_000000.bin && cp v/merges.txt fifos", dir_.path);
    const auto refused = [&](const string& arguments, const string& part) {
        const CommandResult result = run_shell("timeout 20 '" + tool_ + "' " + arguments, dir_.path);
        EXPECT_EQ(result.exit_code, 1) << result.err;
        EXPECT_MENTIONS(result.err, part);
    };
    refused("encode --vocab fifos -o out v.txt", "fifos/vocab.json");
    refused("decode --vocab v fifos/train_000000.bin", "not a regular file");
    refused("bench --vocab fifos v.txt", "fifos/vocab.json");
}

TEST_F(Publication, TextWithoutABreakTakesNoMemory) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the sanitizer needs more address space than the limit leaves";
#endif
    make_vocabulary();
    const string text(12 << 20, 'h');  // as one piece it takes 400 MB
    write("h.txt", text);
    write("h.jsonl", "{\"text\":\"" + text + "\"}");
    for (const char* name : {"h.txt", "h.jsonl"}) {
        const CommandResult result = run_shell(
            "ulimit -v 250000; '" + tool_ + "' encode --threads 1 --vocab v -o " + name + ".out " + name, dir_.path);
        EXPECT_EQ(result.exit_code, 0) << result.err;
    }
}

// The ids of a long piece are those of the whole, wherever it was cut: against the definition, with vocabularies whose
// tokens run into each other.
TEST(SafeCut, BothSidesAreTheWhole) {
    std::mt19937 random(5);
    for (int round = 0; round < 30; ++round) {
        std::vector<std::pair<int, int>> merges;
        const uint32_t letters = 1 + random() % 3;
        for (int i = 0; i < 25; ++i) {  // of random pairs of what there is, as training would find them
            const auto any = [&] {
                const uint32_t k = random() % (letters + static_cast<uint32_t>(merges.size()));
                return static_cast<int>(k < letters ? 'a' - '!' + k : 256 + k - letters);
            };
            const std::pair pair(any(), any());
            const Tokenizer so_far = Tokenizer::from_merges(merges);
            const size_t bytes = so_far.bytes(pair.first).size() + so_far.bytes(pair.second).size();
            std::vector<std::pair<int, int>> more = merges;
            more.push_back(pair);
            if (bytes <= 8 && std::find(merges.begin(), merges.end(), pair) == merges.end() &&
                Tokenizer::from_merges(more).vocab_size() == so_far.vocab_size() + 1)
                merges = more;
        }
        const Tokenizer tokenizer = Tokenizer::from_merges(merges);
        for (int i = 0; i < 20; ++i) {
            string text;
            while (text.size() < 300) text += string(1 + random() % 4, static_cast<char>('a' + random() % letters));
            const size_t cut = tokenizer.safe_cut(std::string_view(text).substr(0, 150));
            ASSERT_GT(cut, 50u);
            for (size_t end : {150u, 151u, 153u, 158u, 163u, 200u, 300u}) {
                std::vector<int> ids = encode(tokenizer, text.substr(0, cut));
                for (int id : encode(tokenizer, text.substr(cut, end - cut))) ids.push_back(id);
                ASSERT_EQ(ids, encode_by_definition(tokenizer, merges, text.substr(0, end))) << text << " at " << cut;
            }
        }
    }
}
