#include "llmc/text/shards.h"

#include <fcntl.h>
#include <fnmatch.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;

namespace {

constexpr int kHeaderInts = 256, kHeaderBytes = kHeaderInts * 4;
constexpr int32_t kMagic16 = 20240520, kVersion16 = 1;
constexpr int32_t kMagic32 = 20240801, kVersion32 = 7;
constexpr int32_t kMagicModel = 20240326, kMagicState = 20240327;  // llm.c's other .bin files
constexpr size_t kWriteBuffer = 1 << 20;
// Up to this size all ids are looked at when a shard is opened (about 2 ms); those of a larger one are checked as they
// are read.
constexpr int64_t kCheckAtOpenBytes = 16 << 20;

std::string reason(int error) { return std::strerror(error); }

template <typename T>
int64_t largest(const T* ids, int64_t n) {  // a loop that the compiler vectorises
    T top = 0;
    for (int64_t i = 0; i < n; ++i) top = std::max(top, ids[i]);
    return top;
}

// Same merges, same tokenizer: FNV-1a of them, a line each.
uint64_t merges_hash(const std::string& dir) {
    uint64_t hash = 14695981039346656037ull;
    for (unsigned char c : merges_text(dir)) hash = (hash ^ c) * 1099511628211ull;
    return hash;
}
constexpr uint64_t kGpt2MergesHash = 0xe9cb995b5ed1931eull;

fs::path parent(const std::string& path) {
    const fs::path dir = fs::path(path).parent_path();
    return dir.empty() ? fs::path(".") : dir;
}

}  // namespace

Shard::Shard(const std::string& path, int vocab_size) : path_(path), vocab_size_(vocab_size) {
    const char* name = path.c_str();
    const int fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);  // a FIFO must not hold us
    if (fd < 0) throw Error(strf("%s: cannot open token shard: %s", name, reason(errno).c_str()));
    struct stat info {};
    const int failed = fstat(fd, &info);
    if (failed || !S_ISREG(info.st_mode)) {
        close(fd);
        throw Error(strf("%s: not a token shard (not a regular file)", name));
    }
    const int64_t bytes = info.st_size;
    if (bytes < kHeaderBytes) {
        close(fd);
        throw Error(
            strf("%s: not a token shard, or cut short: %lld bytes, but its header alone is %d; write it again with "
                 "./tokenize or fetch it again",
                 name, static_cast<long long>(bytes), kHeaderBytes));
    }
    map_bytes_ = static_cast<size_t>(bytes);
    map_ = mmap(nullptr, map_bytes_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int map_error = errno;
    close(fd);
    if (map_ == MAP_FAILED) {
        map_ = nullptr;
        throw Error(strf("%s: cannot map token shard: %s", name, reason(map_error).c_str()));
    }
    try {
        int32_t header[3];
        std::memcpy(header, map_, sizeof(header));
        if (header[0] == kMagicModel || header[0] == kMagicState)
            throw Error(
                strf("%s: this is an llm.c %s file, not a token shard; give it to --model, or give train_*.bin here",
                     name, header[0] == kMagicModel ? "model" : "debug state"));
        if (header[0] != kMagic16 && header[0] != kMagic32)
            throw Error(strf("%s: not a token shard: magic number %d, expected %d or %d; write shards with ./tokenize",
                             name, header[0], kMagic16, kMagic32));
        const int version = header[0] == kMagic16 ? kVersion16 : kVersion32;
        if (header[1] != version)
            throw Error(
                strf("%s: token shard of version %d, expected version %d with magic number %d; write it again with "
                     "./tokenize",
                     name, header[1], version, header[0]));
        token_bytes_ = header[0] == kMagic16 ? 2 : 4;
        tokens_ = header[2];
        if (tokens_ <= 0)
            throw Error(strf("%s: token shard says that it holds %lld tokens; remove it or write it again", name,
                             static_cast<long long>(tokens_)));
        const int64_t expected = kHeaderBytes + tokens_ * token_bytes_;
        if (bytes != expected)
            throw Error(strf(
                "%s: token shard is %s: %lld bytes, but %lld tokens of %d bytes need %lld; fetch or write it again",
                name, bytes < expected ? "cut short" : "too long", static_cast<long long>(bytes),
                static_cast<long long>(tokens_), token_bytes_, static_cast<long long>(expected)));
        const int64_t part = std::min(tokens_, kCheckAtOpenBytes / token_bytes_);
        check_range(0, part);
        forget();
    } catch (...) {
        munmap(map_, map_bytes_);
        throw;
    }
}

Shard::~Shard() {
    if (map_) munmap(map_, map_bytes_);
}

Shard::Shard(Shard&& other) noexcept
    : path_(std::move(other.path_)),
      vocab_size_(other.vocab_size_),
      token_bytes_(other.token_bytes_),
      tokens_(std::exchange(other.tokens_, 0)),
      map_(std::exchange(other.map_, nullptr)),
      map_bytes_(std::exchange(other.map_bytes_, 0)) {}

void Shard::check_range(int64_t offset, int64_t n) const {
    const char* data = static_cast<const char*>(map_) + kHeaderBytes + offset * token_bytes_;
    const int64_t top = token_bytes_ == 2 ? largest(reinterpret_cast<const uint16_t*>(data), n)
                                          : largest(reinterpret_cast<const uint32_t*>(data), n);
    const int64_t limit = vocab_size_ > 0 ? vocab_size_ : int64_t{1} << 31;  // ids are ints
    if (top >= limit)
        throw Error(
            strf("%s: token id %lld in tokens %lld to %lld, but the vocabulary has %lld; use the vocabulary that the "
                 "shard was written with, or write it again",
                 path_.c_str(), static_cast<long long>(top), static_cast<long long>(offset),
                 static_cast<long long>(offset + n - 1), static_cast<long long>(limit)));
}

int64_t Shard::read(int64_t offset, int64_t n, int* out) const {
    CHECK(offset >= 0 && n >= 0, "offset=%lld n=%lld", static_cast<long long>(offset), static_cast<long long>(n));
    n = std::min(n, std::max<int64_t>(0, tokens_ - offset));
    if (n == 0) return 0;
    check_range(offset, n);
    const char* data = static_cast<const char*>(map_) + kHeaderBytes + offset * token_bytes_;
    if (token_bytes_ == 2) {
        const auto* ids = reinterpret_cast<const uint16_t*>(data);
        std::copy(ids, ids + n, out);
    } else {
        std::memcpy(out, data, static_cast<size_t>(n) * sizeof(int));
    }
    forget();
    return n;
}

void Shard::forget() const { madvise(map_, map_bytes_, MADV_DONTNEED); }

void Shard::prefetch(int64_t offset, int64_t n) const {
    offset = std::clamp<int64_t>(offset, 0, tokens_);
    n = std::clamp<int64_t>(n, 0, tokens_ - offset);
    if (n == 0) return;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t begin = static_cast<size_t>(kHeaderBytes + offset * token_bytes_) / page * page;
    const size_t end = static_cast<size_t>(kHeaderBytes + (offset + n) * token_bytes_);
    madvise(static_cast<char*>(map_) + begin, end - begin, MADV_WILLNEED);  // a hint: its failure does not matter
}

ShardWriter::ShardWriter(const std::string& path, int vocab_size)
    : path_(path), temporary_(path + ".tmp"), token_bytes_(vocab_size > 65536 ? 4 : 2) {
    unlink(temporary_.c_str());  // what a dead process left
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd_ < 0) throw Error(strf("%s: cannot write token shard: %s", temporary_.c_str(), reason(errno).c_str()));
    buffer_.reserve(2 * kWriteBuffer);
    buffer_.assign(kHeaderBytes, 0);  // the header's place; close() fills it in
}

ShardWriter::~ShardWriter() {
    if (fd_ < 0) return;
    ::close(fd_);
    unlink(temporary_.c_str());
}

void ShardWriter::write(const int* ids, int64_t n) {
    CHECK(fd_ >= 0, "shard %s is closed", path_.c_str());
    if (tokens_ + n > INT32_MAX)
        throw Error(strf("%s: more than 2^31 - 1 tokens in one shard; write smaller shards", path_.c_str()));
    uint32_t all = 0;
    for (int64_t i = 0; i < n; ++i) all |= static_cast<uint32_t>(ids[i]);
    CHECK(all <= (token_bytes_ == 4 ? uint32_t{INT32_MAX} : 65535u), "an id beyond the size of shard %s",
          path_.c_str());
    for (int64_t done = 0; done < n;) {
        const size_t part = std::min(static_cast<size_t>(n - done), kWriteBuffer / 4), at = buffer_.size();
        buffer_.resize(at + part * static_cast<size_t>(token_bytes_));
        if (token_bytes_ == 2) std::copy_n(ids + done, part, reinterpret_cast<uint16_t*>(buffer_.data() + at));
        else std::memcpy(buffer_.data() + at, ids + done, part * 4);
        done += static_cast<int64_t>(part);
        if (buffer_.size() >= kWriteBuffer) flush();
    }
    tokens_ += n;
}

void ShardWriter::flush() {
    for (size_t done = 0; done < buffer_.size();) {
        const ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) throw Error(strf("%s: cannot write token shard: %s", path_.c_str(), reason(errno).c_str()));
        done += static_cast<size_t>(n);
    }
    buffer_.clear();
    sync_file_range(fd_, 0, 0, SYNC_FILE_RANGE_WRITE);  // the disk begins: close() need not wait for all of it
}

void ShardWriter::close() {
    flush();
    int32_t header[kHeaderInts] = {};
    header[0] = token_bytes_ == 2 ? kMagic16 : kMagic32;
    header[1] = token_bytes_ == 2 ? kVersion16 : kVersion32;
    header[2] = static_cast<int32_t>(tokens_);
    if (pwrite(fd_, header, sizeof(header), 0) != kHeaderBytes || fsync(fd_) != 0)
        throw Error(strf("%s: cannot write token shard: %s", path_.c_str(), reason(errno).c_str()));
    const int fd = std::exchange(fd_, -1);
    if (::close(fd) != 0 || rename(temporary_.c_str(), path_.c_str()) != 0) {
        const int error = errno;
        unlink(temporary_.c_str());
        throw Error(strf("%s: cannot write token shard: %s", path_.c_str(), reason(error).c_str()));
    }
}

// Adds what matches a pattern: `rest` of it, below `dir` ("", or with a slash at its end). Directories that are there mean
// themselves, whatever characters are in their names. (Of a directory that cannot be read glob() says that it is empty.)
static void find_matches(const std::string& dir, const std::string& rest, std::vector<std::string>* found) {
    const size_t slash = rest.find('/');
    const std::string part = rest.substr(0, slash), after = slash == std::string::npos ? "" : rest.substr(slash + 1);
    if (slash != std::string::npos && is_directory(dir + part + "/"))
        return find_matches(dir + part + "/", after, found);
    if (part.find_first_of("*?[\\") == std::string::npos) return;
    for (const std::string& name : names_in(dir.empty() ? "." : dir)) {
        if (fnmatch(part.c_str(), name.c_str(), FNM_PERIOD) != 0) continue;
        if (slash == std::string::npos) found->push_back(dir + name);
        else if (is_directory(dir + name)) find_matches(dir + name + "/", after, found);
    }
}

std::vector<std::string> expand_shards(const std::vector<std::string>& patterns, const std::string& option) {
    std::vector<std::string> files;
    for (const std::string& pattern : patterns) {
        std::vector<std::string> found;
        if (is_directory(pattern)) {
            // Of a data set's directory each option takes its own part, of any other directory all shards.
            const bool val = option.rfind("--val", 0) == 0;
            const char *part = val ? "val" : "train", *other = val ? "train" : "val";
            bool other_there = false;
            std::vector<std::string> all;
            for (const std::string& name : names_in(pattern)) {
                if (fs::path(name).extension() != ".bin") continue;
                all.push_back(fs::path(pattern) / name);
                if (name.find(part) != std::string::npos) found.push_back(all.back());
                other_there |= name.find(other) != std::string::npos;
            }
            if (found.empty() && other_there)
                throw UsageError(
                    strf("%s: %s has the %s part of a data set only, no %s_*.bin; write it again with "
                         "./tokenize, or name the files that are meant",
                         option.c_str(), pattern.c_str(), other, part));
            if (found.empty()) found = all;
        } else if (path_exists(pattern)) {  // also a file whose name holds glob characters
            found.push_back(pattern);
        } else {
            find_matches("", pattern, &found);
        }
        if (found.empty()) {
            const bool ours = pattern.rfind("data/", 0) == 0 || pattern.rfind("dev/data/", 0) == 0;
            throw UsageError(
                strf("%s: no token shard matches %s; %s", option.c_str(), pattern.c_str(),
                     ours ? "`make data` writes the default data set, ./tokenize any other"
                          : "name files, a directory of *.bin files or a pattern; ./tokenize writes them from text"));
        }
        std::sort(found.begin(), found.end());
        for (const std::string& file : found)
            if (const std::string dir = parent(file).string(); path_exists(dir + kPublication))
                throw Error(
                    strf("%s: a ./tokenize that ended too early has not put all of its data set there; give "
                         "its command again, which does the rest",
                         dir.c_str()));
        files.insert(files.end(), found.begin(), found.end());
    }
    if (files.empty())
        throw UsageError(strf("%s: no token shards given; `make data` writes the default data set", option.c_str()));
    return files;
}

std::string vocabulary_dir(const std::vector<std::string>& shards) {
    std::string answer;
    uint64_t first_hash = 0;
    std::string last;
    for (size_t i = 0; i < shards.size(); ++i) {
        const std::string dir = parent(shards[i]);
        if (i > 0 && dir == last) continue;
        last = dir;
        const bool own = vocabulary_present(dir);
        const uint64_t hash = own ? merges_hash(dir) : kGpt2MergesHash;
        if (i == 0) {
            first_hash = hash;
            if (own) answer = dir;
        } else if (hash != first_hash) {
            throw Error(strf("%s and %s are tokenized with different vocabularies; use shards of one vocabulary",
                             shards[0].c_str(), shards[i].c_str()));
        } else if (answer.empty() && own) {
            answer = dir;  // GPT-2's, written out beside a later shard
        }
    }
    return answer;
}
