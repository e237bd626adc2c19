// Rows of data, those of the next step read while this one works.
#pragma once
#include <cstdint>
#include <future>
#include <memory>
#include <string>
#include <vector>
#include "llmc/text/rows.h"
#include "llmc/text/shards.h"

// Windows of T + 1 tokens from shards: inputs are tokens [0, T), targets [1, T + 1) of a window. Shards are permuted anew
// each epoch, and so are the windows inside a shard (permutation.h).
class Windows : public Rows {
  public:
    // Shards are taken in the order of their file names, each once, however they were listed; those with fewer than T +
    // 1 tokens are passed over. shuffle = false: windows in that order, for validation. Error: no shard is long enough,
    // bad shard or id.
    Windows(const std::vector<std::string>& shards, int T, int vocab_size, bool shuffle, uint64_t seed);
    Batch read(int64_t first, int n) const override;
    int64_t epoch_begin(int64_t epoch) const override { return epoch * samples_; }
    double weight(int64_t, int64_t n) const override { return static_cast<double>(n * T_); }
    int64_t tokens() const override;  // of the shards in use
    // Where window number `index` lies: shard and first token (each epoch is a permutation of all windows).
    void locate(int64_t index, int* shard, int64_t* offset) const;

  private:
    std::vector<Shard> shards_;
    std::vector<int64_t> windows_;  // of each shard
    int T_;
    int64_t samples_ = 0;
    bool shuffle_;
    uint64_t seed_;
};

class DataLoader {
  public:
    explicit DataLoader(std::shared_ptr<const Rows> rows) : rows_(std::move(rows)) {}
    DataLoader(const std::vector<std::string>& shards, int T, int vocab_size, bool shuffle, uint64_t seed)
        : DataLoader(std::make_shared<Windows>(shards, T, vocab_size, shuffle, seed)) {}
    DataLoader(const DataLoader&) = delete;  // the background thread refers to this object
    const Rows& rows() const { return *rows_; }
    int64_t samples_per_epoch() const { return rows_->epoch_begin(1); }  // of the first
    // The rows [first, first + n). While the caller works on them, the n from `next_first` on are read in the background;
    // an error there is thrown by the load() that asks for them.
    const Batch& load(int64_t first, int n, int64_t next_first = -1);

  private:
    std::shared_ptr<const Rows> rows_;
    Batch current_;
    std::future<Batch> next_;
    int64_t next_first_ = -1;
    int next_n_ = 0;
};
