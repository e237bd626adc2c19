// Flash attention in bf16 on tensor cores; mathematics and shapes in attention.cuh.
//                                                      (FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691)
//
// Tiles of queries meet tiles of keys: products of tiles by tensor cores (mma.sync m16n8k16, see ptx.cuh), everything
// between two products in registers. The result of a product, 16 rows of fp32 sums spread over a warp, has the layout
// that the next product wants for its left operand, so probabilities never leave the registers of their warp.
//
//   forward   a block takes a tile of queries, a warp 16 or 32 of them, and walks over the keys with an online softmax
//   dk, dv    a block takes a tile of keys and walks over the queries of all heads that share them, with transposed
//             scores s^T = k q^T, so that p^T and ds^T are left operands of dv = p^T dout and dk = ds^T q
//   dq        a block takes a tile of queries and walks over the keys: dq = ds k
//
// The backward pass computes s and dp twice, 7 products where one kernel for all three gradients needs 5. But that
// kernel would add up dq across blocks, in fp32, in global memory: atomically, with sums that change from run to run,
// or block after block; and its warps would hand each other ds through shared memory, whose bandwidth limits kernels of
// this kind as much as the tensor cores do (on sm_80 an mma takes as long as 256 bytes of its operands). Counting that
// traffic the two are close, and this one needs no order between blocks.
//
// Tiles lie in shared memory as rows of HS elements in chunks of 16 bytes; chunk c of row r is stored at c ^
// swizzle(r), so that neither copying rows nor ldmatrix, which takes one chunk of each of eight rows, meets a bank
// twice. Copies from global memory are asynchronous (cp.async): while one tile is worked on, the next ones are under
// way.
#pragma once
#include <algorithm>
#include "llmc/cuda/common.cuh"
#include "llmc/cuda/dropout.cuh"
#include "llmc/model/arguments.h"
#include "llmc/cuda/pack.cuh"
#include "llmc/cuda/ptx.cuh"

namespace attention_mma {

constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.69314718055995f;

// What all kernels are told; each uses the tensors that it needs.
struct Problem {
    AttentionShape s;
    const int* doc_start;
    Dropout dropout;
    const bf16 *q, *k, *v;
    bf16* out;
    float* lse;
    const bf16* dout = nullptr;
    bf16 *dq = nullptr, *dk = nullptr, *dv = nullptr;
    float2* stats = nullptr;
    int stats_stride = 0;
    bool wide = false;                // every row of every tensor is whole chunks of 16 bytes on 16-byte boundaries
    float scale = 0, scale_log2 = 0;  // 1 / sqrt(HS), and that * log2 e: exp(s * scale) = 2^(s * scale_log2)
    float keep_scale = 1;             // dropout's factor of what is kept
    int sharing = 1;                  // query heads that share a head of keys and values
    int tiles = 0;                    // of a head: each is a block's work
    int group_size = 0;               // see Work

    // Offsets of position t of query head h.
    __device__ int64_t q_at(int b, int h, int t) const { return b * s.q_batch + t * s.q_row + int64_t(h) * s.HS; }
    __device__ int64_t out_at(int b, int h, int t) const { return b * s.out_batch + t * s.out_row + int64_t(h) * s.HS; }
    __device__ int64_t kv_at(int b, int h, int t) const {
        return b * s.kv_batch + t * s.kv_row + int64_t(h / sharing) * s.HS;
    }
    __device__ int64_t stats_at(int b, int h, int t) const { return (int64_t(b) * s.NH + h) * stats_stride + t; }
    __device__ const int* starts(int b) const { return doc_start ? doc_start + int64_t(b) * s.Tk : nullptr; }
};

// Which tile of which of B * heads heads a block works on. Blocks start in the order of their index: of a group of
// heads first the tiles with most work, so that short ones are left for the end. A group is as many heads as have room
// for their keys and values in the L2 cache, where the tiles of a head find them.
struct Work {
    int rank, head, b;  // rank: 0 has most work
    __device__ Work(const Problem& p, int heads) {
        int block = static_cast<int>(blockIdx.x), group = block / (p.tiles * p.group_size);
        int i = block - group * p.tiles * p.group_size, width = min(p.group_size, p.s.B * heads - group * p.group_size);
        rank = i / width;
        int index = group * p.group_size + i % width;
        b = index / heads, head = index % heads;
    }
};

__device__ inline int thread() { return static_cast<int>(threadIdx.x); }
__device__ inline int lane() { return thread() % 32; }  // within the warp, = 4 * group + quad
__device__ inline int warp() { return thread() / 32; }

// ---- tiles in shared memory ----

// Index i in [0, 16) of a fragment's rows or columns stands for row row16(i) of the tile: a lane, which holds columns
// 2 quad, 2 quad + 1, 2 quad + 8, 2 quad + 9 of a product, thereby has the four neighbours from 4 quad on, which share
// one call of dropout's Philox. A sum over such an index runs over all 16, so their order may be any.
__device__ inline int row16(int i) { return (i & 6) << 1 | (i & 1) | (i & 8) >> 2; }
// Different for row16(0..7), and for row16(8..15): the rows that ldmatrix reads at a time.
__device__ inline int swizzle(int row) { return (row & 1) | ((row >> 1) & 6); }

// tile (ROWS,HS) = the first `count` rows of `from`; zeros beyond them and beyond the head's size. By the whole block.
template <int HS, int ROWS, int THREADS>
__device__ inline void load_tile(bf16* tile, const bf16* from, int64_t stride, int count, const Problem& p) {
    constexpr int chunks = HS / 8, rows = THREADS / chunks;  // rows: at a time
    static_assert(ROWS % rows == 0 && THREADS % chunks == 0);
    int row = thread() / chunks, c = thread() % chunks;
    from += row * stride + c * 8;
#pragma unroll 1
    for (int i = 0; i < ROWS / rows; i++, row += rows, from += rows * stride) {
        bf16* to = tile + row * HS + (c ^ swizzle(row)) * 8;
        if (p.wide) ptx::cp_async_16(to, from, row < count && c * 8 < p.s.HS);
        else
#pragma unroll 1
            for (int j = 0; j < 8; j++) to[j] = row < count && c * 8 + j < p.s.HS ? from[j] : bf16(0.0f);
    }
}

// Where a lane's row begins for an ldmatrix_x4 of 16 rows of the tile, from `first` on, and 16 columns, from 16 k on.
// The four matrices are (rows 0-7, columns 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), rows counted as before row16:
// a[0..3] of a left operand; transposed, b0 and b1 of two right operands whose k are the rows. For right operands whose
// n are the rows, the second and the third change places: b0 and b1 have to be neighbouring registers.
template <int HS>
__device__ inline const bf16* fragment(const bf16* tile, int first, int k, bool rows_are_n = false) {
    const int low = lane() / 8 % 2, high = lane() / 16, row = row16(lane() % 8 + 8 * (rows_are_n ? high : low));
    const int column = ((rows_are_n ? low : high) ^ (lane() % 8)) * 8;
    return tile + (row * HS + ((16 * (k % 4)) ^ column)) + (first * HS + k / 4 * 64);
}

// ---- products ----

// f(m, n, e) for the elements of a lane's part x[M][N][4] of a product (16 M, 8 N), f(m, i) for its rows: element
// (m, n, e) is in row (m, e / 2).
template <int M, int N, typename F>
__device__ inline void for_elements(F f) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) f(m, n, e);
}
template <int M, typename F>
__device__ inline void for_rows(F f) {
#pragma unroll
    for (int m = 0; m < M; m++) f(m, 0), f(m, 1);
}

// Left operand of a product: a warp's 16 M rows of a tile. KEPT: in registers, else read anew for each product.
template <int HS, int M, bool KEPT>
struct Rows {
    const bf16* tile;
    uint32_t kept[KEPT ? M : 1][KEPT ? HS / 16 : 1][4];

    __device__ void load(const bf16* from) {
        tile = from;
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < M * HS / 16; i++)
                ptx::ldmatrix_x4(kept[i % M][i / M], fragment<HS>(tile, i % M * 16, i / M));
    }
    __device__ void get(uint32_t (&a)[4], int m, int k) const {
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = kept[m][k][i];
        else ptx::ldmatrix_x4(a, fragment<HS>(tile, 16 * m, k));
    }
};

// s (16 M, 8 N) = rows (16 M, HS) . tile (8 N, HS)^T, tile from row `first` on
template <int HS, int M, int N, bool KEPT>
__device__ inline void score_product(float (&s)[M][N][4], const Rows<HS, M, KEPT>& rows, const bf16* tile, int first) {
    for_elements<M, N>([&](int m, int n, int e) { s[m][n][e] = 0; });
#pragma unroll
    for (int k = 0; k < HS / 16; k++) {
        uint32_t a[M][4], r[4];
#pragma unroll
        for (int m = 0; m < M; m++) rows.get(a[m], m, k);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            ptx::ldmatrix_x4(r, fragment<HS>(tile, first + 8 * n, k, true));
#pragma unroll
            for (int m = 0; m < M; m++) {
                ptx::mma_m16n8k16(s[m][n], a[m], r[0], r[1]);
                ptx::mma_m16n8k16(s[m][n + 1], a[m], r[2], r[3]);
            }
        }
    }
}

// sum (16 M, 8 D) += p (16 M, 8 N), rounded to bf16, . tile (8 N, 8 D), tile from row `first` and column 16 k0 on
template <int HS, int M, int N, int D>
__device__ inline void add_product(float (&sum)[M][D][4], const float (&p)[M][N][4], const bf16* tile, int first,
                                   int k0) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4], r[4];
        for_elements<M, 1>([&](int m, int, int i) {
            a[m][i] = ptx::pack_bf16x2(p[m][n + i / 2][i % 2 * 2], p[m][n + i / 2][i % 2 * 2 + 1]);
        });
#pragma unroll
        for (int d = 0; d < D; d += 2) {
            ptx::ldmatrix_x4_trans(r, fragment<HS>(tile, first + 8 * n, k0 + d / 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                ptx::mma_m16n8k16(sum[m][d], a[m], r[0], r[1]);
                ptx::mma_m16n8k16(sum[m][d + 1], a[m], r[2], r[3]);
            }
        }
    }
}

// The first `count` rows of `to`, elements [0, hs), = sum (16 M, 8 D) * factor(m, i), a warp's rows.
template <int M, int D, typename F>
__device__ inline void store_rows(bf16* to, int64_t stride, int count, int hs, bool wide, const float (&sum)[M][D][4],
                                  F factor) {
    const int column = lane() % 4 * 2;
    for_rows<M>([&](int m, int i) {
        const int row = 16 * m + row16(lane() / 4) + 2 * i;
        bf16* pair = to + row * stride + column;
#pragma unroll
        for (int d = 0; d < D; d++, pair += 8) {
            float x = sum[m][d][2 * i] * factor(m, i), y = sum[m][d][2 * i + 1] * factor(m, i);
            if (row >= count || 8 * d + column >= hs) continue;
            if (wide) *reinterpret_cast<uint32_t*>(pair) = ptx::pack_bf16x2(x, y);
            else if (pair[0] = bf16(x); 8 * d + column + 1 < hs) pair[1] = bf16(y);
        }
    });
}

// ---- masks ----

// Row (m, i) of a lane's part of a product is 16 m + 2 i behind its first row; column (n, e) so far behind its first:
__device__ inline int column_of(int n, int e) { return n / 2 * 16 + n % 2 * 2 + e % 2; }

// The smallest first key of the queries at positions [begin, end), the same for all lanes of a warp.
__device__ inline int earliest_key(const int* starts, int begin, int end) {
    int first = begin;
    for (int i = begin + lane(); i < end; i += 32) first = min(first, starts[i]);
    for (int lane = 16; lane > 0; lane /= 2) first = min(first, __shfl_xor_sync(0xffffffffu, first, lane));
    return max(0, first);
}

// Scores of keys that their query does not see become -infinity. row, column: positions of the lane's first; which of
// the two are keys is KEY_ROWS. starts (T) or null.
template <bool KEY_ROWS, int M, int N>
__device__ inline void hide_keys(float (&x)[M][N][4], const int* starts, int row, int column, int T) {
    int first[KEY_ROWS ? N : M][2];
    for_rows<KEY_ROWS ? N : M>([&](int a, int i) {
        int query = KEY_ROWS ? column + column_of(a, i) : row + 16 * a + 2 * i;
        first[a][i] = starts ? starts[min(query, T - 1)] : 0;
    });
    for_elements<M, N>([&](int m, int n, int e) {
        int r = row + 16 * m + e / 2 * 2, c = column + column_of(n, e), key = KEY_ROWS ? r : c;
        if (key > (KEY_ROWS ? c : r) || key < (KEY_ROWS ? first[n][e % 2] : first[m][e / 2])) x[m][n][e] = -INFINITY;
    });
}

// Bit 4 (N m + n) + e: dropout keeps element (m, n, e). To be called before the product, when registers are free, and
// with one Philox at a time. Four neighbouring keys share one: in a lane those of a row; or, KEY_ROWS, two in a column.
template <int M, int N>
using Bits = std::conditional_t<M * N <= 8, uint32_t, uint64_t>;
template <bool KEY_ROWS, int M, int N>
__device__ inline Bits<M, N> dropout_bits(const Problem& p, int b, int h, int row, int column) {
    constexpr int calls = KEY_ROWS ? 2 * N : N;  // of Philox for each m
    const int odd = row % 2;
    Bits<M, N> bits = 0;
#pragma unroll 1
    for (int i = 0; i < M * calls; i++) {
        int m = i / calls, r = i % calls;
        int query = KEY_ROWS ? column + column_of(r / 2, r) : row + 16 * m + r % 2 * 2;
        int key = KEY_ROWS ? row - odd + 16 * m : column + r / 2 * 16;
        float scale[4];
        dropout_scales(scale, p.dropout, b, (int64_t(h) * p.s.Tk + query) * p.s.Tk + key);
        auto set = [&](int e, float x) { bits |= Bits<M, N>(x != 0) << (4 * N * m + e); };
        if (KEY_ROWS) set(2 * r - r % 2, odd ? scale[1] : scale[0]), set(2 * r - r % 2 + 2, odd ? scale[3] : scale[2]);
        else
#pragma unroll
            for (int j = 0; j < 4; j++) set(r / 2 * 8 + r % 2 * 2 + j / 2 * 4 + j % 2, scale[j]);
    }
    return bits;
}
template <int M, int N>
__device__ inline void apply_dropout(float (&x)[M][N][4], Bits<M, N> bits, float scale) {
    for_elements<M, N>(
        [&](int m, int n, int e) { x[m][n][e] = bits >> (4 * (N * m + n) + e) & 1 ? x[m][n][e] * scale : 0; });
}

// ---- forward ----

// KEYS: keys of a tile. Tiles of keys and of values go in turn through SLOTS places in shared memory, each refilled as
// soon as the product that reads it is done.
template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) forward_kernel(Problem p) {
    constexpr int queries = 16 * M * WARPS, N = KEYS / 8;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *slots = q_tile + queries * HS;
    const AttentionShape& s = p.s;
    const Work work(p, s.NH);
    const int b = work.b, h = work.head, t0 = (p.tiles - 1 - work.rank) * queries, offset = s.Tk - s.Tq;
    const int warp_row = 16 * M * warp();
    const int warp_position = t0 + warp_row + offset;        // of the warp's first query
    const int position = warp_position + row16(lane() / 4);  // of this lane's: row (m, i) is 16 m + 2 i behind it

    const int end = min(t0 + queries, s.Tq) + offset;
    const int first_tile = p.doc_start ? earliest_key(p.starts(b), t0 + offset, end) / KEYS : 0;
    const int halves = 2 * ((end + KEYS - 1) / KEYS - first_tile);  // a tile of keys, its values, and so on
    auto load = [&](int i) {
        int key = (first_tile + i / 2) * KEYS;
        if (i < halves)
            load_tile<HS, KEYS, 32 * WARPS>(slots + i % SLOTS * KEYS * HS, (i % 2 ? p.v : p.k) + p.kv_at(b, h, key),
                                            s.kv_row, s.Tk - key, p);
        ptx::cp_async_commit();
    };
    // Waits for half i. Behind the barrier it is there for all, and all are done with the one before: its place is
    // free.
    auto arrive = [&](int i) {
        ptx::cp_async_wait<SLOTS - 2>();
        __syncthreads();
        load(i + SLOTS - 1);
        return slots + i % SLOTS * KEYS * HS;
    };
    load_tile<HS, queries, 32 * WARPS>(q_tile, p.q + p.q_at(b, h, t0), s.q_row, s.Tq - t0, p);
    for (int i = 0; i < SLOTS - 1; i++) load(i);

    Rows<HS, M, KEPT> rows;
    float sum[M][HS / 8][4], total[M][2], top[M][2];  // top: what is subtracted before 2^x
    for_elements<M, HS / 8>([&](int m, int d, int e) { sum[m][d][e] = 0; });
    for_rows<M>([&](int m, int i) { total[m][i] = 0, top[m][i] = -1e30f; });
    for (int half = 0; half < halves; half += 2) {
        const bf16* k_tile = arrive(half);
        if (half == 0) rows.load(q_tile + warp_row * HS);
        const int key = (first_tile + half / 2) * KEYS, lane_key = key + 4 * (lane() % 4);
        const bool visible = key < warp_position + 16 * M;  // to any of the warp's queries
        float x[M][N][4];
        if (visible) {
            Bits<M, N> kept = 0;
            if (p.dropout.active()) kept = dropout_bits<false, M, N>(p, b, h, position, lane_key);
            score_product(x, rows, k_tile, 0);
            if (key + KEYS - 1 > warp_position || p.doc_start)
                hide_keys<false>(x, p.starts(b), position, lane_key, s.Tk);
            // top follows the row's maximum only when that has grown by a factor of 2^8: the sums are seldom rescaled.
            float highest[M][2];
            bool outgrown = false;
            for_rows<M>([&](int m, int i) {
                float most = x[m][0][2 * i];
#pragma unroll
                for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(x[m][n][2 * i], x[m][n][2 * i + 1]));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                highest[m][i] = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2)) * p.scale_log2;
                outgrown |= highest[m][i] > top[m][i] + 8;
            });
            if (__any_sync(0xffffffffu, outgrown))
                for_rows<M>([&](int m, int i) {
                    float next = fmaxf(top[m][i], highest[m][i]), factor = ptx::exp2_approx(top[m][i] - next);
                    top[m][i] = next, total[m][i] *= factor;
#pragma unroll
                    for (int d = 0; d < HS / 8; d++) sum[m][d][2 * i] *= factor, sum[m][d][2 * i + 1] *= factor;
                });
            for_elements<M, N>([&](int m, int n, int e) {
                x[m][n][e] = ptx::exp2_approx(x[m][n][e] * p.scale_log2 - top[m][e / 2]);
                total[m][e / 2] += x[m][n][e];
            });
            if (p.dropout.active()) apply_dropout(x, kept, p.keep_scale);
        }
        const bf16* v_tile = arrive(half + 1);
        if (visible) add_product<HS>(sum, x, v_tile, 0, 0);
    }

    for_rows<M>([&](int m, int i) {
        float l = total[m][i];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        int t = position - offset + 16 * m + 2 * i;
        if (p.lse && lane() % 4 == 0 && t < s.Tq)
            p.lse[(int64_t(b) * s.NH + h) * s.Tq + t] = top[m][i] * kLn2 + logf(l);
        total[m][i] = 1 / l;
    });
    store_rows(p.out + p.out_at(b, h, t0 + warp_row), s.out_row, s.Tq - t0 - warp_row, s.HS, p.wide, sum,
               [&](int m, int i) { return total[m][i]; });
}

// ---- backward ----

// stats (B,NH,stats_stride) = {lse * log2 e, D}, from Tq on {infinity, 0}, so that probabilities of queries that are
// not there come out as 0. Eight threads work on one query of one head.
template <int W>
__global__ void __launch_bounds__(256) stats_kernel(Problem p) {
    const AttentionShape& s = p.s;
    int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 8;
    int h = static_cast<int>(i % s.NH), t = static_cast<int>(i / s.NH % p.stats_stride);
    int b = static_cast<int>(i / s.NH / p.stats_stride);
    float D = 0;
    if (b < s.B && t < s.Tq)
        for (int d = thread() % 8 * W; d < s.HS; d += 8 * W) {
            float x[W], dx[W];
            load_pack(x, p.out + p.out_at(b, h, t) + d);
            load_pack(dx, p.dout + p.out_at(b, h, t) + d);
#pragma unroll
            for (int j = 0; j < W; j++) D += x[j] * dx[j];
        }
    for (int lane = 4; lane > 0; lane /= 2) D += __shfl_xor_sync(0xffffffffu, D, lane);
    if (b < s.B && threadIdx.x % 8 == 0)
        p.stats[p.stats_at(b, h, t)] =
            t < s.Tq ? float2{p.lse[(int64_t(b) * s.NH + h) * s.Tq + t] * kLog2e, D} : float2{INFINITY, 0};
}

// A block owns the rows of a tile of two tensors, a warp 16 M of them, and tiles of PASS rows of the two others pass:
//   KEYS    it owns k and v; q and dout pass; its products are transposed, (keys,queries)    sums: 0 is dk, 1 is dv
//   else    it owns q and dout; k and v pass; (queries,keys)                                 sums: 0 is dq
// Of the gradient's columns it computes OUT from OUT * blockIdx.y on. STEP: rows of a passing tile that are worked on
// at a time, KEPT: how many of the owned tensors stay in registers; as far as there are registers.
template <bool KEYS, int HS, int M, int WARPS, int PASS, int STEP, int OUT, int KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) backward_kernel(Problem p) {
    constexpr int own = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = PASS * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *own0 = reinterpret_cast<bf16*>(shared), *own1 = own0 + own * HS, *passing = own1 + own * HS;
    float2* stats = reinterpret_cast<float2*>(passing + 4 * tile_size);  // of the queries, owned or passing
    const AttentionShape& s = p.s;
    const Work work(p, KEYS ? s.NKV : s.NH);
    const int b = work.b, h0 = KEYS ? work.head * p.sharing : work.head, heads = KEYS ? p.sharing : 1;
    const int begin = (KEYS ? work.rank : p.tiles - 1 - work.rank) * own, end = min(begin + own, s.Tk);
    const int warp_row = 16 * M * warp(), warp_position = begin + warp_row;
    const int position = warp_position + row16(lane() / 4);  // of the lane's first row
    auto load_pair = [&](auto rows, bool keys, bf16* to, int h, int t) {
        int64_t at = keys ? p.kv_at(b, h, t) : p.q_at(b, h, t), stride = keys ? s.kv_row : s.out_row;
        load_tile<HS, rows(), threads>(to, (keys ? p.k : p.q) + at, keys ? s.kv_row : s.q_row, s.Tk - t, p);
        load_tile<HS, rows(), threads>(to + rows() * HS, keys ? p.v + at : p.dout + p.out_at(b, h, t), stride, s.Tk - t,
                                       p);
    };

    // The tiles that pass: of queries those that see any of the keys, of the first head, then of the next, and so on;
    // or of keys those that any of the queries sees.
    const int first_tile = KEYS ? begin / PASS : (p.doc_start ? earliest_key(p.starts(b), begin, end) : 0) / PASS;
    const int tiles = ((KEYS ? s.Tq : end) + PASS - 1) / PASS;
    int next_head = h0, next_tile = first_tile - 1;
    auto advance = [&] {
        do {
            if (++next_tile == tiles) next_tile = first_tile, next_head++;
        } while (KEYS && p.doc_start && next_head < h0 + heads &&
                 earliest_key(p.starts(b), next_tile * PASS, min((next_tile + 1) * PASS, s.Tq)) >= end);
    };
    auto load = [&](int slot) {
        int h = next_head, t = next_tile * PASS, i = 2 * thread();
        if (next_head < h0 + heads) {
            load_pair(std::integral_constant<int, PASS>(), !KEYS, passing + 2 * slot * tile_size, h, t);
            if (KEYS && i < PASS) ptx::cp_async_16(stats + slot * PASS + i, p.stats + p.stats_at(b, h, t + i));
        }
        ptx::cp_async_commit();
    };
    load_pair(std::integral_constant<int, own>(), KEYS, own0, h0, begin);
    if (int i = 2 * thread(); !KEYS && i < own) ptx::cp_async_16(stats + i, p.stats + p.stats_at(b, h0, begin + i));
    ptx::cp_async_commit();
    advance();
    load(0);

    const int column = OUT < HS ? OUT * static_cast<int>(blockIdx.y) : 0;
    Rows<HS, M, (KEPT > 0)> rows0;
    Rows<HS, M, (KEPT > 1)> rows1;
    float sum0[M][OUT / 8][4], sum1[M][OUT / 8][4];
    for_elements<M, OUT / 8>([&](int m, int d, int e) { sum0[m][d][e] = sum1[m][d][e] = 0; });
    ptx::cp_async_wait<1>();
    __syncthreads();
    rows0.load(own0 + warp_row * HS);
    rows1.load(own1 + warp_row * HS);
    for (int slot = 0; next_head < h0 + heads; slot ^= 1) {
        const int h = next_head, tile = next_tile;
        advance();
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(slot ^ 1);
        const bf16 *pass0 = passing + 2 * slot * tile_size, *pass1 = pass0 + tile_size;
#pragma unroll 1
        for (int step = 0; step < PASS; step += STEP) {
            const int t = tile * PASS + step, lane_column = t + 4 * (lane() % 4);
            if (KEYS ? t + STEP <= warp_position : t >= warp_position + 16 * M) continue;  // all above the diagonal
            Bits<M, N> kept = 0;
            if (p.dropout.active()) kept = dropout_bits<KEYS, M, N>(p, b, h, position, lane_column);
            float x[M][N][4], dx[M][N][4];  // s, dp; then dropout(p), ds
            score_product(x, rows0, pass0, step);
            score_product(dx, rows1, pass1, step);
            if (p.doc_start || (KEYS ? t < warp_position + 16 * M - 1 : t + STEP - 1 > warp_position))
                hide_keys<KEYS>(x, p.starts(b), position, lane_column, s.Tk);
            if (p.dropout.active()) apply_dropout(dx, kept, p.keep_scale);
            for_elements<M, N>([&](int m, int n, int e) {
                int column = slot * PASS + step + 4 * (lane() % 4) + column_of(n, e);
                float2 query = stats[KEYS ? column : position - begin + 16 * m + e / 2 * 2];
                x[m][n][e] = ptx::exp2_approx(x[m][n][e] * p.scale_log2 - query.x);
                dx[m][n][e] = x[m][n][e] * (dx[m][n][e] - query.y);
            });
            if (KEYS && p.dropout.active()) apply_dropout(x, kept, p.keep_scale);
            if (KEYS) add_product<HS>(sum1, x, pass1, step, column / 16);
            add_product<HS>(sum0, dx, pass0, step, column / 16);
        }
    }
    const int64_t stride = KEYS ? s.kv_row : s.q_row;
    const int64_t to = column + (KEYS ? p.kv_at(b, h0, warp_position) : p.q_at(b, h0, warp_position));
    const int count = s.Tk - warp_position, hs = s.HS - column;
    store_rows((KEYS ? p.dk : p.dq) + to, stride, count, hs, p.wide, sum0, [&](int, int) { return p.scale; });
    if (KEYS) store_rows(p.dv + to, stride, count, hs, p.wide, sum1, [](int, int) { return 1.0f; });
}

// ---- launchers ----

constexpr int kStatsRows = 128;  // stats are padded to a multiple of the largest tile
inline int stats_stride(const AttentionShape& s) { return ceil_div(s.Tq, kStatsRows) * kStatsRows; }

// Sets what all launches of a call have in common.
inline void prepare(Problem& p) {
    const AttentionShape& s = p.s;
    auto all = static_cast<uint64_t>(s.HS | s.q_row | s.kv_row | s.out_row | s.q_batch | s.kv_batch | s.out_batch);
    all *= sizeof(bf16);
    for (const bf16* tensor : std::initializer_list<const bf16*>{p.q, p.k, p.v, p.dout, p.out, p.dq, p.dk, p.dv})
        all |= reinterpret_cast<uintptr_t>(tensor);
    p.wide = all % 16 == 0;
    p.scale = 1 / std::sqrt(static_cast<float>(s.HS)), p.scale_log2 = p.scale * kLog2e;
    p.sharing = s.NH / s.NKV, p.stats_stride = stats_stride(s);
    if (p.dropout.active()) p.keep_scale = 1 / (1 - p.dropout.p);
}
// One block for each `tile` of T positions of `heads` heads; the blocks of a head read `rows` rows of two tensors.
inline int blocks(Problem& p, int T, int tile, int heads, int64_t rows) {
    p.tiles = ceil_div(T, tile);
    int64_t room = device().l2_bytes / 2 / (2 * rows * p.s.HS * int64_t(sizeof(bf16)));
    p.group_size = static_cast<int>(std::clamp<int64_t>(room, 1, int64_t(p.s.B) * heads));
    return p.tiles * p.s.B * heads;
}

template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
void forward(Problem& p, cudaStream_t stream) {
    constexpr int queries = 16 * M * WARPS;
    launch(forward_kernel<HS, M, WARPS, KEYS, SLOTS, KEPT>, blocks(p, p.s.Tq, queries, p.s.NH, p.s.Tk), 32 * WARPS,
           (queries + SLOTS * KEYS) * HS * sizeof(bf16), stream, p);
}
template <bool KEYS, int HS, int M, int WARPS, int PASS, int STEP, int OUT, int KEPT>
void backward(Problem& p, cudaStream_t stream) {
    constexpr int own = 16 * M * WARPS;
    static_assert(kStatsRows % own == 0 && kStatsRows % PASS == 0);
    int grid =
        KEYS ? blocks(p, p.s.Tk, own, p.s.NKV, int64_t(p.s.Tq) * p.sharing) : blocks(p, p.s.Tq, own, p.s.NH, p.s.Tk);
    launch(backward_kernel<KEYS, HS, M, WARPS, PASS, STEP, OUT, KEPT>, dim3(grid, HS / OUT), 32 * WARPS,
           (2 * own + 4 * PASS) * HS * sizeof(bf16) + std::max(own, 2 * PASS) * sizeof(float2), stream, p);
}

}  // namespace attention_mma

inline void attention_mma_forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                                  const AttentionShape& s, const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    Problem p{s, doc_start, dropout, q, k, v, out, lse};
    prepare(p);
    if (s.HS <= 64) forward<64, 2, 4, 64, 4, true>(p, stream);
    else if (s.HS <= 128) forward<128, 2, 4, 32, 4, false>(p, stream);
    else forward<256, 1, 4, 32, 2, false>(p, stream);
}

inline size_t attention_mma_backward_workspace_bytes(const AttentionShape& s) {
    return sizeof(float2) * s.B * s.NH * attention_mma::stats_stride(s);
}

inline void attention_mma_backward(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                                   const bf16* v, const bf16* out, const float* lse, const AttentionShape& s,
                                   const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    const int64_t rows = int64_t(s.B) * s.NH * stats_stride(s);
    Problem p{s, doc_start, dropout, q, k, v, const_cast<bf16*>(out), const_cast<float*>(lse)};
    p.dout = dout, p.dq = dq, p.dk = dk, p.dv = dv, p.stats = workspace<float2>(static_cast<size_t>(rows));
    prepare(p);
    launch(p.wide ? stats_kernel<8> : stats_kernel<1>, ceil_div(rows, 32), 256, 0, stream, p);
    if (s.HS <= 64) {
        backward<true, 64, 2, 4, 64, 16, 64, 1>(p, stream);
        backward<false, 64, 2, 4, 64, 32, 64, 2>(p, stream);
    } else if (s.HS <= 128) {
        backward<true, 128, 1, 8, 32, 16, 128, 1>(p, stream);
        backward<false, 128, 1, 8, 32, 32, 128, 2>(p, stream);
    } else {
        backward<true, 256, 1, 4, 16, 16, 128, 0>(p, stream);
        backward<false, 256, 1, 4, 16, 16, 256, 0>(p, stream);
    }
}
