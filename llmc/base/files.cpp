#include "llmc/base/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#ifdef __SSE4_2__
#include <nmmintrin.h>
#endif

#include "llmc/base/error.h"

namespace {

[[noreturn]] void fail(const char* what, const std::string& path, int error) {
    throw Error(strf("cannot %s %s: %s", what, path.c_str(), strerror(error)));
}

// An open file that closes itself.
struct OpenFile {
    int fd;
    OpenFile(const std::string& path, int flags) : fd(open(path.c_str(), flags | O_CLOEXEC | O_NONBLOCK)) {
        if (fd < 0) fail("open", path, errno);  // not blocked: a FIFO, which nobody may write to, is refused later
    }
    ~OpenFile() { close(fd); }
    OpenFile(const OpenFile&) = delete;
};

// 0: nothing is there, nor could be by that name.
mode_t kind_of(const std::string& path, int (*look)(const char*, struct stat*)) {
    struct stat info {};
    if (look(path.c_str(), &info) == 0) return info.st_mode & S_IFMT;
    for (int nothing : {ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG})
        if (errno == nothing) return 0;
    fail("look at", path, errno);
}

size_t regular_file_size(int fd, const std::string& path) {
    struct stat info;
    if (fstat(fd, &info) != 0) fail("read", path, errno);
    if (!S_ISREG(info.st_mode)) throw Error(strf("cannot read %s: it is no regular file", path.c_str()));
    return static_cast<size_t>(info.st_size);
}

#ifndef __SSE4_2__
// Eight bytes at a time: tables[k][b] is the checksum of byte b followed by k zero bytes.   (Kounavis and Berry 2005)
constexpr auto kCrcTables = [] {
    std::array<std::array<uint32_t, 256>, 8> tables{};
    for (uint32_t b = 0; b < 256; b++) {
        uint32_t crc = b;
        for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0);
        tables[0][b] = crc;
    }
    for (size_t k = 1; k < 8; k++)
        for (size_t b = 0; b < 256; b++) tables[k][b] = (tables[k - 1][b] >> 8) ^ tables[0][tables[k - 1][b] & 255];
    return tables;
}();
#endif

}  // namespace

bool is_file(const std::string& path) { return kind_of(path, stat) == S_IFREG; }
bool is_directory(const std::string& path) { return kind_of(path, stat) == S_IFDIR; }
bool path_exists(const std::string& path) { return kind_of(path, lstat) != 0; }

std::vector<std::string> names_in(const std::string& dir) {
    namespace fs = std::filesystem;
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator it(dir, error), end; !error && it != end; it.increment(error))
        names.push_back(it->path().filename().string());
    if (error && error != std::errc::no_such_file_or_directory)
        throw Error(strf("cannot list %s: %s; make it readable, or choose another directory", dir.c_str(),
                         error.message().c_str()));
    return names;
}

uint32_t crc32c(uint32_t crc, const void* bytes, size_t n) {
    auto* p = static_cast<const unsigned char*>(bytes);
    crc = ~crc;
#ifdef __SSE4_2__
    uint64_t wide = crc;
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t word;
        memcpy(&word, p, 8);
        wide = _mm_crc32_u64(wide, word);
    }
    crc = static_cast<uint32_t>(wide);
    for (; n > 0; n--) crc = _mm_crc32_u8(crc, *p++);
#else
    auto& t = kCrcTables;
    for (; n >= 8; n -= 8, p += 8) {
        uint32_t low = crc ^ (p[0] | uint32_t{p[1]} << 8 | uint32_t{p[2]} << 16 | uint32_t{p[3]} << 24);
        crc = t[7][low & 255] ^ t[6][low >> 8 & 255] ^ t[5][low >> 16 & 255] ^ t[4][low >> 24] ^ t[3][p[4]] ^
              t[2][p[5]] ^ t[1][p[6]] ^ t[0][p[7]];
    }
    for (; n > 0; n--) crc = (crc >> 8) ^ t[0][(crc ^ *p++) & 255];
#endif
    return ~crc;
}

std::string crc32c_hex(uint32_t crc) { return strf("%08x", crc); }

std::string file_crc32c(const std::string& path) {
    OpenFile file(path, O_RDONLY);
    regular_file_size(file.fd, path);
    std::string buffer(size_t{1} << 20, '\0');
    uint32_t crc = 0;
    for (;;) {
        ssize_t n = read(file.fd, buffer.data(), buffer.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("read", path, errno);
        if (n == 0) return crc32c_hex(crc);
        crc = crc32c(crc, buffer.data(), static_cast<size_t>(n));
    }
}

void MappedFile::was_read(size_t bytes) const {
    constexpr size_t kOften = 4 << 20;
    if ((read_ += bytes) < kOften) return;
    read_ = 0;
    madvise(data_, size_, MADV_DONTNEED);
}

MappedFile::MappedFile(const std::string& path) {
    OpenFile file(path, O_RDONLY);
    size_ = regular_file_size(file.fd, path);
    if (size_ == 0) return;
    void* map = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd, 0);
    if (map == MAP_FAILED) fail("map", path, errno);
    data_ = static_cast<unsigned char*>(map);
}

MappedFile::~MappedFile() {
    if (data_) munmap(data_, size_);
}

std::string read_file(const std::string& path, size_t max_bytes) {
    OpenFile file(path, O_RDONLY);
    size_t size = regular_file_size(file.fd, path), have = 0;
    if (size > max_bytes)
        throw Error(strf("%s is %zu bytes long; at most %zu were expected", path.c_str(), size, max_bytes));
    std::string text(size, '\0');
    while (have < size) {
        ssize_t n = read(file.fd, text.data() + have, size - have);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("read", path, errno);
        if (n == 0) throw Error(strf("%s became shorter while it was read", path.c_str()));
        have += static_cast<size_t>(n);
    }
    return text;
}

FileWriter::FileWriter(const std::string& path) : path_(path) {
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd_ < 0) fail("create", path, errno);
    buffer_.reserve(size_t{1} << 20);
}

FileWriter::FileWriter(const std::string& path, int own_mode) : path_(path) {
    unlink(path.c_str());  // what a dead process left; a link goes, not what it leads to
    fd_ = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, own_mode);
    if (fd_ < 0) fail("create", path, errno);
    buffer_.reserve(size_t{1} << 20);
}

FileWriter::~FileWriter() {
    if (fd_ >= 0) ::close(fd_);
}

void FileWriter::write(const void* bytes, size_t n) {
    auto* p = static_cast<const char*>(bytes);
    while (n > 0) {
        size_t part = std::min(n, buffer_.capacity() - buffer_.size());
        buffer_.append(p, part);
        if (buffer_.size() == buffer_.capacity()) flush();
        p += part, n -= part;
    }
}

void FileWriter::flush() {
    crc_ = crc32c(crc_, buffer_.data(), buffer_.size());
    for (size_t done = 0; done < buffer_.size();) {
        ssize_t n = ::write(fd_, buffer_.data() + done, buffer_.size() - done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail("write", path_, errno);
        done += static_cast<size_t>(n);
    }
    buffer_.clear();
}

std::string FileWriter::close() {
    CHECK(fd_ >= 0, "%s is closed already", path_.c_str());
    flush();
    if (fsync(fd_) != 0) fail("write", path_, errno);
    if (::close(std::exchange(fd_, -1)) != 0) fail("write", path_, errno);
    return crc32c_hex(crc_);
}

std::string write_file(const std::string& path, const std::string& contents) {
    FileWriter file(path);
    file.write(contents.data(), contents.size());
    return file.close();
}

void open_standard_streams() {
    for (int fd = 0; fd < 3; fd++)  // open() takes the lowest number that is free
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0) return;
}

void replace_file(const std::string& path, const std::string& contents, int mode) {
    std::string temporary = path + ".tmp";
    FileWriter file(temporary, mode);
    try {
        file.write(contents.data(), contents.size());
        file.close();
        if (rename(temporary.c_str(), path.c_str()) != 0) fail("replace", path, errno);
    } catch (const Error&) {
        unlink(temporary.c_str());
        throw;
    }
}

void sync_directory(const std::string& path) {
    OpenFile directory(path, O_RDONLY | O_DIRECTORY);
    // some network file systems cannot sync a directory and say EINVAL: the rename is then as durable as they make it
    if (fsync(directory.fd) != 0 && errno != EINVAL) fail("sync", path, errno);
}
