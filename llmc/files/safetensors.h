// safetensors: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}, "__metadata__":
// {...}}, then the tensors' bytes without gaps.                    (https://huggingface.co/docs/safetensors)
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "llmc/base/files.h"

struct TensorInfo {
    std::string name, dtype;  // "F32", "BF16", "F16", "F64", "I64", "U8" ...
    std::vector<int64_t> shape;
    uint64_t begin = 0, end = 0;  // bytes from the start of the data section; the writer fills them in
    int64_t elements() const;
};

// Reader: maps the file; header length, JSON, dtypes, shapes, offsets (in range, size = shape * dtype, no overlap, no
// gap) are checked at open. Error names the file, and the tensor.
class SafetensorsFile {
  public:
    explicit SafetensorsFile(const std::string& path);
    const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
    const std::map<std::string, std::string>& metadata() const { return metadata_; }
    const TensorInfo* find(const std::string& name) const;  // nullptr if absent
    const TensorInfo& at(const std::string& name) const;    // Error if absent
    const unsigned char* bytes(const TensorInfo& t) const { return file_.data() + data_begin_ + t.begin; }
    // Elements [offset, offset + n) as float; F32, BF16, F16 and F64 are converted. Error for other dtypes.
    void read_float(const TensorInfo& t, int64_t offset, int64_t n, float* out) const;
    const std::string& path() const { return path_; }

  private:
    std::string path_;
    MappedFile file_;
    std::vector<TensorInfo> tensors_;
    std::map<std::string, std::string> metadata_;
    std::map<std::string, size_t> index_;
    size_t data_begin_ = 0;
};

// Writer: the list of tensors first (names, dtypes, shapes), then their bytes in that order, in pieces of any size;
// close() checks that all came, fsyncs and returns the file's checksum (CRC-32C of all its bytes, 8 hex digits). Writes
// to `path` itself: whoever needs atomicity writes into a temporary directory. Error on any failed write (full disk),
// the path named.
class SafetensorsWriter {
  public:
    SafetensorsWriter(const std::string& path, const std::vector<TensorInfo>& tensors,
                      const std::map<std::string, std::string>& metadata = {{"format", "pt"}});
    void write(const void* bytes, size_t n);
    void write_float(const std::string& dtype, const float* in, int64_t n);  // converted to F32, BF16 or F16
    std::string close();
    uint64_t file_bytes() const { return file_bytes_; }  // header included

  private:
    FileWriter file_;
    uint64_t file_bytes_ = 0, to_come_ = 0;
};
