// What the commands sample and chat read and print.
#pragma once
#include <string>
#include <vector>
#include "llmc/run/options.h"
#include "llmc/text/generate.h"
#include "llmc/text/sampler.h"

SamplerOptions sampler_options(const Options& options);

// --prompt-file: the text of a file, or, of .jsonl, the "prompt" of each line.
std::vector<std::string> read_prompts(const std::string& path);

// The text of one sample as --json prints it, one line; tokens: each token with its log-probability, too;
// adapter: which wrote it, or "".
std::string sample_json(const std::string& prompt, int sample, const GrowingText& text, const Tokenizer& tokenizer,
                        bool tokens, const std::string& adapter);
