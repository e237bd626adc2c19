// Every CUDA call is checked: an error names the call, the file and the line.
#pragma once
#include <cuda_runtime_api.h>
#include "llmc/base/error.h"

inline void cuda_check(cudaError_t error, const char* call, const char* file, int line) {
    if (error == cudaSuccess) return;
    cudaGetLastError();  // not to be reported twice
    throw Error(strf("%s:%d: %s: %s (%s)", file, line, call, cudaGetErrorString(error), cudaGetErrorName(error)));
}
#define CUDA_CHECK(call) cuda_check((call), #call, __FILE__, __LINE__)
