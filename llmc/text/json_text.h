// JSON as it comes from the world: one field of an object, read as Python's json module writes it.
//
// NaN, Infinity and numbers beyond a double's range are fine, and so is any depth. What a string has that UTF-8 has not
// (half of a UTF-16 pair, "\ud83d" alone; bytes of another encoding) becomes U+FFFD, as tiktoken does it, and is counted.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

enum class JsonField { text, null, missing, other };  // other: a value that is no string

// Checks the JSON object `object`, all of it, and puts the text of its field `field` into `text` (the last one, if there
// are several). `repairs`: grows by the number of characters that became U+FFFD. Error says at which column it is not
// valid JSON, or that it is no object.
JsonField json_field(std::string_view object, std::string_view field, std::string& text, int64_t& repairs);

// Where the value that begins at `at` ends, by its brackets and quotes alone; npos: not in this text. at < text.size().
size_t json_value_end(std::string_view text, size_t at);

// What the first bytes of an input say: is it JSON, and in which form? `whole`: there is no more than these bytes.
struct JsonForm {
    enum { no, lines, values } form = no;  // values: an array, or objects that do not end with their lines
    bool has_field = false;                // the first object has the field, as far as one can see
};
JsonForm json_form(std::string_view head, bool whole, std::string_view field);
