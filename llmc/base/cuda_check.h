// Every CUDA call is checked: an error names the call, the file and the line.
#pragma once
#include <cuda_runtime_api.h>
#include "llmc/base/check.h"

// Throws Error (error.h). It is called by name, so that this page needs no header of C++'s.
[[noreturn]] void cuda_failed(const char* call, const char* file, int line, const char* text, const char* name);

inline void cuda_check(cudaError_t error, const char* call, const char* file, int line) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // not to be reported twice
    cuda_failed(call, file, line, cudaGetErrorString(error), cudaGetErrorName(error));
}
#define CUDA_CHECK(call) cuda_check((call), #call, __FILE__, __LINE__)
