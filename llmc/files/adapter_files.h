// Adapters in and out, in PEFT's form: a directory with adapter_config.json and adapter_model.safetensors.
#pragma once
#include <string>
#include <vector>
#include "llmc/files/model_files.h"
#include "llmc/model/adapter_config.h"
#include "llmc/model/tensors.h"

bool is_adapter_directory(const std::string& dir);
// Error names a field that makes it another kind of adapter than ours (LoRA on the linear layers of GPT-2's blocks).
AdapterInfo read_adapter_config(const std::string& dir, const ModelConfig& config);
// The adapter that `what` names, a directory of one or of a run that trained one, over a model of this shape. UsageError:
// it is none.
AdapterInfo find_adapter(const std::string& what, const ModelConfig& config);
// The model that adapter_config.json names, before anything else of it is read.
std::string adapter_base(const std::string& dir);

// Its matrices into `tensors`, whose table is that of lora.h. Error names the file and the tensor that is missing, of
// another shape (an adapter of another model), or not finite.
void load_adapter(const std::string& dir, const ModelTensors& tensors);
// Adds the adapter's products to the weights of the model that is loaded in `model`, as if it had been trained with them.
void merge_adapter(const AdapterInfo& adapter, const ModelConfig& config, const ModelTensors& model);

// Writes both files, and the vocabulary (if not null), into the existing directory `dir`.
std::vector<WrittenFile> write_adapter_directory(const std::string& dir, const AdapterInfo& adapter,
                                                 const ModelConfig& config, const ModelTensors& tensors,
                                                 const Tokenizer* tokenizer);
// What PEFT puts in front of the model's names.
inline constexpr char kAdapterPrefix[] = "base_model.model.";
