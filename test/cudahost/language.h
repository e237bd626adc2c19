// CUDA's words for g++: what __global__, threadIdx and __syncthreads() are on the CPU.
#pragma once
#include "test/cudahost/kernels.h"

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __managed__
#undef __shared__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#undef __cluster_dims__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __grid_constant__
#define __cluster_dims__(...)
// filter.awk replaces these; one that is left over stands in a form that it does not know
#define __shared__ \
    static_assert(false, "write each __shared__ array on a line of its own: __shared__ TYPE name[dims];");

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cudahost {

void more_threads_than(int promised);
// In a kernel's first line, by filter.awk: a GPU refuses to launch more threads than its __launch_bounds__ promise.
inline void check_launch_bounds(int threads, int = 0, int = 0) {
    if (blockDim.x * blockDim.y * blockDim.z > static_cast<unsigned>(threads)) more_threads_than(threads);
}

}  // namespace cudahost

// ---- synchronisation ----

inline void __syncthreads(cudahost::Site where = cudahost::Site::current()) {
    cudahost::block_barrier("__syncthreads", cudahost::Vote::none, 0, where);
}
inline int __syncthreads_or(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_or", cudahost::Vote::any, predicate, where);
}
inline int __syncthreads_and(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_and", cudahost::Vote::all, predicate, where);
}
inline int __syncthreads_count(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_count", cudahost::Vote::count, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, cudahost::Site where = cudahost::Site::current()) {
    cudahost::sync_warp(mask, where);
}
// Threads run one at a time: every store is visible at once.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
#define __trap() cudahost::trap(cudahost::Site::current())
