// Loads and stores of several neighbouring elements at once, and sums over warps and blocks.
//
// A warp that moves 16 bytes a thread needs the fewest instructions for its bytes. Kernels for memory-bound layers are
// templates on W, the elements a thread takes: pack_width<X> (16 bytes) where rows allow it, 1 where a row's length is
// no multiple of it.
#pragma once
#include <cuda_runtime.h>
#include "llmc/bf16.h"
#include "llmc/ptx.cuh"

template <typename X>
inline constexpr int pack_width = 16 / sizeof(X);

enum class Cached { yes, no };  // no: data that nobody reads again soon; it leaves the caches first

// x[0..W) = from[0..W), W = 1 or pack_width<X>; `from` on a boundary of W elements.
template <int W, Cached cached = Cached::yes, typename X>
__device__ inline void load_pack(float (&x)[W], const X* from) {
    if constexpr (W == 1) {
        x[0] = static_cast<float>(*from);
    } else {
        static_assert(W == pack_width<X>);
        const uint4* source = reinterpret_cast<const uint4*>(from);
        uint4 v = cached == Cached::yes ? *source : __ldcs(source);
        const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (sizeof(X) == 4) x[i] = __uint_as_float(words[i]);
            else x[2 * i] = ptx::low_bf16(words[i]), x[2 * i + 1] = ptx::high_bf16(words[i]);
        }
    }
}

// to[0..W) = x[0..W), rounded to X.
template <int W, Cached cached = Cached::yes, typename X>
__device__ inline void store_pack(X* to, const float (&x)[W]) {
    if constexpr (W == 1) {
        *to = X(x[0]);
    } else {
        static_assert(W == pack_width<X>);
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if constexpr (sizeof(X) == 4) words[i] = __float_as_uint(x[i]);
            else words[i] = ptx::pack_bf16x2(x[2 * i], x[2 * i + 1]);
        }
        uint4 v{words[0], words[1], words[2], words[3]};
        if (cached == Cached::yes) *reinterpret_cast<uint4*>(to) = v;
        else __stcs(reinterpret_cast<uint4*>(to), v);
    }
}

// ---- reductions: every thread gets the result; the order of additions is fixed ----

__device__ inline float warp_sum(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}
__device__ inline float warp_max(float x) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Over a one-dimensional block of whole warps. `shared` has a float for each warp of the block; a barrier must lie
// between two uses of it.
__device__ inline float block_sum(float x, float* shared) {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) shared[warp] = x;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < warps; w++) sum += shared[w];
    return sum;
}
__device__ inline float block_max(float x, float* shared) {
    int warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    if (threadIdx.x % 32 == 0) shared[warp] = x;
    __syncthreads();
    float most = shared[0];
    for (int w = 1; w < warps; w++) most = fmaxf(most, shared[w]);
    return most;
}
