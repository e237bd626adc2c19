// The architecture of a model, and the names of sizes.
#pragma once
#include <bit>
#include <climits>
#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include "llmc/model/head_config.h"

// GPT-2's vocabulary: that of data and models that come without one. Its last word separates documents; so does a word
// of that name in any other vocabulary.
inline constexpr int kGpt2Vocabulary = 50257;
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

enum class Activation { gelu_tanh, gelu };  // of the MLP: GELU's tanh approximation (GPT-2), GELU itself

struct ModelConfig {
    int L = 6, NH = 6, C = 384;  // layers, attention heads, channels
    int T = 256;                 // longest context (number of position embeddings)
    int V = 0;                   // vocabulary; 0 = not known yet: taken from the data
    // What most models have as GPT-2 has it:
    int inner = 0;  // width of the MLP; 0: 4 C
    Activation activation = Activation::gelu_tanh;
    float epsilon = 1e-5f;      // of the layernorms
    bool raw_scores = false;    // attention's scores are not divided by sqrt(HS)
    bool layer_scores = false;  // those of layer l are divided by l + 1, too
    bool untied = false;        // the LM head has weights of its own, not wte's
    int in_use = 0;             // words that occur, which have the first ids; 0: all
    HeadConfig head = {};       // beside the LM head; no part of a size

    int F() const { return inner ? inner : 4 * C; }
    float score_divisor(int layer) const {  // beside sqrt(HS)
        return (raw_scores ? 1 / std::sqrt(static_cast<float>(HS())) : 1) *
               static_cast<float>(layer_scores ? layer + 1 : 1);
    }
    int HS() const { return C / NH; }
    // The rows of words that never occur are in memory and files as they began: they are never computed nor changed.
    int words() const { return in_use ? in_use : V; }
    int Vp() const { return padded(words()); }  // as the LM head computes them; padded in memory only, never in files
    static int padded(int words) { return (words + 127) / 128 * 128; }
    bool operator==(const ModelConfig&) const = default;
};

// How a row of the table below reaches its field: an int, an enumeration as its number, a float as its bits.
struct ConfigMember {
    int (*get)(const ModelConfig&);
    void (*set)(ModelConfig&, int);
};
template <auto member>
inline constexpr ConfigMember config_member = {[](const ModelConfig& m) {
                                                   if constexpr (std::is_same_v<decltype(member), float ModelConfig::*>)
                                                       return std::bit_cast<int>(m.*member);
                                                   else return static_cast<int>(m.*member);
                                               },
                                               [](ModelConfig& m, int value) {
                                                   if constexpr (std::is_same_v<decltype(member), float ModelConfig::*>)
                                                       m.*member = std::bit_cast<float>(value);
                                                   else
                                                       m.*member =
                                                           static_cast<std::decay_t<decltype(m.*member)>>(value);
                                               }};

// What is known of a field: a number, or one of a few names. Names are the values 0, 1, ... of an enumeration.
struct ConfigField {
    char letter;      // in a size: L6
    const char* key;  // in config.json
    const char* text;
    ConfigMember member;
    int low = 1, high = INT_MAX;  // of a number
    bool from_data = false;       // a size may leave it out: then it is 0, not known yet
    const char* names = "";       // "layernorm|rms"; in a size :rms or :Nrms, in config.json "rms"
    const char* json = "";        // these in config.json, where they have other names: "false|true"
    const char* alias = "";       // of the key; its other name in transformers
    int otherwise = 0;      // what transformers takes where config.json has no such key, of those that a size must have
    bool optional = false;  // a size may leave it out: then it is GPT-2's
    bool real = false;      // a number above 0, not whole

    bool has_names() const { return *names != '\0'; }
    bool goes_without_saying(const ModelConfig& m) const {
        return (optional || has_names()) && get(m) == get(ModelConfig{});
    }
    int get(const ModelConfig& m) const { return member.get(m); }
    std::string value_text(const ModelConfig& m) const;  // "384", "rms"
    std::string json_text(const ModelConfig& m) const;   // the same as JSON has it: "true"
    std::string possible_text() const;                   // "a whole number from 1 to 65536", "layernorm or rms"
    // Sets the field to a value that is written so, in upper or lower case. False: it is no possible value.
    bool assign(std::string_view value, ModelConfig* m) const;
    bool assign_json(std::string_view value, ModelConfig* m) const;  // one that is written as JSON has it
};

// The architecture, a row for each field. Sizes, config.json, checks, the comparison at a resume and all messages walk
// these rows: a field that is added to ModelConfig and here needs nothing else but the layer that obeys it.
// clang-format off
inline constexpr ConfigField kConfigFields[] = {
    {.letter = 'L', .key = "n_layer", .text = "layers", .member = config_member<&ModelConfig::L>, .high = 65536,
     .alias = "num_hidden_layers", .otherwise = 12},
    {.letter = 'H', .key = "n_head", .text = "attention heads", .member = config_member<&ModelConfig::NH>,
     .alias = "num_attention_heads", .otherwise = 12},
    {.letter = 'C', .key = "n_embd", .text = "channels", .member = config_member<&ModelConfig::C>, .high = INT_MAX / 4,
     .alias = "hidden_size", .otherwise = 768},
    {.letter = 'T', .key = "n_positions", .text = "longest context", .member = config_member<&ModelConfig::T>,
     .alias = "max_position_embeddings", .otherwise = 1024},
    {.letter = 'V', .key = "vocab_size", .text = "vocabulary", .member = config_member<&ModelConfig::V>,
     .high = INT_MAX - 127, .from_data = true, .otherwise = kGpt2Vocabulary},
    {.letter = 'F', .key = "n_inner", .text = "width of the MLP", .member = config_member<&ModelConfig::inner>,
     .high = INT_MAX / 4, .optional = true},
    {.letter = 'A', .key = "activation_function", .text = "activation", .member = config_member<&ModelConfig::activation>,
     .names = "gelu_new|gelu"},
    {.letter = 'E', .key = "layer_norm_epsilon", .text = "epsilon of the layernorms",
     .member = config_member<&ModelConfig::epsilon>, .optional = true, .real = true},
    {.letter = 'S', .key = "scale_attn_weights", .text = "scores by the heads' width",
     .member = config_member<&ModelConfig::raw_scores>, .names = "scaled|unscaled", .json = "true|false"},
    {.letter = 'D', .key = "scale_attn_by_inverse_layer_idx", .text = "scores by depth",
     .member = config_member<&ModelConfig::layer_scores>, .names = "alike|by_layer", .json = "false|true"},
    {.letter = 'W', .key = "tie_word_embeddings", .text = "LM head", .member = config_member<&ModelConfig::untied>,
     .names = "tied|untied", .json = "true|false"},
    {.letter = 'U', .key = "vocab_in_use", .text = "words in use", .member = config_member<&ModelConfig::in_use>,
     .high = INT_MAX - 127, .optional = true},
};
// clang-format on

// "d12", "gpt2:d12", "gpt3:125m", "gpt3:c768", with parts that differ as in "d12:V5000:T512", or "L6:H6:C384:T256" (in
// any order; V optional) -> the architecture; upper and lower case are the same. Returns false if `name` has not the form of a size (it may then be a
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
// Tokens of a step with B sequences of T on each rank. Error: more than 2^31 - 1, the most that a step may have.
int64_t step_tokens(int B, int T, int ranks);
// Error: so many tokens at a time, in such a model, take more bytes than 64-bit offsets or any machine could hold.
void check_batch(const ModelConfig& config, int64_t tokens);
