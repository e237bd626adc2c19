#include "llmc/text/dataloader.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include "llmc/base/error.h"
#include "llmc/text/permutation.h"

namespace fs = std::filesystem;

Windows::Windows(const std::vector<std::string>& shards, int T, int vocab_size, bool shuffle, uint64_t seed)
    : T_(T), shuffle_(shuffle), seed_(seed) {
    CHECK(T >= 1, "T=%d", T);
    // Sorted by file name, and each file once: what a run sees does not depend on how its files were listed, nor on the
    // directory that they lie in.
    std::vector<std::array<std::string, 3>> files;  // name, canonical path, path as given
    for (const std::string& path : shards) {
        std::error_code ignored;  // of a file that is not there; Shard says so
        files.push_back({fs::path(path).filename(), fs::weakly_canonical(path, ignored), path});
    }
    std::sort(files.begin(), files.end());
    std::set<std::string> seen;
    int64_t longest = 0;
    std::string longest_path;
    for (const auto& [name, canonical, path] : files) {
        if (!seen.insert(canonical).second) continue;
        Shard shard(path, vocab_size);
        if (shard.size() > longest) longest = shard.size(), longest_path = path;
        if (shard.size() <= T) continue;  // too short for one window
        windows_.push_back((shard.size() - 1) / T);
        samples_ += windows_.back();
        shards_.push_back(std::move(shard));
    }
    if (shards.empty())
        throw Error("no token shards were given; name some with --train-data and --val-data, or run make data");
    if (samples_ == 0)
        throw Error(strf(
            "no shard holds the %d tokens that --seq-len %d needs (the longest, %s, has %lld); give more text or a "
            "smaller --seq-len",
            T + 1, T, longest_path.c_str(), static_cast<long long>(longest)));
}

int64_t Windows::tokens() const {
    int64_t sum = 0;
    for (const Shard& shard : shards_) sum += shard.size();
    return sum;
}

void Windows::locate(int64_t index, int* shard, int64_t* offset) const {
    CHECK(index >= 0, "sample %lld", static_cast<long long>(index));
    const int64_t epoch = index / samples_;
    int64_t rest = index % samples_;
    const int64_t shards = static_cast<int64_t>(shards_.size());
    for (int64_t i = 0; i < shards; i++) {
        const int64_t s = shuffle_ ? permute(i, shards, seed_, epoch, 0) : i;
        const int64_t windows = windows_[static_cast<size_t>(s)];
        if (rest >= windows) {
            rest -= windows;
            continue;
        }
        *shard = static_cast<int>(s);
        *offset = (shuffle_ ? permute(rest, windows, seed_, epoch, static_cast<uint32_t>(s) + 1) : rest) * T_;
        return;
    }
    CHECK(false, "sample %lld lies in no shard", static_cast<long long>(index));
}

Batch Windows::read(int64_t first, int n) const {
    Batch batch{first, n, T_, {}, {}, {}, {}};
    const size_t T = static_cast<size_t>(T_), size = static_cast<size_t>(n) * T;
    batch.inputs.resize(size), batch.targets.resize(size);
    std::vector<int> window(T + 1);
    for (int b = 0; b < n; b++) {
        int shard = 0;
        int64_t offset = 0;
        locate(first + b, &shard, &offset);
        shards_[static_cast<size_t>(shard)].read(offset, T_ + 1, window.data());
        std::copy_n(window.begin(), T, batch.inputs.begin() + b * T_);
        std::copy_n(window.begin() + 1, T, batch.targets.begin() + b * T_);
    }
    return batch;
}

const Batch& DataLoader::load(int64_t first, int n, int64_t next_first) {
    CHECK(n >= 0, "n=%d", n);
    if (next_.valid() && next_first_ == first && next_n_ == n) {
        current_ = next_.get();  // throws what the background thread threw
    } else {
        if (next_.valid()) next_.wait();  // read in vain; its errors concern nobody
        next_ = {};
        current_ = rows_->read(first, n);
    }
    if (next_first >= 0) {
        next_first_ = next_first, next_n_ = n;
        next_ = std::async(std::launch::async, [this, next_first, n] { return rows_->read(next_first, n); });
    }
    return current_;
}
