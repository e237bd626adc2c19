#include "llmc/model/config.h"

#include <climits>
#include <vector>

#include "llmc/base/error.h"

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

bool starts_with(const std::string& s, const char* prefix) { return s.rfind(prefix, 0) == 0; }

bool is_digits(const std::string& s) { return !s.empty() && s.find_first_not_of("0123456789") == std::string::npos; }

// What is impossible about `m`, or "". Arenas are indexed with int64, rows and columns with int.
std::string problem(const ModelConfig& m) {
    const struct {
        const char* name;
        int value;
    } least_one[] = {
        {"L (layers)", m.L}, {"H (attention heads)", m.NH}, {"C (channels)", m.C}, {"T (longest context)", m.T}};
    for (auto& [name, value] : least_one)
        if (value < 1) return strf("%s is %d; it must be at least 1", name, value);
    if (m.V < 0 || m.V > INT_MAX - 127) return strf("V (vocabulary) is %d; it must be from 1 to 2^31 - 128", m.V);
    if (m.C % m.NH != 0) return strf("C=%d channels cannot be divided among H=%d attention heads", m.C, m.NH);
    if (m.HS() > 256 || m.HS() % 2 != 0)
        return strf("C=%d / H=%d makes heads of %d channels; they must be even and at most 256", m.C, m.NH, m.HS());
    if (m.L > 65536) return strf("L=%d layers are too many", m.L);
    if (m.C > INT_MAX / 4) return strf("C=%d channels are too many", m.C);
    double C = m.C, elements = 12.0 * m.L * C * (C + 2) + (static_cast<double>(m.T) + m.V + 256) * C;
    if (elements > 0x1p58) return strf("a model of %.1e parameters is too large for 64-bit byte offsets", elements);
    return "";
}

ModelConfig parse_explicit_size(const std::string& name, const std::string& lower) {
    struct Key {
        char letter;
        int* value;
        bool seen;
    };
    ModelConfig m;
    Key keys[] = {{'l', &m.L, false}, {'h', &m.NH, false}, {'c', &m.C, false}, {'t', &m.T, false}, {'v', &m.V, false}};
    const char* form = "a size is written L6:H6:C384:T256, with :V5000 if you want to fix the vocabulary";
    for (size_t begin = 0; begin <= lower.size();) {
        size_t end = std::min(lower.find(':', begin), lower.size());
        std::string part = name.substr(begin, end - begin), digits = part.substr(part.empty() ? 0 : 1);
        Key* key = nullptr;
        for (Key& k : keys)
            if (!part.empty() && lower[begin] == k.letter) key = &k;
        if (!key || !is_digits(digits))
            throw UsageError(strf("model size '%s': '%s' is not one of L, H, C, T, V with a number; %s", name.c_str(),
                                  part.c_str(), form));
        if (key->seen) throw UsageError(strf("model size '%s': %c is given twice", name.c_str(), part[0]));
        key->seen = true;
        int64_t value = 0;
        for (char c : digits) value = std::min<int64_t>(value * 10 + (c - '0'), INT_MAX);
        if (value < 1 || value >= INT_MAX)
            throw UsageError(strf("model size '%s': %s must be from 1 to %d", name.c_str(), part.c_str(), INT_MAX - 1));
        *key->value = static_cast<int>(value);
        begin = end + 1;
    }
    for (const Key& k : keys)
        if (!k.seen && k.letter != 'v')
            throw UsageError(strf("model size '%s': %c is missing; %s", name.c_str(), k.letter - 'a' + 'A', form));
    return m;
}

}  // namespace

std::string model_size_names() {
    std::string names;
    for (const NamedSize& s : kSizes) names += std::string(s.name) + ", ";
    return names + "or L6:H6:C384:T256";
}

bool parse_model_size(const std::string& name, ModelConfig* config) {
    std::string lower = name;
    for (char& c : lower)
        if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    if (starts_with(lower, "gpt2:d")) lower = lower.substr(5);  // llm.c's other spelling of d12
    for (const NamedSize& s : kSizes)
        if (lower == s.name) {
            *config = {s.L, s.NH, s.C, s.T, 0};
            return true;
        }
    if (lower == "gpt3:c5140")
        throw UsageError(
            "model size 'gpt3:c5140': 5140 channels cannot be divided among 40 attention heads; the nearest size is "
            "gpt3:c5120");
    if (starts_with(lower, "gpt2:") || starts_with(lower, "gpt3:") || (lower[0] == 'd' && is_digits(lower.substr(1))))
        throw UsageError(strf("model size '%s' is not one of %s", name.c_str(), model_size_names().c_str()));

    // The explicit form has a colon, no path separator, and starts with one of its letters and a number.
    size_t colon = lower.find(':');
    if (colon == std::string::npos || lower.find('/') != std::string::npos ||
        std::string("lhctv").find(lower[0]) == std::string::npos || !is_digits(lower.substr(1, colon - 1)))
        return false;
    ModelConfig m = parse_explicit_size(name, lower);
    if (std::string why = problem(m); !why.empty())
        throw UsageError(strf("model size '%s': %s", name.c_str(), why.c_str()));
    *config = m;
    return true;
}

void check_model_config(const ModelConfig& config, const std::string& where) {
    if (std::string why = problem(config); !why.empty()) throw Error(strf("%s: %s", where.c_str(), why.c_str()));
}

int64_t parameter_count(const ModelConfig& m) {
    int64_t C = m.C;
    return (static_cast<int64_t>(m.V) + m.T) * C + m.L * (12 * C * C + 13 * C) + 2 * C;
}

double flops_per_token(const ModelConfig& m, int seq_len) {
    return 6 * static_cast<double>(parameter_count(m)) + 12.0 * m.L * m.C * seq_len;
}
