// Adapters in and out, in PEFT's form: a directory with adapter_config.json and adapter_model.safetensors. Prompts are PEFT's
// PROMPT_TUNING, of which it puts all in front of a text; prompts that a template has elsewhere are of use here alone. While
// they come out of an encoder, that has a file of its own, prompt_encoder.safetensors, which only a resume needs.
#pragma once
#include <string>
#include <vector>
#include "llmc/files/model_files.h"
#include "llmc/model/adapter_config.h"
#include "llmc/model/tensors.h"

bool is_adapter_directory(const std::string& dir);
// Error names a field that makes it another kind of adapter than ours (LoRA on the linear layers of GPT-2's blocks, or
// prompts).
AdapterInfo read_adapter_config(const std::string& dir, const ModelConfig& config);
// The adapter that `what` names, a directory of one or of a run that trained one, over a model of this shape. UsageError:
// it is none.
AdapterInfo find_adapter(const std::string& what, const ModelConfig& config);
// The model that adapter_config.json names, before anything else of it is read.
std::string adapter_base(const std::string& dir);

// Its matrices into `tensors`, whose table is that of model/adapter.h. Error names the file and the tensor that is missing, of
// another shape (an adapter of another model), or not finite.
void load_adapter(const std::string& dir, const ModelTensors& tensors);
// Adds the adapter's products to the weights of the model that is loaded in `model`, as if it had been trained with them; its
// head to the model's row of that name, if there is one. UsageError: it is one of prompts.
void merge_adapter(const AdapterInfo& adapter, const ModelConfig& config, const ModelTensors& model);

// Writes both files, and the vocabulary (if not null), into the existing directory `dir`.
std::vector<WrittenFile> write_adapter_directory(const std::string& dir, const AdapterInfo& adapter,
                                                 const ModelConfig& config, const ModelTensors& tensors,
                                                 const Tokenizer* tokenizer);
// What PEFT calls a row of the table: prompt_embeddings, or base_model.model. and the model's name for it.
std::string adapter_tensor_name(const Parameter& p);
