// The pre-tokenizer: text is split into pieces by GPT-2's pattern, and no token crosses the border of a piece.
//                                                                       (Radford et al. 2019, section 2.2)
//
//   's|'t|'re|'ve|'m|'ll|'d | ?\p{L}+ | ?\p{N}+ | ?[^\s\p{L}\p{N}]+ | \s+(?!\S) | \s+
//
// That is, from left to right, the first that fits: an English contraction; letters, numbers or other symbols, each
// with one space before them if there is one; white space. A run of white space leaves its last character to what
// follows it. "Hello world's  end" has the pieces "Hello", " world", "'s", " ", " end".
//
// Bytes that are no valid UTF-8 count as symbols. Letters, numbers and spaces are those of the Unicode version named in
// llmc/text/unicode_table.h. The pattern is written out as code: a regex engine would take most of the time.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string_view>
#include <vector>
#include "llmc/text/unicode_table.h"
#include "llmc/text/utf8.h"

// The classes of all code points, spread out from the generated runs: 1.1 MB, so that a character costs one load.
inline const CharClass* char_classes() {
    static const std::vector<CharClass> table = [] {
        std::vector<CharClass> classes(0x110000);
        constexpr size_t runs = std::size(kUnicodeRuns);
        for (size_t i = 0; i < runs; ++i) {
            const uint32_t begin = kUnicodeRuns[i] / 4, end = i + 1 < runs ? kUnicodeRuns[i + 1] / 4 : 0x110000;
            std::fill(classes.begin() + begin, classes.begin() + end, static_cast<CharClass>(kUnicodeRuns[i] % 4));
        }
        return classes;
    }();
    return table.data();
}

struct Splitter {
    const CharClass* classes = char_classes();

    // Class of the character at p, whose length goes to `length`. p < end.
    CharClass at(const uint8_t* p, const uint8_t* end, size_t* length) const {
        *length = 1;
        if (*p < 0x80) return classes[*p];
        Utf8 status;
        uint32_t code;
        *length = read_utf8(p, static_cast<size_t>(end - p), &status, &code);
        return status == Utf8::valid ? classes[code] : CharClass::other;
    }

    // Length in bytes of the piece at `begin`. begin < end.
    size_t piece(const uint8_t* const begin, const uint8_t* const end) const {
        const uint8_t* p = begin;
        if (*p == '\'' && end - p >= 2) {  // 's|'t|'re|'ve|'m|'ll|'d
            const uint8_t a = p[1], b = end - p >= 3 ? p[2] : 0;
            if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
            if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
        }
        size_t length;
        CharClass first = at(p, end, &length);
        if (*p == ' ' && p + 1 < end) {  // " ?" before a run of one class
            size_t next_length;
            const CharClass next = at(p + 1, end, &next_length);
            if (next != CharClass::space) {
                first = next;
                length = 1 + next_length;
            }
        }
        p += length;
        if (first == CharClass::space) {
            const uint8_t* last = begin;  // where the last character of the run begins
            for (; p < end && at(p, end, &length) == first; p += length) last = p;
            // \s+(?!\S): before a character that is no space, a run of spaces leaves its last one to what follows.
            if (p < end && last > begin) p = last;
        } else {
            if (first == CharClass::letter) p = skip_ascii_letters(p, end);
            while (p < end && at(p, end, &length) == first) p += length;
        }
        return static_cast<size_t>(p - begin);
    }

  private:
    // Eight bytes at a time: no branch for each letter, and one misprediction less in each word.
    static const uint8_t* skip_ascii_letters(const uint8_t* p, const uint8_t* end) {
        constexpr uint64_t kOnes = 0x0101010101010101, kHigh = 0x80 * kOnes;
        for (; end - p >= 8; p += 8) {
            uint64_t x;
            std::memcpy(&x, p, 8);
            const uint64_t lower = (x & 0x7F * kOnes) | 0x20 * kOnes;  // sums below stay inside their byte
            const uint64_t letters = (lower + (0x80 - 'a') * kOnes) & ~(lower + (0x7F - 'z') * kOnes) & ~x & kHigh;
            if (letters != kHigh) return p + std::countr_zero(letters ^ kHigh) / 8;
        }
        return p;
    }
};

// Length in bytes of the first piece of `text`; 0 only for empty text.
inline size_t next_piece(std::string_view text) {
    return text.empty() ? 0 : Splitter().piece(byte_pointer(text), byte_pointer(text) + text.size());
}

// Text of one piece that is longer than this is cut inside the piece, so that memory stays constant.
constexpr size_t kUnbroken = 1 << 18;

// The last position at which `text`, the beginning of something longer, can be cut so that both sides encode to the
// same ids apart as together; 0 if there is none.
//
// A piece ends where the class of characters changes, except after a space (which the next piece may take, or which the
// next character decides on) and in a contraction (an apostrophe, then letters). The pattern never looks back.
inline size_t last_safe_cut(std::string_view text) {
    const Splitter splitter;
    const uint8_t *begin = byte_pointer(text), *end = begin + text.size();
    // The last 4 bytes may be part of a character; the one at p is there in full.
    for (const uint8_t* p = end - std::min<size_t>(text.size(), 4); p > begin; --p) {
        const uint8_t* before = p - 1;
        while (before > begin && p - before < 4 && (*before & 0xC0) == 0x80) --before;
        size_t length, length_before;
        const CharClass a = splitter.at(before, end, &length_before), b = splitter.at(p, end, &length);
        if ((*p & 0xC0) == 0x80 || before + length_before != p) continue;  // inside a character, or no UTF-8
        if (a != b && a != CharClass::space && !(a == CharClass::other && b == CharClass::letter))
            return static_cast<size_t>(p - begin);
    }
    return 0;
}
