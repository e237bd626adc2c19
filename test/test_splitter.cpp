// Where a text is cut into pieces: against PCRE2, and cuts that change nothing.
#include "llmc/text/unicode_table.h"
#include "test/tokenizer_test.h"
#ifdef USE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

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

// Many pieces at once, by arithmetic on 64 bytes, end where they do one by one.
TEST(TokenizerSplit, ManyEndsAtOnce) {
    std::mt19937 random(6);
    static const char* bits[] = {" ",  "  ",   "\n",   "\r\n", "\t",   "'",    "''",  "'s", "'re",
                                 "'l", "'ll",  "ve",   "a",    "Zz",   "the",  "0",   "42", "!",
                                 "{}", "\x7F", "@[`{", "/:",   "\x1F", "\x08", "\x0E"};
    const Splitter splitter;
    size_t many = 0;
    for (int i = 0; i < 6'000; ++i) {
        string text(random() % 3, 'x');
        while (text.size() < 64u + i % 40u) text += bits[random() % std::size(bits)];
        if (i % 3 == 0) text.insert(random() % text.size(), i % 2 ? "\u65e5" : "\xFF");
        const uint8_t *const begin = byte_pointer(text), *const end = begin + text.size();
        const uint8_t* ends[Splitter::kEnds];
        Pieces found;
        for (const uint8_t* p = begin; p < end;) {
            const size_t n = splitter.ends(p, end, ends);
            many = std::max(many, n);
            for (size_t k = 0; k < n; p = ends[k++]) found.push_back(text.substr(p - begin, ends[k] - p));
        }
        ASSERT_EQ(found, split(text)) << text;
    }
    EXPECT_GT(many, 35u);
    EXPECT_LE(many, Splitter::kEnds);
}

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
