// What every kernel needs: checked calls, the device at hand, one way to launch, memory that frees itself.
//
// All work of a step is put into one stream, in order; the workspace below relies on that.
#pragma once
#include <cuda_runtime.h>
#include <algorithm>
#include <functional>
#include <memory>
#include <vector>
#include "llmc/base/bf16.h"
#include "llmc/base/error.h"
#include "llmc/cuda/workspaces.h"

// ---- errors ----

// Every CUDA call: an error names the call, the file and the line.
inline void cuda_check(cudaError_t error, const char* call, const char* file, int line) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // not to be reported twice
    throw Error(strf("%s:%d: %s: %s (%s)", file, line, call, cudaGetErrorString(error), cudaGetErrorName(error)));
}
#define CUDA_CHECK(call) cuda_check((call), #call, __FILE__, __LINE__)

// ---- the device ----

enum class MatmulLibrary { cublaslt, own };

// The one global of the CUDA code: the GPU that this process works on, and how.
struct Device {
    int id = 0;
    char name[256] = "";
    int capability = 0;  // 10 * major + minor: 80, 90, ...
    int multiprocessors = 1;
    int l2_bytes = 0;
    int max_shared_bytes = 48 << 10;  // of a block, after cudaFuncSetAttribute
    int peak_memory_clock_khz = 0, memory_bus_bits = 0;
    // from the command line
    MatmulLibrary matmul = MatmulLibrary::cublaslt;
    bool tf32 = true;
    // 0: GELU is a kernel of its own, 1: in the forward product's epilogue, 2: in the backward's too; bf16 only
    int gelu_fusion = 0;
    // Memory that a layer may use from its launch to its end; the next layer overwrites it.
    char* workspace_data = nullptr;
    size_t workspace_bytes = 0;
};
inline Device& device() {
    static Device the_device;
    return the_device;
}

// n elements of the workspace, for kernels that are launched in the same stream before any other layer is called.
// workspaces.h says how much each layer uses; the model reserves the largest.
template <typename X>
X* workspace(size_t n) {
    CHECK(n * sizeof(X) <= device().workspace_bytes, "%zu bytes wanted, %zu reserved", n * sizeof(X),
          device().workspace_bytes);
#ifdef CUDAHOST  // the tests on the CPU fill it with NaN and guard its end
    cudahost::fresh_workspace(device().workspace_data, n * sizeof(X), device().workspace_bytes);
#endif
    return reinterpret_cast<X*>(device().workspace_data);
}

// ---- launches ----

// Every kernel starts here: kernel<<<grid, block, shared_bytes, stream>>>(args...), checked. Arguments are converted
// to the kernel's parameter types. More than 48 KiB of shared memory need the kernel's consent, given once.
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
            Args&&... args) {
    if (shared_bytes > (48 << 10)) {
        CHECK(shared_bytes <= static_cast<size_t>(device().max_shared_bytes),
              "%zu bytes of shared memory, %d are there", shared_bytes, device().max_shared_bytes);
        CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes, config.stream = stream;
    CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...));
}

// ---- memory ----

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

// One allocation for many tensors: add() each with its size, then allocate() once; the views point into it.
class DeviceArena {
  public:
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
