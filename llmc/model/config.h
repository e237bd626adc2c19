// The size of a model, and the names of sizes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

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

// "d12", "gpt2:d12", "gpt3:125m", "gpt3:c768", "L6:H6:C384:T256" (keys in any order; V as in V5000 optional) -> sizes;
// upper and lower case are the same. Returns false if `name` has not the form of a size (it may then be a path: a
// directory that is called d13 is given as ./d13); throws UsageError if it has the form but not a possible value, such
// as a C that H does not divide.
bool parse_model_size(const std::string& name, ModelConfig* config);

// The names that parse_model_size knows, for messages and help: "d6, d12, ..., gpt3:125m, ... or L6:H6:C384:T256".
std::string model_size_names();

// Checks L, NH, C, T >= 1, V >= 0, C % NH == 0, HS <= 256 and a multiple of 2, sizes that fit their integers; throws
// Error naming `where`.
void check_model_config(const ModelConfig& config, const std::string& where);

// Parameters of the model without padding: V*C + T*C + L*(12*C*C + 13*C) + 2*C.
int64_t parameter_count(const ModelConfig& config);
// FLOPs of training on one token at sequence length T (PaLM, Chowdhery et al. 2022, appendix B): 6*N + 12*L*C*T,
// N = parameter_count(): the count that most reports use.
double flops_per_token(const ModelConfig& config, int seq_len);
