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
        size_t length = *p == '\'' ? contraction(p, end - p) : 0;
        if (length > 0) return length;
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

    // Where pieces end that follow each other from `begin` on: at least one place, at most kEnds. begin < end.
    static constexpr size_t kEnds = 64;
    size_t ends(const uint8_t* const begin, const uint8_t* const end, const uint8_t** out) const {
        size_t n = 0;
        if (end - begin >= 64)
            for (uint64_t bits = ascii_ends(begin); bits; bits &= bits - 1) out[n++] = begin + std::countr_zero(bits);
        if (n == 0) out[n++] = begin + piece(begin, end);
        return n;
    }

  private:
    static constexpr uint64_t kOnes = 0x0101010101010101, kHigh = 0x80 * kOnes;

    // Of eight bytes below 128: the high bit of those from a to b.
    static uint64_t within(uint64_t x, uint8_t a, uint8_t b) {  // sums stay inside their byte
        return (x + (0x80u - a) * kOnes) & ~(x + (0x7Fu - b) * kOnes) & kHigh;
    }

    typedef uint8_t Bytes __attribute__((vector_size(16)));
    // The high bits of 16 bytes, side by side.
    static uint64_t high_bits(Bytes x) {
#ifdef __SSE2__
        return static_cast<uint32_t>(
            __builtin_ia32_pmovmskb128(reinterpret_cast<__attribute__((vector_size(16))) char>(x)));
#else
        uint64_t halves[2];
        std::memcpy(halves, &x, 16);
        for (uint64_t& half : halves) half = (half & kHigh) * 0x0002040810204081 >> 56;
        return halves[0] | halves[1] << 8;
#endif
    }
    static uint64_t bits_within(Bytes x, uint8_t a, uint8_t b) {
        return high_bits(reinterpret_cast<Bytes>(static_cast<Bytes>(x - a) <= static_cast<uint8_t>(b - a)));
    }

    // Bit i: a piece ends before p[i], of the pieces that end within p[0, 64) and touch nothing but ASCII. A piece begins
    // at p. The pattern as arithmetic on one bit for each byte: branches that depend on words' lengths would be guessed
    // wrong once or twice in each.
    static uint64_t ascii_ends(const uint8_t* p) {
        uint64_t letters = 0, numbers = 0, spaces = 0, blanks = 0, quotes = 0, high = 0, x;
        std::memcpy(&x, p, 8);
        if (x & kHigh) return 0;
        for (int i = 0; i < 64; i += 16) {
            Bytes bytes;
            std::memcpy(&bytes, p + i, 16);
            high |= high_bits(bytes) << i;
            letters |= bits_within(bytes | 0x20, 'a', 'z') << i;
            numbers |= bits_within(bytes, '0', '9') << i;
            blanks |= bits_within(bytes, ' ', ' ') << i;
            spaces |= bits_within(bytes, '\t', '\r') << i;
            quotes |= bits_within(bytes, '\'', '\'') << i;
        }
        const int ascii = std::countr_zero(high);  // 64 for all; what follows looks one byte ahead
        spaces |= blanks;
        const uint64_t others = ~(letters | numbers | spaces);
        // A run of one class begins, but not behind the blank that it takes; a run of spaces begins; its last one does.
        const uint64_t runs = (letters & ~(letters << 1)) | (numbers & ~(numbers << 1)) | (others & ~(others << 1));
        uint64_t begins = (runs & ~(blanks << 1)) | (spaces & ~(spaces << 1)) | (spaces & ~(spaces >> 1));
        const uint64_t sure = (uint64_t{1} << (ascii - 1)) - 1;
        for (uint64_t q = quotes & ~(others << 1) & ~(blanks << 1) & sure >> 1; q; q &= q - 1) {
            const int i = std::countr_zero(q);
            const size_t length = contraction(p + i, 3);
            if (length > 0) begins = (begins & ~(uint64_t{2} << i)) | uint64_t{2} << i << (length - 1);
        }
        return begins & sure & ~uint64_t{1};
    }

    // Length of 's|'t|'re|'ve|'m|'ll|'d at p, of which n bytes are there; 0 if there is none.
    static size_t contraction(const uint8_t* p, ptrdiff_t n) {
        const uint8_t a = n >= 2 ? p[1] : 0, b = n >= 3 ? p[2] : 0;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
        return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
    }

    // Eight bytes at a time: no branch for each letter, and one misprediction less in each word.
    static const uint8_t* skip_ascii_letters(const uint8_t* p, const uint8_t* end) {
        for (; end - p >= 8; p += 8) {
            uint64_t x;
            std::memcpy(&x, p, 8);
            const uint64_t letters = within((x & ~kHigh) | 0x20 * kOnes, 'a', 'z') & ~x;
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
