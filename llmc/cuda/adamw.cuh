// AdamW.                                                   (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
//
//   g = grad * clip_scale;  m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   p = p - lr * (m / beta1_correction / (sqrt(v / beta2_correction) + eps) + weight_decay * p)
//
// p is the fp32 master where there is one; the storage type is then rounded from it, to nearest or (bf16 only)
// stochastically: up with the probability that keeps the mean, by the low 16 bits of philox(seed; i/4 low, i/4 high,
// step, stream << 24)[i % 4] for element i of the arena. The same numbers as on the CPU.
//
// Limit: memory. An element's bytes, read and written: fp32 28, bf16 with fp32 master 30, bf16 alone 24. One launch for
// all tensors: a launch for each would leave the GPU half empty at the small ones. A thread has four elements of the
// arena, 16 bytes of each fp32 array, and asks for them all before it looks up the tensor they belong to.
#pragma once
#include <algorithm>
#include "llmc/cuda/layers.cuh"
#include "llmc/model/arguments.h"
#include "llmc/cuda/pack.cuh"
#include "llmc/base/philox.h"
#include "llmc/model/step_state.h"

// The segment that holds element i, or null. segments (count) in order of begin.
__device__ inline const AdamWSegment* find_segment(const AdamWSegment* segments, int count, int64_t i) {
    int low = 0, high = count;  // segments before low begin at i or before it, those from high on after it
    while (low < high) {
        int middle = (low + high) / 2;
        if (segments[middle].begin <= i) low = middle + 1;
        else high = middle;
    }
    const AdamWSegment* s = segments + low - 1;
    return low > 0 && i < s->begin + s->n ? s : nullptr;
}

// r.v[j], without an array in memory where j is no constant
__device__ inline uint32_t word(const Philox4& r, int j) {
    return j < 2 ? (j == 0 ? r.v[0] : r.v[1]) : (j == 2 ? r.v[2] : r.v[3]);
}
// What one thread works on: W elements of the arena, W = 1 or 4, of which the first has a multiple of W as its index
// i; they lie at `at` in the arrays.
template <typename X, int W>
struct AdamWElements {
    float p[W], m[W], v[W], grad[W];

    __device__ void load(const X* weights, const float* master, const float* m_from, const float* v_from,
                         const float* grad_from, int64_t at) {
        load_pack<W, Cached::no>(grad, grad_from + at);
        load_pack<W, Cached::no>(m, m_from + at);
        load_pack<W, Cached::no>(v, v_from + at);
        if (master) load_pack<W, Cached::no>(p, master + at);
        else if constexpr (W == 4 && sizeof(X) == 2) {  // half a pack
            uint2 four = *reinterpret_cast<const uint2*>(weights + at);
            p[0] = ptx::low_bf16(four.x), p[1] = ptx::high_bf16(four.x);
            p[2] = ptx::low_bf16(four.y), p[3] = ptx::high_bf16(four.y);
        } else load_pack<W>(p, weights + at);
    }
    __device__ void update(const AdamWOptions& o, float weight_decay, const StepState& state) {
        float lr = state.learning_rate, step_size = lr / state.beta1_correction,
              v_scale = 1.0f / state.beta2_correction;
#pragma unroll
        for (int j = 0; j < W; j++) {
            float g = grad[j] * state.clip_scale;
            m[j] = o.beta1 * m[j] + (1.0f - o.beta1) * g;
            v[j] = o.beta2 * v[j] + (1.0f - o.beta2) * g * g;
            p[j] -= step_size * m[j] / (sqrtf(v[j] * v_scale) + o.epsilon) + lr * weight_decay * p[j];
        }
    }
    __device__ void store(X* weights, float* master, float* m_to, float* v_to, int64_t at, int64_t i,
                          bool stochastic_rounding, const StepState& state) const {
        store_pack<W, Cached::no>(m_to + at, m);
        store_pack<W, Cached::no>(v_to + at, v);
        if (master) store_pack<W, Cached::no>(master + at, p);
        if constexpr (sizeof(X) == 4) {
            store_pack<W>(weights + at, p);
        } else {
            uint16_t bits[W];
            if (stochastic_rounding) {
                uint64_t group = static_cast<uint64_t>(i) / 4;
                Philox4 r = philox(state.seed, static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32),
                                   state.step, static_cast<uint32_t>(Use::stochastic_rounding) << 24);
#pragma unroll
                for (int j = 0; j < W; j++)
                    bits[j] = round_stochastically(p[j], word(r, W == 1 ? static_cast<int>(i % 4) : j));
            } else {
#pragma unroll
                for (int j = 0; j < W; j++) bits[j] = bf16(p[j]).bits;
            }
            if constexpr (W == 1) weights[at].bits = bits[0];
            else
                *reinterpret_cast<uint2*>(weights + at) =
                    uint2{bits[0] | uint32_t{bits[1]} << 16, bits[2] | uint32_t{bits[3]} << 16};
        }
    }
};

template <int W, typename X>
__global__ void __launch_bounds__(256)
    adamw_kernel(X* p, float* master, float* m, float* v, const float* grad, const AdamWSegment* segments, int count,
                 int64_t begin, int64_t end, AdamWOptions o, const StepState* state) {
    int64_t i = (begin / W + int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * W;
    if (i >= end) return;
    AdamWElements<X, W> e;
    bool whole = i >= begin && i + W <= end;  // all W elements are ours
    if (whole) e.load(p, master, m, v, grad, i - begin);
    if (state->skip) return;
    const AdamWSegment* s = find_segment(segments, count, i);
    if (whole && s && i + W <= s->begin + s->n) {
        e.update(o, s->weight_decay, *state);
        e.store(p, master, m, v, i - begin, i, o.stochastic_rounding, *state);
    } else if constexpr (W > 1) {  // an end of a tensor or of the range: one by one
        for (int64_t j = i < begin ? begin : i; j < i + W && j < end; j++) {
            s = find_segment(segments, count, j);
            if (!s) continue;
            AdamWElements<X, 1> one;
            one.load(p, master, m, v, grad, j - begin);
            one.update(o, s->weight_decay, *state);
            one.store(p, master, m, v, j - begin, j, o.stochastic_rounding, *state);
        }
    }
}

// Elements [begin, end) of an arena. p, master (may be null), m, v and grad point to element `begin`: they may be
// pieces of arenas. Elements of no segment are left alone; segments (count, device memory) in order of begin; their
// weight decay counts, not that of `options`. Does nothing if state->skip.
template <typename X>
void adamw_update(X* p, float* master, float* m, float* v, const float* grad, const AdamWSegment* segments, int count,
                  int64_t begin, int64_t end, AdamWOptions options, const StepState* state, cudaStream_t stream) {
    if (begin >= end) return;
    auto aligned = [begin](const auto* q) {  // are elements i % 4 == 0 of the arena on boundaries of four elements?
        return (reinterpret_cast<uintptr_t>(q) / sizeof(*q) - static_cast<uintptr_t>(begin)) % 4 == 0;
    };
    bool wide = aligned(p) && (!master || aligned(master)) && aligned(m) && aligned(v) && aligned(grad);
    int W = wide ? 4 : 1;
    launch(wide ? adamw_kernel<4, X> : adamw_kernel<1, X>, ceil_div(end - begin / W * W, 256 * W), 256, 0, stream, p,
           master, m, v, grad, segments, count, begin, end, options, state);
}
