// GGUF, version 3: the one file from which llama.cpp runs a model. (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md)
//
//   "GGUF", uint32 version, uint64 tensors, uint64 keys
//   keys:     string name, uint32 type, value             string: uint64 bytes, then they; array: uint32 type, uint64 n, values
//   tensors:  string name, uint32 dimensions, uint64 of each, the fastest first, uint32 type, uint64 offset in the data
//   data:     of each tensor, at multiples of 32 bytes
//
// A linear layer's weight is (OC, C) there, as in memory. Vectors and wpe stay f32, as llama.cpp's own converter leaves them;
// of q4_0, wte and an LM head of its own are q8_0, since the loss depends on them most (llama.cpp takes q6_K).
#pragma once
#include <cstdint>
#include <string>
#include "llmc/model/config.h"
#include "llmc/model/tensors.h"
#include "llmc/text/tokenizer.h"

enum class GgufType : uint32_t { f32 = 0, f16 = 1, q4_0 = 2, q8_0 = 8, bf16 = 30 };  // ggml's numbers

// Bytes of n elements; Error if they fill no whole blocks.
int64_t gguf_bytes(GgufType type, int64_t n);
// Rounds n floats to `type`. Quantised: blocks of 32 with one f16 scale d each, x = d q, bit for bit as ggml's reference does:
//   q8_0   d = max |x| / 127,  q = round(x / d)                        d, 32 int8
//   q4_0   d = -m / 8, m the x of the largest |x|,  q = floor(x / d + 8.5), at most 15, stands for q - 8
//                                                                      d, 16 bytes: q of x[i] low, of x[i + 16] high
// False: an element, or a block's scale, is too large for f16.
bool gguf_round(GgufType type, const float* x, int64_t n, unsigned char* out);

// Error: llama.cpp's GPT-2 is not this model (the field is named), or a value is too large for the type.
void check_gguf(const ModelConfig& config, GgufType type);
void write_gguf(const std::string& path, const std::string& name, const ModelConfig& config,
                const ModelTensors& tensors, const Tokenizer& tokenizer, GgufType type);
