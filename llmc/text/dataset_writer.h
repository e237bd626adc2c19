// A data set in the making: token shards and vocabulary, written aside and published when all of it is whole.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>
#include "llmc/text/shards.h"

// A directory inside `output` for what is being written; it goes away with its contents if the run fails.
class Staging {
  public:
    explicit Staging(const std::string& output);  // makes `output` if need be
    ~Staging();
    Staging(const Staging&) = delete;
    const std::string& path() const { return path_; }
    void publish(const std::string& name) const;  // moves a file to the output, where it replaces one of that name

  private:
    std::string output_, path_;
};

std::string shard_name(const char* split, int64_t number);         // "train_000000.bin"
std::vector<std::string> existing_shards(const std::string& dir);  // train_*.bin and val_*.bin in it, sorted

// The shards of one split ("train", "val"), begun and ended as tokens come.
class SplitWriter {
  public:
    SplitWriter(std::string dir, const char* split, int vocab_size, int64_t shard_tokens)
        : dir_(std::move(dir)), split_(split), vocab_size_(vocab_size), shard_tokens_(shard_tokens) {}
    void write(const int* ids, int64_t n);
    void finish();  // the last shard; after it no more tokens come
    // Moves the last tokens to `to`, once both have their shards in one directory and this one is finished: about
    // `wanted` of them, from the start of a document if one starts within half of that around the wanted place, else
    // from exactly there. So one long document works as well as many, and nothing is in both. end_of_text: the token
    // that stands before each document.
    void move_tail(SplitWriter& to, int64_t wanted, int end_of_text);
    int64_t tokens() const { return tokens_; }
    const std::vector<std::string>& names() const { return names_; }  // of the shards in dir

  private:
    std::string dir_;
    const char* split_;
    int vocab_size_;
    int64_t shard_tokens_, tokens_ = 0;
    std::optional<ShardWriter> shard_;
    std::vector<std::string> names_;
};
