// Memory of the GPU, and of the host beside it, that frees itself.
#pragma once
#include <algorithm>
#include <functional>
#include <memory>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/cuda/common.cuh"

struct CudaFree {
    void operator()(void* p) const { cudaFree(p); }
};
struct CudaFreeHost {
    void operator()(void* p) const { cudaFreeHost(p); }
};

// n elements of page-locked host memory: copies from and to it do not stop the host.
template <typename X>
std::unique_ptr<X, CudaFreeHost> pinned(size_t n) {
    void* p = nullptr;
    CUDA_CHECK(cudaMallocHost(&p, std::max<size_t>(1, n * sizeof(X))));
    return std::unique_ptr<X, CudaFreeHost>(static_cast<X*>(p));
}

#ifndef ARENA_GAP  // bytes after each tensor; the tests on the CPU guard them, so that nobody writes past an end
#define ARENA_GAP 0
inline void guard_gap(void*, size_t) {}
#endif

// As DeviceArena, below, of page-locked host memory: what is copied from and to the device beside its work.
class PinnedArena {
  public:
    template <typename X>
    void add(X** view, int64_t n) {
        const size_t begin = bytes_;
        bytes_ += (static_cast<size_t>(n) * sizeof(X) + 255) / 256 * 256;
        views_.push_back([=](char* base) { *view = reinterpret_cast<X*>(base + begin); });
    }
    void allocate(const char* what, bool zero) {
        if (bytes_ == 0) return;
        void* p = nullptr;
        if (cudaMallocHost(&p, bytes_) != cudaSuccess) {
            cudaGetLastError();
            throw Error(
                strf("out of host memory: %s need %.2f GB of page-locked memory; leave something out of --offload, or "
                     "give the process more (ulimit -l, or the container's limit)",
                     what, 1e-9 * static_cast<double>(bytes_)));
        }
        memory_.reset(static_cast<char*>(p));
        if (zero) std::fill_n(memory_.get(), bytes_, char(0));
        for (auto& set : views_) set(memory_.get());
    }
    size_t bytes() const { return bytes_; }

  private:
    size_t bytes_ = 0;
    std::vector<std::function<void(char*)>> views_;
    std::unique_ptr<char, CudaFreeHost> memory_;
};

// One allocation for many tensors: add() each with its size, then allocate() once; the views point into it.
class DeviceArena {
  public:
    using Host = PinnedArena;
    // `*view` will point to n elements on a 256-byte boundary.
    template <typename X>
    void add(X** view, int64_t n) {
        size_t begin = bytes_, size = static_cast<size_t>(n) * sizeof(X), end = begin + size;
        bytes_ = (end + ARENA_GAP + 255) / 256 * 256;
        size_t gap = bytes_ - end;
        views_.push_back([=](char* base) {
            *view = reinterpret_cast<X*>(base + begin);
            guard_gap(base + end, gap);
        });
    }
    // `what` is for the message when memory runs out. zero = false: the contents are undefined.
    void allocate(const char* what, bool zero) {
        void* p = nullptr;
        if (cudaMalloc(&p, std::max<size_t>(1, bytes_)) != cudaSuccess) {
            cudaGetLastError();
            size_t free_bytes = 0, total = 0;
            CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total));
            throw Error(
                strf("out of GPU memory: %s need %.2f GB, %.2f GB of %.2f GB are free on %s; try a smaller "
                     "--micro-batch-size, --recompute 1 to 3, or a smaller --model",
                     what, 1e-9 * static_cast<double>(bytes_), 1e-9 * static_cast<double>(free_bytes),
                     1e-9 * static_cast<double>(total), device().name));
        }
        memory_.reset(static_cast<char*>(p));
        if (zero) {
            CUDA_CHECK(cudaMemset(p, 0, bytes_));
            CUDA_CHECK(cudaDeviceSynchronize());  // the streams of a model do not wait for it by themselves
        }
        for (auto& set : views_) set(memory_.get());
    }
    size_t bytes() const { return bytes_; }

  private:
    size_t bytes_ = 0;
    std::vector<std::function<void(char*)>> views_;
    std::unique_ptr<char, CudaFree> memory_;
};
