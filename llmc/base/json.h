// JSON, by way of nlohmann's library, which no other file includes. For .cpp files only: it is long, and neither nvcc
// nor whoever includes our headers should read it.
#pragma once
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include "llmc/base/error.h"

using Json = nlohmann::json;                  // an object's fields are in the order of their names
using OrderedJson = nlohmann::ordered_json;   // they are in the order in which they were written
using JsonError = nlohmann::json::exception;  // from at() and get(): a field is missing, or of another type

// Text that is not JSON becomes a value of which is_object() and the like are false.
template <class J = Json>
J try_json(std::string_view text) {
    return J::parse(text, nullptr, /*allow_exceptions=*/false);
}

// Error names `what` (a file, say) if the text is not an object.
template <class J = Json>
J parse_json_object(std::string_view text, const std::string& what) {
    J j = try_json<J>(text);
    if (!j.is_object()) throw Error(strf("%s is not a valid JSON object", what.c_str()));
    return j;
}

// What the parser found wrong, from the word `from` on: "line " or "column ". Its own text begins with
// "[json.exception.parse_error.101] parse error at line 1, column 9: ".
inline std::string json_complaint(const JsonError& e, const char* from) {
    const std::string what = e.what();
    const size_t at = what.find(from);
    return at == std::string::npos ? what : what.substr(at);
}

// On one line. Bytes that are no UTF-8 (a file's name may have any) become U+FFFD.
inline std::string json_line(const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); }
