// What the tests of the tokenizer's parts have in common.
#pragma once
#include <gtest/gtest.h>
#include <random>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/text/splitter.h"
#include "llmc/text/tokenizer.h"
#include "test/command.h"

namespace fs = std::filesystem;
using std::string;
using Pieces = std::vector<string>;

inline const string kGpt2 = "../shared/data/gpt2", kShakespeare = "../shared/data/tinyshakespeare.txt";
inline const string kFixture = "test/fixtures/tokenizer_gpt2.json";

#define EXPECT_MENTIONS(text, part) EXPECT_NE(string(text).find(part), string::npos) << (text)

inline Pieces split(std::string_view text) {
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

inline string utf8(uint32_t c) {
    string s;
    if (c < 0x80) return string(1, static_cast<char>(c));
    const int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    s += static_cast<char>((0xFF00 >> (more + 1) & 0xFF) | c >> 6 * more);
    for (int i = more - 1; i >= 0; --i) s += static_cast<char>(0x80 | (c >> 6 * i & 0x3F));
    return s;
}

// Text that is hard on the splitter: spaces of all kinds, contractions, digits and letters of many scripts, bad bytes.
inline string random_text(std::mt19937& random, int parts, bool bad_bytes) {
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

inline std::vector<int> encode(const Tokenizer& tokenizer, std::string_view text) {
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

// Byte-pair encoding by its definition: join the leftmost pair of lowest rank until there is none.
inline std::vector<int> encode_by_definition(const Tokenizer& tokenizer, const std::vector<std::pair<int, int>>& merges,
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
