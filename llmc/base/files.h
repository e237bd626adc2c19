// Small helpers for files: checksums, whole files in memory, and writes that are on disk when they return.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

// What is there, by way of links, or (path_exists) a link itself. An Error where that cannot be known (no permission, a
// disk that fails): nobody should begin anew, or do without a file, because it could not be looked at.
bool is_file(const std::string& path);
bool is_directory(const std::string& path);
bool path_exists(const std::string& path);
// The names in a directory, in no order; one that is not there has none. Error: it cannot be listed.
std::vector<std::string> names_in(const std::string& dir);

// CRC-32C (Castagnoli, RFC 3720 appendix B.4) of `n` more bytes; start with crc = 0. Uses the CPU's instruction where
// it has one.
uint32_t crc32c(uint32_t crc, const void* bytes, size_t n);
std::string crc32c_hex(uint32_t crc);              // 8 hex digits
std::string file_crc32c(const std::string& path);  // of a whole file, as hex digits; Error if it cannot be read

// A file mapped read-only. Error names a file that is missing, unreadable or no regular file. Empty files are fine.
class MappedFile {
  public:
    explicit MappedFile(const std::string& path);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    const unsigned char* data() const { return data_; }
    size_t size() const { return size_; }
    // Says that so many bytes were read. From time to time those pages leave the process's memory, not the kernel's cache:
    // of a model that is read into memory there is then no second copy.
    void was_read(size_t bytes) const;

  private:
    mutable std::atomic<size_t> read_ = 0;
    unsigned char* data_ = nullptr;
    size_t size_ = 0;
};

// The whole file as a string. Error if it is missing, no regular file or longer than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

// A file that is written once, from start to end, in buffered pieces. Error names the path at the first failed write
// (full disk, no permission). An unfinished file is closed, not removed.
class FileWriter {
  public:
    explicit FileWriter(const std::string& path);       // creates or empties it
    FileWriter(const std::string& path, int own_mode);  // a new file in its place, never one that another has made
    ~FileWriter();
    FileWriter(const FileWriter&) = delete;
    void write(const void* bytes, size_t n);
    std::string close();  // flush, fsync, close; returns the CRC-32C of all that was written, as hex digits

  private:
    void flush();
    std::string path_, buffer_;
    int fd_ = -1;
    uint32_t crc_ = 0;
};

// Writes a small file to disk (fsync); returns its CRC-32C as hex digits.
std::string write_file(const std::string& path, const std::string& contents);

// At the start of main: standard streams that are closed become ones that cannot be read or written. Else a file that
// is opened later takes the place of one, and messages end up in it.
void open_standard_streams();

// Replaces a file as a whole: written to PATH.tmp, on disk, then renamed. After an error or a crash the old file is
// there. mode: who may read it.
void replace_file(const std::string& path, const std::string& contents, int mode = 0666);

// Makes renames and new names in a directory survive a crash. Error names the directory.
void sync_directory(const std::string& path);
