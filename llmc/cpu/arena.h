// One allocation for many tensors: add() each with its size, then allocate() once; the views point into it.
#pragma once
#include <sys/mman.h>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/human.h"

class Arena {
  public:
    using Host = Arena;
    // `*view` will point to n elements, zeroed, on a 64-byte boundary.
    template <typename X>
    void add(X** view, int64_t n) {
        size_t begin = bytes_;
        bytes_ += (static_cast<size_t>(n) * sizeof(X) + 63) / 64 * 64;
        views_.push_back([=](char* base) { *view = reinterpret_cast<X*>(base + begin); });
    }
    void allocate(const char* = "", bool = true) {
        constexpr size_t page = 2 << 20;
        // calloc of much memory is fresh pages: zero, and not resident until they are used.
        memory_.reset(static_cast<char*>(calloc(1, bytes_ + page)));
        if (!memory_)
            throw Error(strf("out of memory: %s are not there; try a smaller --micro-batch-size (-b)",
                             human_bytes(static_cast<double>(bytes_)).c_str()));
        char* base = memory_.get() + (page - reinterpret_cast<uintptr_t>(memory_.get()) % page) % page;
        if (bytes_ >= page) madvise(base, bytes_, MADV_HUGEPAGE);  // a hint: fewer TLB misses; refusal does no harm
        for (auto& set : views_) set(base);
    }
    size_t bytes() const { return bytes_; }

  private:
    size_t bytes_ = 0;
    std::vector<std::function<void(char*)>> views_;
    struct Free {
        void operator()(char* p) const { free(p); }
    };
    std::unique_ptr<char, Free> memory_;
};
