// Token shards: files of token ids, in llm.c's format and a wider one.
//
//   int32 header[256]: magic, version, number of tokens, zeros.  Magic 20240520, version 1: then uint16 ids (vocabulary
//   up to 65,536); magic 20240801, version 7: then uint32 ids (vocabulary up to 2^31). Little endian.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// A shard, mapped read-only. Header, file length and the ids of its first 16 MiB are checked at open, later ids as they
// are read; Error names the file, what is wrong, and the remedy. `vocab_size` 0: any id that fits an int will do.
class Shard {
  public:
    Shard(const std::string& path, int vocab_size);
    ~Shard();
    Shard(Shard&&) noexcept;
    Shard(const Shard&) = delete;
    const std::string& path() const { return path_; }
    int64_t size() const { return tokens_; }  // number of tokens
    // Tokens [offset, offset + n), fewer at the end; returns how many. Error if an id >= vocab_size.
    int64_t read(int64_t offset, int64_t n, int* out) const;
    void prefetch(int64_t offset, int64_t n) const;  // madvise(WILLNEED)
  private:
    void check_range(int64_t offset, int64_t n) const;
    void forget() const;  // pages that were read stay in the kernel's cache, and are no longer this process's memory
    std::string path_;
    int vocab_size_ = 0, token_bytes_ = 2;
    int64_t tokens_ = 0;
    void* map_ = nullptr;
    size_t map_bytes_ = 0;
};

// Writes one shard: to PATH.tmp, renamed to PATH by close() when it is whole and on disk. Destroyed without close():
// the temporary file is removed. Full disk and the like: Error.
class ShardWriter {
  public:
    ShardWriter(const std::string& path, int vocab_size);
    ~ShardWriter();
    ShardWriter(const ShardWriter&) = delete;
    void write(const int* ids, int64_t n);
    void close();
    int64_t size() const { return tokens_; }

  private:
    std::string path_, temporary_;
    int token_bytes_ = 2, fd_ = -1;
    int64_t tokens_ = 0;
    void flush();
    std::vector<char> buffer_;
};

// A directory of ./tokenize in a data set's, of which the files are moved there; see dataset_writer.h.
inline constexpr const char* kPublication = "/.tokenize-publish";

// Expands file names, directories (their *train*.bin, or *val*.bin if `option` begins with --val; all *.bin if no file
// has such a name) and globs ("data/x/train_*.bin", quoted or not), each pattern's matches sorted. Error if a pattern
// matches nothing; it names `option` and, for the default data, the command that makes it (`make data`).
std::vector<std::string> expand_shards(const std::vector<std::string>& patterns, const std::string& option);

// The vocabulary beside the shards: the first of their directories that has one, else ""
// (GPT-2's, 50,257 tokens). Error if shards of different vocabularies are mixed.
std::string vocabulary_dir(const std::vector<std::string>& shards);
