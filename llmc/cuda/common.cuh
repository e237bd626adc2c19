// What every layer needs: the device at hand, working memory, one way to launch a kernel.
//
// All work of a step is put into one stream, in order; the workspace below relies on that.
#pragma once
#include <cuda_runtime.h>
#include "llmc/base/bf16.h"
#include "llmc/base/cuda_check.h"
#include "llmc/cuda/workspaces.h"

// ---- the device ----

enum class MatmulLibrary { cublaslt, own };
enum class AttentionLibrary { own, cudnn };

// The one global of the CUDA code: the GPU that this process works on, and how.
struct CudaDevice {
    int id = 0;
    char name[256] = "";
    int capability = 0;  // 10 * major + minor: 80, 90, ...
    int multiprocessors = 1;
    int l2_bytes = 0;
    int max_shared_bytes = 48 << 10;  // of a block, after cudaFuncSetAttribute
    int peak_memory_clock_khz = 0, memory_bus_bits = 0;
    // from the command line
    MatmulLibrary matmul = MatmulLibrary::cublaslt;
    AttentionLibrary attention = AttentionLibrary::own;  // of bf16; cudnn: where it has the shape
    bool tf32 = true;
    // 0: GELU is a kernel of its own, 1: in the forward product's epilogue, 2: in the backward's too; bf16 only
    int gelu_fusion = 0;
    // Memory that a layer may use from its launch to its end; the next layer overwrites it.
    char* workspace_data = nullptr;
    size_t workspace_bytes = 0;
};
inline CudaDevice& device() {
    static CudaDevice the_device;
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
