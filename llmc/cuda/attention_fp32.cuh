// Causal self-attention in fp32, without tensor cores: read it before attention_mma.cuh, which does the same with them.
// attention.cuh has the formulas and shapes.
//
// Never a T x T buffer: a block of 128 threads keeps a tile of queries in shared memory and lets the keys pass by, a
// tile at a time. exp(s) overflows unless the largest score of a row is subtracted, which may come late. So each row
// keeps the largest score m so far, the sum l of exp(s - m) and the sum o of exp(s - m) v; where a tile raises m to m',
// what was summed before is multiplied by exp(m - m'). At the end out = o / l and lse = m + log l ("online softmax",
// Milakov and Gimelshein 2018; FlashAttention, Dao et al. 2022, https://arxiv.org/abs/2205.14135).
//
// Backward has lse, so p_ij = exp(s_ij - lse_i) comes without another look at the row. With g_ij the gradient of p_ij,
// dropout(dout_i . v_j), softmax gives ds_ij = p_ij (g_ij - sum_j' p_ij' g_ij'), and the sum is D_i = dout_i . out_i,
// because out_i is the sum of the same dropout(p_ij') v_j'. dq sums over keys, dk and dv over queries: two kernels, one
// whose blocks own queries and one whose blocks own keys, need no atomic additions and add in one order always, at the
// price of computing s and g twice (7 products of tiles instead of 5).
//
// Limit: arithmetic. Each thread keeps R x N scores in registers: a number read from shared memory is used R or N
// times.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/dropout.cuh"
#include "llmc/model/arguments.h"
#include "llmc/cuda/pack.cuh"

namespace attention_fp32 {

constexpr int kThreads = 128;
constexpr float kLog2e = 1.4426950408889634f;  // exp(x) = 2^(x log2 e), and 2^x is one instruction

// Tiles are rows of WIDTH >= HS floats in shared memory. The threads are 8 x 16: thread (y, x) works on rows y R + i of
// the block's own tile (8 R rows) and rows x N + j of the tile that passes (16 N rows). They lie in places i 8 + y and
// j 16 + x, 4 floats further apart than WIDTH, so that what the threads of a warp read together comes from different
// banks of shared memory, which serve it at once. `ways` is 8 or 16.
template <int WIDTH>
constexpr int tile_row = WIDTH + 4;
__device__ inline int thread_y() { return static_cast<int>(threadIdx.x / 16); }
__device__ inline int thread_x() { return static_cast<int>(threadIdx.x % 16); }
template <int n, int ways>
__device__ inline int place(int r) {
    return r % (n / ways) * ways + r / (n / ways);
}

// tile (n,WIDTH) = rows of `from`, of which `count` are there; the rest, and columns from HS on, are zero.
template <int WIDTH, int n, int ways>
__device__ inline void load_tile(float* tile, const float* from, int64_t row, int count, int HS) {
    const bool packs = (reinterpret_cast<uintptr_t>(from) | row * sizeof(float) | HS * sizeof(float)) % 16 == 0;
#pragma unroll 2
    for (int e = static_cast<int>(threadIdx.x) * 4; e < n * WIDTH; e += kThreads * 4) {
        const int r = e / WIDTH, d = e % WIDTH;
        float x[4] = {};
        if (packs && r < count && d < HS) load_pack(x, from + r * row + d);
        for (int i = 0; i < 4; i++)
            if (!packs && r < count && d + i < HS) x[i] = from[r * row + d + i];
        store_pack(tile + place<n, ways>(r) * tile_row<WIDTH> + d, x);
    }
}

// s[i][j] = row i of this thread in `own` (8 R,WIDTH) . row j of this thread in `other` (16 N,WIDTH)
template <int WIDTH, int R, int N>
__device__ inline void dot_rows(float (&s)[R][N], const float* own, const float* other, int HS) {
    own += thread_y() * tile_row<WIDTH>, other += thread_x() * tile_row<WIDTH>;
    for (auto& row : s)
        for (float& e : row) e = 0;
#pragma unroll 2
    for (int d = 0; d < HS; d += 4) {
        float a[R][4], b[N][4];
        for (int i = 0; i < R; i++) load_pack(a[i], own + i * 8 * tile_row<WIDTH> + d);
        for (int j = 0; j < N; j++) load_pack(b[j], other + j * 16 * tile_row<WIDTH> + d);
        for (int i = 0; i < R; i++)
            for (int j = 0; j < N; j++)
                for (int k = 0; k < 4; k++) s[i][j] += a[i][k] * b[j][k];
    }
}

// sum[i] += row i of p (8 R,16 N) . other (16 N,WIDTH); of the sum a thread has columns 64 m + 4 x + c. p goes through
// `exchange`, since a thread has R x N of it and needs R whole rows. The other parts of these are in the hands of the
// 16 threads with the same y, all in one warp: the warp waits for itself, not for the block.
template <int WIDTH, int R, int N>
__device__ inline void add_product(float (&sum)[R][WIDTH / 16], const float (&p)[R][N], const float* other,
                                   float* exchange) {
    constexpr int p_row = 16 * N + 4;
    exchange += thread_y() * p_row, other += thread_x() * 4;
    __syncwarp();
    for (int i = 0; i < R; i++)
        for (int j = 0; j < N; j++) exchange[i * 8 * p_row + thread_x() * N + j] = p[i][j];
    __syncwarp();
    for (int n = 0; n < 16 * N; n += 4) {
        float w[R][4], x[4];
        for (int i = 0; i < R; i++) load_pack(w[i], exchange + i * 8 * p_row + n);
        for (int e = 0; e < WIDTH / 16; e++) {  // k = e % 4 first: a row of `other` after the other
            const int k = e / (WIDTH / 64), m = e % (WIDTH / 64);
            load_pack(x, other + place<16 * N, 16>(n + k) * tile_row<WIDTH> + 64 * m);
            for (int i = 0; i < R; i++)
                for (int c = 0; c < 4; c++) sum[i][4 * m + c] += w[i][k] * x[c];
        }
    }
}

// Rows y R + i of `to`, of which `count` are there, = sum[i] * scale[i]
template <int WIDTH, int R>
__device__ inline void store_rows(float* to, int64_t row, int count, int HS, const float (&sum)[R][WIDTH / 16],
                                  const float (&scale)[R]) {
    for (int i = 0; i < R; i++)
        for (int c = 0; c < WIDTH / 16; c++)
            if (int r = thread_y() * R + i, d = c / 4 * 64 + thread_x() * 4 + c % 4; r < count && d < HS)
                to[r * row + d] = sum[i][c] * scale[i];
}

// Which of a thread's probabilities dropout keeps: bit i * N + j for row i, column j. The first is element e of row b's
// sample, the next query's T further. One call of Philox serves four neighbouring keys, the rows here (KEYS) or
// columns.
template <bool KEYS, int R, int N>
__device__ inline uint32_t dropout_bits(const Dropout& dropout, int b, int64_t e, int T) {
    static_assert(R * N <= 32);
    if (!dropout.active()) return ~0u;
    uint32_t bits = 0;
#pragma unroll
    for (int query = 0; query < (KEYS ? N : R); query++) {
        float scale[KEYS ? R : N];
        dropout_scales(scale, dropout, b, e + int64_t(query) * T);
        for (int key = 0; key < (KEYS ? R : N); key++)
            bits |= (scale[key] > 0 ? 1u : 0u) << (KEYS ? key * N + query : query * N + key);
    }
    return bits;
}

// ---- forward ----

template <int WIDTH, int R, int N>
__global__ void __launch_bounds__(kThreads, 2)
    attention_fp32_forward_kernel(float* out, float* lse, const float* q, const float* k, const float* v,
                                  AttentionShape s, const int* doc_start, Dropout dropout) {
    extern __shared__ __align__(16) unsigned char shared[];
    float *queries = reinterpret_cast<float*>(shared), *keys = queries + 8 * R * tile_row<WIDTH>;
    float* exchange = keys + 16 * N * tile_row<WIDTH>;
    // The last queries see the most keys: those blocks begin first.
    const int b = blockIdx.x / s.NH, h = blockIdx.x % s.NH, t = (gridDim.y - 1 - blockIdx.y) * 8 * R;
    const int offset = t + s.Tk - s.Tq, position = offset + thread_y() * R;  // of the block's, this thread's queries
    const int64_t kv = b * s.kv_batch + h / (s.NH / s.NKV) * s.HS;
    const float scale = kLog2e / (sqrtf(static_cast<float>(s.HS)) * s.divisor),
                keep = dropout.active() ? 1.0f / (1.0f - dropout.p) : 1.0f;
    load_tile<WIDTH, 8 * R, 8>(queries, q + b * s.q_batch + t * s.q_row + h * s.HS, s.q_row, s.Tq - t, s.HS);

    auto first_key = [&](int i) {  // that query i of this thread sees
        int at = position + i;
        return doc_start && at < s.Tk ? min(doc_start[int64_t(b) * s.Tk + at], at) : 0;
    };
    float sum[R][WIDTH / 16] = {}, largest[R], total[R] = {};
    for (float& x : largest) x = -1e30f;
    for (int key = 0; key < min(s.Tk, offset + 8 * R); key += 16 * N) {
        bool needed = doc_start == nullptr;
        for (int i = 0; i < R && !needed; i++) needed = first_key(i) < key + 16 * N;
        if (!__syncthreads_or(needed)) continue;  // also: nobody needs the values of the tile before any more
        load_tile<WIDTH, 16 * N, 16>(keys, k + kv + key * s.kv_row, s.kv_row, s.Tk - key, s.HS);
        __syncthreads();
        float p[R][N];
        dot_rows<WIDTH>(p, queries, keys, s.HS);
        const int key0 = key + thread_x() * N;
        const uint32_t kept = dropout_bits<false, R, N>(dropout, b, (int64_t(h) * s.Tk + position) * s.Tk + key0, s.Tk);
        for (int i = 0; i < R; i++) {
            const int first = first_key(i), last = position + i;
            auto sees = [&](int j) { return first <= key0 + j && key0 + j <= last; };
            const float before = largest[i];
            for (int j = 0; j < N; j++) largest[i] = sees(j) ? fmaxf(largest[i], p[i][j]) : largest[i];
            for (int lane = 8; lane > 0; lane /= 2)  // of the 16 threads that share the row
                largest[i] = fmaxf(largest[i], __shfl_xor_sync(0xffffffffu, largest[i], lane));
            const float rescale = ptx::exp2_approx((before - largest[i]) * scale);
            total[i] *= rescale;
            for (float& x : sum[i]) x *= rescale;
            for (int j = 0; j < N; j++) {
                float probability = sees(j) ? ptx::exp2_approx((p[i][j] - largest[i]) * scale) : 0.0f;
                total[i] += probability;
                p[i][j] = kept >> (i * N + j) & 1 ? probability : 0;
            }
        }
        __syncthreads();  // all have read the keys: the values may take their place
        load_tile<WIDTH, 16 * N, 16>(keys, v + kv + key * s.kv_row, s.kv_row, s.Tk - key, s.HS);
        __syncthreads();
        add_product<WIDTH>(sum, p, keys, exchange);
    }
    float scales[R];
#pragma unroll
    for (int i = 0; i < R; i++) {
        for (int lane = 8; lane > 0; lane /= 2) total[i] += __shfl_xor_sync(0xffffffffu, total[i], lane);
        scales[i] = keep / total[i];
        if (int r = t + thread_y() * R + i; lse && thread_x() == 0 && r < s.Tq)
            lse[(int64_t(b) * s.NH + h) * s.Tq + r] = largest[i] * (scale / kLog2e) + logf(total[i]);
    }
    store_rows<WIDTH>(out + b * s.out_batch + t * s.out_row + h * s.HS, s.out_row, s.Tq - t, s.HS, sum, scales);
}

// ---- backward ----

// KEYS: a block owns keys and values, queries and dout pass by: d0 = dk, d1 = dv. Else it owns queries and dout, keys
// and values pass by: d0 = dq. The latter runs first and leaves D in dots (B,NH,T).
template <bool KEYS, int WIDTH, int R, int N>
__global__ void __launch_bounds__(kThreads, 2)
    attention_fp32_backward_kernel(float* d0, float* d1, float* dots, const float* dout, const float* q, const float* k,
                                   const float* v, const float* out, const float* lse, AttentionShape s,
                                   const int* doc_start, Dropout dropout) {
    extern __shared__ __align__(16) unsigned char shared[];
    float *own0 = reinterpret_cast<float*>(shared), *own1 = own0 + 8 * R * tile_row<WIDTH>;
    float *other0 = own1 + 8 * R * tile_row<WIDTH>, *other1 = other0 + 16 * N * tile_row<WIDTH>;
    float* exchange = other1 + 16 * N * tile_row<WIDTH>;
    const int heads = KEYS ? s.NKV : s.NH, group = s.NH / s.NKV, T = s.Tk;
    const int b = blockIdx.x / heads, head = blockIdx.x % heads;
    const int begin = (KEYS ? blockIdx.y : gridDim.y - 1 - blockIdx.y) * 8 * R;  // most work first
    const float scale = 1.0f / (sqrtf(static_cast<float>(s.HS)) * s.divisor),
                keep = dropout.active() ? 1.0f / (1.0f - dropout.p) : 1.0f;
    const int64_t kv = b * s.kv_batch + (KEYS ? head : head / group) * s.HS, q0 = b * s.q_batch, out0 = b * s.out_batch;
    // Two tiles, own or other: keys and values, or queries and dout of head h, from position t on
    auto load = [&]<bool KEY_ROWS, int n, int ways>(float* tile0, float* tile1, int h, int t) {
        const int64_t row0 = KEY_ROWS ? s.kv_row : s.q_row, row1 = KEY_ROWS ? s.kv_row : s.out_row;
        load_tile<WIDTH, n, ways>(tile0, (KEY_ROWS ? k + kv : q + q0 + h * s.HS) + t * row0, row0, T - t, s.HS);
        load_tile<WIDTH, n, ways>(tile1, (KEY_ROWS ? v + kv : dout + out0 + h * s.HS) + t * row1, row1, T - t, s.HS);
    };
    load.template operator()<KEYS, 8 * R, 8>(own0, own1, head, begin);
    if constexpr (!KEYS) {
        __syncthreads();
        for (int i = 0; i < R; i++) {
            const int t = begin + thread_y() * R + i;
            float dot = 0;
            for (int d = thread_x(); d < s.HS && t < T; d += 16)
                dot += own1[(i * 8 + thread_y()) * tile_row<WIDTH> + d] * out[out0 + t * s.out_row + head * s.HS + d];
            for (int lane = 8; lane > 0; lane /= 2) dot += __shfl_xor_sync(0xffffffffu, dot, lane);
            if (thread_x() == 0 && t < T) dots[(int64_t(b) * s.NH + head) * T + t] = dot;
        }
        __syncthreads();  // what a block writes to global memory too, all of its threads see after a barrier
    }

    float sum0[R][WIDTH / 16] = {}, sum1[R][WIDTH / 16] = {};
    for (int h = KEYS ? head * group : head; h < (KEYS ? (head + 1) * group : head + 1); h++) {
        // Causal: keys are seen from their own position on, queries see keys up to theirs.
        for (int t = KEYS ? begin / (16 * N) * (16 * N) : 0; t < (KEYS ? T : min(T, begin + 8 * R)); t += 16 * N) {
            const int query = KEYS ? t + thread_x() * N : begin + thread_y() * R;  // this thread's first
            const int key = KEYS ? begin + thread_y() * R : t + thread_x() * N;
            constexpr int Q = KEYS ? N : R;
            int first[Q];  // key that the query sees
            float log_sum[Q], dot[Q];
            bool needed = doc_start == nullptr;
            for (int i = 0; i < Q; i++) {
                const bool there = query + i < T;
                const int64_t line = (int64_t(b) * s.NH + h) * T + query + i;
                first[i] = !there ? T : doc_start ? min(doc_start[int64_t(b) * T + query + i], query + i) : 0;
                log_sum[i] = there ? lse[line] * kLog2e : 0.0f;
                dot[i] = there ? dots[line] : 0.0f;
                needed |= first[i] < (KEYS ? begin + 8 * R : t + 16 * N);
            }
            if (!__syncthreads_or(needed)) continue;  // also: nobody needs the tiles before any more
            load.template operator()<!KEYS, 16 * N, 16>(other0, other1, h, t);
            __syncthreads();
            float p[R][N], ds[R][N];
            dot_rows<WIDTH>(p, own0, other0, s.HS);
            dot_rows<WIDTH>(ds, own1, other1, s.HS);
            const uint32_t kept = dropout_bits<KEYS, R, N>(dropout, b, (int64_t(h) * T + query) * T + key, T);
            for (int i = 0; i < R; i++)
                for (int j = 0; j < N; j++) {
                    const int iq = KEYS ? j : i, ik = KEYS ? i : j;
                    const bool sees = first[iq] <= key + ik && key + ik <= query + iq;
                    float probability = sees ? ptx::exp2_approx(p[i][j] * (scale * kLog2e) - log_sum[iq]) : 0.0f;
                    const bool is_kept = kept >> (i * N + j) & 1;
                    ds[i][j] = probability * ((is_kept ? ds[i][j] * keep : 0) - dot[iq]);
                    p[i][j] = is_kept ? probability : 0;
                }
            if constexpr (KEYS) add_product<WIDTH>(sum1, p, other1, exchange);
            add_product<WIDTH>(sum0, ds, other0, exchange);
        }
    }
    float scales[R], keeps[R];
    for (int i = 0; i < R; i++) scales[i] = scale, keeps[i] = keep;
    const int64_t row = KEYS ? s.kv_row : s.q_row, to = (KEYS ? kv : q0 + head * s.HS) + begin * row;
    store_rows<WIDTH>(d0 + to, row, T - begin, s.HS, sum0, scales);
    if constexpr (KEYS) store_rows<WIDTH>(d1 + to, row, T - begin, s.HS, sum1, keeps);
}

}  // namespace attention_fp32

// In both directions tiles are as large as the 64 KiB of shared memory of the smallest GPU (sm_75) allow.
void attention_own_forward(float* out, float* lse, const float* q, const float* k, const float* v,
                           const AttentionShape& s, const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_fp32;
    auto run = [&]<int WIDTH, int R, int N>() {
        launch(attention_fp32_forward_kernel<WIDTH, R, N>, dim3(s.B * s.NH, ceil_div(s.Tq, 8 * R)), kThreads,
               sizeof(float) * ((8 * R + 16 * N) * tile_row<WIDTH> + 8 * R * (16 * N + 4)), stream, out, lse, q, k, v,
               s, doc_start, dropout);
    };
    if (s.HS <= 64) run.template operator()<64, 8, 4>();
    else if (s.HS <= 128) run.template operator()<128, 8, 2>();
    else run.template operator()<256, 4, 1>();
}

// Workspace: D of each query of each head.
void attention_own_backward(float* dq, float* dk, float* dv, const float* dout, const float* q, const float* k,
                            const float* v, const float* out, const float* lse, const AttentionShape& s,
                            const int* doc_start, Dropout dropout, Sums<float>, cudaStream_t stream) {
    using namespace attention_fp32;
    float* dots = workspace<float>(attention_fp32_backward_workspace_bytes(s) / sizeof(float));
    auto run = [&]<int WIDTH, int R, int N>() {
        auto go = [&](auto kernel, int heads, float* d0, float* d1) {
            launch(kernel, dim3(s.B * heads, ceil_div(s.Tk, 8 * R)), kThreads,
                   sizeof(float) * (2 * (8 * R + 16 * N) * tile_row<WIDTH> + 8 * R * (16 * N + 4)), stream, d0, d1,
                   dots, dout, q, k, v, out, lse, s, doc_start, dropout);
        };
        go(attention_fp32_backward_kernel<false, WIDTH, R, N>, s.NH, dq, nullptr);
        go(attention_fp32_backward_kernel<true, WIDTH, R, N>, s.NKV, dk, dv);
    };
    if (s.HS <= 64) run.template operator()<64, 8, 2>();
    else if (s.HS <= 128) run.template operator()<128, 4, 1>();
    else run.template operator()<256, 1, 1>();
}
