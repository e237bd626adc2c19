// Models in and out: Hugging Face directories, our checkpoints (which are such directories), llm.c's .bin files.
#pragma once
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>
#include "llmc/files/parameter_files.h"
#include "llmc/model/config.h"
#include "llmc/model/adapter_config.h"
#include "llmc/model/tensors.h"
#include "llmc/text/tokenizer.h"

// An adapter (adapter_files.h): its directory, or "" for a new one, what it is like, and the model that it belongs to.
struct AdapterInfo {
    std::string path, base;
    AdapterConfig config;
};

// What --model names, before anything is loaded.
struct ModelSource {
    enum class Kind { size, directory, llmc_bin } kind = Kind::size;
    std::string path;                    // directory (of a run: that of its newest whole checkpoint) or .bin file
    ModelConfig config;                  // V == 0 for a size without V
    std::string vocabulary;              // directory with a vocabulary (text/vocabulary.h), or ""
    std::optional<AdapterInfo> adapter;  // `what` was one: then all else is its model
    std::vector<std::string> notes;  // lines for the user: what of the weights is not read, or not as config.json says
};

// Resolves `what`: a size, a Hugging Face directory, a run's directory, an llm.c .bin (model files, magic 20240326,
// versions 3 fp32 and 5 bf16; llm.c's "d12" descriptors are sizes); gpt2, gpt2-medium, gpt2-large and gpt2-xl are also
// looked for in data/. Reads headers and config.json only, and an LM head that may be wte or not. Error / UsageError names `what`, lists what it may be, and
// for gpt2* says how to get it (`make gpt2`). A config.json that describes another model than ours is refused, and the
// field is named.
//
// An adapter's directory, or that of a run which trained one, gives the model that it belongs to: `base`, or what its
// adapter_config.json names.
ModelSource find_model(const std::string& what, const std::string& base = "");

// Loads the weights of a directory (model.safetensors, or the files of model.safetensors.index.json; names with any prefix,
// "transformer.", "module.transformer." or none; attn.bias masks and the heads of other tasks ignored, and a table's head
// left as it is where the source has none; F32, F16, BF16,
// F64) or a .bin into `tensors` (Buffer::weights, and Buffer::master when there is one). Every row of the table must be
// there with its shape, and no other tensor of a GPT-2: Error names file and tensor. NaN or infinite weights: Error.
void load_weights(const ModelSource& source, const ModelTensors& tensors);

// Words that a model gets beyond its own, with ids from `first` on: of each, the ids of its pieces in the model's vocabulary.
struct NewWords {
    int first = 0;
    std::vector<std::vector<int>> pieces;
};
// The same into a model with more words. What the source has is kept bit for bit; the row of a new word, in wte and in an LM
// head of its own, is the mean of its pieces' rows.
void load_weights(const ModelSource& source, const ModelTensors& tensors, const NewWords& words);

// How weights are written: dtype "F32", "BF16" or "F16", "" as they are stored; in files of at most so many bytes.
struct WeightFiles {
    std::string dtype;
    int64_t most = std::numeric_limits<int64_t>::max();
};
// Writes config.json, model.safetensors (or model-00001-of-0000N.safetensors and model.safetensors.index.json),
// generation_config.json, and the vocabulary (if not null) in all the forms that other programs read, into the existing
// directory `dir`, each on disk when this returns.
std::vector<WrittenFile> write_model_directory(const std::string& dir, const ModelConfig& config,
                                               const ModelTensors& tensors, const Tokenizer* tokenizer,
                                               const WeightFiles& how = {});
