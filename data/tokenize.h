// The commands of ./tokenize, and what its command line says.
#pragma once
#include <cstdint>
#include <string>
#include <vector>
#include "llmc/text/reader.h"

struct TokenizeOptions {
    std::vector<std::string> inputs, val_inputs;
    std::string output, vocab, extend, chat_template;
    ReaderOptions reading;
    bool force = false;
    double val_fraction = 0.05;
    int64_t val_tokens = -1, shard_tokens = 100'000'000;  // val_tokens: -1: by the fraction
    int vocab_size = 2048, threads = 0;
};

void train_vocabulary(const TokenizeOptions& options);  // text -> vocab.json and merges.txt
void encode_text(const TokenizeOptions& options);       // text -> train_*.bin and val_*.bin
void write_examples(const TokenizeOptions& options);    // JSON -> train.examples and val.examples
void decode_shards(const TokenizeOptions& options);     // shards -> text on standard output
void bench_encoding(const TokenizeOptions& options);    // speed, for dev/bench/bench_tokenizer.sh
