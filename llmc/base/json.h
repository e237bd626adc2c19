// JSON, by way of nlohmann's library, which no other file includes. For .cpp files only: it is long, and neither nvcc
// nor whoever includes our headers should read it.
#pragma once
#include <nlohmann/json.hpp>
#include <limits>
#include <string>
#include <string_view>
#include "llmc/base/error.h"

using Json = nlohmann::json;                  // an object's fields are in the order of their names
using OrderedJson = nlohmann::ordered_json;   // they are in the order in which they were written
using JsonError = nlohmann::json::exception;  // from at() and get(): a field is missing, or of another type

// What the parser found wrong, from the word `from` on: "line " or "column ". Its own text begins with
// "[json.exception.parse_error.101] parse error at line 1, column 9: ".
std::string json_complaint(const JsonError& e, const char* from);

// Compiled once, in json.cpp.
extern template class nlohmann::basic_json<>;
extern template class nlohmann::basic_json<nlohmann::ordered_map>;

// Every text of others comes in by one of these. Text that is not JSON: Error says what is wrong, and where. Objects and
// arrays within each other: 64 at most. Nothing that we read has more than eight levels, and the library goes down by
// recursion where it copies or writes a value: files of others must not decide how deep.
template <class J = Json>
J parse_json(std::string_view text, const char* from = "line ");
// It becomes a value of which is_object() and the like are false.
template <class J = Json>
J try_json(std::string_view text);
// Error names `what` (a file, say) if the text is not an object.
template <class J = Json>
J parse_json_object(std::string_view text, const std::string& what);

// A whole number that is written as one and fits; get<int64_t>() would take 1e30 for one, and -1 for a uint64_t.
template <typename Number, class J>
bool json_whole(const J& j, Number* out) {
    if (!j.is_number_integer()) return false;
    if (j.is_number_unsigned()) {
        const uint64_t value = j.template get<uint64_t>();
        *out = static_cast<Number>(value);
        return value <= static_cast<uint64_t>(std::numeric_limits<Number>::max());
    }
    const int64_t value = j.template get<int64_t>();
    *out = static_cast<Number>(value);
    return value >= 0 ? static_cast<uint64_t>(value) <= static_cast<uint64_t>(std::numeric_limits<Number>::max())
                      : std::is_signed_v<Number> && value >= static_cast<int64_t>(std::numeric_limits<Number>::min());
}
template <typename Number, class J>
Number json_whole_at(const J& object, const char* key) {
    Number value;
    if (!json_whole(object.at(key), &value))
        throw Error(strf("%s is %s, which is no whole number that fits", key, object.at(key).dump().c_str()));
    return value;
}

// A line that should be an object. Error: it is none.
Json json_object(std::string_view line);
// A field that is a string. Error: it is missing, or something else.
std::string json_text(const Json& object, const char* field);

// On one line. Bytes that are no UTF-8 (a file's name may have any) become U+FFFD.
inline std::string json_line(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }
