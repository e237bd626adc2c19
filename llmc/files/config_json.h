// A model directory's config.json, which is transformers' GPT2Config, and generation_config.json.
#pragma once
#include <string>
#include "llmc/model/config.h"

// The architecture in DIR/config.json: the fields of the table in model/config.h. Error names the field that is missing,
// impossible, or of another model than ours.
ModelConfig read_model_config(const std::string& dir);

// Their texts. begin_of_text, end_of_text: ids of the tokens that begin and end a document; -1: none is known.
std::string config_json(const ModelConfig& config, bool bf16, int begin_of_text, int end_of_text);
std::string generation_config_json(int begin_of_text, int end_of_text);
