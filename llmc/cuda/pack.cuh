// Loads and stores of several neighbouring elements at once, and sums over warps and blocks.
//
// A warp that moves 16 bytes a thread needs the fewest instructions for its bytes. Kernels for memory-bound layers are
// templates on W, the elements a thread takes: pack_width<X> (16 bytes) where rows allow it, 1 where a row's length is
// no multiple of it.
#pragma once
#include <cuda_runtime.h>
#include <type_traits>
#include "llmc/base/bf16.h"
#include "llmc/cuda/ptx.cuh"

template <typename X>
inline constexpr int pack_width = 16 / sizeof(X);

enum class Cached { yes, no };  // no: data that nobody reads again soon; it leaves the caches first

// W elements as they lie in memory, in registers: half as many of them as floats would take, for bf16. W = 1 or
// pack_width<X>; `from` and `to` on a boundary of W elements.
template <typename X, int W>
struct Pack {
    static_assert(W == 1 || W == pack_width<X>);
    std::conditional_t<W == 1, X, uint4> bits;

    template <Cached cached = Cached::yes>
    __device__ static Pack load(const X* from) {
        if constexpr (W == 1) return {*from};
        else {
            const uint4* source = reinterpret_cast<const uint4*>(from);
            return {cached == Cached::yes ? *source : __ldcs(source)};
        }
    }
    template <Cached cached = Cached::yes>
    __device__ void store(X* to) const {
        if constexpr (W == 1) *to = bits;
        else if constexpr (cached == Cached::yes) *reinterpret_cast<uint4*>(to) = bits;
        else __stcs(reinterpret_cast<uint4*>(to), bits);
    }
    // The same, for where nvcc would make four stores of 4 bytes of it (`make kernel K=...` shows them as poorly coalesced). It keeps
    // loads from moving across it, so it is not for all.
    __device__ void store_whole(X* to) const {
        if constexpr (W == 1) *to = bits;
        else __stwb(reinterpret_cast<uint4*>(to), bits);
    }
    __device__ void unpack(float (&x)[W]) const {
        if constexpr (W == 1) {
            x[0] = static_cast<float>(bits);
        } else {
            const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if constexpr (sizeof(X) == 4) x[i] = __uint_as_float(words[i]);
                else x[2 * i] = ptx::low_bf16(words[i]), x[2 * i + 1] = ptx::high_bf16(words[i]);
            }
        }
    }
    __device__ static Pack rounded(const float (&x)[W]) {
        if constexpr (W == 1) {
            return {X(x[0])};
        } else {
            uint32_t words[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if constexpr (sizeof(X) == 4) words[i] = __float_as_uint(x[i]);
                else words[i] = ptx::pack_bf16x2(x[2 * i], x[2 * i + 1]);
            }
            return {uint4{words[0], words[1], words[2], words[3]}};
        }
    }
};

// x[0..W) = from[0..W)
template <int W, Cached cached = Cached::yes, typename X>
__device__ inline void load_pack(float (&x)[W], const X* from) {
    Pack<X, W>::template load<cached>(from).unpack(x);
}
// to[0..W) = x[0..W), rounded to X.
template <int W, Cached cached = Cached::yes, typename X>
__device__ inline void store_pack(X* to, const float (&x)[W]) {
    Pack<X, W>::rounded(x).template store<cached>(to);
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
