#include "llmc/base/json.h"

template class nlohmann::basic_json<>;
template class nlohmann::basic_json<nlohmann::ordered_map>;

std::string json_complaint(const JsonError& e, const char* from) {
    const std::string what = e.what();
    const size_t at = what.find(from);
    return at == std::string::npos ? what : what.substr(at);
}

static constexpr int kMaxJsonDepth = 64;
static bool json_too_deep(std::string_view text) {
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < text.size(); ++i) {
        const char c = text[i];
        if (in_string) i += c == '\\', in_string = c != '"';
        else if (c == '"') in_string = true;
        else if (c == '{' || c == '[') {
            if (++depth > kMaxJsonDepth) return true;
        } else if (c == '}' || c == ']') --depth;
    }
    return false;
}

// The library takes a zero for the end, and lets anything follow it.
static bool json_has_zero(std::string_view text) { return text.find('\0') != std::string_view::npos; }

template <class J>
J parse_json(std::string_view text, const char* from) {
    if (json_has_zero(text)) throw Error(strf("byte %zu is zero", text.find('\0')));
    if (json_too_deep(text)) throw Error(strf("brackets within each other %d deep", kMaxJsonDepth + 1));
    try {
        return J::parse(text);
    } catch (const JsonError& e) {
        throw Error(json_complaint(e, from));
    }
}
template <class J>
J try_json(std::string_view text) {
    if (json_has_zero(text) || json_too_deep(text)) return J(J::value_t::discarded);
    return J::parse(text, nullptr, /*allow_exceptions=*/false);
}
template <class J>
J parse_json_object(std::string_view text, const std::string& what) {
    J j = try_json<J>(text);
    if (!j.is_object()) throw Error(strf("%s is not a valid JSON object", what.c_str()));
    return j;
}

template Json parse_json(std::string_view, const char*);
template OrderedJson parse_json(std::string_view, const char*);
template Json try_json(std::string_view);
template OrderedJson try_json(std::string_view);
template Json parse_json_object(std::string_view, const std::string&);
template OrderedJson parse_json_object(std::string_view, const std::string&);

std::string json_text(const Json& object, const char* field) {
    if (!object.contains(field)) throw Error(strf("no field \"%s\"", field));
    if (!object[field].is_string()) throw Error(strf("field \"%s\" is not a string", field));
    return object[field].get<std::string>();
}

Json json_object(std::string_view line) {
    Json object;
    try {
        object = parse_json(line, "column ");
    } catch (const Error& e) {
        throw Error(strf("not valid JSON: %s", e.what()));
    }
    if (!object.is_object()) throw Error("not a JSON object");
    return object;
}
