#include "llmc/text/dataset_writer.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <sstream>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;

namespace {

constexpr const char* kNames = "/names";  // a file with the names of all that is published

[[noreturn]] void cannot_write(const std::string& path, const std::string& why) {
    throw Error(strf("%s: cannot write there: %s", path.c_str(), why.c_str()));
}

// Locks a directory of a run; -1 if it is locked, or cannot be.
int lock_directory(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) == 0) return fd;
    close(fd);
    return -1;
}

void clear_dead_runs(const std::string& home) {
    std::error_code ignored;
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(home, ignored))
        if (entry.path().filename().string().starts_with(".tokenize-")) found.push_back(entry.path().string());
    for (const std::string& path : found) {
        if (path == home + kPublication) continue;
        const int fd = lock_directory(path);
        if (fd < 0) continue;
        fs::remove_all(path, ignored);
        close(fd);
    }
}

std::string parent_of(const std::string& path) {
    const std::string parent = fs::path(path).parent_path().string();
    return parent.empty() ? "." : parent;
}

}  // namespace

Staging::Staging(const std::string& output) : output_(output) {
    while (output_.size() > 1 && output_.back() == '/') output_.pop_back();
    const bool there = fs::exists(output_);
    home_ = there ? output_ : parent_of(output_);
    std::error_code error;
    fs::create_directories(home_, error);
    if (error) cannot_write(output, error.message());
    clear_dead_runs(parent_of(output_));
    if (there) clear_dead_runs(output_);
    path_ = home_ + "/.tokenize-XXXXXX";
    if (!mkdtemp(path_.data())) cannot_write(output, std::strerror(errno));
    lock_ = lock_directory(path_);
    const mode_t mask = umask(0);
    umask(mask);
    chmod(path_.c_str(), 0777 & ~mask);  // it may become the output; mkdtemp made it for its owner alone
}

Staging::~Staging() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    if (lock_ >= 0) close(lock_);
}

void Staging::publish() {
    std::error_code error;
    if (home_ == output_) {
        std::string names;
        for (const auto& entry : fs::directory_iterator(path_)) names += entry.path().filename().string() + "\n";
        write_file(path_ + kNames, names);
    }
    sync_directory(path_);
    fs::rename(path_, home_ == output_ ? output_ + kPublication : output_, error);
    if (error) cannot_write(output_, error.message());
    sync_directory(home_);
    finish_publication(output_);
}

void finish_publication(const std::string& output) {
    const std::string from = output + kPublication;
    if (!path_exists(from)) return;
    std::vector<std::string> names;
    if (path_exists(from + kNames)) {
        std::istringstream list(read_file(from + kNames));
        for (std::string name; std::getline(list, name);) names.push_back(name);
        const auto among = [&](const std::string& name) {
            return std::find(names.begin(), names.end(), name) != names.end();
        };
        for (const std::string& old : existing_shards(output))
            if (!among(old)) fs::remove(output + "/" + old);
        if (std::any_of(std::begin(kVocabularyFiles), std::end(kVocabularyFiles), among))  // one vocabulary, not two
            for (const std::string old : kVocabularyFiles)
                if (!among(old)) fs::remove(output + "/" + old);
        for (const std::string& name : names)
            if (path_exists(from + "/" + name)) fs::rename(from + "/" + name, output + "/" + name);
        sync_directory(output);
    }
    fs::remove_all(from);
}

std::string shard_name(const char* split, int64_t number) {
    return strf("%s_%06lld.bin", split, static_cast<long long>(number));
}

std::vector<std::string> existing_shards(const std::string& dir) {
    std::vector<std::string> names;
    for (const std::string& name : names_in(dir))
        if (name.ends_with(".bin") && (name.starts_with("train_") || name.starts_with("val_"))) names.push_back(name);
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
