// The update of parameters, by any optimizer (llmc/model/optimizer.h has what they share, llmc/model/optimizers/ their maths,
// llmc/model/moments.h how what they remember is kept). The same numbers as on the CPU.
//
// Limit: memory. AdamW's bytes of an element, read and written: fp32 28, bf16 with fp32 master 30, bf16 alone 24; moments in bf16 take
// 8 of them less, in int8 12. One launch for all tensors: a launch for each would leave the GPU half empty at the small ones. A thread has
// four elements of the arena, 16 bytes of each fp32 array, and asks for weights and gradients before it looks up the tensor that
// they belong to. A block of int8 moments is 16 threads of one warp, which agree on its scale.
#pragma once
#include <algorithm>
#include "llmc/base/philox.h"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"
#include "llmc/model/arguments.h"
#include "llmc/model/optimizers/rules.h"
#include "llmc/model/step_state.h"

// The segment that has elements of the block of 64 which element e is in (it is the only one), or null. segments (count) in order of begin.
__device__ inline const OptimizerSegment* find_segment(const OptimizerSegment* segments, int count, int64_t e) {
    const int64_t first = e / kMomentBlock * kMomentBlock;
    int low = 0, high = count;  // segments before low begin in the block or before it, those from high on after it
    while (low < high) {
        int middle = (low + high) / 2;
        if (segments[middle].begin < first + kMomentBlock) low = middle + 1;
        else high = middle;
    }
    const OptimizerSegment* s = segments + low - 1;
    return low > 0 && first < s->begin + s->n ? s : nullptr;
}

__device__ inline void load_four(float (&x)[4], const float* from) { load_pack<4, Cached::no>(x, from); }
__device__ inline void load_four(float (&x)[4], const bf16* from) {  // half a pack
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    x[0] = ptx::low_bf16(four.x), x[1] = ptx::high_bf16(four.x);
    x[2] = ptx::low_bf16(four.y), x[3] = ptx::high_bf16(four.y);
}
__device__ inline void store_four(bf16* to, const uint16_t (&bits)[4]) {
    *reinterpret_cast<uint2*>(to) = uint2{bits[0] | uint32_t{bits[1]} << 16, bits[2] | uint32_t{bits[3]} << 16};
}
// The largest of x over 16 neighbouring threads, which have a block of moments.
__device__ inline float largest_of_16(float x) {
#pragma unroll
    for (int lane = 8; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// Four moments from element i on. `here`: whether they exist; all threads of a warp call both, which int8 needs.
template <StateType type>
__device__ inline void load_moments(float (&x)[4], const Moment& from, int64_t i, bool here) {
#pragma unroll
    for (int j = 0; j < 4; j++) x[j] = 0;
    if (!here) return;
    if constexpr (type == StateType::fp32) {
        load_four(x, from.as<float>() + i);
    } else if constexpr (type == StateType::bf16) {
        load_four(x, from.as<bf16>() + i);
    } else {
        const uint32_t codes = *reinterpret_cast<const uint32_t*>(from.as<int8_t>() + i);
        const float scale = static_cast<float>(from.scales[moment_block(i)]);
#pragma unroll
        for (int j = 0; j < 4; j++) x[j] = dynamic_byte(static_cast<int8_t>(codes >> 8 * j), from.has_sign) * scale;
    }
}
template <StateType type>
__device__ inline void store_moments(const Moment& to, int64_t i, const float (&x)[4], bool here, const Philox4& random,
                                     int shift) {
    if constexpr (type == StateType::fp32) {
        if (here) store_pack<4, Cached::no>(to.as<float>() + i, x);
    } else if constexpr (type == StateType::bf16) {
        uint16_t bits[4];
#pragma unroll
        for (int j = 0; j < 4; j++) bits[j] = round_stochastically(x[j], random.v[j] >> shift);
        if (here) store_four(to.as<bf16>() + i, bits);
    } else {
        const int n_bits = to.has_sign ? 7 : 8;
        const float own = fmaxf(fmaxf(fabsf(x[0]), fabsf(x[1])), fmaxf(fabsf(x[2]), fabsf(x[3])));
        const bf16 scale = dynamic_scale(largest_of_16(own), n_bits);
        if (!here) return;
        const float inverse = dynamic_inverse(scale);
        uint32_t codes = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint32_t code = static_cast<uint32_t>(dynamic_code(fabsf(x[j]) * inverse, n_bits));
            const uint32_t negative = to.has_sign && x[j] < 0 ? ~0u : 0u;  // its two's complement
            codes |= (((code ^ negative) - negative) & 255) << 8 * j;
        }
        *reinterpret_cast<uint32_t*>(to.as<int8_t>() + i) = codes;
        if (i % kMomentBlock == 0) to.scales[moment_block(i)] = scale;
    }
}

template <StateType type, typename X>
__global__ void __launch_bounds__(256)
    optimizer_kernel(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                     OptimizerOptions o, const StepState* state) {
    if (state->skip) return;
    const int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) * 4,
                  e = begin + i;  // in the arrays, in the arena
    float p[4] = {}, grad[4] = {}, m[4], v[4];
    if (e < end) {
        load_four(grad, at.grad + i);
        if (at.master) load_four(p, at.master + i);
        else load_four(p, at.p + i);
    }
    // Of the whole block, which threads behind the last element have a part of, too.
    const OptimizerSegment* s = e / kMomentBlock * kMomentBlock < end ? find_segment(segments, count, e) : nullptr;
    const Rule rule = s ? s->rule : Rule::muon_descent;
    const bool remembers_m = s && has_m(rule), remembers_v = s && has_v(rule);
    const int64_t iv = s ? i - s->v_shift : 0;
    load_moments<type>(m, at.m, i, remembers_m), load_moments<type>(v, at.v, iv, remembers_v);

    const UpdateNumbers<float> numbers(o, *state);
    bool ours[4], all = s != nullptr;
#pragma unroll
    for (int j = 0; j < 4; j++) {
        ours[j] = s && e + j >= s->begin && e + j < s->begin + s->n && e + j < end;
        if (ours[j]) update_element(rule, *s, numbers, p[j], m[j], v[j], grad[j]);
        all = all && ours[j];
    }
    Philox4 random{};
    if (type == StateType::bf16) random = moment_rounding(state->seed, state->step, e);
    store_moments<type>(at.m, i, m, remembers_m, random, 0), store_moments<type>(at.v, iv, v, remembers_v, random, 16);
    if (!s) return;
    if (rule == Rule::muon_momentum) {
        for (int j = 0; j < 4; j++)
            if (ours[j]) at.grad[i + j] = grad[j];
        return;
    }
    if constexpr (sizeof(X) == 4) {
        if (all) return store_pack<4>(at.p + i, p);
        for (int j = 0; j < 4; j++)
            if (ours[j]) at.p[i + j] = p[j];
    } else {
        uint16_t bits[4];
        Philox4 words{};
        if (o.stochastic_rounding)
            words = philox(state->seed, static_cast<uint32_t>(e / 4), static_cast<uint32_t>(e / 4 >> 32), state->step,
                           static_cast<uint32_t>(Use::stochastic_rounding) << 24);
#pragma unroll
        for (int j = 0; j < 4; j++)
            bits[j] = o.stochastic_rounding ? round_stochastically(p[j], words.v[j]) : bf16(p[j]).bits;
        if (all) {
            if (at.master) store_pack<4, Cached::no>(at.master + i, p);
            return store_four(at.p + i, bits);
        }
        for (int j = 0; j < 4; j++) {
            if (!ours[j]) continue;
            if (at.master) at.master[i + j] = p[j];
            at.p[i + j].bits = bits[j];
        }
    }
}

// Elements [begin, end) of an arena; elements of no segment are left alone. segments (count, device memory) in order of
// begin. Does nothing if state->skip.
template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      OptimizerOptions o, const StepState* state, cudaStream_t stream) {
    if (begin >= end) return;
    CHECK(begin % kMomentBlock == 0, "element %lld", static_cast<long long>(begin));
    const auto kernel = o.state_type == StateType::fp32   ? optimizer_kernel<StateType::fp32, X>
                        : o.state_type == StateType::bf16 ? optimizer_kernel<StateType::bf16, X>
                                                          : optimizer_kernel<StateType::int8, X>;
    launch(kernel, ceil_div(end - begin, 256 * 4), 256, 0, stream, at, segments, count, begin, end, o, state);
}

// ---- Muon: what stands between its products (llmc/model/optimizers/muon.h, plain/optimizer.h) ----

template <typename X>
__global__ void divide_by_norm_kernel(X* x, const float* u, const double* norm_squared, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) x[i] = X(u[i] / (sqrtf(static_cast<float>(*norm_squared)) + 1e-7f));
}
template <typename X>
void divide_by_norm(X* x, const float* u, const double* norm_squared, int64_t n, cudaStream_t stream) {
    launch(divide_by_norm_kernel<X>, ceil_div(n, 256), 256, 0, stream, x, u, norm_squared, n);
}

template <typename X>
__global__ void newton_schulz_kernel(X* square, const X* gram, int s) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i >= int64_t(s) * s) return;
    const float diagonal = i % (s + 1) == 0 ? kNewtonSchulz.a : 0.0f;
    square[i] =
        X(diagonal + kNewtonSchulz.b * static_cast<float>(gram[i]) + kNewtonSchulz.c * static_cast<float>(square[i]));
}
template <typename X>
void newton_schulz_polynomial(X* square, const X* gram, int s, cudaStream_t stream) {
    launch(newton_schulz_kernel<X>, ceil_div(int64_t(s) * s, 256), 256, 0, stream, square, gram, s);
}

template <typename X>
__global__ void scaled_copy_kernel(float* u, const X* x, float scale, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) u[i] = static_cast<float>(x[i]) * scale;
}
template <typename X>
void scaled_copy(float* u, const X* x, float scale, int64_t n, cudaStream_t stream) {
    launch(scaled_copy_kernel<X>, ceil_div(n, 256), 256, 0, stream, u, x, scale, n);
}
