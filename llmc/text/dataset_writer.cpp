#include "llmc/text/dataset_writer.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include "llmc/base/error.h"

namespace fs = std::filesystem;

Staging::Staging(const std::string& output) : output_(output) {
    std::error_code error;
    fs::create_directories(output, error);
    path_ = output + "/.tokenize-XXXXXX";
    if (error || !mkdtemp(path_.data()))
        throw Error(
            strf("%s: cannot write there: %s", output.c_str(), error ? error.message().c_str() : std::strerror(errno)));
}
Staging::~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    fs::remove(output_, ignored);  // only if it is empty
}
void Staging::publish(const std::string& name) const {
    std::error_code error;
    fs::rename(path_ + "/" + name, output_ + "/" + name, error);
    if (error) throw Error(strf("%s/%s: cannot write: %s", output_.c_str(), name.c_str(), error.message().c_str()));
}

std::string shard_name(const char* split, int64_t number) {
    return strf("%s_%06lld.bin", split, static_cast<long long>(number));
}

std::vector<std::string> existing_shards(const std::string& dir) {
    std::vector<std::string> names;
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(dir, error)) {
        const std::string name = entry.path().filename().string();
        if (name.ends_with(".bin") && (name.starts_with("train_") || name.starts_with("val_"))) names.push_back(name);
    }
    std::sort(names.begin(), names.end());
    return names;
}

void SplitWriter::write(const int* ids, int64_t n) {
    while (n > 0) {
        if (!shard_) shard_.emplace(dir_ + "/" + shard_name(split_, static_cast<int64_t>(names_.size())), vocab_size_);
        const int64_t part = std::min(n, shard_tokens_ - shard_->size());
        shard_->write(ids, part);
        tokens_ += part;
        ids += part;
        n -= part;
        if (shard_->size() == shard_tokens_) finish();
    }
}

void SplitWriter::finish() {
    if (!shard_) return;
    shard_->close();
    shard_.reset();
    names_.push_back(shard_name(split_, static_cast<int64_t>(names_.size())));
}

void SplitWriter::move_tail(SplitWriter& to, int64_t wanted, int end_of_text) {
    constexpr int64_t kBlock = 1 << 20;
    const int64_t total = tokens_, place = total - wanted;
    const int64_t low = std::max<int64_t>(1, place - wanted / 2), high = std::min(total - 1, place + wanted / 2);
    std::vector<int> block(static_cast<size_t>(kBlock));
    // Calls what(first, n) with block[0, n) = tokens [first, first + n), over [begin, end).
    const auto scan = [&](int64_t begin, int64_t end, auto what) {
        for (int64_t first = begin; first < end;) {
            const Shard shard(dir_ + "/" + names_[static_cast<size_t>(first / shard_tokens_)], vocab_size_);
            for (const int64_t stop = std::min(end, (first / shard_tokens_ + 1) * shard_tokens_); first < stop;) {
                const int64_t n = shard.read(first % shard_tokens_, std::min(kBlock, stop - first), block.data());
                what(first, n);
                first += n;
            }
        }
    };
    int64_t cut = -1;  // the start of a document that is nearest to `place`
    scan(low, high + 1, [&](int64_t first, int64_t n) {
        for (int64_t i = 0; i < n; ++i)
            if (block[static_cast<size_t>(i)] == end_of_text &&
                (cut < 0 || std::abs(first + i - place) < std::abs(cut - place)))
                cut = first + i;
    });
    if (cut < 0) cut = place;
    scan(cut, total, [&](int64_t, int64_t n) { to.write(block.data(), n); });
    to.finish();
    // What is left of the shard with the cut in it is written again; the shards after it go.
    SplitWriter rest(dir_, "rest", vocab_size_, shard_tokens_);
    scan(cut / shard_tokens_ * shard_tokens_, cut, [&](int64_t, int64_t n) { rest.write(block.data(), n); });
    rest.finish();
    while (static_cast<int64_t>(names_.size()) > cut / shard_tokens_) {
        fs::remove(dir_ + "/" + names_.back());
        names_.pop_back();
    }
    if (rest.tokens() > 0) {
        names_.push_back(shard_name(split_, cut / shard_tokens_));
        fs::rename(dir_ + "/" + rest.names_[0], dir_ + "/" + names_.back());
    }
    tokens_ = cut;
}
