// Softmax and cross entropy, fused: loss and the gradient of the logits in one kernel.
//
//   losses[i] = -log softmax(logits[i])[targets[i]]               logits (N,Vp), of which V columns count; losses (N)
//   dlogits[i] = (softmax(logits[i]) - onehot(targets[i])) * weights[i] * normaliser        in place of logits; columns
//   >= V: 0
//
// A target of -1 (ignored) has weight 0 and loss 0. weights (N) may be null: 1. normaliser = state->loss_normaliser =
// 1 / sum of all weights of the step. losses are not multiplied by weight or normaliser.
//
// Limit: memory, 2 * N*Vp*sizeof(X) bytes: logits read, gradient written. The softmax needs the maximum and the sum of
// exponentials before the first gradient, so a row is read twice, but it comes from memory once: the rows that blocks
// work on at one time fit in the L2 cache. The first pass finds maximum and sum together ("online softmax", Milakov &
// Gimelshein 2018, https://arxiv.org/abs/1805.02867); the second goes backwards, so that it begins with what the first
// one touched last.
// Maxima and sums could be left by the product that makes the logits, but its epilogue is not hidden behind anything: their
// exponentials would cost more there (H100, 124M: 0.8 ms of special functions a step) than reading rows once saves here
// (dev/reports/kernels.md: 0.3 of half the issue slots, MUFU and L2, 0.7 ms).
#pragma once
#include <algorithm>
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"
#include "llmc/model/step_state.h"

// e^x for x <= 0, by the GPU's 2^x
__device__ inline float softmax_exp(float x) { return ptx::exp2_approx(x * 1.44269504f); }

// x[0..W) = columns v.. of a row; those that do not count are -infinity, whose exponential is 0.
template <int W, typename X>
__device__ inline void mask_logits(float (&x)[W], const Pack<X, W>& pack, int v, int V) {
    pack.unpack(x);
    if (v + W > V)
#pragma unroll
        for (int i = 0; i < W; i++)
            if (v + i >= V) x[i] = __int_as_float(0xff800000);
}

// One block a row. A thread takes packs threadIdx.x, threadIdx.x + blockDim.x, ...; `ahead` of them are loaded before
// the first is used.
template <int W, typename X>
__global__ void __launch_bounds__(512, 2)
    fused_classifier_kernel(X* logits, float* losses, const int* targets, const float* weights, const StepState* state,
                            int V, int Vp, bool write_dlogits) {
    constexpr int ahead = 4;
    __shared__ float maxima[16];
    __shared__ float sums[16];
    int64_t i = blockIdx.x;
    X* row = logits + i * Vp;
    int target = targets[i], stride = static_cast<int>(blockDim.x) * W, first = static_cast<int>(threadIdx.x) * W;
    Pack<X, W> packs[ahead];
    auto load = [&](int v0, int step) {  // those that lie in [0, V)
#pragma unroll
        for (int k = 0; k < ahead; k++)
            if (int v = v0 + k * step; v >= 0 && v < V) packs[k] = Pack<X, W>::load(row + v);
    };
    load(first, stride);  // before the target is looked at: two waits in one
    if (target < 0) {
        if (threadIdx.x == 0) losses[i] = 0;
        if (write_dlogits)
            for (int v = first; v < Vp; v += stride) store_pack<W>(row + v, {});
        return;
    }

    float max = -1e30f, sum = 0;
    for (int v0 = first; v0 < V; load(v0 += ahead * stride, stride)) {
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            int v = v0 + k * stride;
            if (v >= V) break;
            float x[W], before = max, s = 0;
            mask_logits(x, packs[k], v, V);
#pragma unroll
            for (int j = 0; j < W; j++) max = fmaxf(max, x[j]);
#pragma unroll
            for (int j = 0; j < W; j++) s += softmax_exp(x[j] - max);
            sum = sum * softmax_exp(before - max) + s;
        }
    }
    int last = first + (Vp - 1 - first) / stride * stride;  // the thread's last pack, where first < Vp
    if (write_dlogits) load(last, -stride);
    float row_max = block_max(max, maxima);
    float at_target =
        static_cast<float>(row[target]) - row_max;  // before the barrier after which gradients are written
    sum = block_sum(sum * softmax_exp(max - row_max), sums);
    if (threadIdx.x == 0) losses[i] = logf(sum) - at_target;
    if (!write_dlogits || first >= Vp) return;

    float weight = (weights ? weights[i] : 1.0f) * state->loss_normaliser, scale = weight / sum;
    for (int v0 = last; v0 >= 0; load(v0 -= ahead * stride, -stride)) {
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            int v = v0 - k * stride;
            if (v < 0) break;
            float x[W] = {};
            if (v < V) {
                mask_logits(x, packs[k], v, V);
#pragma unroll
                for (int j = 0; j < W; j++) {
                    x[j] = softmax_exp(x[j] - row_max) * scale;
                    if (v + j == target) x[j] -= weight;
                }
            }
            Pack<X, W>::rounded(x).store_whole(row + v);
        }
    }
}

// state (device memory) may be null where write_dlogits is false.
template <typename X>
void fused_classifier(X* logits, float* losses, const int* targets, const float* weights, const StepState* state, int N,
                      int V, int Vp, bool write_dlogits, cudaStream_t stream) {
    if (N == 0) return;
    constexpr int W = pack_width<X>;
    bool wide = Vp % W == 0;
    int threads = std::min(512, 32 * ceil_div(Vp, 32 * (wide ? W : 1)));
    launch(wide ? fused_classifier_kernel<W, X> : fused_classifier_kernel<1, X>, N, threads, 0, stream, logits, losses,
           targets, weights, state, V, Vp, write_dlogits);
}
