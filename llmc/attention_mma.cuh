// Flash attention in bf16 on tensor cores; mathematics and shapes in attention.cuh.
//                                                      (FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691)
//
// Tiles of queries meet tiles of keys: products of tiles by tensor cores (mma.sync m16n8k16, see ptx.cuh), everything
// between two products in registers. The result of a product, 16 rows of fp32 sums spread over a warp, has the layout
// that the next product wants for its left operand, so probabilities never leave the registers of their warp.
//
//   forward   a block takes a tile of queries, a warp 16 or 32 of them, and walks over the keys with an online softmax
//   dk, dv    a block takes a tile of keys, a warp 16 or 32 of them; it walks over the queries of all heads of its
//             group, with transposed scores s^T = k q^T, so that p^T and ds^T are left operands of dv = p^T dout and
//             dk = ds^T q
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
#include "llmc/cuda_common.cuh"
#include "llmc/dropout.cuh"
#include "llmc/layer_arguments.h"
#include "llmc/pack.cuh"
#include "llmc/ptx.cuh"

namespace attention_mma {

constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.69314718055995f;

// What all kernels are told; each uses the tensors that it needs.
struct Problem {
    AttentionShape s;
    const int* doc_start;
    Dropout dropout;
    const bf16 *q, *k, *v, *dout = nullptr;
    bf16 *out, *dq = nullptr, *dk = nullptr, *dv = nullptr;
    float* lse;
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
    int row = static_cast<int>(threadIdx.x) / chunks, c = static_cast<int>(threadIdx.x) % chunks;
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

// Where a lane's row begins for an ldmatrix_x4 of 16 rows and 16 columns. The four matrices are (rows 0-7, columns
// 0-7), (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), rows counted as before row16: a[0..3] of a left operand; transposed, b0
// and b1 of two right operands whose k are the rows. For right operands whose n are the rows, the second and the third
// change places: b0 and b1 have to be neighbouring registers.
template <int HS>
struct Reader {
    int row, column;
    __device__ Reader(bool rows_are_n) {
        int lane = static_cast<int>(threadIdx.x) % 32, low = lane / 8 % 2, high = lane / 16;
        row = row16(lane % 8 + 8 * (rows_are_n ? high : low)) * HS;
        column = ((rows_are_n ? low : high) ^ (lane % 8)) * 8;
    }
    // 16 rows of the tile from `first` on, 16 columns from 16 k on
    __device__ const bf16* at(const bf16* tile, int first, int k) const {
        return tile + (row + ((16 * (k % 4)) ^ column)) + (first * HS + k / 4 * 64);
    }
};
template <int HS>
struct Readers {
    Reader<HS> rows{false}, columns{true};
};

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

    __device__ void load(const bf16* from, const Readers<HS>& reader) {
        tile = from;
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < M * HS / 16; i++)
                ptx::ldmatrix_x4(kept[i % M][i / M], reader.rows.at(tile, i % M * 16, i / M));
    }
    __device__ void get(uint32_t (&a)[4], int m, int k, const Readers<HS>& reader) const {
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = kept[m][k][i];
        else ptx::ldmatrix_x4(a, reader.rows.at(tile, 16 * m, k));
    }
};

// s (16 M, 8 N) = rows (16 M, HS) . tile (8 N, HS)^T, tile from row `first` on
template <int HS, int M, int N, bool KEPT>
__device__ inline void score_product(float (&s)[M][N][4], const Rows<HS, M, KEPT>& rows, const bf16* tile, int first,
                                     const Readers<HS>& reader) {
    for_elements<M, N>([&](int m, int n, int e) { s[m][n][e] = 0; });
#pragma unroll
    for (int k = 0; k < HS / 16; k++) {
        uint32_t a[M][4], r[4];
#pragma unroll
        for (int m = 0; m < M; m++) rows.get(a[m], m, k, reader);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            ptx::ldmatrix_x4(r, reader.columns.at(tile, first + 8 * n, k));
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
                                   int k0, const Readers<HS>& reader) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4], r[4];
        for_elements<M, 1>([&](int m, int, int i) {
            a[m][i] = ptx::pack_bf16x2(p[m][n + i / 2][i % 2 * 2], p[m][n + i / 2][i % 2 * 2 + 1]);
        });
#pragma unroll
        for (int d = 0; d < D; d += 2) {
            ptx::ldmatrix_x4_trans(r, reader.rows.at(tile, first + 8 * n, k0 + d / 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                ptx::mma_m16n8k16(sum[m][d], a[m], r[0], r[1]);
                ptx::mma_m16n8k16(sum[m][d + 1], a[m], r[2], r[3]);
            }
        }
    }
}

// The first `count` rows of `to`, elements [0, hs), = sum (16 M, 8 D) * factor(m, i). By way of the warp's own rows of
// a tile that is no longer needed, so that a lane stores 16 neighbouring bytes.
template <int HS, int M, int D, typename F>
__device__ inline void store_rows(bf16* to, int64_t stride, int count, int hs, bool wide, bf16* tile,
                                  const float (&sum)[M][D][4], F factor) {
    int lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
    __syncwarp();  // after the last reads of the tile
    for_rows<M>([&](int m, int i) {
        bf16* row = tile + (16 * m + row16(group) + 2 * i) * HS + 2 * quad;
        float f = factor(m, i);
#pragma unroll
        for (int d = 0; d < D; d++)
            *reinterpret_cast<uint32_t*>(row + (d ^ group) * 8) =
                ptx::pack_bf16x2(sum[m][d][2 * i] * f, sum[m][d][2 * i + 1] * f);
    });
    __syncwarp();
    for (int i = lane; i < 16 * M * D; i += 32) {
        int row = i / D, c = i % D;
        const bf16* from = tile + row * HS + (c ^ swizzle(row)) * 8;
        bf16* chunk = to + row * stride + c * 8;
        if (row >= count || c * 8 >= hs) continue;
        if (wide) *reinterpret_cast<uint4*>(chunk) = *reinterpret_cast<const uint4*>(from);
        else
            for (int j = 0; j < 8 && c * 8 + j < hs; j++) chunk[j] = from[j];
    }
}

// ---- masks ----

template <typename F>
__device__ inline int warp_extreme(int x, F f) {
    for (int lane = 16; lane > 0; lane /= 2) x = f(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}
// The smallest and the largest first key of the queries at positions [begin, end), the same for all lanes of a warp.
__device__ inline int earliest_key(const int* starts, int begin, int end) {
    int first = begin;
    for (int i = begin + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) first = min(first, starts[i]);
    return max(0, warp_extreme(first, [](int a, int b) { return min(a, b); }));
}
__device__ inline int latest_first_key(const int* starts, int begin, int end) {
    int first = 0;
    for (int i = begin + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) first = max(first, starts[i]);
    return warp_extreme(first, [](int a, int b) { return max(a, b); });
}

// Scores of keys that their query does not see become -infinity. position: of the lane's first query; key: of its first
// column.
template <int M, int N>
__device__ inline void hide_keys(float (&x)[M][N][4], const int* starts, int position, int key, int T) {
    for_rows<M>([&](int m, int i) {
        int last = position + 16 * m + 2 * i, first = starts && last < T ? starts[last] : 0;
        for_elements<1, N>([&](int, int n, int e) {
            int j = key + n / 2 * 16 + n % 2 * 2 + e % 2;
            if (e / 2 == i && (j > last || j < first)) x[m][n][e] = -INFINITY;
        });
    });
}

// keep(m, n, e) as the forward and the dq kernel need it; bits are computed before the product, when many registers are
// free. position: of the lane's row (0, 0); key: of its first column.
template <int M>
struct DropoutBits {
    uint32_t bits[M];
    template <int N>
    __device__ void compute(const Problem& p, int b, int head, int position, int key) {
        static_assert(N <= 8);
#pragma unroll
        for (int m = 0; m < M; m++) {
            bits[m] = 0;
#pragma unroll 1  // one Philox at a time needs fewer registers
            for (int r = 0; r < N; r++) {
                int i = r % 2, n = r - i;
                float scale[4];
                int64_t row = int64_t(head) * p.s.Tk + position + 16 * m + 2 * i;
                dropout_scales(scale, p.dropout, b, row * p.s.Tk + key + 8 * n);
#pragma unroll
                for (int j = 0; j < 4; j++) set(m, n + j / 2, 2 * i + j % 2, scale[j]);
            }
        }
    }
    __device__ void set(int m, int n, int e, float scale) { bits[m] |= (scale != 0 ? 1u : 0u) << (4 * n + e); }
    __device__ bool keep(int m, int n, int e) const { return bits[m] >> (4 * n + e) & 1; }
};

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
    const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane % 4;
    const int warp_row = 16 * M * (static_cast<int>(threadIdx.x) / 32);
    const int warp_position = t0 + warp_row + offset;      // of the warp's first query
    const int position = warp_position + row16(lane / 4);  // of this lane's: row (m, i) is 16 m + 2 i behind it
    const int* starts = p.starts(b);

    const int end = min(t0 + queries, s.Tq) + offset;
    const int first_tile = starts ? earliest_key(starts, t0 + offset, end) / KEYS : 0;
    const int latest_first = starts ? latest_first_key(starts, warp_position, min(warp_position + 16 * M, s.Tk)) : 0;
    const int halves = 2 * ((end + KEYS - 1) / KEYS - first_tile);  // a tile of keys, its values, and so on
    const int64_t kv = p.kv_at(b, h, 0);
    auto load = [&](int i) {
        int key = (first_tile + i / 2) * KEYS;
        if (i < halves)
            load_tile<HS, KEYS, 32 * WARPS>(slots + i % SLOTS * KEYS * HS, (i % 2 ? p.v : p.k) + kv + key * s.kv_row,
                                            s.kv_row, s.Tk - key, p);
        ptx::cp_async_commit();
    };
    // Waits for half i. The barrier shows it to all threads, and that all are done with the one before: its place is
    // refilled.
    auto arrive = [&](int i) {
        ptx::cp_async_wait<SLOTS - 2>();
        __syncthreads();
        load(i + SLOTS - 1);
        return slots + i % SLOTS * KEYS * HS;
    };
    load_tile<HS, queries, 32 * WARPS>(q_tile, p.q + p.q_at(b, h, t0), s.q_row, s.Tq - t0, p);
    for (int i = 0; i < SLOTS - 1; i++) load(i);

    const Readers<HS> reader;
    Rows<HS, M, KEPT> rows;
    float sum[M][HS / 8][4], total[M][2], top[M][2];  // top: what is subtracted before 2^x
    for_elements<M, HS / 8>([&](int m, int d, int e) { sum[m][d][e] = 0; });
    for_rows<M>([&](int m, int i) { total[m][i] = 0, top[m][i] = -1e30f; });
    for (int half = 0; half < halves; half += 2) {
        const bf16* k_tile = arrive(half);
        if (half == 0) rows.load(q_tile + warp_row * HS, reader);
        const int key = (first_tile + half / 2) * KEYS, lane_key = key + 4 * quad;
        const bool visible = key < warp_position + 16 * M;  // to any of the warp's queries
        float x[M][N][4];
        if (visible) {
            DropoutBits<M> dropout;
            if (p.dropout.active()) dropout.template compute<N>(p, b, h, position, lane_key);
            score_product(x, rows, k_tile, 0, reader);
            if (key + KEYS - 1 > warp_position || key < latest_first) hide_keys(x, starts, position, lane_key, s.Tk);
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
            if (p.dropout.active())
                for_elements<M, N>([&](int m, int n, int e) { x[m][n][e] = dropout.keep(m, n, e) ? x[m][n][e] : 0; });
        }
        const bf16* v_tile = arrive(half + 1);
        if (visible) add_product(sum, x, v_tile, 0, 0, reader);
    }

    for_rows<M>([&](int m, int i) {
        float l = total[m][i];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        int t = position - offset + 16 * m + 2 * i;
        if (p.lse && quad == 0 && t < s.Tq) p.lse[(int64_t(b) * s.NH + h) * s.Tq + t] = top[m][i] * kLn2 + logf(l);
        total[m][i] = p.keep_scale / l;
    });
    store_rows<HS>(p.out + p.out_at(b, h, t0 + warp_row), s.out_row, s.Tq - t0 - warp_row, s.HS, p.wide,
                   q_tile + warp_row * HS, sum, [&](int m, int i) { return total[m][i]; });
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
        for (int d = static_cast<int>(threadIdx.x) % 8 * W; d < s.HS; d += 8 * W) {
            float x[W], dx[W];
            load_pack(x, p.out + p.out_at(b, h, t) + d);
            load_pack(dx, p.dout + p.out_at(b, h, t) + d);
#pragma unroll
            for (int j = 0; j < W; j++) D += x[j] * dx[j];
        }
    for (int lane = 4; lane > 0; lane /= 2) D += __shfl_xor_sync(0xffffffffu, D, lane);
    int64_t row = int64_t(b) * s.NH + h;
    if (b < s.B && threadIdx.x % 8 == 0)
        p.stats[row * p.stats_stride + t] = t < s.Tq ? float2{p.lse[row * s.Tq + t] * kLog2e, D} : float2{INFINITY, 0};
}

// dk, dv of a tile of keys; of its columns those from OUT * blockIdx.y on. STEP: queries of a tile that are worked on
// at a time, as many as registers have room for.
template <int HS, int M, int WARPS, int QUERIES, int STEP, int OUT, int KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) key_gradient_kernel(Problem p) {
    constexpr int keys = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = QUERIES * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *k_tile = reinterpret_cast<bf16*>(shared), *v_tile = k_tile + keys * HS, *q_tiles = v_tile + keys * HS;
    bf16* dout_tiles = q_tiles + 2 * tile_size;
    float2* stats_tiles = reinterpret_cast<float2*>(dout_tiles + 2 * tile_size);
    const AttentionShape& s = p.s;
    const Work work(p, s.NKV);
    const int first_head = work.head * p.sharing;
    const int b = work.b, key0 = work.rank * keys, key_end = min(key0 + keys, s.Tk);
    const int lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
    const int warp_row = 16 * M * (static_cast<int>(threadIdx.x) / 32), warp_key = key0 + warp_row;
    const int lane_key = warp_key + row16(group);  // row (m, i) is key lane_key + 16 m + 2 i
    const int* starts = p.starts(b);

    // The tiles of queries that see any of the keys, of the first head, then of the next, and so on.
    const int first_tile = key0 / QUERIES, tiles = (s.Tq + QUERIES - 1) / QUERIES;
    int next_head = 0, next_tile = first_tile - 1;
    auto advance = [&] {
        do {
            if (++next_tile == tiles) next_tile = first_tile, next_head++;
        } while (starts && next_head < p.sharing &&
                 earliest_key(starts, next_tile * QUERIES, min((next_tile + 1) * QUERIES, s.Tq)) >= key_end);
    };
    auto load = [&](int slot) {
        int h = first_head + next_head, t = next_tile * QUERIES, i = 2 * static_cast<int>(threadIdx.x);
        if (next_head < p.sharing) {
            load_tile<HS, QUERIES, threads>(q_tiles + slot * tile_size, p.q + p.q_at(b, h, t), s.q_row, s.Tq - t, p);
            load_tile<HS, QUERIES, threads>(dout_tiles + slot * tile_size, p.dout + p.out_at(b, h, t), s.out_row,
                                            s.Tq - t, p);
            if (i < QUERIES)
                ptx::cp_async_16(stats_tiles + slot * QUERIES + i,
                                 p.stats + (int64_t(b) * s.NH + h) * p.stats_stride + t + i);
        }
        ptx::cp_async_commit();
    };
    load_tile<HS, keys, threads>(k_tile, p.k + p.kv_at(b, first_head, key0), s.kv_row, s.Tk - key0, p);
    load_tile<HS, keys, threads>(v_tile, p.v + p.kv_at(b, first_head, key0), s.kv_row, s.Tk - key0, p);
    ptx::cp_async_commit();
    advance();
    load(0);

    const Readers<HS> reader;
    const int column = OUT < HS ? OUT * static_cast<int>(blockIdx.y) : 0;
    Rows<HS, M, (KEPT > 0)> k_rows;
    Rows<HS, M, (KEPT > 1)> v_rows;
    float dk_sum[M][OUT / 8][4], dv_sum[M][OUT / 8][4];
    for_elements<M, OUT / 8>([&](int m, int d, int e) { dk_sum[m][d][e] = dv_sum[m][d][e] = 0; });
    ptx::cp_async_wait<1>();
    __syncthreads();
    k_rows.load(k_tile + warp_row * HS, reader);
    v_rows.load(v_tile + warp_row * HS, reader);
    for (int slot = 0; next_head < p.sharing; slot ^= 1) {
        const int h = first_head + next_head, tile = next_tile;
        advance();
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(slot ^ 1);
        const bf16 *q_tile = q_tiles + slot * tile_size, *dout_tile = dout_tiles + slot * tile_size;
#pragma unroll 1
        for (int step = 0; step < QUERIES; step += STEP) {
            const int t = tile * QUERIES + step, lane_query = t + 4 * quad;
            if (t + STEP <= warp_key) continue;  // these queries come before all keys of the warp
            DropoutBits<M> dropout{};
            if (p.dropout.active())
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll 1
                    for (int j = 0; j < 2 * N; j++) {  // four neighbouring keys, of which the lane has two
                        float scale[4];
                        int64_t row = int64_t(h) * s.Tk + lane_query + j / 4 * 16 + j % 4;
                        dropout_scales(scale, p.dropout, b, row * s.Tk + lane_key - group % 2 + 16 * m);
                        dropout.set(m, j / 2, j % 2, group % 2 ? scale[1] : scale[0]);
                        dropout.set(m, j / 2, j % 2 + 2, group % 2 ? scale[3] : scale[2]);
                    }
            float x[M][N][4], dx[M][N][4];  // s^T, dp^T; then dropout(p)^T, ds^T
            score_product(x, k_rows, q_tile, step, reader);
            score_product(dx, v_rows, dout_tile, step, reader);
            // row (m, i) is key lane_key + 16 m + 2 i; column (n, e) is query:
            auto query = [&](int n, int e) { return lane_query + n / 2 * 16 + n % 2 * 2 + e % 2; };
            if (t < warp_key + 16 * M - 1 || starts)
                for_elements<1, N>([&](int, int n, int e) {
                    if (e >= 2) return;
                    int last = query(n, e), first = starts && last < s.Tq ? starts[last] : 0;
                    for_rows<M>([&](int m, int i) {
                        int key = lane_key + 16 * m + 2 * i;
                        if (key > last || key < first) x[m][n][e + 2 * i] = -INFINITY;
                    });
                });
            if (p.dropout.active())
                for_elements<M, N>(
                    [&](int m, int n, int e) { dx[m][n][e] = dropout.keep(m, n, e) ? dx[m][n][e] * p.keep_scale : 0; });
            for_elements<1, N>([&](int, int n, int e) {
                if (e >= 2) return;
                const float2 stats = stats_tiles[slot * QUERIES + query(n, e) - tile * QUERIES];
                for_rows<M>([&](int m, int i) {
                    float &prob = x[m][n][e + 2 * i], &d = dx[m][n][e + 2 * i];
                    prob = ptx::exp2_approx(prob * p.scale_log2 - stats.x);
                    d = prob * (d - stats.y);
                });
            });
            if (p.dropout.active())
                for_elements<M, N>(
                    [&](int m, int n, int e) { x[m][n][e] = dropout.keep(m, n, e) ? x[m][n][e] * p.keep_scale : 0; });
            add_product(dv_sum, x, dout_tile, step, column / 16, reader);
            add_product(dk_sum, dx, q_tile, step, column / 16, reader);
        }
    }
    const int64_t to = p.kv_at(b, first_head, warp_key) + column;
    const int count = s.Tk - warp_key, hs = s.HS - column;
    store_rows<HS>(p.dk + to, s.kv_row, count, hs, p.wide, k_tile + warp_row * HS, dk_sum,
                   [&](int, int) { return p.scale; });
    store_rows<HS>(p.dv + to, s.kv_row, count, hs, p.wide, v_tile + warp_row * HS, dv_sum,
                   [](int, int) { return 1.0f; });
}

// dq of a tile of queries. STEP: keys of a tile that are worked on at a time.
template <int HS, int M, int WARPS, int KEYS, int STEP, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) query_gradient_kernel(Problem p) {
    constexpr int queries = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = KEYS * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *dout_tile = q_tile + queries * HS;
    bf16 *k_tiles = dout_tile + queries * HS, *v_tiles = k_tiles + 2 * tile_size;
    const AttentionShape& s = p.s;
    const Work work(p, s.NH);
    const int b = work.b, h = work.head, t0 = (p.tiles - 1 - work.rank) * queries, end = min(t0 + queries, s.Tq);
    const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane % 4;
    const int warp_row = 16 * M * (static_cast<int>(threadIdx.x) / 32), warp_position = t0 + warp_row;
    const int position = warp_position + row16(lane / 4);
    const int* starts = p.starts(b);

    const int first_tile = starts ? earliest_key(starts, t0, end) / KEYS : 0, tiles = (end + KEYS - 1) / KEYS;
    const int latest_first = starts ? latest_first_key(starts, warp_position, min(warp_position + 16 * M, s.Tk)) : 0;
    auto load = [&](int tile) {
        int key = tile * KEYS, to = tile % 2 * tile_size;
        if (tile < tiles) {
            load_tile<HS, KEYS, threads>(k_tiles + to, p.k + p.kv_at(b, h, key), s.kv_row, s.Tk - key, p);
            load_tile<HS, KEYS, threads>(v_tiles + to, p.v + p.kv_at(b, h, key), s.kv_row, s.Tk - key, p);
        }
        ptx::cp_async_commit();
    };
    load_tile<HS, queries, threads>(q_tile, p.q + p.q_at(b, h, t0), s.q_row, s.Tq - t0, p);
    load_tile<HS, queries, threads>(dout_tile, p.dout + p.out_at(b, h, t0), s.out_row, s.Tq - t0, p);
    ptx::cp_async_commit();
    load(first_tile);

    const Readers<HS> reader;
    Rows<HS, M, KEPT> q_rows, dout_rows;
    float sum[M][HS / 8][4];
    float2 stats[M][2];
    for_elements<M, HS / 8>([&](int m, int d, int e) { sum[m][d][e] = 0; });
    for_rows<M>([&](int m, int i) {
        stats[m][i] = p.stats[(int64_t(b) * s.NH + h) * p.stats_stride + position + 16 * m + 2 * i];
    });
    ptx::cp_async_wait<1>();
    __syncthreads();
    q_rows.load(q_tile + warp_row * HS, reader);
    dout_rows.load(dout_tile + warp_row * HS, reader);
    for (int tile = first_tile; tile < tiles; tile++) {
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(tile + 1);
        const bf16 *k_tile = k_tiles + tile % 2 * tile_size, *v_tile = v_tiles + tile % 2 * tile_size;
#pragma unroll 1
        for (int step = 0; step < KEYS; step += STEP) {
            const int key = tile * KEYS + step, lane_key = key + 4 * quad;
            if (key >= warp_position + 16 * M) break;  // these keys come after all queries of the warp
            DropoutBits<M> dropout;
            if (p.dropout.active()) dropout.template compute<N>(p, b, h, position, lane_key);
            float x[M][N][4], dx[M][N][4];
            score_product(x, q_rows, k_tile, step, reader);
            score_product(dx, dout_rows, v_tile, step, reader);
            if (key + STEP - 1 > warp_position || key < latest_first) hide_keys(x, starts, position, lane_key, s.Tk);
            if (p.dropout.active())
                for_elements<M, N>(
                    [&](int m, int n, int e) { dx[m][n][e] = dropout.keep(m, n, e) ? dx[m][n][e] * p.keep_scale : 0; });
            for_elements<M, N>([&](int m, int n, int e) {
                float prob = ptx::exp2_approx(x[m][n][e] * p.scale_log2 - stats[m][e / 2].x);
                dx[m][n][e] = prob * (dx[m][n][e] - stats[m][e / 2].y);
            });
            add_product(sum, dx, k_tile, step, 0, reader);
        }
    }
    store_rows<HS>(p.dq + p.q_at(b, h, warp_position), s.q_row, s.Tq - warp_position, s.HS, p.wide,
                   q_tile + warp_row * HS, sum, [&](int, int) { return p.scale; });
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
    p.sharing = s.NH / s.NKV;
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
template <int HS, int M, int WARPS, int QUERIES, int STEP, int OUT, int KEPT>
void key_gradient(Problem& p, cudaStream_t stream) {
    constexpr int keys = 16 * M * WARPS;
    int grid = blocks(p, p.s.Tk, keys, p.s.NKV, int64_t(p.s.Tq) * p.sharing);
    launch(key_gradient_kernel<HS, M, WARPS, QUERIES, STEP, OUT, KEPT>, dim3(grid, HS / OUT), 32 * WARPS,
           (2 * keys + 4 * QUERIES) * HS * sizeof(bf16) + 2 * QUERIES * sizeof(float2), stream, p);
}
template <int HS, int M, int WARPS, int KEYS, int STEP, bool KEPT>
void query_gradient(Problem& p, cudaStream_t stream) {
    constexpr int queries = 16 * M * WARPS;
    static_assert(kStatsRows % queries == 0);
    launch(query_gradient_kernel<HS, M, WARPS, KEYS, STEP, KEPT>, blocks(p, p.s.Tq, queries, p.s.NH, p.s.Tk),
           32 * WARPS, (2 * queries + 4 * KEYS) * HS * sizeof(bf16), stream, p);
}

}  // namespace attention_mma

inline void attention_mma_forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                                  const AttentionShape& s, const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    Problem p{.s = s, .doc_start = doc_start, .dropout = dropout, .q = q, .k = k, .v = v, .out = out, .lse = lse};
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
    Problem p{.s = s,
              .doc_start = doc_start,
              .dropout = dropout,
              .q = q,
              .k = k,
              .v = v,
              .dout = dout,
              .out = const_cast<bf16*>(out),
              .dq = dq,
              .dk = dk,
              .dv = dv,
              .lse = const_cast<float*>(lse),
              .stats = workspace<float2>(static_cast<size_t>(rows)),
              .stats_stride = stats_stride(s)};
    prepare(p);
    launch(p.wide ? stats_kernel<8> : stats_kernel<1>, ceil_div(rows, 32), 256, 0, stream, p);
    if (s.HS <= 64) key_gradient<64, 2, 4, 64, 16, 64, 0>(p, stream), query_gradient<64, 2, 4, 64, 16, true>(p, stream);
    else if (s.HS <= 128)
        key_gradient<128, 1, 8, 32, 16, 128, 1>(p, stream), query_gradient<128, 1, 8, 32, 32, true>(p, stream);
    else key_gradient<256, 1, 4, 16, 16, 128, 0>(p, stream), query_gradient<256, 1, 4, 16, 16, false>(p, stream);
}
