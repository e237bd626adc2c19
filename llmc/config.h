// The size of a model, and the names of sizes.
#pragma once
#include <cstdint>
#include <string>

struct ModelConfig {
    int L = 6, NH = 6, C = 384;   // layers, attention heads, channels
    int T = 256;                  // longest context (number of position embeddings)
    int V = 0;                    // vocabulary; 0 = not known yet: taken from the data

    int HS() const { return C / NH; }
    int Vp() const { return (V + 127) / 128 * 128; }  // padded in memory only, never in files
    bool operator==(const ModelConfig&) const = default;
};

// "d12", "gpt3:125m", "gpt3:c768", "L6:H6:C384:T256" (T, and V as V5000, optional) -> sizes. Returns false if `name` has
// not the form of a size (it may then be a path); throws UsageError if it has the form but not a possible value, such as
// a C that H does not divide.
bool parse_model_size(const std::string& name, ModelConfig* config);

// Checks L, NH, C, T >= 1, C % NH == 0, HS <= 256 and a multiple of 2, sizes within int64; throws Error naming `where`.
void check_model_config(const ModelConfig& config, const std::string& where);

// Parameters of the model without padding: V*C + T*C + L*(12*C*C + 13*C) + 2*C.
int64_t parameter_count(const ModelConfig& config);
// FLOPs of training on one token at sequence length T (PaLM, Chowdhery et al. 2022, appendix B): 6*N + 12*L*C*T.
double flops_per_token(const ModelConfig& config, int seq_len);
