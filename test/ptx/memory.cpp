#include "test/ptx/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "test/ptx/module.h"

namespace ptx {

namespace {

constexpr size_t kGuard = 64 << 10;

void* reserve(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Fault("no address space of " + std::to_string(bytes >> 30) + " GiB");
    return p;
}
uint64_t number(const void* p) { return reinterpret_cast<uint64_t>(p); }

}  // namespace

Memory::Memory(size_t bytes)
    : base_(static_cast<char*>(reserve(bytes))),
      bytes_(bytes),
      own_(true),
      written_(static_cast<uint64_t*>(reserve(bytes / 8))) {}
Memory::Memory(char* base, size_t bytes)
    : base_(base), bytes_(bytes), own_(false), written_(static_cast<uint64_t*>(reserve(bytes / 8))) {}
Memory::~Memory() {
    if (own_) munmap(base_, bytes_);
    munmap(written_, bytes_ / 8);
}

char* Memory::allocate(size_t bytes, const std::string& name, bool filled) {
    next_ += kGuard;
    char* p = base_ + next_;
    next_ += (bytes + 255) / 256 * 256;
    if (next_ + kGuard > bytes_) throw Fault("no address space for " + name);
    add_tensor(p, bytes, name);
    if (filled) assume_written(p, bytes);
    return p;
}

void Memory::forget_tensors() { tensors_.clear(), last_begin_ = 1, last_end_ = 0; }
void Memory::add_tensor(const char* begin, size_t bytes, const std::string& name) {
    tensors_[number(begin)] = {number(begin) + bytes, name};
}
void Memory::add_guard(const char* begin, size_t bytes) {
    uint64_t from = number(begin), to = from + bytes;
    auto it = tensors_.upper_bound(from);
    if (it == tensors_.begin()) return;
    --it;
    if (it->second.end <= from) return;
    if (it->second.end > to) tensors_[to] = {it->second.end, it->second.name};
    it->second.end = from;
    if (it->first == from) tensors_.erase(it);
}

void Memory::assume_written(const char* begin, size_t bytes) { filled_.emplace(number(begin), number(begin) + bytes); }

void Memory::mark(const void* begin, size_t bytes, bool is_written) {
    if (!contains(number(begin))) return;
    uint64_t from = number(begin) - number(base_), to = from + bytes;
    for (; from < to && from % 64; from++) {
        uint64_t bit = 1ull << from % 64;
        is_written ? written_[from / 64] |= bit : written_[from / 64] &= ~bit;
    }
    if (to - from >= 64 && from < to) std::memset(written_ + from / 64, is_written ? 0xff : 0, (to - from) / 64 * 8);
    for (from = std::max(from, to / 64 * 64); from < to; from++) {
        uint64_t bit = 1ull << from % 64;
        is_written ? written_[from / 64] |= bit : written_[from / 64] &= ~bit;
    }
}

std::string Memory::check(uint64_t address, size_t bytes) {
    if (address >= last_begin_ && address + bytes <= last_end_) return "";
    auto it = tensors_.upper_bound(address);
    if (it == tensors_.begin()) return contains(address) ? "is before all tensors" : "is no device memory";
    --it;
    uint64_t begin = it->first, end = it->second.end;
    if (address + bytes <= end) return last_begin_ = begin, last_end_ = end, "";
    std::string tensor = it->second.name + " of " + std::to_string(end - begin) + " bytes";
    if (address < end) return "ends " + std::to_string(address + bytes - end) + " bytes behind " + tensor;
    return "is " + std::to_string(address - end) + " bytes behind " + tensor;
}

std::pair<uint64_t, uint64_t> Memory::tensor(uint64_t address) const {
    auto it = tensors_.upper_bound(address);
    if (it == tensors_.begin() || std::prev(it)->second.end <= address) return {address, address};
    --it;
    return {it->first, it->second.end};
}

bool Memory::written(uint64_t address, size_t bytes, uint64_t mask) const {
    if (!contains(address)) return true;
    auto filled = filled_.upper_bound(address);
    if (filled != filled_.begin() && address + bytes <= std::prev(filled)->second) return true;
    for (size_t i = 0; i < bytes; i++) {
        uint64_t at = address + i - number(base_);
        if (mask >> i & 1 && !(written_[at / 64] >> at % 64 & 1)) return false;
    }
    return true;
}

}  // namespace ptx
