// Causal self-attention in fp32, without tensor cores: read it before attention_mma.cuh, which does the same with them.
//                                         (FlashAttention: Dao et al. 2022, https://arxiv.org/abs/2205.14135; 2023,
//                                          https://arxiv.org/abs/2307.08691)
//
//   s_ij = q_i . k_j / sqrt(HS)  for doc_start_i <= j <= i + (Tk - Tq)      p_ij = exp(s_ij) / sum_j exp(s_ij)
//   out_i = sum_j dropout(p)_ij v_j                                         lse_i = log sum_j exp(s_ij)
//
// Never a T x T buffer: a block of 128 threads keeps a tile of queries in shared memory and lets the keys pass, a tile
// at a time. exp needs the largest score of a row, for exp(s) itself overflows, and it may come late. So each row keeps
// the largest score m so far, the sum l of exp(s - m) and sum o of exp(s - m) v; where a tile raises m to m', what was
// summed before is multiplied by exp(m - m') ("online softmax"). At the end out = o / l and lse = m + log l.
//
// Backward knows lse, so p_ij = exp(s_ij - lse_i) needs no second look at the row. With dp_ij = dropout(dout_i . v_j):
//   dv_j = sum_i dropout(p)_ij dout_i       ds_ij = p_ij (dp_ij - sum_j' p_ij' dp_ij') = p_ij (dp_ij - D_i)
//   dq_i = sum_j ds_ij k_j / sqrt(HS)       dk_j = sum_i ds_ij q_i / sqrt(HS)
// where D_i = dout_i . out_i, because out_i is the same sum over j'. dq is a sum over keys, dk and dv are sums over
// queries: one kernel in which blocks own queries and one in which they own keys need no atomic additions, at the price
// of computing s and dp twice (7 products of tiles instead of 5), and add in the same order each time.
//
// Limit: arithmetic. A thread keeps R x N scores in registers, so that a number from shared memory is used R or N
// times.
#pragma once
#include "llmc/cuda_common.cuh"
#include "llmc/dropout.cuh"
#include "llmc/layer_arguments.h"
#include "llmc/pack.cuh"

namespace attention_fp32 {

// ---- tiles: rows of D >= HS floats in shared memory ----
//
// The 128 threads are 8 x 16. Of a product of tiles, thread (ty, tx) has rows ty * R + i of the block's own tile (8 R
// rows) and rows tx * N + j of the tile that passes (16 N rows). Row r of n lies in place (r % (n/ways)) * ways + r /
// (n/ways) for ways = 8 or 16: the rows that neighbouring threads read together are then neighbours; and a row is 4
// floats longer than D, so that they begin in different banks of shared memory, which can then serve them at once.
constexpr int kThreads = 128;
constexpr float kLog2e = 1.4426950408889634f;  // exp(x) = 2^(x log2 e), and 2^x is one instruction
template <int D>
constexpr int tile_row = D + 4;
__device__ inline int thread_y() { return static_cast<int>(threadIdx.x / 16); }
__device__ inline int thread_x() { return static_cast<int>(threadIdx.x % 16); }
template <int n, int ways>
__device__ inline int place(int r) {
    return r % (n / ways) * ways + r / (n / ways);
}

template <int n, int ways>
struct Rows {};  // names a tile's size and places

// tile (n,D) = rows of `from`, of which `count` are there; the rest, and columns from HS on, are zero.
template <int D, int n, int ways>
__device__ inline void load_tile(float* tile, const float* from, int64_t row, int count, int HS) {
    const bool packs = (reinterpret_cast<uintptr_t>(from) | row * sizeof(float) | HS * sizeof(float)) % 16 == 0;
#pragma unroll 4
    for (int e = static_cast<int>(threadIdx.x) * 4; e < n * D; e += kThreads * 4) {
        int r = e / D, d = e % D;
        float x[4] = {};
        if (r < count) {
            if (packs) {
                if (d < HS) load_pack(x, from + r * row + d);
            } else {
                for (int i = 0; i < 4; i++)
                    if (d + i < HS) x[i] = from[r * row + d + i];
            }
        }
        store_pack(tile + place<n, ways>(r) * tile_row<D> + d, x);
    }
}

// s[i][j] = row i of this thread in `own` (8 R,D) . row j of this thread in `other` (16 N,D), over `depth` columns
template <int D, int R, int N>
__device__ inline void dot_rows(float (&s)[R][N], const float* own, const float* other, int depth) {
    own += thread_y() * tile_row<D>, other += thread_x() * tile_row<D>;
    for (int i = 0; i < R; i++)
        for (int j = 0; j < N; j++) s[i][j] = 0;
#pragma unroll 4
    for (int d = 0; d < depth; d += 4) {
        float a[R][4], b[N][4];
#pragma unroll
        for (int i = 0; i < R; i++) load_pack(a[i], own + i * 8 * tile_row<D> + d);
#pragma unroll
        for (int j = 0; j < N; j++) load_pack(b[j], other + j * 16 * tile_row<D> + d);
#pragma unroll
        for (int i = 0; i < R; i++)
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int k = 0; k < 4; k++) s[i][j] += a[i][k] * b[j][k];
    }
}

// sum[i][..] += p[i][..] . other (16 N,D). p goes through `exchange` (8 R,16 N + 4), because each thread has R x N of
// it and needs R whole rows; those are in the hands of 16 threads of its own warp, so that no block-wide barrier is
// needed. A thread has columns 64 m + 4 tx + k of the sum.
template <int D, int R, int N>
__device__ inline void add_product(float (&sum)[R][D / 16], float* exchange, const float (&p)[R][N],
                                   const float* other) {
    constexpr int p_row = 16 * N + 4;
    exchange += thread_y() * p_row, other += thread_x() * 4;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int j = 0; j < N; j++) exchange[i * 8 * p_row + thread_x() * N + j] = p[i][j];
    __syncwarp();
#pragma unroll 2
    for (int n = 0; n < 16 * N; n += 4) {
        float w[R][4];
#pragma unroll
        for (int i = 0; i < R; i++) load_pack(w[i], exchange + i * 8 * p_row + n);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int m = 0; m < D / 64; m++) {
                float x[4];
                load_pack(x, other + place<16 * N, 16>(n + k) * tile_row<D> + 64 * m);
#pragma unroll
                for (int i = 0; i < R; i++)
#pragma unroll
                    for (int c = 0; c < 4; c++) sum[i][4 * m + c] += w[i][k] * x[c];
            }
    }
}

// Rows ty * R + i of `to`, of which `count` are there, = sum * scale(i)
template <int D, int R, typename Scale>
__device__ inline void store_rows(float* to, int64_t row, int count, int HS, const float (&sum)[R][D / 16],
                                  Scale scale) {
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int c = 0; c < D / 16; c++) {
            int r = thread_y() * R + i, d = c / 4 * 64 + thread_x() * 4 + c % 4;
            if (r < count && d < HS) to[r * row + d] = sum[i][c] * scale(i);
        }
}

// ---- forward ----

template <int D, int R, int N>
__global__ void __launch_bounds__(kThreads)
    attention_fp32_forward_kernel(float* out, float* lse, const float* q, const float* k, const float* v,
                                  AttentionShape s, const int* doc_start, Dropout dropout) {
    extern __shared__ __align__(16) unsigned char shared[];
    float *queries = reinterpret_cast<float*>(shared), *keys = queries + 8 * R * tile_row<D>;
    float* exchange = keys + 16 * N * tile_row<D>;
    // The last queries see the most keys: those blocks begin first.
    const int b = blockIdx.x / s.NH, h = blockIdx.x % s.NH, t = (gridDim.y - 1 - blockIdx.y) * 8 * R;
    const int position = t + s.Tk - s.Tq + thread_y() * R;  // of this thread's first query
    const int64_t kv = b * s.kv_batch + h / (s.NH / s.NKV) * s.HS;
    const float scale = kLog2e / sqrtf(static_cast<float>(s.HS));
    load_tile<D, 8 * R, 8>(queries, q + b * s.q_batch + t * s.q_row + h * s.HS, s.q_row, s.Tq - t, s.HS);

    float sum[R][D / 16] = {}, largest[R], total[R] = {};
    int first[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        largest[i] = -1e30f;
        first[i] = doc_start && position + i < s.Tk ? doc_start[int64_t(b) * s.Tk + position + i] : 0;
    }
    for (int key = 0; key < min(s.Tk, t + s.Tk - s.Tq + 8 * R); key += 16 * N) {
        if (doc_start) {
            bool seen = false;
            for (int i = 0; i < R; i++) seen |= min(first[i], position + i) < key + 16 * N;
            if (!__syncthreads_or(seen)) continue;
        }
        __syncthreads();  // nobody needs the values of the tile before
        load_tile<D, 16 * N, 16>(keys, k + kv + key * s.kv_row, s.kv_row, s.Tk - key, s.HS);
        __syncthreads();
        float p[R][N];
        dot_rows<D>(p, queries, keys, s.HS);
#pragma unroll
        for (int i = 0; i < R; i++) {
            auto sees = [&](int j) {
                int at = key + thread_x() * N + j;
                return min(first[i], position + i) <= at && at <= position + i;
            };
            float before = largest[i];
#pragma unroll
            for (int j = 0; j < N; j++) largest[i] = sees(j) ? fmaxf(largest[i], p[i][j]) : largest[i];
#pragma unroll
            for (int lane = 8; lane > 0; lane /= 2)  // of the 16 threads that share the row
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], lane));
            float rescale = ptx::exp2_approx((before - largest[i]) * scale);
            total[i] *= rescale;
#pragma unroll
            for (int c = 0; c < D / 16; c++) sum[i][c] *= rescale;
#pragma unroll
            for (int j = 0; j < N; j++) {
                p[i][j] = sees(j) ? ptx::exp2_approx((p[i][j] - largest[i]) * scale) : 0.0f;
                total[i] += p[i][j];
            }
            if (dropout.active()) {
                float kept[N];
                dropout_scales(kept, dropout, b, (int64_t(h) * s.Tk + position + i) * s.Tk + key + thread_x() * N);
#pragma unroll
                for (int j = 0; j < N; j++) p[i][j] *= kept[j];
            }
        }
        __syncthreads();  // all have read the keys: the values may take their place
        load_tile<D, 16 * N, 16>(keys, v + kv + key * s.kv_row, s.kv_row, s.Tk - key, s.HS);
        __syncthreads();
        add_product<D>(sum, exchange, p, keys);
    }
#pragma unroll
    for (int i = 0; i < R; i++)
#pragma unroll
        for (int lane = 8; lane > 0; lane /= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], lane);
    store_rows<D, R>(out + b * s.out_batch + t * s.out_row + h * s.HS, s.out_row, s.Tq - t, s.HS, sum,
                     [&](int i) { return 1.0f / total[i]; });
    for (int i = 0; i < R; i++)
        if (int r = t + thread_y() * R + i; lse && thread_x() == 0 && r < s.Tq)
            lse[(int64_t(b) * s.NH + h) * s.Tq + r] = largest[i] * (scale / kLog2e) + logf(total[i]);
}

template <int D, int R, int N, typename... Args>
void launch_forward(const AttentionShape& s, cudaStream_t stream, Args... args) {
    size_t bytes = sizeof(float) * ((8 * R + 16 * N) * tile_row<D> + 8 * R * (16 * N + 4));
    launch(attention_fp32_forward_kernel<D, R, N>, dim3(s.B * s.NH, ceil_div(s.Tq, 8 * R)), kThreads, bytes, stream,
           args...);
}

// ---- backward ----

// dots (B,NH,T): D of each query and head, four threads for one
static __global__ void __launch_bounds__(kThreads)
    attention_fp32_dots_kernel(float* dots, const float* dout, const float* out, AttentionShape s) {
    const int64_t i = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / 4;
    const int h = static_cast<int>(i % s.NH), t = static_cast<int>(i / s.NH % s.Tq);
    const int64_t b = i / s.NH / s.Tq, begin = b * s.out_batch + t * s.out_row + h * s.HS;
    float sum = 0;
    for (int d = threadIdx.x % 4; d < s.HS && b < s.B; d += 4) sum += dout[begin + d] * out[begin + d];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    if (threadIdx.x % 4 == 0 && b < s.B) dots[(b * s.NH + h) * s.Tq + t] = sum;
}

// Dropout's factors of a thread's probabilities, whose first is element e of row b's sample; one call of Philox is good
// for four neighbouring keys, which are rows here or columns.
template <bool KEYS, int R, int N>
__device__ inline void dropout_tile(float (&kept)[R][N], const Dropout& dropout, int b, int64_t e, int T) {
#pragma unroll
    for (int query = 0; query < (KEYS ? N : R); query++, e += T) {
        float row[KEYS ? R : N];
        dropout_scales(row, dropout, b, e);
#pragma unroll
        for (int key = 0; key < (KEYS ? R : N); key++) kept[KEYS ? key : query][KEYS ? query : key] = row[key];
    }
}

// KEYS: a block owns keys and values, queries and dout pass by: d0 = dk, d1 = dv. Else it owns queries and dout, keys
// and values pass by: d0 = dq.
template <bool KEYS, int D, int R, int N>
__global__ void __launch_bounds__(kThreads)
    attention_fp32_backward_kernel(float* d0, float* d1, const float* dout, const float* q, const float* k,
                                   const float* v, const float* lse, const float* dots, AttentionShape s,
                                   const int* doc_start, Dropout dropout) {
    extern __shared__ __align__(16) unsigned char shared[];
    float *own0 = reinterpret_cast<float*>(shared), *own1 = own0 + 8 * R * tile_row<D>;
    float *other0 = own1 + 8 * R * tile_row<D>, *other1 = other0 + 16 * N * tile_row<D>;
    float* exchange = other1 + 16 * N * tile_row<D>;
    const int heads = KEYS ? s.NKV : s.NH, group = s.NH / s.NKV, T = s.Tk;
    const int b = blockIdx.x / heads, head = blockIdx.x % heads;
    const int begin = (KEYS ? blockIdx.y : gridDim.y - 1 - blockIdx.y) * 8 * R;  // most work first
    const float scale = 1.0f / sqrtf(static_cast<float>(s.HS));
    const int64_t kv = b * s.kv_batch + (KEYS ? head : head / group) * s.HS;
    auto load_keys = [&]<int n, int ways>(Rows<n, ways>, float* keys, float* values, int t) {
        load_tile<D, n, ways>(keys, k + kv + t * s.kv_row, s.kv_row, T - t, s.HS);
        load_tile<D, n, ways>(values, v + kv + t * s.kv_row, s.kv_row, T - t, s.HS);
    };
    auto load_queries = [&]<int n, int ways>(Rows<n, ways>, float* queries, float* douts, int h, int t) {
        load_tile<D, n, ways>(queries, q + b * s.q_batch + t * s.q_row + h * s.HS, s.q_row, T - t, s.HS);
        load_tile<D, n, ways>(douts, dout + b * s.out_batch + t * s.out_row + h * s.HS, s.out_row, T - t, s.HS);
    };
    if constexpr (KEYS) load_keys(Rows<8 * R, 8>(), own0, own1, begin);
    else load_queries(Rows<8 * R, 8>(), own0, own1, head, begin);

    float sum0[R][D / 16] = {}, sum1[KEYS ? R : 1][D / 16] = {};
    for (int h = KEYS ? head * group : head; h < (KEYS ? (head + 1) * group : head + 1); h++) {
        const int64_t lines = (int64_t(b) * s.NH + h) * T;
        // Causal: keys are seen from their own position on, queries see keys up to theirs.
        for (int t = KEYS ? begin / (16 * N) * (16 * N) : 0; t < (KEYS ? T : min(T, begin + 8 * R)); t += 16 * N) {
            // Of this thread's queries: the first key that each sees, log sum of exponentials, D.
            constexpr int Q = KEYS ? N : R;
            const int query = KEYS ? t + thread_x() * N : begin + thread_y() * R;
            const int key = KEYS ? begin + thread_y() * R : t + thread_x() * N;
            int first[Q];
            float log_sum[Q], dot[Q];
            bool seen = doc_start == nullptr;
#pragma unroll
            for (int i = 0; i < Q; i++) {
                bool there = query + i < T;
                first[i] = !there ? T : doc_start ? min(doc_start[int64_t(b) * T + query + i], query + i) : 0;
                log_sum[i] = there ? lse[lines + query + i] * kLog2e : 0.0f;
                dot[i] = there ? dots[lines + query + i] : 0.0f;
                seen |= first[i] < (KEYS ? begin + 8 * R : t + 16 * N);
            }
            if (!__syncthreads_or(seen)) continue;  // also: nobody needs the tile before any more
            if constexpr (KEYS) load_queries(Rows<16 * N, 16>(), other0, other1, h, t);
            else load_keys(Rows<16 * N, 16>(), other0, other1, t);
            __syncthreads();
            float p[R][N], ds[R][N], kept[R][N];
            dot_rows<D>(p, own0, other0, s.HS);
            dot_rows<D>(ds, own1, other1, s.HS);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < N; j++) kept[i][j] = 1;
            if (dropout.active()) dropout_tile<KEYS>(kept, dropout, b, (int64_t(h) * T + query) * T + key, T);
#pragma unroll
            for (int i = 0; i < R; i++)
#pragma unroll
                for (int j = 0; j < N; j++) {
                    const int iq = KEYS ? j : i, ik = KEYS ? i : j;
                    bool sees = first[iq] <= key + ik && key + ik <= query + iq;
                    float probability = sees ? ptx::exp2_approx(p[i][j] * (scale * kLog2e) - log_sum[iq]) : 0.0f;
                    ds[i][j] = probability * (ds[i][j] * kept[i][j] - dot[iq]);
                    p[i][j] = probability * kept[i][j];
                }
            if constexpr (KEYS) add_product<D>(sum1, exchange, p, other1);
            add_product<D>(sum0, exchange, ds, other0);
        }
    }
    const int64_t row = KEYS ? s.kv_row : s.q_row;
    const int64_t to = KEYS ? kv + begin * row : b * s.q_batch + begin * row + head * s.HS;
    store_rows<D, R>(d0 + to, row, T - begin, s.HS, sum0, [=](int) { return scale; });
    if constexpr (KEYS) store_rows<D, R>(d1 + to, row, T - begin, s.HS, sum1, [](int) { return 1.0f; });
}

template <bool KEYS, int D, int R, int N, typename... Args>
void launch_backward(const AttentionShape& s, cudaStream_t stream, Args... args) {
    size_t bytes = sizeof(float) * (2 * (8 * R + 16 * N) * tile_row<D> + 8 * R * (16 * N + 4));
    launch(attention_fp32_backward_kernel<KEYS, D, R, N>, dim3(s.B * (KEYS ? s.NKV : s.NH), ceil_div(s.Tk, 8 * R)),
           kThreads, bytes, stream, args...);
}
// Tiles as large as the 64 KiB of shared memory of the smallest GPU (sm_75) allow.
template <bool KEYS, typename... Args>
void choose_backward(const AttentionShape& s, cudaStream_t stream, Args... args) {
    if (s.HS <= 64) launch_backward<KEYS, 64, 8, 2>(s, stream, args...);
    else if (s.HS <= 128) launch_backward<KEYS, 128, 4, 1>(s, stream, args...);
    else launch_backward<KEYS, 256, 1, 1>(s, stream, args...);
}

}  // namespace attention_fp32

// out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference); doc_start (B,Tk) or null: see attention.cuh.
inline void attention_fp32_forward(float* out, float* lse, const float* q, const float* k, const float* v,
                                   const AttentionShape& s, const int* doc_start, Dropout dropout,
                                   cudaStream_t stream) {
    using namespace attention_fp32;
    if (s.HS <= 64) launch_forward<64, 8, 4>(s, stream, out, lse, q, k, v, s, doc_start, dropout);
    else if (s.HS <= 128) launch_forward<128, 8, 2>(s, stream, out, lse, q, k, v, s, doc_start, dropout);
    else launch_forward<256, 4, 1>(s, stream, out, lse, q, k, v, s, doc_start, dropout);
}

inline size_t attention_fp32_backward_workspace_bytes(const AttentionShape& s) {
    return sizeof(float) * s.B * s.NH * s.Tq;
}
// dq, dk, dv are overwritten. Needs Tq == Tk.
inline void attention_fp32_backward(float* dq, float* dk, float* dv, const float* dout, const float* q, const float* k,
                                    const float* v, const float* out, const float* lse, const AttentionShape& s,
                                    const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_fp32;
    float* dots = workspace<float>(attention_fp32_backward_workspace_bytes(s) / sizeof(float));
    launch(attention_fp32_dots_kernel, ceil_div(int64_t(s.B) * s.NH * s.Tq * 4, kThreads), kThreads, 0, stream, dots,
           dout, out, s);
    choose_backward<false>(s, stream, dq, nullptr, dout, q, k, v, lse, dots, s, doc_start, dropout);
    choose_backward<true>(s, stream, dk, dv, dout, q, k, v, lse, dots, s, doc_start, dropout);
}
