#include "llmc/model/config.h"

#include <algorithm>
#include <bit>
#include <cfloat>
#include <charconv>
#include <iterator>
#include <utility>
#include <vector>
#include "llmc/base/error.h"

namespace {

bool is_digits(std::string_view s) { return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos; }

std::string lower(std::string_view text) {
    std::string out(text);
    for (char& c : out)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    return out;
}

std::vector<std::string> split_names(const char* list) {
    std::vector<std::string> names;
    for (const char* c = list; *c; c++) {
        if (c == list || *c == '|') names.emplace_back();
        if (*c != '|') names.back() += *c;
    }
    return names;
}
std::vector<std::string> names_of(const ConfigField& f) { return split_names(f.names); }

bool is_real(std::string_view text, float* number) {
    const char* end = text.data() + text.size();
    const auto [at, error] = std::from_chars(text.data(), end, *number);
    return error == std::errc{} && at == end && *number > 0 && *number <= FLT_MAX;
}

}  // namespace

// ---- one field -------------------------------------------------------------------------------------------------------

std::string ConfigField::value_text(const ModelConfig& m) const {
    if (!real) return has_names() ? names_of(*this).at(static_cast<size_t>(get(m))) : std::to_string(get(m));
    char digits[32];  // the shortest that reads as the same float
    return {digits, std::to_chars(digits, std::end(digits), std::bit_cast<float>(get(m))).ptr};
}
std::string ConfigField::json_text(const ModelConfig& m) const {
    return *json ? split_names(json).at(static_cast<size_t>(get(m))) : value_text(m);
}

std::string ConfigField::possible_text() const {
    if (real) return "a number above 0";
    if (!has_names()) return strf("a whole number from %d to %d", low, high);
    std::string list;
    for (const std::string& name : names_of(*this)) list += (list.empty() ? "" : " or ") + name;
    return list;
}

bool ConfigField::assign(std::string_view value, ModelConfig* m) const {
    if (has_names()) {
        const std::vector<std::string> all = names_of(*this);
        const auto found = std::find(all.begin(), all.end(), lower(value));
        if (found == all.end()) return false;
        member.set(*m, static_cast<int>(found - all.begin()));
        return true;
    }
    if (float number; real) return is_real(value, &number) && (member.set(*m, std::bit_cast<int>(number)), true);
    if (!is_digits(value)) return false;
    int64_t number = 0;
    for (char c : value) number = std::min<int64_t>(number * 10 + (c - '0'), int64_t{INT_MAX} + 1);
    if (number < low || number > high) return false;
    member.set(*m, static_cast<int>(number));
    return true;
}

bool ConfigField::assign_json(std::string_view value, ModelConfig* m) const {
    const std::vector<std::string> all = split_names(json);
    const auto found = std::find(all.begin(), all.end(), value);
    if (all.empty()) return assign(value, m);
    if (found != all.end()) member.set(*m, static_cast<int>(found - all.begin()));
    return found != all.end();
}

// ---- checks ----------------------------------------------------------------------------------------------------------

// "L (layers) is 0; it must be a whole number from 1 to 65536"
static std::string wrong_value(const ConfigField& f, const std::string& value) {
    return strf("%c (%s) is %s; it must be %s", f.letter, f.text, value.c_str(), f.possible_text().c_str());
}

// What is impossible about `m`, or "". Arenas are indexed with int64, rows and columns with int.
static std::string problem(const ModelConfig& m) {
    for (const ConfigField& f : kConfigFields) {
        const bool unknown = (f.from_data || f.optional) && f.get(m) == 0,
                   in_range = f.get(m) >= f.low && f.get(m) <= f.high;
        if (!f.has_names() && !unknown && !in_range) return wrong_value(f, f.value_text(m));
    }
    if (m.V > 0 && m.in_use > m.V) return strf("U=%d words in use are more than the V=%d there are", m.in_use, m.V);
    if (m.C % m.NH != 0) return strf("C=%d channels cannot be divided among H=%d attention heads", m.C, m.NH);
    if (m.HS() > 256 || m.HS() % 2 != 0)
        return strf("C=%d / H=%d makes heads of %d channels; they must be even and at most 256", m.C, m.NH, m.HS());
    double C = m.C, F = m.inner ? m.inner : 4 * C,
           elements = m.L * (4 * C + 2 * F) * (C + 2) + (static_cast<double>(m.T) + 2.0 * m.V + 256) * C;  // about
    if (elements > 0x1p58) return strf("a model of %.1e parameters is too large for 64-bit byte offsets", elements);
    return "";
}

void check_model_config(const ModelConfig& config, const std::string& where) {
    if (std::string why = problem(config); !why.empty()) throw Error(strf("%s: %s", where.c_str(), why.c_str()));
}

int64_t step_tokens(int B, int T, int ranks) {
    const double tokens = static_cast<double>(B) * T * ranks;
    if (tokens > INT_MAX)
        throw UsageError(
            strf("--micro-batch-size (-b) %d x --seq-len (-t) %d x %d ranks are %.1e tokens a step; there may be "
                 "2^31 - 1 at most",
                 B, T, ranks, tokens));
    return static_cast<int64_t>(tokens);
}

void check_batch(const ModelConfig& m, int64_t tokens) {
    const double C = m.C, F = m.inner ? m.inner : 4 * C, widest = 16 * C + 4 * F + 4 * m.NH + 64;  // about
    const double bytes = 4 * static_cast<double>(tokens) * (m.L + 1) * widest;
    if (bytes > 0x1p60)
        throw UsageError(
            strf("%.1e tokens a step of a model %s take about %.1e bytes, more than any machine has; make "
                 "--total-batch-size (-d), --micro-batch-size (-b) or --model (-e) smaller",
                 static_cast<double>(tokens), model_size_text(m).c_str(), bytes));
}

// ---- named sizes -----------------------------------------------------------------------------------------------------

namespace {

struct NamedSize {
    const char* name;
    int L, C, NH, T;
};

// GPT-2 (Radford et al. 2019, table 2) by depth: d12, d24, d36, d48 are the published ones; the others follow llm.c.
// GPT-3 (Brown et al. 2020, table 2.1) by name, and by channels as in llm.c. Two rows of the paper's table cannot be as
// printed: 1.3b with 24 heads of 128, which is not 2048 channels (16 heads here), and 13b with 40 heads of 128, which
// is not 5140 channels (5120 here). Attention is dense in every layer; in GPT-3 it alternates with banded.
constexpr NamedSize kSizes[] = {
    {"d6", 6, 384, 6, 1024},
    {"d12", 12, 768, 12, 1024},
    {"d24", 24, 1024, 16, 1024},
    {"d36", 36, 1280, 20, 1024},
    {"d48", 48, 1600, 25, 1024},
    {"d60", 60, 1920, 30, 1024},
    {"d72", 72, 2880, 30, 1024},
    {"d84", 84, 3456, 36, 1024},
    {"gpt3:125m", 12, 768, 12, 2048},
    {"gpt3:350m", 24, 1024, 16, 2048},
    {"gpt3:760m", 24, 1536, 16, 2048},
    {"gpt3:1.3b", 24, 2048, 16, 2048},
    {"gpt3:2.7b", 32, 2560, 32, 2048},
    {"gpt3:6.7b", 32, 4096, 32, 2048},
    {"gpt3:13b", 40, 5120, 40, 2048},
    {"gpt3:175b", 96, 12288, 96, 2048},
    {"gpt3:c384", 6, 384, 6, 2048},
    {"gpt3:c768", 12, 768, 12, 2048},
    {"gpt3:c1024", 24, 1024, 16, 2048},
    {"gpt3:c1536", 24, 1536, 16, 2048},
    {"gpt3:c2048", 24, 2048, 16, 2048},
    {"gpt3:c2560", 32, 2560, 32, 2048},
    {"gpt3:c4096", 32, 4096, 32, 2048},
    {"gpt3:c5120", 40, 5120, 40, 2048},
    {"gpt3:c12288", 96, 12288, 96, 2048},
};

}  // namespace

std::string model_size_names() {
    std::string names;
    for (const NamedSize& s : kSizes) names += std::string(s.name) + ", ";
    return names + "or L6:H6:C384:T256";
}

// ---- L6:H6:C384:T256 -------------------------------------------------------------------------------------------------

std::string model_size_text(const ModelConfig& m) {
    std::string text;
    for (const ConfigField& f : kConfigFields) {
        if ((f.from_data && f.get(m) == 0) || f.goes_without_saying(m)) continue;
        text += (text.empty() ? "" : ":") + (f.has_names() ? "" : std::string(1, f.letter)) + f.value_text(m);
    }
    return text;
}

// The row that a part of a size is of: by its letter and a number, or by a name with or without the letter. `value` gets
// the part without the letter. Null: the part has not the form of any.
static const ConfigField* field_of(const std::string& part, std::string* value) {
    for (const ConfigField& f : kConfigFields) {
        ModelConfig ignored;
        *value = part;
        if (f.has_names() && f.assign(*value, &ignored)) return &f;
        if (part.empty() || lower(part)[0] != lower({&f.letter, 1})[0]) continue;
        *value = part.substr(1);
        if (f.has_names() || f.real ? f.assign(*value, &ignored) : is_digits(*value)) return &f;
    }
    return nullptr;
}

// The parts of `name` from `begin` on, put into `m`: all that a size needs, or those that differ from a named size `m`.
static ModelConfig parse_parts(const std::string& name, size_t begin, ModelConfig m) {
    const bool named = begin > 0;
    const auto wrong = [&](const std::string& what) {
        return UsageError(strf("model size '%s': %s", name.c_str(), what.c_str()));
    };
    std::string letters, form = "a size is written L6:H6:C384:T256, with :V5000 if you want to fix the vocabulary";
    for (const ConfigField& f : kConfigFields) {
        if (f.optional) continue;
        if (f.has_names()) form += strf(", with :%s for that %s", names_of(f).back().c_str(), f.text);
        else letters += (letters.empty() ? "" : ", ") + std::string(1, f.letter);
    }
    bool seen[std::size(kConfigFields)] = {};
    while (begin <= name.size()) {
        const size_t end = std::min(name.find(':', begin), name.size());
        const std::string part = name.substr(begin, end - begin);
        std::string value;
        const ConfigField* f = field_of(part, &value);
        if (!f)
            throw wrong(strf("'%s' is not one of %s with a number; %s", part.c_str(), letters.c_str(), form.c_str()));
        if (std::exchange(seen[f - kConfigFields], true)) throw wrong(strf("%c is given twice", f->letter));
        if (!f->assign(value, &m)) throw wrong(wrong_value(*f, value));
        begin = end + 1;
    }
    for (const ConfigField& f : kConfigFields)
        if (!named && !seen[&f - kConfigFields] && !f.from_data && !f.optional && !f.has_names())
            throw wrong(strf("%c is missing; %s", f.letter, form.c_str()));
    if (m.inner == 4 * m.C) m.inner = 0;
    if (std::string why = problem(m); !why.empty()) throw wrong(why);
    return m;
}

bool parse_model_size(const std::string& name, ModelConfig* config) {
    std::string low = lower(name);
    if (low.starts_with("gpt2:d")) low = low.substr(5);  // llm.c's other spelling of d12
    const size_t prefix = name.size() - low.size();
    for (const NamedSize& s : kSizes) {
        const size_t length = std::string(s.name).size();
        if (!low.starts_with(s.name) || (low.size() > length && low[length] != ':')) continue;
        *config = {.L = s.L, .NH = s.NH, .C = s.C, .T = s.T};
        if (low.size() > length) *config = parse_parts(name, prefix + length + 1, *config);
        return true;
    }
    if (low == "gpt3:c5140")
        throw UsageError(
            "model size 'gpt3:c5140': 5140 channels cannot be divided among 40 attention heads; the nearest size is "
            "gpt3:c5120");
    if (low.starts_with("gpt2:") || low.starts_with("gpt3:") ||
        (low[0] == 'd' && is_digits(low.substr(1, low.find(':') - 1))))
        throw UsageError(strf("model size '%s' is not one of %s", name.c_str(), model_size_names().c_str()));

    // The explicit form has a colon and no path separator, and it begins with a letter of the table and a number.
    const size_t colon = name.find(':');
    std::string number;
    if (colon == std::string::npos || name.find('/') != std::string::npos ||
        !field_of(name.substr(0, colon), &number) || !is_digits(number))
        return false;
    *config = parse_parts(name, 0, {});
    return true;
}
