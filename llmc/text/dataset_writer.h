// A data set in the making: token shards and vocabulary, written aside and published when all of it is whole.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>
#include "llmc/text/shards.h"

// A directory for what is being written; it goes away with its contents if the run fails. It stands beside `output`,
// and becomes it, if there is none; else it stands in it. A lock on it says that its run is alive: what dead runs left
// is cleared by the next one.
class Staging {
  public:
    explicit Staging(const std::string& output);
    ~Staging();
    Staging(const Staging&) = delete;
    const std::string& path() const { return path_; }
    // Makes all files in path() the data set in `output`, in place of the shards there and of files of the same names.
    // Either that is done or nothing: one rename decides, and what is left to do after it, finish_publication does.
    void publish();

  private:
    std::string output_, home_, path_;
    int lock_ = -1;
};

// Goes on where a run ended while its files went to `output`; no effect where none did.
void finish_publication(const std::string& output);

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
