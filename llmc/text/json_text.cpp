#include "llmc/text/json_text.h"

#include <algorithm>
#include <cctype>
#include <cstring>
#include "llmc/base/error.h"
#include "llmc/text/utf8.h"

namespace {

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }
size_t after_blanks(std::string_view s, size_t at) {
    while (at < s.size() && is_blank(s[at])) ++at;
    return at;
}

// Walks over a text and checks that it is JSON. Brackets that are open stand in a string, so that depth costs nothing.
class Walker {
  public:
    size_t at = 0;

    explicit Walker(std::string_view text) : text_(text) {}
    [[noreturn]] void fail(const char* what) const {
        throw Error(strf("not valid JSON: column %zu: %s", at + 1, what));
    }
    char peek() {
        at = after_blanks(text_, at);
        return at < text_.size() ? text_[at] : '\0';
    }
    void expect(char c, const char* what) {
        if (peek() != c) fail(what);
        ++at;
    }
    bool at_end() { return peek() == '\0' && at == text_.size(); }

    // A string; what is between its quotes.
    std::string_view string() {
        expect('"', "expected a string");
        const size_t begin = at;
        for (;; ++at) {
            while (at < text_.size() && static_cast<uint8_t>(text_[at]) >= 0x20 && text_[at] != '"' &&
                   text_[at] != '\\')
                ++at;
            if (at >= text_.size()) fail("a string has no end");
            const char c = text_[at];
            if (c == '"') break;
            if (static_cast<uint8_t>(c) < 0x20) fail("a control character in a string");
            if (c == '\\') {
                if (++at >= text_.size()) fail("a string has no end");
                if (!std::strchr("\"\\/bfnrtu", text_[at]) || text_[at] == '\0') fail("no such escape");
                if (text_[at] == 'u')
                    for (int i = 0; i < 4; ++i)
                        if (++at >= text_.size() || !std::isxdigit(static_cast<uint8_t>(text_[at])))
                            fail("\\u needs four hexadecimal digits");
            }
        }
        return text_.substr(begin, at++ - begin);
    }
    std::string_view key() {
        const std::string_view name = string();
        expect(':', "expected :");
        return name;
    }
    void value() {
        for (std::string open;;) {
            const char c = peek();
            if (c == '{' || c == '[') {
                ++at;
                open += c == '{' ? '}' : ']';
                if (peek() != open.back()) {
                    if (c == '{') key();
                    continue;
                }
            } else {
                scalar(c);
            }
            while (!open.empty() && peek() == open.back()) {
                ++at;
                open.pop_back();
            }
            if (open.empty()) return;
            expect(',', open.back() == '}' ? "expected , or }" : "expected , or ]");
            if (open.back() == '}') key();
        }
    }

  private:
    void scalar(char c) {
        if (c == '"') {
            string();
            return;
        }
        for (const char* word : {"true", "false", "null", "NaN", "Infinity", "-Infinity"})
            if (text_.compare(at, std::strlen(word), word) == 0) {
                at += std::strlen(word);
                return;
            }
        const size_t end = std::min(text_.find_first_not_of("+-.0123456789eE", at), text_.size());
        if (text_.substr(at, end - at).find_first_of("0123456789") == std::string_view::npos) fail("expected a value");
        at = end;
    }

    std::string_view text_;
};

// What a string's escapes stand for. The Walker has checked them.
void unescape(std::string_view raw, std::string& out, int64_t& repairs) {
    out.clear();
    const auto hex = [&](size_t i) {
        uint32_t code = 0;
        for (const char c : raw.substr(i, 4))
            code = code << 4 | static_cast<uint32_t>(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
        return code;
    };
    const auto replace = [&] {
        append_utf8(out, 0xFFFD);
        ++repairs;
    };
    for (size_t i = 0; i < raw.size();) {
        if (static_cast<uint8_t>(raw[i]) >= 0x80) {
            Utf8 status;
            uint32_t code;
            const size_t n = read_utf8(byte_pointer(raw) + i, raw.size() - i, &status, &code);
            if (status == Utf8::valid) out.append(raw, i, n);
            else replace();
            i += n;
        } else if (raw[i] != '\\') {
            size_t end = i + 1;
            while (end < raw.size() && raw[end] != '\\' && static_cast<uint8_t>(raw[end]) < 0x80) ++end;
            out.append(raw, i, end - i);
            i = end;
        } else if (raw[i + 1] != 'u') {
            static constexpr std::string_view from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
            out += to[from.find(raw[i + 1])];
            i += 2;
        } else {
            uint32_t code = hex(i + 2);
            i += 6;
            if (code >= 0xD800 && code < 0xDC00 && raw.substr(i, 2) == "\\u") {
                const uint32_t low = hex(i + 2);
                if (low >= 0xDC00 && low < 0xE000) {
                    code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                    i += 6;
                }
            }
            if (code >= 0xD800 && code < 0xE000) replace();
            else append_utf8(out, code);
        }
    }
}

// The first bytes of an object, `{"key":`, or of an empty one.
bool begins_object(std::string_view s, size_t at) {
    if (at >= s.size() || s[at] != '{') return false;
    Walker walker(s);
    walker.at = at + 1;
    if (walker.peek() == '}') return true;
    try {
        walker.key();
        return true;
    } catch (const Error&) {
        return false;
    }
}

}  // namespace

JsonField json_field(std::string_view object, std::string_view field, std::string& text, int64_t& repairs) {
    JsonField found = JsonField::missing;
    std::string_view raw;
    std::string name;
    Walker walker(object);
    const bool is_object = walker.peek() == '{';
    if (!is_object) {
        walker.value();
    } else if (++walker.at; walker.peek() == '}') {
        ++walker.at;
    } else {
        for (char after = ','; after == ','; after = object[walker.at++]) {
            const std::string_view key = walker.key();
            if (key.find('\\') == std::string_view::npos) name = key;
            else unescape(key, name, repairs);
            const char first = walker.peek();
            const size_t begin = walker.at;
            walker.value();
            if (name == field) {
                found = first == '"' ? JsonField::text : first == 'n' ? JsonField::null : JsonField::other;
                if (first == '"') raw = object.substr(begin + 1, walker.at - begin - 2);
            }
            if (walker.peek() != ',' && walker.peek() != '}') walker.fail("expected , or }");
        }
    }
    if (!walker.at_end()) walker.fail("there is more after the value");
    if (!is_object) throw Error("not a JSON object");
    if (found == JsonField::text) unescape(raw, text, repairs);
    return found;
}

size_t json_value_end(std::string_view text, size_t at) {
    if (text[at] != '{' && text[at] != '[' && text[at] != '"') {  // a number or a word, or what is none
        const size_t end = text.find_first_of(" \t\r\n,]}{[\"", at + 1);
        return end;
    }
    size_t depth = 0;
    for (bool quoted = false;; ++at) {
        at = quoted ? text.find_first_of("\"\\", at) : text.find_first_of("{}[]\"", at);
        if (at == std::string_view::npos) return at;
        const char c = text[at];
        if (c == '\\') ++at;
        else if (c == '"') quoted = !quoted;
        else if (c == '{' || c == '[') ++depth;
        else --depth;
        if (depth == 0 && !quoted) return at + 1;
    }
}

JsonForm json_form(std::string_view head, bool whole, std::string_view field) {
    const size_t first = after_blanks(head, head.starts_with(kByteOrderMark) ? kByteOrderMark.size() : 0);
    if (first == head.size()) return {};
    const bool array = head[first] == '[';
    const size_t begin = array ? after_blanks(head, first + 1) : first;
    if (!begins_object(head, begin)) return {};
    JsonForm is{array ? JsonForm::values : JsonForm::lines, false};
    const size_t end = json_value_end(head, begin);
    const std::string_view object = head.substr(begin, end == std::string_view::npos ? end : end - begin);
    try {
        std::string text;
        int64_t repairs = 0;
        if (end == std::string_view::npos) throw Error("");
        is.has_field = json_field(object, field, text, repairs) != JsonField::missing;
        const size_t next = head.find_first_not_of(" \t\r", end);
        const bool ends_line = next == std::string_view::npos ? whole : head[next] == '\n';
        if (!ends_line || object.find('\n') != std::string_view::npos) is.form = JsonForm::values;
    } catch (const Error&) {  // more than these bytes, or broken: its lines will say so
        is.has_field = object.find(strf("\"%s\"", std::string(field).c_str())) != std::string_view::npos;
        if (!array && head.find_first_not_of(" \t\r", begin + 1) == head.find('\n', begin) &&
            head.find('\n', begin) != std::string_view::npos)
            is.form = JsonForm::values;  // "{" alone on a line: written for people
    }
    return is;
}
