// llm.c's model files, model_*.bin, versions 3 (fp32) and 5 (bf16).
//
//   256 int32: magic 20240326, version, maxT, V, L, NH, C, Vp
//   then each kind of tensor for all layers in turn, weights of linear layers as (OC, C), wte with Vp rows
#pragma once
#include <string>
#include "llmc/model/config.h"
#include "llmc/model/tensors.h"

// Error says what else it may be, if it is no such file.
ModelConfig read_llmc_bin_config(const std::string& path);
// Loads the weights; Error: the file is of another model than `config` says, or has a NaN or an infinity.
void load_llmc_bin(const std::string& path, const ModelConfig& config, const ModelTensors& tensors);
