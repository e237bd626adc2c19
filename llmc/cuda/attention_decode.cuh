// Attention of a few queries to a cache of keys and values: sampling, token by token or a piece of a prompt at a time.
//
//   out (B,Tq,NH*HS), q (B,Tq,...), k, v (texts,Tk,...): Tk is the room that a text has in the cache; the queries of
//   sequence b belong to text texts[b], at positions[b,0] to positions[b,Tq-1], and see its keys up to their own. Both
//   lie in device memory, so that one captured CUDA graph serves every token.
//
// Limit: memory; every key and value is read once for each kDecodeRows queries. One query gives one block for each
// head, far too few to keep a GPU's memory busy. So the keys are split, too: each block takes `keys` of them and leaves
// its sum of exp(s - m) v, its sum of exp(s - m) and its maximum m in the workspace; a second kernel joins the parts of
// a query in the order of the keys   (Flash-Decoding, Dao et al. 2023, https://pytorch.org/blog/flash-decoding). The
// grid is that of a full cache; blocks beyond the length end at once.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/model/arguments.h"
#include "llmc/cuda/pack.cuh"

namespace attention_decode_detail {

template <int W, int R, typename X>
__global__ void __launch_bounds__(kThreads)
    attention_decode_kernel(float* parts, const X* q, const X* k, const X* v, AttentionShape s, const int* texts,
                            const int* positions, int split_keys) {
    constexpr int kWords = W == 1 ? 1 : 4;  // floats that one access of shared memory brings
    extern __shared__ __align__(16) unsigned char shared[];
    __shared__ float warp_sums[kThreads / 32][R][8 * W];
    const int warp = threadIdx.x / 32, slot = threadIdx.x / 8, lane = threadIdx.x % 8;
    const int b = blockIdx.z / s.NKV, kv_head = blockIdx.z % s.NKV, group = s.NH / s.NKV;
    // Row r is query r / group of the group's head r % group; positions count from the text's beginning.
    const int row0 = blockIdx.y * R, rows = min(R, s.Tq * group - row0), position0 = positions[b * s.Tq];
    const int begin = blockIdx.x * split_keys, last = position0 + (row0 + rows - 1) / group;
    if (begin > last) return;
    const int n = min(split_keys, last + 1 - begin), width = (s.HS + W - 1) / W * W;
    float *queries = reinterpret_cast<float*>(shared), *p = queries + R * width;  // (R,width), (R,split_keys)
    const int64_t kv = texts[b] * s.kv_batch + begin * s.kv_row + kv_head * s.HS;
    auto query_of = [&](int r) { return (row0 + r) / group; };
    auto head_of = [&](int r) { return kv_head * group + (row0 + r) % group; };
    auto part = [&](int r) {
        int64_t i = (int64_t(b) * s.NH + head_of(r)) * s.Tq + query_of(r);
        return parts + (i * gridDim.x + blockIdx.x) * (s.HS + 2);
    };

    const float scale = 1.4426950408889634f / (sqrtf(static_cast<float>(s.HS)) * s.divisor);  // exp(x) = 2^(x log2 e)
    for (int e = threadIdx.x; e < R * width; e += kThreads) {
        int r = e / width, d = e % width;
        const X* from = q + b * s.q_batch + query_of(r) * s.q_row + head_of(r) * s.HS + d;
        queries[e] = r < rows && d < s.HS ? scale * static_cast<float>(*from) : 0;
    }
    __syncthreads();

    // scores: p[r][j] = q_r . k_j
    for (int j0 = 0; j0 < n; j0 += kStep) {
        float dot[R][kBatch] = {};
        for (int d = lane * W; d < s.HS; d += 8 * W) {
            Pack<X, W> packs[kBatch];
            float query[R][W / kWords][kWords];
            for (int u = 0; u < kBatch; u++)
                if (int j = j0 + 16 * u + slot; j < n) packs[u] = Pack<X, W>::load(k + kv + j * s.kv_row + d);
            for (int r = 0; r < R; r++)
                for (int w = 0; w < W / kWords; w++) load_pack(query[r][w], queries + r * width + d + w * kWords);
            for (int u = 0; u < kBatch; u++) {
                if (j0 + 16 * u + slot >= n) break;
                float x[W];
                packs[u].unpack(x);
                for (int r = 0; r < R; r++)
                    for (int w = 0; w < W; w++) dot[r][u] += x[w] * query[r][w / kWords][w % kWords];
            }
        }
        for (int u = 0; u < kBatch; u++)
            for (int r = 0; r < R; r++) {
                for (int bit = 4; bit > 0; bit /= 2) dot[r][u] += __shfl_xor_sync(0xffffffffu, dot[r][u], bit);
                if (int j = j0 + 16 * u + slot; lane == 0 && j < n) p[r * split_keys + j] = dot[r][u];
            }
    }
    __syncthreads();

    // softmax: a warp for each row
    for (int r = warp; r < rows; r += kThreads / 32) {
        float *row = p + r * split_keys, largest = -1e30f, total = 0;
        const int seen = position0 + query_of(r) + 1 - begin;  // keys that this query may see; may be none
        for (int j = threadIdx.x % 32; j < min(n, seen); j += 32) largest = fmaxf(largest, row[j]);
        largest = warp_max(largest);
        for (int j = threadIdx.x % 32; j < n; j += 32) {
            row[j] = j < seen ? ptx::exp2_approx(row[j] - largest) : 0.0f;
            total += row[j];
        }
        total = warp_sum(total);
        if (threadIdx.x % 32 == 0) part(r)[s.HS] = largest, part(r)[s.HS + 1] = total;
    }
    __syncthreads();

    // sum_j p[r][j] v_j, 8 * W columns at a time: each group its keys, then the groups of a warp, then the warps
    for (int d0 = 0; d0 < s.HS; d0 += 8 * W) {
        const int d = d0 + lane * W;
        float sum[R][W] = {};
        for (int j0 = slot; j0 < n && d < s.HS; j0 += kStep) {
            Pack<X, W> packs[kBatch];
            for (int u = 0; u < kBatch; u++)
                if (int j = j0 + 16 * u; j < n) packs[u] = Pack<X, W>::load(v + kv + j * s.kv_row + d);
            for (int u = 0; u < kBatch; u++) {
                if (j0 + 16 * u >= n) break;
                float x[W];
                packs[u].unpack(x);
                for (int r = 0; r < R; r++)
                    for (int w = 0; w < W; w++) sum[r][w] += p[r * split_keys + j0 + 16 * u] * x[w];
            }
        }
        for (int r = 0; r < R; r++)
            for (int w = 0; w < W; w++) {
                sum[r][w] += __shfl_xor_sync(0xffffffffu, sum[r][w], 8);
                sum[r][w] += __shfl_xor_sync(0xffffffffu, sum[r][w], 16);
                if (threadIdx.x % 32 < 8) warp_sums[warp][r][lane * W + w] = sum[r][w];
            }
        __syncthreads();
        for (int e = threadIdx.x; e < rows * 8 * W; e += kThreads) {
            int r = e / (8 * W), c = e % (8 * W);
            float total = 0;
            for (int i = 0; i < kThreads / 32; i++) total += warp_sums[i][r][c];
            if (d0 + c < s.HS) part(r)[d0 + c] = total;
        }
        __syncthreads();
    }
}

// out = sum of parts, each scaled to the largest maximum, over the sum of their sums. A block for each head of a query.
template <typename X>
__global__ void __launch_bounds__(256) join_parts_kernel(X* out, const float* parts, AttentionShape s,
                                                         const int* positions, int split_keys, int split_count) {
    const int i = blockIdx.x, t = i % s.Tq, h = i / s.Tq % s.NH, b = i / s.Tq / s.NH, d = threadIdx.x;
    const int n = positions[b * s.Tq + t] / split_keys + 1, row = s.HS + 2;  // parts that this query sees
    const float* part = parts + int64_t(i) * split_count * row;
    float largest = -1e30f, total = 0, sum = 0;
    for (int j = 0; j < n; j++) largest = fmaxf(largest, part[j * row + s.HS]);
    if (d >= s.HS) return;
    for (int j = 0; j < n; j++) {
        float weight = ptx::exp2_approx(part[j * row + s.HS] - largest);
        total += weight * part[j * row + s.HS + 1];
        sum += weight * part[j * row + d];
    }
    out[b * s.out_batch + t * s.out_row + h * s.HS + d] = X(sum / total);
}

template <int W, typename X>
__global__ void __launch_bounds__(256) append_to_cache_kernel(X* k_cache, X* v_cache, const X* qkv, int B, int T, int C,
                                                              int capacity, const int* texts, const int* positions) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = i / (C / W), c = i % (C / W) * W;
    if (row >= B * T) return;
    const X* from = qkv + int64_t(row) * 3 * C + c;
    const int64_t to = (int64_t(texts[row / T]) * capacity + positions[row]) * C + c;
    Pack<X, W>::load(from + C).store(k_cache + to);
    Pack<X, W>::load(from + 2 * C).store(v_cache + to);
}

template <typename X>
__global__ void __launch_bounds__(256) take_last_rows_kernel(X* last, const X* x, const int* outputs, int T, int C) {
    const int b = blockIdx.x;
    for (int c = threadIdx.x; c < C; c += blockDim.x)
        last[int64_t(outputs[b]) * C + c] = x[(int64_t(b + 1) * T - 1) * C + c];
}

}  // namespace attention_decode_detail

template <typename X>
void append_to_cache(X* k_cache, X* v_cache, const X* qkv, int B, int T, int C, int capacity, const int* texts,
                     const int* positions, cudaStream_t stream) {
    using namespace attention_decode_detail;
    constexpr int W = pack_width<X>;
    bool wide = C % W == 0;
    launch(wide ? append_to_cache_kernel<W, X> : append_to_cache_kernel<1, X>,
           ceil_div(int64_t(B) * T * C, 256 * (wide ? W : 1)), 256, 0, stream, k_cache, v_cache, qkv, B, T, C, capacity,
           texts, positions);
}

template <typename X>
void take_last_rows(X* last, const X* x, const int* outputs, int B, int T, int C, cudaStream_t stream) {
    launch(attention_decode_detail::take_last_rows_kernel<X>, B, 256, 0, stream, last, x, outputs, T, C);
}

// See above. Workspace: parts.
template <typename X>
void attention_decode(X* out, const X* q, const X* k, const X* v, const AttentionShape& s, const int* texts,
                      const int* positions, cudaStream_t stream) {
    using namespace attention_decode_detail;
    CHECK(s.Tq <= s.Tk && s.NH % s.NKV == 0 && s.HS <= 256, "Tq=%d Tk=%d NH=%d NKV=%d HS=%d", s.Tq, s.Tk, s.NH, s.NKV,
          s.HS);
    constexpr int W = pack_width<X>;
    const Split split = attention_decode_detail::split(s);
    float* parts = workspace<float>(attention_decode_detail::parts(s));
    auto misfit = reinterpret_cast<uintptr_t>(k) | reinterpret_cast<uintptr_t>(v);
    const bool wide = misfit % 16 == 0 && (s.HS | s.kv_row | s.kv_batch) % W == 0;
    const size_t shared_bytes = sizeof(float) * split.rows * (s.HS + W + split.keys);
    auto kernel = split.rows == 1
                      ? (wide ? attention_decode_kernel<W, 1, X> : attention_decode_kernel<1, 1, X>)
                      : (wide ? attention_decode_kernel<W, kRows, X> : attention_decode_kernel<1, kRows, X>);
    launch(kernel, dim3(split.count, split.tiles, s.B * s.NKV), kThreads, shared_bytes, stream, parts, q, k, v, s,
           texts, positions, split.keys);
    launch(join_parts_kernel<X>, s.B * s.NH * s.Tq, ceil_div(s.HS, 32) * 32, 0, stream, out, parts, s, positions,
           split.keys, split.count);
}
