// The architecture of a model, and the names of sizes.
#pragma once
#include <climits>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

// GPT-2's vocabulary: that of data and models that come without one. Its last word separates documents; so does a word
// of that name in any other vocabulary.
inline constexpr int kGpt2Vocabulary = 50257;
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

struct ModelConfig {
    int L = 6, NH = 6, C = 384;  // layers, attention heads, channels
    int T = 256;                 // longest context (number of position embeddings)
    int V = 0;                   // vocabulary; 0 = not known yet: taken from the data

    int HS() const { return C / NH; }
    int Vp() const { return (V + 127) / 128 * 128; }  // padded in memory only, never in files
    bool operator==(const ModelConfig&) const = default;
};

// How a row of the table below reaches its field: an int, or an enumeration as its number.
struct ConfigMember {
    int (*get)(const ModelConfig&);
    void (*set)(ModelConfig&, int);
};
template <auto member>
inline constexpr ConfigMember config_member = {
    [](const ModelConfig& m) { return static_cast<int>(m.*member); },
    [](ModelConfig& m, int value) { m.*member = static_cast<std::decay_t<decltype(m.*member)>>(value); }};

// What is known of a field: a number, or one of a few names. Names are the values 0, 1, ... of an enumeration; the
// first one is the default, and goes without saying.
struct ConfigField {
    char letter;      // in a size: L6
    const char* key;  // in config.json
    const char* text;
    ConfigMember member;
    int low = 1, high = INT_MAX;  // of a number
    bool from_data = false;       // a size may leave it out: then it is 0, not known yet
    const char* names = "";       // "layernorm|rms"; in a size :rms or :Nrms, in config.json "rms"

    bool has_names() const { return *names != '\0'; }
    int get(const ModelConfig& m) const { return member.get(m); }
    std::string value_text(const ModelConfig& m) const;  // "384", "rms"
    std::string possible_text() const;                   // "a whole number from 1 to 65536", "layernorm or rms"
    // Sets the field to a value that is written so, in upper or lower case. False: it is no possible value.
    bool assign(std::string_view value, ModelConfig* m) const;
};

// The architecture, a row for each field. Sizes, config.json, checks, the comparison at a resume and all messages walk
// these rows: a field that is added to ModelConfig and here needs nothing else but the layer that obeys it.
// clang-format off
inline constexpr ConfigField kConfigFields[] = {
    {.letter = 'L', .key = "n_layer", .text = "layers", .member = config_member<&ModelConfig::L>, .high = 65536},
    {.letter = 'H', .key = "n_head", .text = "attention heads", .member = config_member<&ModelConfig::NH>},
    {.letter = 'C', .key = "n_embd", .text = "channels", .member = config_member<&ModelConfig::C>, .high = INT_MAX / 4},
    {.letter = 'T', .key = "n_positions", .text = "longest context", .member = config_member<&ModelConfig::T>},
    {.letter = 'V', .key = "vocab_size", .text = "vocabulary", .member = config_member<&ModelConfig::V>,
     .high = INT_MAX - 127, .from_data = true},
};
// clang-format on

// "d12", "gpt2:d12", "gpt3:125m", "gpt3:c768", "L6:H6:C384:T256" (in any order; V as in V5000 optional) -> the
// architecture; upper and lower case are the same. Returns false if `name` has not the form of a size (it may then be a
// path: a directory that is called d13 is given as ./d13); throws UsageError if it has the form but not a possible
// value, such as a C that H does not divide.
bool parse_model_size(const std::string& name, ModelConfig* config);

// The same in the other direction: "L6:H6:C384:T256:V50257", without V if it is not known.
std::string model_size_text(const ModelConfig& config);

// The names that parse_model_size knows, for messages and help: "d6, d12, ..., gpt3:125m, ... or L6:H6:C384:T256".
std::string model_size_names();

// Throws Error naming `where` unless every field has a possible value (V: or 0), C % NH == 0, HS is even and at most
// 256, and offsets fit their integers.
void check_model_config(const ModelConfig& config, const std::string& where);
