// Encoding: against the definition and against tiktoken's ids; vocabulary files, good and bad.
#include <algorithm>
#include <thread>
#include <nlohmann/json.hpp>
#include "llmc/text/vocabulary.h"
#include "test/tokenizer_test.h"

namespace {

// A random vocabulary over a few letters, with its merges.
Tokenizer random_vocabulary(std::mt19937& random, int merges_wanted, std::vector<std::pair<int, int>>& merges) {
    merges.clear();
    const Tokenizer bytes = Tokenizer::from_merges({});
    std::vector<int> usable = encode(bytes, "a");
    for (const char* c : {"b", "c", " ", "\xC3", "\xA9"}) usable.push_back(encode(bytes, c)[0]);
    while (static_cast<int>(merges.size()) < merges_wanted) {
        const std::pair<int, int> pair(usable[random() % usable.size()], usable[random() % usable.size()]);
        if (std::find(merges.begin(), merges.end(), pair) != merges.end()) continue;
        merges.push_back(pair);
        const Tokenizer next = Tokenizer::from_merges(merges);
        const int last = next.vocab_size() - 2;
        if (last >= 256 && usable.back() != last) usable.push_back(last);
    }
    return Tokenizer::from_merges(merges);
}

}  // namespace

TEST(Tokenizer, EncodesByTheDefinition) {
    std::mt19937 random(3);
    std::vector<std::pair<int, int>> merges;
    for (int round = 0; round < 12; ++round) {
        const Tokenizer tokenizer = random_vocabulary(random, 5 + round * 4, merges);
        for (int i = 0; i < 40; ++i) {
            string text;
            // up to 300 bytes without a space: both ways of merging, and the cache of short pieces
            const size_t size = i % 4 == 0 ? random() % 300 : random() % 80;
            while (text.size() < size)
                text += std::array{"a", "b", "c", "a", "\u00e9", i % 3 ? "b" : " "}[random() % 6];
            ASSERT_EQ(encode(tokenizer, text), encode_by_definition(tokenizer, merges, text)) << text;
            ASSERT_EQ(encode(tokenizer, text), encode_by_definition(tokenizer, merges, text))
                << text;  // now from the cache
        }
    }
}

TEST(Tokenizer, BytesComeBackUnchanged) {
    std::mt19937 random(4);
    std::vector<std::pair<int, int>> merges;
    const Tokenizer tokenizer = random_vocabulary(random, 40, merges);
    for (int i = 0; i < 500; ++i) {
        string bytes(random() % 200, '\0');
        for (char& c : bytes) c = static_cast<char>(random());
        EXPECT_EQ(tokenizer.decode(encode(tokenizer, bytes)), bytes);
        const string text = random_text(random, 30, true);
        EXPECT_EQ(tokenizer.decode(encode(tokenizer, text)), text);
    }
    string all;
    for (int b = 0; b < 256; ++b) all += static_cast<char>(b);
    EXPECT_EQ(tokenizer.decode(encode(tokenizer, all)), all);
}

// In a list that nobody trained a merge may come before those that make its tokens.
TEST(Tokenizer, MergesInAnyOrder) {
    std::mt19937 random(8);
    std::vector<std::pair<int, int>> merges;
    for (int round = 0; round < 5; ++round) {
        const TemporaryDirectory dir;
        // The last: "ab" + "a" comes before "a" + "b", so that what the first merge makes is merged before the others.
        if (round == 4) merges = {{64, 65}, {256, 64}, {64, 64}, {65, 65}};
        const Tokenizer in_order = round == 4 ? Tokenizer::from_merges(merges) : random_vocabulary(random, 30, merges);
        in_order.save(dir.path);
        if (round == 4) std::swap(merges[0], merges[1]);
        else std::shuffle(merges.begin(), merges.end(), random);
        std::ofstream file(dir / "merges.txt");
        for (const auto& [left, right] : merges)
            file << spell_bytes(in_order.bytes(left)) << ' ' << spell_bytes(in_order.bytes(right)) << '\n';
        file.close();
        const Tokenizer tokenizer = Tokenizer::load(dir.path);
        for (int i = 0; i < 40; ++i) {
            string text;
            for (size_t size = i % 2 ? 65 + random() % 100 : 30; text.size() < size;)
                text += std::array{"a", "b", "c", "\u00e9"}[random() % (round == 4 ? 2 : 4)];
            ASSERT_EQ(encode(tokenizer, text), encode_by_definition(tokenizer, merges, text)) << text;
        }
    }
}

TEST(Tokenizer, OneLongPieceTakesNoQuadraticTime) {
    const Tokenizer bytes = Tokenizer::from_merges({});
    const int a = encode(bytes, "a")[0];
    const Tokenizer tokenizer = Tokenizer::from_merges({{a, a}, {256, 256}, {257, 257}});
    const string text((1 << 20) + 5, 'a');
    const std::vector<int> ids = encode(tokenizer, text);
    EXPECT_EQ(ids.size(), (1u << 17) + 2);
    EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(Tokenizer, SpecialTokenOnlyWhereAskedFor) {
    const Tokenizer tokenizer = Tokenizer::from_merges({});
    EXPECT_EQ(tokenizer.vocab_size(), 257);
    EXPECT_EQ(tokenizer.end_of_text(), 256);
    EXPECT_EQ(tokenizer.bytes(256), "<|endoftext|>");
    EXPECT_EQ(tokenizer.bytes(257), "");
    EXPECT_EQ(tokenizer.bytes(-1), "");
    EXPECT_EQ(encode(tokenizer, "<|endoftext|>").size(), 13u);
    std::vector<int> ids;
    tokenizer.encode_with_special("a<|endoftext|><|endoftext|>b", ids);
    EXPECT_EQ(ids, (std::vector<int>{64, 256, 256, 65}));
    EXPECT_EQ(tokenizer.decode(ids), "a<|endoftext|><|endoftext|>b");
    tokenizer.encode_with_special("<|endoftext|", ids);  // appends
    EXPECT_EQ(ids.size(), 4u + 12);
}

TEST(Tokenizer, TwoTokenizersInOneThreadDoNotShareTheirCache) {
    const Tokenizer plain = Tokenizer::from_merges({});
    const int a = encode(plain, "a")[0], b = encode(plain, "b")[0];
    const Tokenizer pairs = Tokenizer::from_merges({{a, b}});
    for (int i = 0; i < 3; ++i) {
        EXPECT_EQ(encode(plain, "ab").size(), 2u);
        EXPECT_EQ(encode(pairs, "ab"), std::vector<int>{256});
    }
}

TEST(Tokenizer, ThreadsEncodeAtOnce) {
    std::mt19937 random(5);
    std::vector<std::pair<int, int>> merges;
    const Tokenizer tokenizer = random_vocabulary(random, 40, merges);
    const string text = random_text(random, 5000, true);
    const std::vector<int> expected = encode(tokenizer, text);
    std::vector<std::vector<int>> found(4);
    std::vector<std::thread> threads;
    for (auto& ids : found) threads.emplace_back([&] { tokenizer.encode(text, ids); });
    for (std::thread& thread : threads) thread.join();
    for (const auto& ids : found) EXPECT_EQ(ids, expected);
}

// ---- GPT-2's real vocabulary ----

#define NEEDS_GPT2()                                                                                  \
    if (!Tokenizer::present(kGpt2) || !fs::exists(kFixture)) GTEST_SKIP() << kGpt2 << " is not here"; \
    const Tokenizer tokenizer = Tokenizer::load(kGpt2);                                               \
    const auto fixture = nlohmann::json::parse(read_text(kFixture))

TEST(TokenizerGpt2, IdsOfTiktoken) {
    NEEDS_GPT2();
    EXPECT_EQ(tokenizer.vocab_size(), 50257);
    EXPECT_EQ(tokenizer.end_of_text(), 50256);
    for (const auto& item : fixture["strings"]) {
        const string text = item[0];
        const std::vector<int> expected = item[1], ids = encode(tokenizer, text);
        EXPECT_EQ(ids, expected) << text;
        EXPECT_EQ(tokenizer.decode(ids), text);
    }
    EXPECT_GE(fixture["strings"].size(), 500u);
}

TEST(TokenizerGpt2, IdsOfTinyShakespeare) {
    NEEDS_GPT2();
    if (!fs::exists(kShakespeare)) GTEST_SKIP() << kShakespeare << " is not here";
    const string text = read_text(kShakespeare);
    const std::vector<int> ids = encode(tokenizer, text);
    EXPECT_EQ(text.size(), fixture["tinyshakespeare"]["bytes"].get<size_t>());
    EXPECT_EQ(ids.size(), fixture["tinyshakespeare"]["tokens"].get<size_t>());
    EXPECT_EQ(fnv1a(ids), fixture["tinyshakespeare"]["fnv1a"].get<string>());
    EXPECT_EQ(tokenizer.decode(ids), text);
}

TEST(TokenizerGpt2, FilesComeBackTheSame) {
    NEEDS_GPT2();
    TemporaryDirectory dir;
    tokenizer.save(dir.path);
    EXPECT_EQ(read_text(dir / "merges.txt"), read_text(kGpt2 + "/merges.txt"));
    EXPECT_EQ(nlohmann::json::parse(read_text(dir / "vocab.json")),
              nlohmann::json::parse(read_text(kGpt2 + "/vocab.json")));
}

// ---- files ----

TEST(TokenizerFiles, RoundTrip) {
    TemporaryDirectory dir;
    std::mt19937 random(6);
    std::vector<std::pair<int, int>> merges;
    const Tokenizer tokenizer = random_vocabulary(random, 60, merges);
    EXPECT_FALSE(Tokenizer::present(dir.path));
    tokenizer.save(dir.path);
    EXPECT_TRUE(Tokenizer::present(dir.path));
    const Tokenizer again = Tokenizer::load(dir.path);
    ASSERT_EQ(again.vocab_size(), tokenizer.vocab_size());
    EXPECT_EQ(again.end_of_text(), tokenizer.end_of_text());
    for (int id = 0; id < tokenizer.vocab_size(); ++id) EXPECT_EQ(again.bytes(id), tokenizer.bytes(id));
    for (int i = 0; i < 100; ++i) {
        const string text = random_text(random, 20, true) + " abcabcacbbac\u00e9\u00e9";
        EXPECT_EQ(encode(again, text), encode(tokenizer, text));
    }
    EXPECT_EQ(std::distance(fs::directory_iterator(dir.path), fs::directory_iterator()), 2);  // no temporary files
    EXPECT_THROW(tokenizer.save(dir / "none"), Error);
}

TEST(TokenizerFiles, BadOnesAreNamed) {
    TemporaryDirectory dir;
    const int a = 64, b = 65;
    const Tokenizer good = Tokenizer::from_merges({{a, b}, {256, a}});
    good.save(dir.path);
    const string vocab_text = read_text(dir / "vocab.json"), merges_text = read_text(dir / "merges.txt");
    const auto vocab = nlohmann::json::parse(vocab_text);
    EXPECT_EQ(merges_text, "#version: 0.2\na b\nab a\n");

    const auto load = [&](const string& vocab_json, const string& merges) -> string {
        std::ofstream(dir / "vocab.json", std::ios::binary) << vocab_json;
        std::ofstream(dir / "merges.txt", std::ios::binary) << merges;
        try {
            Tokenizer::load(dir.path);
            return "";
        } catch (const Error& e) {
            EXPECT_EQ(string(e.what()).find('\n'), string::npos) << e.what();
            EXPECT_MENTIONS(e.what(), dir.path);
            return e.what();
        }
    };
    const auto with = [&](const char* token, const nlohmann::json& id) {
        auto changed = vocab;
        changed[token] = id;
        return changed.dump();
    };
    const auto without = [&](const char* token) {
        auto changed = vocab;
        changed.erase(token);
        return changed.dump();
    };
    EXPECT_EQ(load(vocab_text, merges_text), "");
    EXPECT_EQ(load(vocab_text, "a b\r\nab a"), "");        // no version line, Windows line ends, no last newline
    EXPECT_EQ(load(with("<pad>", 300), merges_text), "");  // a gap before a special token
    for (size_t size : {size_t{0}, size_t{1}, vocab_text.size() / 2, vocab_text.size() - 2})
        EXPECT_MENTIONS(load(vocab_text.substr(0, size), merges_text), "vocab.json: not valid JSON");
    EXPECT_MENTIONS(load("\xFF\xFE{}", merges_text), "vocab.json: not valid JSON");
    EXPECT_MENTIONS(load(string(200000, '[') + "1" + string(200000, ']'), merges_text), "vocab.json: not valid JSON");
    EXPECT_MENTIONS(load("[1, 2]", merges_text), "vocab.json");
    EXPECT_MENTIONS(load("{}", merges_text), "vocab.json");
    EXPECT_MENTIONS(load(without("\u0120"), merges_text), "byte 0x20");
    EXPECT_MENTIONS(load(with("<pad>", 5), merges_text), "same id 5");
    EXPECT_MENTIONS(load(with("<pad>", -1), merges_text), "-1");
    EXPECT_MENTIONS(load(with("<pad>", 4e9), merges_text), "<pad>");
    EXPECT_MENTIONS(load(with("<pad>", int64_t{1} << 40), merges_text), "<pad>");
    EXPECT_MENTIONS(load(with("<pad>", UINT64_MAX), merges_text), "<pad>");
    EXPECT_MENTIONS(load(with("<pad>", 16'000'000), merges_text),
                    "far beyond the 260 tokens");  // takes no memory for it
    EXPECT_MENTIONS(load(with("<pad>", "five"), merges_text), "five");
    EXPECT_MENTIONS(load(with("\u2581the", 400), merges_text), "byte alphabet");  // SentencePiece's
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\nab c d\n"), "merges.txt:3");
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\nab\n"), "merges.txt:3");
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\nab xyz\n"),
                    "merges.txt:3: token \"xyz\" is not in vocab.json");
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\na c\n"), "merges.txt:3: \"ac\"");
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\na b\nab a\n"), "merges.txt:3");
    EXPECT_MENTIONS(load(vocab_text, "#version: 0.2\na b\n"), "merges.txt: no merge makes token \"aba\"");  // cut short
    fs::remove(dir / "merges.txt");
    try {
        Tokenizer::load(dir.path);
        FAIL();
    } catch (const Error& e) {
        EXPECT_MENTIONS(e.what(), "merges.txt: no such file");
    }
}
