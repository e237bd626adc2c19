// UTF-8: reading it, writing it, and a stream of it that comes in pieces.          (Unicode 16, section 3.9)
//
//   bytes of a character     first byte          the others
//   1                        00..7F
//   2                        C2..DF              80..BF
//   3                        E0..EF              80..BF, the second after E0 from A0 on, after ED up to 9F
//   4                        F0..F4              80..BF, the second after F0 from 90 on, after F4 up to 8F
//
// This is table 3-7, the well-formed sequences: no character has two spellings, and halves of UTF-16 pairs have none.
#pragma once
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include "llmc/base/error.h"

enum class Utf8 { valid, invalid, unfinished };

inline const uint8_t* byte_pointer(std::string_view text) { return reinterpret_cast<const uint8_t*>(text.data()); }

// Reads one character from p[0, n), n > 0. Returns its length. For bytes that are no character it returns the length
// of the longest beginning of one that they have (table 3-8), at least 1.
inline size_t read_utf8(const uint8_t* p, size_t n, Utf8* status, uint32_t* code) {
    const uint8_t lead = p[0];
    *status = Utf8::valid;
    *code = lead;
    if (lead < 0x80) return 1;
    *status = Utf8::invalid;
    if (lead < 0xC2 || lead > 0xF4) return 1;
    if (lead > 0xE0 && lead < 0xED && n >= 3 && (p[1] & 0xC0) == 0x80 && (p[2] & 0xC0) == 0x80) {  // most of them
        *status = Utf8::valid;
        *code = (lead & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
        return 3;
    }
    const size_t length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint8_t low = 0x80, high = 0xBF;  // of the second byte
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
    *code = lead & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
        if (i == n) {
            *status = Utf8::unfinished;
            return i;
        }
        if (p[i] < low || p[i] > high) return i;
        *code = *code << 6 | (p[i] & 0x3F);
        low = 0x80, high = 0xBF;
    }
    *status = Utf8::valid;
    return length;
}

// Their number; *first is where they begin.
inline int64_t bytes_that_are_no_utf8(std::string_view text, size_t* first) {
    int64_t bad = 0;
    const uint8_t* p = byte_pointer(text);
    for (size_t i = 0; i < text.size();) {
        uint64_t word = 0;
        if (text.size() - i >= 8) std::memcpy(&word, p + i, 8);
        if (text.size() - i >= 8 && !(word & 0x8080808080808080)) {
            i += 8;
            continue;
        }
        Utf8 status;
        uint32_t code;
        const size_t n = read_utf8(p + i, text.size() - i, &status, &code);
        if (status != Utf8::valid) {
            if (bad == 0) *first = i;
            bad += static_cast<int64_t>(n);
        }
        i += n;
    }
    return bad;
}

inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";  // U+FEFF, which some programs put before a text

inline void append_utf8(std::string& out, uint32_t code) {
    CHECK(code < 0x110000, "code point %x", code);
    if (code < 0x80) {
        out += static_cast<char>(code);
    } else if (code < 0x800) {
        out += static_cast<char>(0xC0 | code >> 6);
        out += static_cast<char>(0x80 | (code & 0x3F));
    } else {
        if (code < 0x10000) {
            out += static_cast<char>(0xE0 | code >> 12);
        } else {
            out += static_cast<char>(0xF0 | code >> 18);
            out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
        }
        out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
        out += static_cast<char>(0x80 | (code & 0x3F));
    }
}

// Holds back the bytes of an unfinished character, so that a stream of tokens prints as whole characters only. Bytes
// that can be no part of a character become U+FFFD, one for each longest beginning of a character (table 3-8).
class Utf8Stream {
  public:
    std::string push(std::string_view bytes) {  // what can be printed now
        pending_ += bytes;
        std::string out;
        size_t i = 0;
        while (i < pending_.size()) {
            Utf8 status;
            uint32_t code;
            const size_t n = read_utf8(byte_pointer(pending_) + i, pending_.size() - i, &status, &code);
            if (status == Utf8::unfinished) break;
            if (status == Utf8::valid) out.append(pending_, i, n);
            else append_utf8(out, kReplacement);
            i += n;
        }
        pending_.erase(0, i);
        return out;
    }
    std::string flush() {  // the rest: an unfinished character becomes one U+FFFD
        std::string out;
        if (!pending_.empty()) append_utf8(out, kReplacement);
        pending_.clear();
        return out;
    }

  private:
    static constexpr uint32_t kReplacement = 0xFFFD;
    std::string pending_;
};
