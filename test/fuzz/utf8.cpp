// UTF-8, the pre-tokenizer on top of it, and GPT-2's spelling of bytes.
#include <array>
#include "llmc/text/splitter.h"
#include "llmc/text/vocabulary.h"
#include "test/fuzz/fuzz.h"

// The length of the character that begins there, 0 for none: what append_utf8() writes like that.
static size_t character(std::string_view text, uint32_t* code) {
    for (size_t n = 1; n <= std::min<size_t>(4, text.size()); n++) {
        *code = static_cast<uint8_t>(text[0]) & (n == 1 ? 0xFFu : 0x7Fu >> n);
        for (size_t i = 1; i < n; i++) *code = *code << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
        if (*code >= 0x110000 || (*code >= 0xD800 && *code < 0xE000)) continue;
        std::string again;
        append_utf8(again, *code);
        if (again == text.substr(0, n)) return n;
    }
    return 0;
}

// The first piece by GPT-2's pattern (splitter.h), alternative by alternative.
static size_t piece_by_pattern(std::string_view text) {
    const CharClass* classes = char_classes();
    const auto class_at = [&](size_t at, size_t* length) {
        uint32_t code;
        *length = character(text.substr(at), &code);
        if (*length > 0) return classes[code];
        Utf8 status;
        *length = read_utf8(byte_pointer(text) + at, text.size() - at, &status, &code);
        return CharClass::other;
    };
    const auto run = [&](size_t from, CharClass wanted) {
        size_t at = from, length;
        while (at < text.size() && class_at(at, &length) == wanted) at += length;
        return at;
    };
    for (const char* contraction : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
        if (text.starts_with(contraction)) return std::string_view(contraction).size();
    for (CharClass c : {CharClass::letter, CharClass::number, CharClass::other})
        for (size_t from : {size_t{text[0] == ' '}, size_t{0}})
            if (const size_t end = run(from, c); end > from) return end;
    const size_t end = run(0, CharClass::space);
    size_t last = 0, length;  // where the last space begins
    for (size_t at = 0; at < end; at += length) last = at, class_at(at, &length);
    return end < text.size() && last > 0 ? last : end;
}

static std::vector<size_t> pieces(std::string_view text) {
    std::vector<size_t> all;
    for (; !text.empty(); text.remove_prefix(all.back())) {
        all.push_back(next_piece(text));
        CHECK(all.back() > 0 && all.back() <= text.size(), "a piece of %zu bytes", all.back());
        CHECK(all.back() == piece_by_pattern(text), "%zu bytes, by the pattern %zu", all.back(),
              piece_by_pattern(text));
    }
    return all;
}

FUZZ(utf8) {
    Cuts cuts(take_byte(&input));

    // One character after another.
    bool valid = true;
    for (size_t i = 0; i < input.size();) {
        Utf8 status;
        uint32_t code, expected;
        const size_t n = read_utf8(byte_pointer(input) + i, input.size() - i, &status, &code);
        const size_t length = character(input.substr(i), &expected);
        CHECK(n > 0 && i + n <= input.size(), "%zu bytes", n);
        CHECK((status == Utf8::valid) == (length > 0), "at %zu", i);
        if (length > 0) CHECK(n == length && code == expected, "at %zu: %x, not %x", i, code, expected);
        if (status == Utf8::unfinished) CHECK(i + n == input.size(), "at %zu", i);
        valid &= length > 0;
        i += n;
    }

    // A stream of it, in pieces: the same characters, and nothing but characters.
    Utf8Stream whole, parts;
    std::string at_once = whole.push(input), in_parts;
    at_once += whole.flush();
    for (std::string_view rest = input; !rest.empty();) {
        const std::string_view part = rest.substr(0, cuts.next());
        in_parts += parts.push(part);
        rest.remove_prefix(part.size());
    }
    in_parts += parts.flush();
    CHECK(at_once == in_parts, "%s; in pieces %s", at_once.c_str(), in_parts.c_str());
    if (valid) CHECK(at_once == input, "%s", at_once.c_str());
    uint32_t code;
    for (std::string_view rest = at_once; !rest.empty(); rest.remove_prefix(character(rest, &code)))
        CHECK(character(rest, &code) > 0, "%s", at_once.c_str());

    // Pieces: those of both sides of a safe cut, however little is known of what follows it.
    const std::vector<size_t> all = pieces(input);
    const size_t known = std::min(input.size(), cuts.next() + cuts.next()), cut = last_safe_cut(input.substr(0, known));
    std::vector<size_t> apart = pieces(input.substr(0, cut));
    const std::vector<size_t> rest = pieces(input.substr(cut));
    apart.insert(apart.end(), rest.begin(), rest.end());
    CHECK(all == apart, "cut at %zu of %zu known bytes", cut, known);

    std::string bytes;
    CHECK(read_spelled(spell_bytes(input), &bytes) && bytes == input, "spelled %s", spell_bytes(input).c_str());
    if (read_spelled(input, &bytes)) CHECK(spell_bytes(bytes) == input, "%s", bytes.c_str());
}
