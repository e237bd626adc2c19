// A model directory's config.json, which is transformers' GPT2Config, and generation_config.json.
#pragma once
#include <string>
#include <vector>
#include "llmc/model/config.h"

// The architecture in DIR/config.json: the fields of the table in model/config.h. Error names the field that is missing,
// impossible, or of another model than ours.
ModelConfig read_model_config(const std::string& dir);

// Their texts. dtype: of the weights, as safetensors has it. begin: the token that a document begins with; -1: none is known. ends: those at which the model stops.
std::string config_json(const ModelConfig& config, const std::string& dtype, int begin, const std::vector<int>& ends);
std::string generation_config_json(int begin, const std::vector<int>& ends);
