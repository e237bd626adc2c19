// A model directory's config.json, which is transformers' GPT2Config, and the small files beside it that are like it.
#pragma once
#include <string>
#include "llmc/model/config.h"

// The architecture in DIR/config.json: the fields of the table in model/config.h. Error names the field that is missing,
// impossible, or of another model than ours.
ModelConfig read_model_config(const std::string& dir);

// The texts of config.json, generation_config.json and tokenizer_config.json. end_of_text: the id of the token that
// separates documents; -1: none is known.
std::string config_json(const ModelConfig& config, bool bf16, int end_of_text);
std::string generation_config_json(int end_of_text);
std::string tokenizer_config_json(const ModelConfig& config);
