// ./tokenize, run as a person would run it.
#include <gtest/gtest.h>
#include <random>
#include "test/tokenize_tool.h"

TEST_F(TokenizeTool, HelpAndUsage) {
    for (const char* command : {"", "train ", "encode ", "decode "}) {
        const string help = good(string(command) + "--help");
        EXPECT_MENTIONS(help, "Usage");
    }
    bad("", "subcommand", 2);
    bad("encode", "", 2);
    bad("encode --no-such-option x", "", 2);
    bad("encode -o x --val-fraction 2 x", "--val-fraction", 2);
    bad("encode -o x --val-fraction 0.1 --val-tokens 5 x", "--val-", 2);
    bad("encode -o x --split-documents words x", "--split-documents", 2);
    bad("train --vocab-size 256 -o x x", "--vocab-size 256", 2);
    bad("train --vocab-size many -o x x", "--vocab-size", 2);
    bad("encode -o x x", "--vocab", 2);
    EXPECT_FALSE(fs::exists(dir_ / "x"));
}

TEST_F(TokenizeTool, TrainEncodeDecode) {
    make_vocabulary();
    EXPECT_EQ(names("v"), (std::vector<string>{"merges.txt", "vocab.json"}));
    const string text = read_text(dir_ / "v.txt") + "h\xC3\xA9llo \xFF\xFE bytes\n";
    write("text.txt", text);
    const CommandResult encoded = run("encode --vocab v -o data/x text.txt");
    EXPECT_EQ(encoded.exit_code, 0);
    EXPECT_MENTIONS(encoded.err, "2 byte(s) of plain text are no UTF-8");
    const string out = encoded.out;
    EXPECT_MENTIONS(out, "1 documents");
    EXPECT_MENTIONS(out, "bytes per token");
    EXPECT_MENTIONS(out, "tokens/s");
    EXPECT_EQ(names("data/x"), (std::vector<string>{"merges.txt", "train_000000.bin", "val_000000.bin", "vocab.json"}));
    EXPECT_EQ(read_text(dir_ / "data/x/vocab.json"), read_text(dir_ / "v/vocab.json"));
    EXPECT_EQ(read_text(dir_ / "data/x/merges.txt"), read_text(dir_ / "v/merges.txt"));
    std::vector<int> all = ids("data/x/train_000000.bin");
    const std::vector<int> val = ids("data/x/val_000000.bin");
    EXPECT_NEAR(static_cast<double>(val.size()), 0.05 * static_cast<double>(all.size() + val.size()), 1);
    all.insert(all.end(), val.begin(), val.end());
    EXPECT_EQ(all, expected({text}));
    EXPECT_EQ(good("decode --vocab v data/x/train_000000.bin data/x/val_000000.bin"), kEnd + text);
    EXPECT_EQ(good("decode data/x/train_000000.bin 'data/x/val_*.bin'"), kEnd + text);  // the vocabulary beside them
}

TEST_F(TokenizeTool, ExtendsAVocabulary) {
    make_vocabulary();
    string text;
    for (int i = 0; i < 50; ++i) text += "die Katze und der Hund sagten hallo zur Welt; sie sind froh. ";
    write("w.txt", text);
    const string out = good("train --extend v --vocab-size 320 -o w w.txt");
    EXPECT_MENTIONS(out, "w: vocabulary of 320 tokens (291 of v) from");
    const Tokenizer old = Tokenizer::load(dir_ / "v"), now = Tokenizer::load(dir_ / "w");
    EXPECT_EQ(now.vocab_size(), 320);
    EXPECT_TRUE(now.extends(old));
    std::vector<int> before, after;
    old.encode(text, before), now.encode(text, after);
    EXPECT_LT(after.size(), before.size() / 2);
    // What stands beside the vocabulary, such as a template, stays with it; and twice the same is the same.
    write("v/tokenizer_config.json", R"({"chat_template": "{{ messages }}"})");
    good("train --extend v --vocab-size 320 -o again --threads 2 --chunk-bytes 7 w.txt");
    EXPECT_EQ(Tokenizer::load(dir_ / "again").chat_template(), "{{ messages }}");
    EXPECT_EQ(read_text(dir_ / "again/vocab.json"), read_text(dir_ / "w/vocab.json"));
    EXPECT_EQ(read_text(dir_ / "again/merges.txt"), read_text(dir_ / "w/merges.txt"));

    bad("train --extend v --vocab-size 291 -o x w.txt", "--vocab-size 291: v has 291 tokens already; give more", 2);
    bad("train --extend none --vocab-size 400 -o x w.txt", "none/vocab.json: no such file");
    bad("train --extend v --vocab-size 400 -o v w.txt", "v has a vocabulary already");
    write("few/vocab.json", "{\"a\": 0, \"b\": 1, \"ab\": 2, \"\u0120\": 3}");
    write("few/merges.txt", "a b\n");
    bad("train --extend few --vocab-size 400 -o x w.txt", "few: it has no token for some bytes");
    EXPECT_FALSE(fs::exists(dir_ / "x"));
}

TEST_F(TokenizeTool, InTheVocabularysOwnDirectory) {
    make_vocabulary();
    good("encode -o v v.txt");
    EXPECT_EQ(names("v"), (std::vector<string>{"merges.txt", "train_000000.bin", "val_000000.bin", "vocab.json"}));
}

// The heart of streaming: however small the chunks are that threads get, the ids are those of encoding in one go.
TEST_F(TokenizeTool, ChunkSizeAndThreadsDoNotChangeIds) {
    make_vocabulary();
    std::mt19937 random(1);
    static const char* bits[] = {"the ",     "cat",     " ",  "  ",           "\n",     "\n\n",   "'re",
                                 "'",        "hello",   "12", "\u65e5\u672c", "\u00e9", "\u00a0", "\xFF",
                                 "\xE6\x97", "<|endof", "<|", "|>",           "\t",     "."};
    std::vector<string> documents;
    string joined;
    for (int d = 0; d < 8; ++d) {
        string document = "x";
        // more than the first bytes, which are read at once
        for (int i = 0; i < 5'000; ++i) document += bits[random() % std::size(bits)];
        document += "x";
        documents.push_back(document);
        joined += (d ? string("\n") + kEnd + "\n\n" : "") + document;
    }
    write("text.txt", joined);
    const std::vector<int> whole = expected(documents);
    for (const char* options : {"", "--chunk-bytes 1 --threads 3", "--chunk-bytes 2 --threads 1", "--chunk-bytes 7",
                                "--chunk-bytes 100", "--chunk-bytes 1001 --threads 5"}) {
        EXPECT_TRUE(encode(string(options) + " text.txt") == whole) << options;
        EXPECT_TRUE(encode(string(options) + " - <text.txt") == whole) << options;
    }
    EXPECT_TRUE(encode("--no-special --chunk-bytes 5 text.txt") == expected({joined}));
    EXPECT_TRUE(encode("--split-documents none text.txt") == expected({joined}));
    // a vocabulary trained in small chunks is the same as well
    run("train --vocab-size 320 -o t1 text.txt");
    run("train --vocab-size 320 -o t2 --chunk-bytes 3 --threads 3 text.txt");
    EXPECT_EQ(read_text(dir_ / "t1/merges.txt"), read_text(dir_ / "t2/merges.txt"));
}

// Words that were added to a vocabulary are found wherever a chunk ends; special tokens named in a text stay text.
TEST_F(TokenizeTool, AddedWordsAcrossChunks) {
    make_vocabulary();
    const int next = Tokenizer::load(dir_ / "v").vocab_size();
    const auto added = [&](int id, const char* text, const char* more) {
        return strf(R"("%d": {"content": "%s"%s})", next + id, text, more);
    };
    write("v/tokenizer_config.json", R"({"add_prefix_space": true, "added_tokens_decoder": {)" +
                                         added(0, "x1.y", R"(, "special": false)") + ", " +
                                         added(1, "cat1", R"(, "special": false, "single_word": true)") + ", " +
                                         added(2, "<b>", R"(, "special": false, "lstrip": true, "rstrip": true)") +
                                         ", " + added(3, "<s>", "") + "}}");
    const Tokenizer tokenizer = Tokenizer::load(dir_ / "v");
    std::mt19937 random(2);
    string text;
    for (int i = 0; i < 20'000; ++i)  // more than the first bytes, which are read at once
        text +=
            std::array{
                "x1.y", "cat1", " cat1 ", "  <b>\n ", "<s>", "the x1", "cat", ".", " dog12 ", "'s"}[random() % 10] +
            string(random() % 3, ' ');
    write("text.txt", text);
    std::vector<int> whole = {tokenizer.end_of_text()};
    tokenizer.encode_document(text, true, whole);
    for (int id = next; id < next + 3; ++id) EXPECT_GT(std::count(whole.begin(), whole.end(), id), 0) << id;
    EXPECT_EQ(std::count(whole.begin(), whole.end(), next + 3), 0);
    for (const char* chunk : {"1", "8", "17", "1000000"})
        EXPECT_TRUE(encode("--chunk-bytes " + string(chunk) + " text.txt") == whole) << chunk;
}

TEST_F(TokenizeTool, Documents) {
    make_vocabulary();
    write("stories.txt",
          string("\nfirst story\nof two lines\n") + kEnd + "\nsecond story\n" + kEnd + kEnd + "\n\n" + kEnd + "\n");
    EXPECT_EQ(encode("stories.txt"), expected({"\nfirst story\nof two lines", "second story"}));
    write("poems.txt", "roses\nare red\n\n\n\nviolets\n\nare blue\n");
    for (const char* chunk : {"1", "6", "100"})
        EXPECT_EQ(encode(string("--split-documents blanklines poems.txt --chunk-bytes ") + chunk),
                  expected({"roses\nare red", "violets", "are blue\n"}));
    EXPECT_EQ(encode("poems.txt"), expected({"roses\nare red\n\n\n\nviolets\n\nare blue\n"}));

    write("tree/b/2.txt", "two");
    write("tree/b/10.txt", "ten");
    write("tree/a.txt", "one");
    write("tree/empty.txt", "");
    write("tree/.git/config", "hidden");
    write("tree/c.jsonl",
          "{\"text\": \"json one\", \"id\": 1}\n\n{\"text\": \"\"}\n{\"id\": 2, \"text\": \"caf\\u00e9 "
          "\\ud83d\\ude00\"}");
    for (const char* options : {"", "--chunk-bytes 1 ", "--chunk-bytes 20 --threads 3 "})
        EXPECT_EQ(encode(string(options) + "tree poems.txt"),
                  expected({"one", "ten", "two", "json one", "caf\u00e9 \U0001F600",
                            "roses\nare red\n\n\n\nviolets\n\nare blue\n"}));
    write("c.jsonl", "{\"body\": \"json\"}\r\n{\"body\": \"<|endoftext|>\"}\n");
    EXPECT_EQ(encode("--text-field body c.jsonl"), expected({"json", kEnd}));  // a marker inside a JSON text is text
    EXPECT_EQ(encode("--text-field body - < c.jsonl"), expected({"json", kEnd}));
    fs::copy(dir_ / "c.jsonl", dir_ / "c.txt");
    EXPECT_EQ(encode("--text-field body --jsonl c.txt"), expected({"json", kEnd}));
}

TEST_F(TokenizeTool, ValidationSplit) {
    make_vocabulary();
    string stories;
    std::vector<string> documents;
    for (int i = 0; i < 200; ++i) {
        documents.push_back("the cat number " + std::to_string(i) + " and the dog");
        stories += documents.back() + "\n" + kEnd + "\n";
    }
    write("stories.txt", stories);
    const std::vector<int> whole = expected(documents);
    const int end = Tokenizer::load(dir_ / "v").end_of_text();
    const auto parts = [&](const string& arguments) {
        good("encode --force --vocab v -o out " + arguments);
        std::vector<int> train, val;
        for (const string& name : names("out")) {
            if (name.substr(0, 5) == "train") {
                for (int id : ids("out/" + name)) train.push_back(id);
            } else if (name.substr(0, 3) == "val") {
                for (int id : ids("out/" + name)) val.push_back(id);
            }
        }
        return std::pair(train, val);
    };
    const auto joined = [](std::pair<std::vector<int>, std::vector<int>> both) {
        both.first.insert(both.first.end(), both.second.begin(), both.second.end());
        return both.first;
    };
    for (const char* options : {"", "--shard-tokens 101 ", "--shard-tokens 700 "}) {  // the cut is at a document
        const auto both = parts(string(options) + "--val-fraction 0.1 stories.txt");
        EXPECT_EQ(joined(both), whole) << options;
        EXPECT_EQ(both.second[0], end);
        EXPECT_NEAR(static_cast<double>(both.second.size()), 0.1 * static_cast<double>(whole.size()), 15);
    }
    EXPECT_EQ(joined(parts("--val-tokens 100 stories.txt")), whole);
    EXPECT_EQ(parts("--val-fraction 0 stories.txt").second.size(), 0u);
    EXPECT_EQ(parts("--val-tokens 0 stories.txt").second.size(), 0u);
    // one document: the last tokens, exactly
    for (const char* options : {"", "--shard-tokens 10 ", "--shard-tokens 37 "}) {
        const auto both = parts(string(options) + "--val-tokens 37 v.txt");
        EXPECT_EQ(both.second.size(), 37u);
        EXPECT_EQ(joined(both), expected({read_text(dir_ / "v.txt")}));
    }
    bad("encode --force --vocab v -o out --val-tokens 100000 v.txt", "--val-tokens 100,000");
    // text of its own
    const auto both = parts("--val-inputs v.txt -- stories.txt");
    EXPECT_EQ(both.first, whole);
    EXPECT_EQ(both.second, expected({read_text(dir_ / "v.txt")}));
}

TEST_F(TokenizeTool, Shards) {
    make_vocabulary();
    const std::vector<int> whole = expected({read_text(dir_ / "v.txt")});
    good("encode --vocab v -o out --val-fraction 0 --shard-tokens 100 v.txt");
    std::vector<int> all;
    const std::vector<string> shards = expand_shards({dir_ / "out/train_*.bin"}, "");
    EXPECT_EQ(shards.size(), (whole.size() + 99) / 100);
    for (const string& name : shards) {
        const auto part = ids("out/" + fs::path(name).filename().string());
        EXPECT_EQ(part.size(), name == shards.back() ? (whole.size() - 1) % 100 + 1 : 100);
        all.insert(all.end(), part.begin(), part.end());
    }
    EXPECT_EQ(all, whole);
}

TEST_F(TokenizeTool, NothingIsOverwrittenWithoutForce) {
    make_vocabulary();
    const string before = read_text(dir_ / "v/merges.txt");
    write("other.txt", "zz zz zz zz yy yy yy yy");
    bad("train -o v other.txt", "--force");
    EXPECT_EQ(read_text(dir_ / "v/merges.txt"), before);
    good("encode --vocab v -o out --shard-tokens 50 v.txt");
    const string shard = read_text(dir_ / "out/train_000000.bin");
    bad("encode --vocab v -o out other.txt", "--force");
    bad("train -o out other.txt", "--force");
    EXPECT_EQ(read_text(dir_ / "out/train_000000.bin"), shard);
    good("encode --vocab v -o out --force other.txt");
    EXPECT_EQ(names("out"), (std::vector<string>{"merges.txt", "train_000000.bin", "val_000000.bin", "vocab.json"}));
    good("train -o w other.txt");
    bad("encode --vocab v -o w other.txt", "vocabulary of its own");
    good("train -o out --force other.txt");  // the shards do not fit the new vocabulary
    EXPECT_EQ(names("out"), (std::vector<string>{"merges.txt", "vocab.json"}));
}

TEST_F(TokenizeTool, BadInputs) {
    make_vocabulary();
    const string encode_to = "encode --vocab v -o out ";
    bad(encode_to + "missing.txt", "missing.txt");
    fs::create_directory(dir_ / "nothing");
    bad(encode_to + "nothing", "nothing");
    write("empty.txt", "");
    bad(encode_to + "empty.txt", "empty.txt");
    bad(encode_to + "- </dev/null", "no text");
    bad("train -o out empty.txt", "empty.txt");
    bad("encode --vocab none -o out v.txt", "none/vocab.json");
    write("zipped.txt.gz", "\x1F\x8B\x08 and so on");
    bad(encode_to + "zipped.txt.gz", "zcat");
    write("zipped.jsonl.zst", "\x28\xB5\x2F\xFD and so on");
    bad(encode_to + "zipped.jsonl.zst", "zstdcat");
    for (const char* chunk : {"1", "3", "1000000"}) bad(encode_to + "zipped.txt.gz --chunk-bytes " + chunk, "zcat");
    const auto bad_line = [&](const string& line, const string& part) {
        string lines;
        for (int i = 0; i < 40; ++i) lines += "{\"text\": \"fine\"}\n";
        write("lines.jsonl", lines + line + "\n{\"text\": \"fine\"}\n");
        for (const char* chunk : {"1", "50", "1000000"})
            bad(encode_to + "lines.jsonl --chunk-bytes " + chunk, "lines.jsonl:41: " + part);
    };
    bad_line("{\"text\": \"broken", "not valid JSON");
    bad_line("[1, 2]", "not a JSON object");
    bad_line("{\"body\": \"x\"}", "no field \"text\"");
    bad_line("{\"text\": 5}", "field \"text\" is not a string");
    EXPECT_FALSE(fs::exists(dir_ / "out"));  // no half shard, no directory
    write("file", "x");
    bad("encode --vocab v -o file/out v.txt", "file/out");
    bad("decode --vocab v missing.bin", "missing.bin", 2);
    bad("decode --vocab v v.txt", "v.txt");
    bad("decode v.txt", "--vocab", 2);
}

TEST_F(TokenizeTool, FullDiskLeavesNothing) {
    make_vocabulary();
    string text;
    for (int i = 0; i < 4000; ++i) text += "hello the cat " + std::to_string(i);
    write("text.txt", text);
    // a limit on the size of files (in blocks of 512 bytes or 1 KiB) stands for a full disk
    const CommandResult result = run_shell("ulimit -f 8; '" + tool_ + "' encode --vocab v -o out text.txt", dir_.path);
    EXPECT_EQ(result.exit_code, 1);
    EXPECT_EQ(result.error_lines(), 1) << result.err;
    EXPECT_MENTIONS(result.err, "cannot write token shard");
    EXPECT_FALSE(fs::exists(dir_ / "out"));
    EXPECT_MENTIONS(run("decode --vocab v v/none").err, "none");
    good("encode --vocab v -o out text.txt");
    const CommandResult full = run("decode out/train_000000.bin >/dev/full");
    EXPECT_EQ(full.exit_code, 1);
    EXPECT_MENTIONS(full.err, "cannot write");
    // With standard output closed no shard may take its place: what the tool says would end up in it.
    const CommandResult closed = run("encode --vocab v -o closed text.txt >&-");
    EXPECT_EQ(read_text(dir_ / "closed/train_000000.bin"), read_text(dir_ / "out/train_000000.bin")) << closed.err;
}

TEST_F(TokenizeTool, InterruptedRunLeavesNothing) {
    make_vocabulary();
    const CommandResult result =
        run_shell("(while :; do echo hello the cat and the dog; done) | timeout --foreground -s INT 0.5 '" + tool_ +
                      "' encode --vocab v -o out -",
                  dir_.path);
    EXPECT_EQ(result.err, "tokenize: error: interrupted; nothing was written\n");
    EXPECT_FALSE(fs::exists(dir_ / "out"));
}
