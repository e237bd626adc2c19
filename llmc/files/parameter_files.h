// A row of the parameter table as it stands in files: a linear layer's weight is (C, OC) there and (OC, C) in memory.
#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>
#include "llmc/files/safetensors.h"
#include "llmc/model/tensors.h"

TensorInfo file_tensor(const Parameter& p, const std::string& name, const std::string& dtype);

// file may be null: the tensor is read, in the same pieces, and not written.
void write_parameter(SafetensorsWriter* file, const std::string& dtype, const Parameter& p, const ModelTensors& tensors,
                     Buffer buffer);

struct WrittenFile {
    std::string name, checksum;  // CRC-32C, hex
    uint64_t bytes = 0;
};
struct FileTensor {
    const Parameter* p;
    Buffer buffer;
    std::string name;
};
// Writes them to STEM.safetensors in `dir`, or to STEM-00001-of-0000N.safetensors, each of at most `most` bytes where it has
// more than one tensor. which: gets the file of each tensor.
std::vector<WrittenFile> write_parameters(const std::string& dir, const std::string& stem, const std::string& dtype,
                                          const std::vector<FileTensor>& all, const ModelTensors& tensors, int64_t most,
                                          std::vector<std::string>* which = nullptr);

// Copies p to p.size() floats, in the pieces that write_parameter() reads.
void copy_parameter(const Parameter& p, const ModelTensors& tensors, Buffer buffer, float* to);

// Reads tensor `name` into each of `buffers`; Error if it is absent, of another shape, or has a NaN or an infinity.
void read_parameter(const SafetensorsFile& file, const std::string& name, const Parameter& p,
                    const ModelTensors& tensors, const std::vector<Buffer>& buffers);

// Fills p in each of `buffers` from read(offset, n, out), which gives elements of the tensor as it stands in the file
// that `where` names; a (C, OC) tensor is transposed on the way. Error at a NaN or an infinity.
using ReadElements = std::function<void(int64_t offset, int64_t n, float* out)>;
void fill_parameter(const Parameter& p, bool transposed, const ModelTensors& tensors,
                    const std::vector<Buffer>& buffers, const std::string& where, const ReadElements& read);

// Where the weights of a model file go.
inline std::vector<Buffer> weight_buffers(const ModelTensors& tensors) {
    return tensors.has_master ? std::vector{Buffer::weights, Buffer::master} : std::vector{Buffer::weights};
}
