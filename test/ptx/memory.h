// Global memory: which bytes belong to a tensor, and which of them somebody wrote.
//
// Addresses are those of the host. A Memory is a stretch of address space: its own, of pages that cost nothing until they are
// touched, or somebody else's (test/cudahost's device memory). What is beside it, one bit a byte says whether it was written.
#pragma once
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace ptx {

class Memory {
  public:
    explicit Memory(size_t bytes = size_t{1} << 44);  // address space of its own
    Memory(char* base, size_t bytes);                 // another's
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    // `bytes` of memory, with guards before and behind. filled: counts as written; what is there is zeros.
    char* allocate(size_t bytes, const std::string& name, bool filled = false);

    // For another's memory: what is a tensor.
    void forget_tensors();
    void add_tensor(const char* begin, size_t bytes, const std::string& name);
    // Cuts these bytes out of the tensor that they lie in.
    void add_guard(const char* begin, size_t bytes);

    // Whatever was not written counts as zeros that somebody wrote.
    void assume_written(const char* begin, size_t bytes);
    void mark(const void* begin, size_t bytes, bool written);

    // What is wrong with an access; empty: nothing.
    std::string check(uint64_t address, size_t bytes);
    // Whether all bytes that `mask` names (bit 0 the first) were written.
    bool written(uint64_t address, size_t bytes, uint64_t mask) const;
    // Begin and end of the tensor that has the address; where none has: of nothing.
    std::pair<uint64_t, uint64_t> tensor(uint64_t address) const;
    bool contains(uint64_t address) const { return address - reinterpret_cast<uint64_t>(base_) < bytes_; }

  private:
    struct Tensor {
        uint64_t end;
        std::string name;
    };
    char* base_;
    size_t bytes_;
    bool own_;
    uint64_t* written_;  // a bit a byte
    uint64_t next_ = 0;
    std::map<uint64_t, Tensor> tensors_;
    std::map<uint64_t, uint64_t> filled_;     // begin, end
    uint64_t last_begin_ = 1, last_end_ = 0;  // the tensor that was found last
};

}  // namespace ptx
