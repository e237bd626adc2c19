// Dropout.                              (Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html)
//
//   y = x * scale      scale = 1 / (1 - p) with probability 1 - p, else 0; x, y (B, per_sample)
//
// The mask is stored nowhere: it is a function of (seed, step, sample, element, site), see Dropout in step_state.h, so
// the backward pass calls the same function again, and other kernels (residual add, encoder, attention) compute it in
// registers. One call of Philox gives four words, those of four neighbouring elements; who works on neighbours asks
// for them together.
//
// Limit of dropout_apply: memory, 2 * sizeof(X) bytes an element. Philox's 20 multiplications for four elements hide
// behind the loads.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"
#include "llmc/base/philox.h"
#include "llmc/model/step_state.h"

// scale[i] = 0 or 1 / (1 - p) for elements e + i of row b's sample; d must be active(). aligned: the caller knows that
// e % 4 == 0, which saves a call of Philox. No branch that depends on the mask, no indexed array: all in registers.
template <int W, bool aligned = false>
__device__ inline void dropout_scales(float (&scale)[W], const Dropout& d, int b, int64_t e) {
    constexpr int groups = aligned ? (W + 3) / 4 : (W + 6) / 4;  // of four elements, that W in a row may touch
    const StepState& s = *d.state;
    int skip = aligned ? 0 : static_cast<int>(e & 3);
    uint32_t words[4 * groups];
#pragma unroll
    for (int g = 0; g < groups; g++) {
        Philox4 r{};
        if (g == 0 || 4 * g < skip + W)
            r = philox(s.seed, static_cast<uint32_t>(e / 4 + g), s.first_sample + static_cast<uint32_t>(b), s.step,
                       (static_cast<uint32_t>(Use::dropout) << 24) | d.site);
#pragma unroll
        for (int i = 0; i < 4; i++) words[4 * g + i] = r.v[i];
    }
    if constexpr (!aligned) {  // drop the first `skip` words
#pragma unroll
        for (int shift = 2; shift >= 1; shift--)
#pragma unroll
            for (int i = 0; i + shift < 4 * groups; i++) words[i] = skip & shift ? words[i + shift] : words[i];
    }
    // uniform01(word) >= p, that is (word >> 8) / 2^24 >= p, without a conversion for each element: p * 2^24 is exact.
    uint32_t threshold = static_cast<uint32_t>(ceilf(d.p * 16777216.0f)) << 8;
    float keep = 1.0f / (1.0f - d.p);
#pragma unroll
    for (int i = 0; i < W; i++) scale[i] = words[i] >= threshold ? keep : 0.0f;
}

// Block (i, b) works on its share of sample b. A thread loads all its packs before it uses the first, so that many
// bytes are under way.
template <int W, int packs, typename X>
__global__ void __launch_bounds__(256) dropout_kernel(X* y, const X* x, int64_t per_sample, Dropout d) {
    int b = static_cast<int>(blockIdx.y);
    int64_t first = (int64_t(blockIdx.x) * packs * blockDim.x + threadIdx.x) * W, row = b * per_sample;
    float values[packs][W], scale[W];
#pragma unroll
    for (int k = 0; k < packs; k++)
        if (int64_t e = first + int64_t(k) * blockDim.x * W; e < per_sample) load_pack(values[k], x + row + e);
#pragma unroll
    for (int k = 0; k < packs; k++) {
        int64_t e = first + int64_t(k) * blockDim.x * W;
        if (e >= per_sample) return;
        dropout_scales<W, W % 4 == 0>(scale, d, b, e);
#pragma unroll
        for (int i = 0; i < W; i++) values[k][i] *= scale[i];
        store_pack(y + row + e, values[k]);
    }
}

// y = dropout(x) or, in the backward pass, dx = dropout(dy): the same function. x == y is allowed.
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d, cudaStream_t stream) {
    if (B == 0 || per_sample == 0) return;
    if (!d.active()) {
        if (y != x) CUDA_CHECK(cudaMemcpyAsync(y, x, B * per_sample * sizeof(X), cudaMemcpyDeviceToDevice, stream));
        return;
    }
    constexpr int W = pack_width<X>, packs = 2, block = 256;
    bool wide = per_sample % W == 0;  // then every sample begins on a boundary of W elements
    dim3 grid(ceil_div(per_sample, int64_t(block) * packs * (wide ? W : 1)), B);
    launch(wide ? dropout_kernel<W, packs, X> : dropout_kernel<1, packs, X>, grid, block, 0, stream, y, x, per_sample,
           d);
}
