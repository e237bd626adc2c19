// The tokenizer: splitter against PCRE2, encoding against the definition and against tiktoken's ids, files good and
// bad, training.
#include <gtest/gtest.h>
#include <algorithm>
#include <array>
#include <map>
#include <random>
#include <thread>
#include <nlohmann/json.hpp>
#include "llmc/text/bpe_trainer.h"
#include "llmc/base/error.h"
#include "llmc/text/splitter.h"
#include "llmc/text/tokenizer.h"
#include "llmc/text/utf8.h"
#include "llmc/text/unicode_table.h"
#include "test/command.h"
#ifdef USE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace fs = std::filesystem;
using std::string;
using Pieces = std::vector<string>;

namespace {

const string kGpt2 = "../shared/data/gpt2", kShakespeare = "../shared/data/tinyshakespeare.txt";
const string kFixture = "test/fixtures/tokenizer_gpt2.json";

#define EXPECT_MENTIONS(text, part) EXPECT_NE(string(text).find(part), string::npos) << (text)

Pieces split(std::string_view text) {
    Pieces pieces;
    while (!text.empty()) {
        const size_t n = next_piece(text);
        EXPECT_GT(n, 0u);
        EXPECT_LE(n, text.size());
        pieces.emplace_back(text.substr(0, n));
        text.remove_prefix(n);
    }
    return pieces;
}

string utf8(uint32_t c) {
    string s;
    if (c < 0x80) return string(1, static_cast<char>(c));
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    s += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | c >> 6 * more);
    for (int i = more - 1; i >= 0; --i) s += static_cast<char>(0x80 | (c >> 6 * i & 0x3F));
    return s;
}

// Text that is hard on the splitter: spaces of all kinds, contractions, digits and letters of many scripts, bad bytes.
string random_text(std::mt19937& random, int parts, bool bad_bytes) {
    static const char* bits[] = {" ",
                                 "  ",
                                 "\n",
                                 "\n\n",
                                 "\t",
                                 "\r\n",
                                 "\u00a0",
                                 "\u3000",
                                 "\u0085",
                                 "\u2028",
                                 "'s",
                                 "'t",
                                 "'re",
                                 "'ve",
                                 "'m",
                                 "'ll",
                                 "'d",
                                 "'",
                                 "''",
                                 "'S",
                                 "'l",
                                 " '",
                                 "the",
                                 " The",
                                 "don't",
                                 "a",
                                 "1",
                                 "42",
                                 "\u0661\u0662",
                                 "\u00bd",
                                 "!?",
                                 "...",
                                 "caf\u00e9",
                                 "e\u0301",
                                 "\u65e5\u672c",
                                 "\u041f\u0440",
                                 "\U0001F600",
                                 "\U00010400",
                                 "<|endoftext|>"};
    string text;
    for (int i = 0; i < parts; ++i) {
        const uint32_t kind = random() % 8;
        if (kind == 0) {
            uint32_t c = random() % (random() % 2 ? 0x110000 : 0x3000);
            text += c >= 0xD800 && c < 0xE000 ? "x" : utf8(c);
        } else if (kind == 1 && bad_bytes) {
            text += static_cast<char>(random());
        } else {
            text += bits[random() % std::size(bits)];
        }
    }
    return text;
}

// Byte-pair encoding by its definition: join the leftmost pair of lowest rank until there is none.
std::vector<int> encode_by_definition(const Tokenizer& tokenizer, const std::vector<std::pair<int, int>>& merges,
                                      const string& text) {
    std::vector<int> all;
    std::vector<int> byte_id(256);
    for (int id = 0; id < 256; ++id) byte_id[static_cast<uint8_t>(tokenizer.bytes(id)[0])] = id;
    for (const string& piece : split(text)) {
        std::vector<int> ids;
        for (char c : piece) ids.push_back(byte_id[static_cast<uint8_t>(c)]);
        for (size_t rank = 0; rank < merges.size();) {
            size_t at = ids.size();
            for (size_t i = ids.size(); i-- > 1;)
                if (std::pair(ids[i - 1], ids[i]) == merges[rank]) at = i - 1;
            if (at == ids.size()) {
                ++rank;
                continue;
            }
            string joined = string(tokenizer.bytes(ids[at])) + string(tokenizer.bytes(ids[at + 1]));
            int id = 0;
            while (tokenizer.bytes(id) != joined) ++id;
            ids[at] = id;
            ids.erase(ids.begin() + static_cast<ptrdiff_t>(at) + 1);
            rank = 0;
        }
        all.insert(all.end(), ids.begin(), ids.end());
    }
    return all;
}

std::vector<int> encode(const Tokenizer& tokenizer, std::string_view text) {
    std::vector<int> ids;
    tokenizer.encode(text, ids);
    return ids;
}

template <typename Values>
string fnv1a(const Values& values) {
    uint64_t hash = 0xCBF29CE484222325;
    for (auto value : values) hash = (hash ^ static_cast<uint64_t>(value)) * 0x100000001B3;
    return strf("%016llx", static_cast<unsigned long long>(hash));
}

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

// --------------------------------------------------------------------------------------------------------------
// splitter

TEST(TokenizerSplit, KnownPieces) {
    EXPECT_EQ(split("Hello world"), (Pieces{"Hello", " world"}));
    EXPECT_EQ(split("I'll don't we've 'tis she's"),
              (Pieces{"I", "'ll", " don", "'t", " we", "'ve", " '", "tis", " she", "'s"}));
    EXPECT_EQ(split("it'S 'quote'"), (Pieces{"it", "'", "S", " '", "quote", "'"}));
    EXPECT_EQ(split("!'s"), (Pieces{"!'", "s"}));
    EXPECT_EQ(split("'re'r'l"), (Pieces{"'re", "'", "r", "'", "l"}));
    EXPECT_EQ(split("a  b"), (Pieces{"a", " ", " b"}));
    EXPECT_EQ(split("a \n\n b"), (Pieces{"a", " \n\n", " b"}));
    EXPECT_EQ(split("a\n\nb"), (Pieces{"a", "\n", "\n", "b"}));
    EXPECT_EQ(split("a\tb"), (Pieces{"a", "\t", "b"}));
    EXPECT_EQ(split("end  "), (Pieces{"end", "  "}));
    EXPECT_EQ(split(" "), (Pieces{" "}));
    EXPECT_EQ(split("x1234.5 67"), (Pieces{"x", "1234", ".", "5", " 67"}));
    EXPECT_EQ(split("caf\u00e9 \u65e5\u672c\u8a9e \u0661\u0662\u00bd"),
              (Pieces{"caf\u00e9", " \u65e5\u672c\u8a9e", " \u0661\u0662\u00bd"}));
    EXPECT_EQ(split("a\u00a0b"), (Pieces{"a", "\u00a0", "b"}));  // a space, but not the one that a word takes
    EXPECT_EQ(split("e\u0301"), (Pieces{"e", "\u0301"}));        // a combining mark is no letter
    EXPECT_EQ(split("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ[`{@"),
              (Pieces{"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", "[`{@"}));
    EXPECT_EQ(split(""), Pieces{});
    EXPECT_EQ(next_piece(""), 0u);
}

TEST(TokenizerSplit, BytesThatAreNoUtf8AreSymbols) {
    EXPECT_EQ(split("a\xFFz"), (Pieces{"a", "\xFF", "z"}));
    EXPECT_EQ(split("a \xC3(b"), (Pieces{"a", " \xC3(", "b"}));                // a sequence cut short
    EXPECT_EQ(split("a\xE6\x97"), (Pieces{"a", "\xE6\x97"}));                  // the same at the end
    EXPECT_EQ(split("\xED\xA0\x80z"), (Pieces{"\xED\xA0\x80", "z"}));          // a surrogate
    EXPECT_EQ(split("\xC1\x81z"), (Pieces{"\xC1\x81", "z"}));                  // "A", overlong
    EXPECT_EQ(split("\xF4\x90\x80\x80z"), (Pieces{"\xF4\x90\x80\x80", "z"}));  // beyond U+10FFFF
}

TEST(TokenizerSplit, UnicodeTableIsComplete) {
    EXPECT_STREQ(kUnicodeVersion, "16.0.0");
    std::array<size_t, 4> count{};
    for (size_t i = 0; i < std::size(kUnicodeRuns); ++i) {
        const size_t end = i + 1 < std::size(kUnicodeRuns) ? kUnicodeRuns[i + 1] / 4 : 0x110000;
        count[kUnicodeRuns[i] % 4] += end - kUnicodeRuns[i] / 4;
    }
    // as counted in Unicode's DerivedGeneralCategory.txt and PropList.txt, version 16.0.0
    EXPECT_EQ(count[static_cast<size_t>(CharClass::letter)], 141028u);
    EXPECT_EQ(count[static_cast<size_t>(CharClass::number)], 1911u);
    EXPECT_EQ(count[static_cast<size_t>(CharClass::space)], 25u);
}

#ifdef USE_PCRE2
namespace {

struct Pcre2 {
    pcre2_code* code;
    pcre2_match_data* match;
    explicit Pcre2(const char* pattern) {
        int error;
        PCRE2_SIZE offset;
        code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                             &error, &offset, nullptr);
        EXPECT_TRUE(code);
        pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
        match = pcre2_match_data_create_from_pattern(code, nullptr);
    }
    ~Pcre2() {
        pcre2_match_data_free(match);
        pcre2_code_free(code);
    }
    bool matches(const string& text, size_t from = 0) {
        return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from, 0, match, nullptr) > 0;
    }
    Pieces all(const string& text) {
        Pieces pieces;
        for (size_t at = 0; at < text.size() && matches(text, at);) {
            const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
            pieces.push_back(text.substr(range[0], range[1] - range[0]));
            at = range[1];
        }
        return pieces;
    }
};

const char* kPattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Where PCRE2 differs by right: code points that its Unicode version does not know yet, and U+180E, which \s matches
// there although it has had no White_Space property since Unicode 6.3.
bool may_differ(Pcre2& unassigned, uint32_t c) { return c == 0x180E || unassigned.matches(utf8(c)); }

}  // namespace

TEST(TokenizerSplit, EveryCodePointAsInPcre2) {
    char version[64];
    pcre2_config(PCRE2_CONFIG_UNICODE_VERSION, version);
    Pcre2 pattern(kPattern), unassigned("\\p{Cn}");
    int newer = 0;
    for (uint32_t c = 0; c < 0x110000; ++c) {
        if (c >= 0xD800 && c < 0xE000) continue;
        const string text = "x" + utf8(c) + "x1" + utf8(c) + "1 " + utf8(c) + "\t" + utf8(c);
        if (split(text) == pattern.all(text)) continue;
        ++newer;
        ASSERT_TRUE(may_differ(unassigned, c)) << strf("U+%04X", c);
    }
    // 9,392 between Unicode 14 (PCRE2 10.42) and 16, besides U+180E
    EXPECT_EQ(newer, string(version) == "14.0.0" ? 9393 : newer);
    RecordProperty("code_points_newer_than_pcre2", newer);
}

TEST(TokenizerSplit, RandomTextsAsInPcre2) {
    Pcre2 pattern(kPattern), unassigned("\\p{Cn}|\\x{180E}");
    std::mt19937 random(1);
    int compared = 0;
    for (int i = 0; i < 20'000; ++i) {
        const string text = random_text(random, static_cast<int>(random() % 12), false);
        if (unassigned.matches(text)) continue;
        ++compared;
        ASSERT_EQ(split(text), pattern.all(text)) << text;
    }
    EXPECT_GT(compared, 8'000);
}
#else
TEST(TokenizerSplit, EveryCodePointAsInPcre2) { GTEST_SKIP() << "PCRE2 is not installed (libpcre2-dev)"; }
#endif

TEST(TokenizerSplit, SafeCutsChangeNothing) {
    std::mt19937 random(2);
    int cuts = 0;
    for (int i = 0; i < 4'000; ++i) {
        const string text = random_text(random, 10, i % 2 == 1);
        const Pieces whole = split(text);
        for (size_t seen = 0; seen <= text.size(); ++seen) {  // the cut must not depend on what comes later
            const size_t cut = last_safe_cut(std::string_view(text).substr(0, seen));
            ASSERT_LE(cut, seen);
            if (cut == 0) continue;
            ++cuts;
            Pieces parts = split(text.substr(0, cut));
            for (string& piece : split(text.substr(cut))) parts.push_back(std::move(piece));
            ASSERT_EQ(parts, whole) << text << " cut at " << cut << " of " << seen;
        }
    }
    EXPECT_GT(cuts, 50'000);
    EXPECT_EQ(last_safe_cut("Some words, and more words"), 20u);
    EXPECT_EQ(last_safe_cut(""), 0u);
    EXPECT_EQ(last_safe_cut(string(100, 'a')), 0u);
}

// --------------------------------------------------------------------------------------------------------------
// encoding

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

// ---------------------------------------------------------------------------------------------- GPT-2's real
// vocabulary

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

// -----------------------------------------------------------------------------------------------------------------
// files

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
    EXPECT_MENTIONS(load("[1, 2]", merges_text), "vocab.json");
    EXPECT_MENTIONS(load("{}", merges_text), "vocab.json");
    EXPECT_MENTIONS(load(without("\u0120"), merges_text), "byte 0x20");
    EXPECT_MENTIONS(load(without("<|endoftext|>"), merges_text), "<|endoftext|>");
    EXPECT_MENTIONS(load(with("<pad>", 5), merges_text), "same id 5");
    EXPECT_MENTIONS(load(with("<pad>", -1), merges_text), "-1");
    EXPECT_MENTIONS(load(with("<pad>", 4e9), merges_text), "<pad>");
    EXPECT_MENTIONS(load(with("<pad>", int64_t{1} << 40), merges_text), "<pad>");
    EXPECT_MENTIONS(load(with("<pad>", UINT64_MAX), merges_text), "<pad>");
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

// --------------------------------------------------------------------------------------------------------------
// training

TEST(BpeTrainer, MergesTheMostFrequentPairs) {
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces("low low low low low lower lower newest newest newest newest newest newest widest widest widest",
                 counts);
    trainer.add(counts);
    EXPECT_EQ(counts.find(" low")->second, 4);
    EXPECT_EQ(counts.find("low")->second, 1);
    const Tokenizer tokenizer = trainer.train(264);
    EXPECT_EQ(tokenizer.vocab_size(), 264);
    EXPECT_EQ(tokenizer.end_of_text(), 263);
    Pieces made;
    for (int id = 256; id < 263; ++id) made.emplace_back(tokenizer.bytes(id));
    // "e s" and "s t" occur 9 times each, as do later pairs in other numbers: the smaller ids go first ("e w" before "n
    // e")
    EXPECT_EQ(made, (Pieces{"es", "est", "lo", "low", "ew", "new", " low"}));
}

TEST(BpeTrainer, MergesOfHuggingFaceOnTinyShakespeare) {
    if (!fs::exists(kShakespeare)) GTEST_SKIP() << kShakespeare << " is not here";
    TemporaryDirectory dir;
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces(read_text(kShakespeare), counts);
    trainer.add(counts);
    const Tokenizer tokenizer = trainer.train(2048);
    tokenizer.save(dir.path);
    const string merges = read_text(dir / "merges.txt");
    const auto fixture = nlohmann::json::parse(read_text(kFixture))["trained_2048"];
    const size_t first = merges.find('\n') + 1;
    EXPECT_EQ(static_cast<size_t>(std::count(merges.begin(), merges.end(), '\n')) - 1, fixture["merges"].get<size_t>());
    std::vector<uint8_t> lines(merges.begin() + static_cast<ptrdiff_t>(first), merges.end() - 1);
    EXPECT_EQ(fnv1a(lines), fixture["fnv1a"].get<string>());
    EXPECT_EQ(Tokenizer::load(dir.path).vocab_size(), 2048);
}

TEST(BpeTrainer, OrderAndPartsOfTheTextDoNotMatter) {
    std::mt19937 random(7);
    std::vector<string> texts;
    for (int i = 0; i < 50; ++i) texts.push_back(random_text(random, 100, true));
    const auto train = [&] {
        BpeTrainer trainer;
        for (const string& text : texts) {
            PieceCounts counts;
            const size_t cut = last_safe_cut(text);
            count_pieces(std::string_view(text).substr(0, cut), counts);
            count_pieces(std::string_view(text).substr(cut), counts);
            trainer.add(counts);
        }
        return trainer.train(400);
    };
    const Tokenizer first = train();
    std::shuffle(texts.begin(), texts.end(), random);
    const Tokenizer second = train();
    ASSERT_EQ(first.vocab_size(), second.vocab_size());
    for (int id = 0; id < first.vocab_size(); ++id) EXPECT_EQ(first.bytes(id), second.bytes(id));
}

// Each merge must be a pair that is the most frequent at that point, by counting everything anew.
TEST(BpeTrainer, EveryMergeIsTheMostFrequentPair) {
    std::mt19937 random(8);
    string text;
    for (int i = 0; i < 3000; ++i) text += std::array{"a", "b", "aa", "c", " ", "ab"}[random() % 6];
    PieceCounts counts;
    count_pieces(text, counts);
    BpeTrainer trainer;
    trainer.add(counts);
    const Tokenizer trained = trainer.train(300);
    ASSERT_GT(trained.vocab_size(), 270);
    std::vector<std::pair<int, int>> merges;
    for (int id = 256; id < trained.end_of_text(); ++id) {
        const Tokenizer so_far = Tokenizer::from_merges(merges);
        std::map<std::pair<int, int>, int64_t> pairs;
        for (const auto& [piece, count] : counts) {
            const std::vector<int> ids = encode_by_definition(so_far, merges, piece);
            for (size_t i = 0; i + 1 < ids.size(); ++i) pairs[{ids[i], ids[i + 1]}] += count;
        }
        auto best = pairs.begin();
        for (auto it = pairs.begin(); it != pairs.end(); ++it)
            if (it->second > best->second) best = it;  // ties: the first in order of ids
        const auto [left, right] = best->first;
        ASSERT_EQ(string(so_far.bytes(left)) + string(so_far.bytes(right)), trained.bytes(id)) << id;
        merges.push_back(best->first);
    }
}

TEST(BpeTrainer, SmallTextsGiveSmallVocabularies) {
    BpeTrainer trainer;
    PieceCounts counts;
    count_pieces("abc abd", counts);
    trainer.add(counts);
    const Tokenizer tokenizer = trainer.train(2048);
    EXPECT_EQ(tokenizer.vocab_size(), 258);  // "ab", the only pair that occurs twice
    EXPECT_EQ(tokenizer.bytes(256), "ab");
    EXPECT_EQ(BpeTrainer().train(300).vocab_size(), 257);
    EXPECT_EQ(trainer.train(257).vocab_size(), 257);
    EXPECT_THROW(trainer.train(256), UsageError);
}

TEST(BpeTrainer, MemoryIsBounded) {
    BpeTrainer trainer(1000);
    PieceCounts counts;
    for (int i = 0; i < 5000; ++i) counts["word" + std::to_string(i)] = i < 100 ? 50 : 1;
    trainer.add(counts);
    EXPECT_EQ(trainer.pieces(), 100);
    EXPECT_EQ(trainer.dropped(), 4900);
}

// ------------------------------------------------------------------------------------------------------------
// Utf8Stream

TEST(Utf8Stream, HoldsBackUnfinishedCharacters) {
    const string text = "a\u00e9\u65e5\U0001F600z";
    for (size_t step = 1; step <= 4; ++step) {
        Utf8Stream stream;
        string out;
        for (size_t at = 0; at < text.size(); at += step) {
            out += stream.push(std::string_view(text).substr(at, step));
            ASSERT_EQ(text.compare(0, out.size(), out), 0);
            ASSERT_TRUE(out.size() == text.size() || (text[out.size()] & 0xC0) != 0x80);  // whole characters only
        }
        EXPECT_EQ(out, text);
        EXPECT_EQ(stream.flush(), "");
    }
}

TEST(Utf8Stream, BadBytesBecomeReplacementCharacters) {
    const auto all = [](std::string_view bytes) {
        Utf8Stream whole, single;
        string a = whole.push(bytes), b;
        a += whole.flush();
        for (char c : bytes) b += single.push(std::string_view(&c, 1));
        b += single.flush();
        EXPECT_EQ(a, b);
        return a;
    };
    const string r = "\uFFFD";
    EXPECT_EQ(all("\xE6\x97"), r);  // unfinished at the end
    EXPECT_EQ(all("a\xFFz"), "a" + r + "z");
    EXPECT_EQ(all("\xE6\x97z"), r + "z");
    EXPECT_EQ(all("\x80\x80"), r + r);
    // The Unicode Standard's own examples (16.0, tables 3-8 to 3-11)
    EXPECT_EQ(all("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
    EXPECT_EQ(all("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
    EXPECT_EQ(all("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
    EXPECT_EQ(all("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}
