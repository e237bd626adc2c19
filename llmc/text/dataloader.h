// Deals windows of T + 1 tokens from shards: inputs are tokens [0, T), targets [1, T + 1) of a window.
//
// The order is a pure function of (seed, number of the sample): shards are permuted anew each epoch, and so are the
// windows inside a shard. A position in the data is therefore one number; resuming needs nothing else, and N ranks see
// the same samples as one. The permutation is a small-domain Feistel cipher keyed by Philox (Black & Rogaway 2002),
// cycle-walked: no table, whatever the size of the data.
#pragma once
#include <cstdint>
#include <future>
#include <string>
#include <vector>
#include "llmc/model/batch.h"
#include "llmc/text/shards.h"

class DataLoader {
  public:
    // Shards are taken in the order of their file names, each once, however they were listed; those with fewer than T +
    // 1 tokens are passed over. shuffle = false: windows in that order, for validation. Error: no shard is long enough,
    // bad shard or id.
    DataLoader(const std::vector<std::string>& shards, int T, int vocab_size, bool shuffle, uint64_t seed);
    DataLoader(const DataLoader&) = delete;  // the background thread refers to this object
    int64_t samples_per_epoch() const { return samples_; }
    int64_t tokens() const;  // of the shards in use
    // The samples [first, first + n); numbers beyond samples_per_epoch() are those of the next epochs. While the caller
    // works on them, the n from `next_first` on are read in the background; an error there is thrown by the load() that
    // asks for them.
    const Batch& load(int64_t first, int n, int64_t next_first = -1);
    // Where sample number `index` lies: shard and first token (each epoch is a permutation of all windows).
    void locate(int64_t index, int* shard, int64_t* offset) const;

  private:
    Batch read(int64_t first, int n) const;
    std::vector<Shard> shards_;
    std::vector<int64_t> windows_;  // windows of each shard
    int T_;
    int64_t samples_ = 0;
    bool shuffle_;
    uint64_t seed_;
    Batch current_;
    std::future<Batch> next_;
    int64_t next_first_ = -1;
    int next_n_ = 0;
};
