// Distillation: loss and the gradient of the student's logits in one kernel.     (llmc/plain/distill_loss.h has the formula)
//
//   logits (N,Vp), in whose place their gradient goes, and teacher (N,Vp), of which V columns count; losses (N)
//
// Limit: memory, 3 * N*Vp*sizeof(X) bytes: both rows read, the gradient written. Three passes over the rows, the largest of
// each, the sums, the gradient; the rows that blocks work on at one time fit in the L2 cache (classifier.cuh).
#pragma once
#include <algorithm>
#include "llmc/cuda/classifier.cuh"

template <int W, typename X>
__global__ void __launch_bounds__(512)
    distill_loss_kernel(X* logits, float* losses, const X* teacher, const int* targets, const float* weights,
                        const StepState* state, float t, float hard, int V, int Vp, bool write_dlogits) {
    __shared__ float shared[6][16];
    const int64_t i = blockIdx.x;
    X* row = logits + i * Vp;
    const X* other = teacher + i * Vp;
    const int target = targets[i], stride = static_cast<int>(blockDim.x) * W, first = static_cast<int>(threadIdx.x) * W;
    if (target < 0) {
        if (threadIdx.x == 0) losses[i] = 0;
        if (write_dlogits)
            for (int v = first; v < Vp; v += stride) store_pack<W>(row + v, {});
        return;
    }
    const float soft = 1 - hard, cold = 1 / t;
    float x[W], y[W];
    auto load = [&](int v) {
        mask_logits(x, Pack<X, W>::load(row + v), v, V);
        mask_logits(y, Pack<X, W>::load(other + v), v, V);
    };
    float top = -1e30f, top_q = -1e30f;
    for (int v = first; v < V; v += stride) {
        load(v);
#pragma unroll
        for (int j = 0; j < W; j++) top = fmaxf(top, x[j]), top_q = fmaxf(top_q, y[j]);
    }
    top = block_max(top, shared[0]), top_q = block_max(top_q, shared[1]);
    float sum_p = 0, sum_s = 0, sum_q = 0, gap = 0;
    for (int v = first; v < V; v += stride) {
        load(v);
#pragma unroll
        for (int j = 0; j < W; j++) {
            if (v + j >= V) break;  // a difference of two infinities is none
            const float a = x[j] - top, b = y[j] - top_q, e = softmax_exp(b * cold);
            sum_p += softmax_exp(a), sum_s += softmax_exp(a * cold), sum_q += e, gap += e * (b - a);
        }
    }
    const float at_target =
        static_cast<float>(row[target]) - top;  // before the barriers after which gradients are written
    sum_p = block_sum(sum_p, shared[2]), sum_s = block_sum(sum_s, shared[3]);
    sum_q = block_sum(sum_q, shared[4]), gap = block_sum(gap, shared[5]);
    if (threadIdx.x == 0)
        losses[i] = soft * t * t * (gap / sum_q * cold + logf(sum_s / sum_q)) + hard * (logf(sum_p) - at_target);
    if (!write_dlogits) return;
    const float weight = (weights ? weights[i] : 1.0f) * state->loss_normaliser, of_p = weight * hard,
                of_s = weight * soft * t;
    for (int v = first; v < Vp; v += stride) {
        float d[W] = {};
        if (v < V) {
            load(v);
#pragma unroll
            for (int j = 0; j < W; j++) {
                if (v + j >= V) break;
                // quotients, whose difference is 0 where they are equal: no fused rounding
                d[j] = of_s * (softmax_exp((x[j] - top) * cold) / sum_s - softmax_exp((y[j] - top_q) * cold) / sum_q) +
                       of_p * (softmax_exp(x[j] - top) / sum_p);
                if (v + j == target) d[j] -= of_p;
            }
        }
        store_pack(row + v, d);
    }
}

// state (device memory) may be null where write_dlogits is false.
template <typename X>
void distill_loss(X* logits, float* losses, const X* teacher, const int* targets, const float* weights,
                  const StepState* state, float temperature, float mix, int N, int V, int Vp, bool write_dlogits,
                  cudaStream_t stream) {
    if (N == 0) return;
    constexpr int W = pack_width<X>;
    const bool wide = Vp % W == 0;
    const int threads = std::min(512, 32 * ceil_div(Vp, 32 * (wide ? W : 1)));
    launch(wide ? distill_loss_kernel<W, X> : distill_loss_kernel<1, X>, N, threads, 0, stream, logits, losses, teacher,
           targets, weights, state, temperature, mix, V, Vp, write_dlogits);
}
