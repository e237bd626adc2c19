// Flash attention in bf16 on tensor cores; mathematics and shapes in attention.cuh.
//                                                             (FlashAttention-2: Dao 2023,
//                                                             https://arxiv.org/abs/2307.08691)
//
// Tiles of queries meet tiles of keys: products of tiles by tensor cores (mma.sync m16n8k16, see ptx.cuh), everything
// between two products in registers. The result of a product, 16 rows of fp32 sums spread over a warp, has the layout
// that the next product wants for its left operand, so probabilities never leave the registers of their warp.
//
//   forward   a block takes a tile of queries, a warp 16 or 32 of them, and walks over the keys with an online softmax
//   dk, dv    a block takes a tile of keys, a warp 16 or 32 of them; walks over the queries of all heads of its group,
//             with transposed scores s^T = k q^T, so that p^T and ds^T are left operands of dv = p^T dout, dk = ds^T q
//   dq        a block takes a tile of queries and walks over the keys: dq = ds k
//
// The backward pass computes s and dp twice, 7 products where one kernel for all three gradients needs 5. That kernel
// would add up dq across blocks, in fp32, in global memory: atomically, with an order that changes from run to run, or
// block after block; and its warps would hand each other ds through shared memory, whose bandwidth limits kernels of
// this kind as much as the tensor cores do (an m16n8k16 takes as long as 256 bytes of its operands). With that traffic
// counted the two ways are close, and this one needs no order between blocks.
//
// Tiles lie in shared memory as rows of HS elements in chunks of 16 bytes; chunk c of row r is stored at c ^ f(r), so
// that neither copying rows nor ldmatrix, which takes a chunk of each of eight rows, meets a bank twice. Copies from
// global memory are asynchronous (cp.async): while one tile is worked on, the next ones are under way.
#pragma once
#include <algorithm>
#include "llmc/cuda_common.cuh"
#include "llmc/dropout.cuh"
#include "llmc/layer_arguments.h"
#include "llmc/pack.cuh"
#include "llmc/ptx.cuh"

namespace attention_mma {

constexpr uint32_t kAllLanes = 0xffffffffu;
constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.69314718055995f;

// What all kernels are told.
struct Problem {
    AttentionShape s;
    const int* doc_start;
    Dropout dropout;
    float scale;        // 1 / sqrt(HS)
    bool wide;          // every row of every tensor is whole chunks of 16 bytes on 16-byte boundaries
    int tiles;          // blocks for each head
    int section_heads;  // see Work
};

// Which tile of which head a block works on. Blocks start in the order of their index. Of the tiles of one head those
// with most work start first, which leaves the short ones for the end. But heads go in sections whose keys and values
// stay in the L2 cache until all tiles have read them.
struct Work {
    int rank, head, b;  // rank: 0 has most work
    __device__ Work(const Problem& p, int heads) {
        int per_section = p.tiles * p.section_heads, first = static_cast<int>(blockIdx.x) / per_section;
        int i = static_cast<int>(blockIdx.x) - first * per_section;
        int width = min(p.section_heads, p.s.B * heads - first * p.section_heads);
        rank = i / width;
        int index = first * p.section_heads + i % width;
        b = index / heads, head = index % heads;
    }
};

// ---- tiles in shared memory ----

// Index i in [0, 16) of a fragment's rows or columns stands for row row16(i) of the tile: a lane, which holds columns
// 2 quad, 2 quad + 1, 2 quad + 8, 2 quad + 9 of a product, thereby has the four neighbours 4 quad .. 4 quad + 3, which
// share one call of dropout's Philox. All sums over such an index are over all 16, so their order may be any.
__device__ inline int row16(int i) { return (i & 6) << 1 | (i & 1) | (i & 8) >> 2; }
// Different for row16(0..7) and for row16(8..15), the rows that one ldmatrix reads at a time.
__device__ inline int swizzle(int row) { return (row & 1) | ((row >> 1) & 6); }

// tile (ROWS,HS) = rows [0, count) of `from`, elements [0, hs); zeros beyond. By all threads of the block.
template <int HS, int ROWS, int THREADS>
__device__ inline void load_tile(bf16* tile, const bf16* from, int64_t stride, int count, int hs, bool wide) {
    constexpr int chunks = HS / 8;
    static_assert(ROWS * chunks % THREADS == 0 && THREADS % chunks == 0);
    int row = static_cast<int>(threadIdx.x) / chunks, c = static_cast<int>(threadIdx.x) % chunks;
#pragma unroll
    for (int i = 0; i < ROWS * chunks / THREADS; i++, row += THREADS / chunks) {
        bf16* to = tile + row * HS + (c ^ swizzle(row)) * 8;
        const bf16* source = from + row * stride + c * 8;
        if (wide) {
            bool valid = row < count && c * 8 < hs;
            ptx::cp_async_16(to, valid ? source : from, valid);
        } else {
#pragma unroll 1
            for (int j = 0; j < 8; j++) to[j] = row < count && c * 8 + j < hs ? source[j] : bf16(0.0f);
        }
    }
}

// Where a lane's row begins for ldmatrix_x4 of 16 rows and 16 columns. The four matrices are (rows 0-7, columns 0-7),
// (8-15, 0-7), (0-7, 8-15), (8-15, 8-15), rows counted before row16: as left operand a[0..3]; as right operand whose
// rows are its n, b0 and b1 are r[0], r[2] of the lower 8, r[1], r[3] of the upper; transposed, as right operand whose
// rows are its k, r[0], r[1] and r[2], r[3].
template <int HS>
struct Reader {
    int row, column;
    __device__ Reader() {
        int lane = static_cast<int>(threadIdx.x) % 32;
        row = row16(lane % 16) * HS, column = ((lane / 16) ^ (lane & 7)) * 8;
    }
    // 16 rows of the tile from `first` on, 16 columns from 16 k on
    __device__ const bf16* at(const bf16* tile, int first, int k) const {
        return tile + first * HS + row + ((16 * k) ^ column);
    }
};

// Left operand of a product: a warp's M * 16 rows of a tile. KEPT: in registers, else read anew for each product.
template <int HS, int M, bool KEPT>
struct Rows {
    const bf16* tile;
    uint32_t kept[KEPT ? M : 1][KEPT ? HS / 16 : 1][4];

    __device__ void load(const bf16* from, const Reader<HS>& reader) {
        tile = from;
        if constexpr (KEPT)
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int k = 0; k < HS / 16; k++) ptx::ldmatrix_x4(kept[m][k], reader.at(tile, 16 * m, k));
    }
    __device__ void get(uint32_t (&a)[4], int m, int k, const Reader<HS>& reader) const {
        if constexpr (KEPT)
#pragma unroll
            for (int i = 0; i < 4; i++) a[i] = kept[m][k][i];
        else ptx::ldmatrix_x4(a, reader.at(tile, 16 * m, k));
    }
};

template <int M, int N>
__device__ inline void clear(float (&x)[M][N][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++) x[m][n][0] = x[m][n][1] = x[m][n][2] = x[m][n][3] = 0;
}

// s (16 M, 8 N) = rows (16 M, HS) . tile (8 N, HS)^T, tile from row `first` on
template <int HS, int M, int N, bool KEPT>
__device__ inline void score_product(float (&s)[M][N][4], const Rows<HS, M, KEPT>& rows, const bf16* tile, int first,
                                     const Reader<HS>& reader) {
    clear(s);
#pragma unroll
    for (int k = 0; k < HS / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++) rows.get(a[m], m, k, reader);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t r[4];
            ptx::ldmatrix_x4(r, reader.at(tile, first + 8 * n, k));
#pragma unroll
            for (int m = 0; m < M; m++) {
                ptx::mma_m16n8k16(s[m][n], a[m], r[0], r[2]);
                ptx::mma_m16n8k16(s[m][n + 1], a[m], r[1], r[3]);
            }
        }
    }
}

// sum (16 M, 8 D) += p (16 M, 8 N), rounded to bf16, . tile (8 N, HS), tile from row `first` and column 16 * k0 on
template <int HS, int M, int N, int D>
__device__ inline void add_product(float (&sum)[M][D][4], const float (&p)[M][N][4], const bf16* tile, int first,
                                   int k0, const Reader<HS>& reader) {
#pragma unroll
    for (int n = 0; n < N; n += 2) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = ptx::pack_bf16x2(p[m][n + i / 2][i % 2 * 2], p[m][n + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int d = 0; d < D; d += 2) {
            uint32_t r[4];
            ptx::ldmatrix_x4_trans(r, reader.at(tile, first + 8 * n, k0 + d / 2));
#pragma unroll
            for (int m = 0; m < M; m++) {
                ptx::mma_m16n8k16(sum[m][d], a[m], r[0], r[1]);
                ptx::mma_m16n8k16(sum[m][d + 1], a[m], r[2], r[3]);
            }
        }
    }
}

// Rows [0, count) of `to`, elements [0, hs), = sum (16 M, 8 D) * factor, of which each row of a lane has its own.
// Through the warp's own rows of `tile`, so that a lane stores 16 neighbouring bytes.
template <int HS, int M, int D>
__device__ inline void store_rows(bf16* to, int64_t stride, int count, int hs, bool wide, bf16* tile,
                                  const float (&sum)[M][D][4], const float (&factor)[M][2]) {
    int lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
    __syncwarp();  // the last reads of the tile
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            bf16* row = tile + (16 * m + row16(group) + 2 * i) * HS + 2 * quad;
            float f = factor[m][i];
#pragma unroll
            for (int d = 0; d < D; d++)
                *reinterpret_cast<uint32_t*>(row + (d ^ group) * 8) =
                    ptx::pack_bf16x2(sum[m][d][2 * i] * f, sum[m][d][2 * i + 1] * f);
        }
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

// ---- which keys a query sees ----

// Smallest first key of the queries at positions [begin, end), the same for all lanes of a warp.
__device__ inline int earliest_key(const int* starts, int begin, int end) {
    int first = begin;
    for (int i = begin + static_cast<int>(threadIdx.x) % 32; i < end; i += 32) first = min(first, starts[i]);
    for (int lane = 16; lane > 0; lane /= 2) first = min(first, __shfl_xor_sync(kAllLanes, first, lane));
    return first;
}

// A lane's rows of queries: row i of 16 m rows is at position + 16 m + 2 i.
template <int M>
struct Queries {
    int position, latest_first = 0;
    int first[M][2];  // key that each may see

    // begin: position of the warp's first query; T: positions in all
    __device__ Queries(const int* starts, int begin, int T)
        : position(begin + row16(static_cast<int>(threadIdx.x) % 32 / 4)) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                int at = position + 16 * m + 2 * i;
                first[m][i] = starts && at < T ? min(starts[at], at) : 0;
                latest_first = max(latest_first, first[m][i]);
            }
        if (starts)
            for (int lane = 16; lane > 0; lane /= 2)
                latest_first = max(latest_first, __shfl_xor_sync(kAllLanes, latest_first, lane));
    }
    __device__ bool sees(int m, int i, int key) const { return first[m][i] <= key && key <= position + 16 * m + 2 * i; }
};

// The dropout factors of a lane's scores, element n / 2 of them 4 neighbours of row (m, i); key: of the first column.
template <int M, int N>
__device__ inline void multiply_dropout(float (&x)[M][N][4], const Problem& p, int b, int head, int position, int key) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                float scale[4];
                int64_t row = int64_t(head) * p.s.Tk + position + 16 * m + 2 * i;
                dropout_scales(scale, p.dropout, b, row * p.s.Tk + key + 8 * n);
                x[m][n][2 * i] *= scale[0], x[m][n][2 * i + 1] *= scale[1];
                x[m][n + 1][2 * i] *= scale[2], x[m][n + 1][2 * i + 1] *= scale[3];
            }
}

// ---- forward ----

// KEYS: keys of a tile. Tiles of keys and of values go in turn through SLOTS places in shared memory, each refilled as
// soon as the product that reads it is done.
template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    forward_kernel(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, Problem p) {
    constexpr int queries = 16 * M * WARPS, threads = 32 * WARPS, N = KEYS / 8;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *slots = q_tile + queries * HS;
    const AttentionShape& s = p.s;
    const Work work(p, s.NH);
    const int b = work.b, h = work.head, t0 = (p.tiles - 1 - work.rank) * queries, offset = s.Tk - s.Tq;
    const int warp = static_cast<int>(threadIdx.x) / 32, quad = static_cast<int>(threadIdx.x) % 4;
    const int warp_row = 16 * M * warp, end = min(t0 + queries, s.Tq) + offset;  // of the keys
    const int* starts = p.doc_start ? p.doc_start + int64_t(b) * s.Tk : nullptr;
    const int64_t kv_offset = b * s.kv_batch + int64_t(h / (s.NH / s.NKV)) * s.HS;

    const int first_tile = starts ? max(0, earliest_key(starts, t0 + offset, end)) / KEYS : 0;
    const int halves = 2 * ((end + KEYS - 1) / KEYS - first_tile);  // a tile of keys, its values, and so on
    auto load = [&](int i) {
        if (i < halves) {
            int key = (first_tile + i / 2) * KEYS;
            load_tile<HS, KEYS, threads>(slots + i % SLOTS * KEYS * HS, (i % 2 ? v : k) + kv_offset + key * s.kv_row,
                                         s.kv_row, s.Tk - key, s.HS, p.wide);
        }
        ptx::cp_async_commit();
    };
    // Waits for half i; then all warps are done with the one before, whose place is refilled.
    auto arrive = [&](int i) {
        ptx::cp_async_wait<SLOTS - 2>();
        __syncthreads();
        load(i + SLOTS - 1);
        return slots + i % SLOTS * KEYS * HS;
    };
    load_tile<HS, queries, threads>(q_tile, q + b * s.q_batch + t0 * s.q_row + int64_t(h) * s.HS, s.q_row, s.Tq - t0,
                                    s.HS, p.wide);
    for (int i = 0; i < SLOTS - 1; i++) load(i);

    const Reader<HS> reader;
    const Queries<M> mine(starts, t0 + warp_row + offset, s.Tk);
    const float c = p.scale * kLog2e;  // softmax in base 2: exp(s * scale - m) = 2^(s * c - m * log2 e)
    Rows<HS, M, KEPT> rows;
    float sum[M][HS / 8][4], top[M][2], total[M][2];
    clear(sum);
#pragma unroll
    for (int m = 0; m < M; m++) top[m][0] = top[m][1] = -1e30f, total[m][0] = total[m][1] = 0;

    for (int half = 0; half < halves; half += 2) {
        const bf16* tile = arrive(half);
        if (half == 0) rows.load(q_tile + warp_row * HS, reader);
        const int key = (first_tile + half / 2) * KEYS, lane_key = key + 4 * quad;
        const bool visible = key < t0 + warp_row + 16 * M + offset;  // to any of this warp's queries
        float x[M][N][4];
        if (visible) {
            score_product(x, rows, tile, 0, reader);
            if (key + KEYS - 1 > t0 + warp_row + offset || key < mine.latest_first) {
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int n = 0; n < N; n++)
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            if (!mine.sees(m, e / 2, lane_key + n / 2 * 16 + n % 2 * 2 + e % 2)) x[m][n][e] = -INFINITY;
            }
            // top: what is subtracted before 2^x, the row's maximum or a little less: it follows only a growth by
            // more than 2^8, which spares most multiplications of the sums.
            float highest[M][2];
            bool outgrown = false;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    float most = x[m][0][2 * i];
#pragma unroll
                    for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(x[m][n][2 * i], x[m][n][2 * i + 1]));
                    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
                    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2)) * c;
                    highest[m][i] = fmaxf(most, top[m][i]);
                    outgrown |= most > top[m][i] + 8;
                }
            if (__any_sync(kAllLanes, outgrown)) {
#pragma unroll
                for (int m = 0; m < M; m++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        float factor = ptx::exp2_approx(top[m][i] - highest[m][i]);
                        top[m][i] = highest[m][i], total[m][i] *= factor;
#pragma unroll
                        for (int d = 0; d < HS / 8; d++) sum[m][d][2 * i] *= factor, sum[m][d][2 * i + 1] *= factor;
                    }
            }
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        x[m][n][e] = ptx::exp2_approx(x[m][n][e] * c - top[m][e / 2]);
                        total[m][e / 2] += x[m][n][e];
                    }
            if (p.dropout.active()) multiply_dropout(x, p, b, h, mine.position, lane_key);
        }
        tile = arrive(half + 1);
        if (visible) add_product(sum, x, tile, 0, 0, reader);
    }

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float l = total[m][i];
            l += __shfl_xor_sync(kAllLanes, l, 1);
            l += __shfl_xor_sync(kAllLanes, l, 2);
            int t = mine.position - offset + 16 * m + 2 * i;
            if (lse && quad == 0 && t < s.Tq) lse[(int64_t(b) * s.NH + h) * s.Tq + t] = top[m][i] * kLn2 + logf(l);
            total[m][i] = 1 / l;
        }
    store_rows<HS>(out + b * s.out_batch + (t0 + warp_row) * s.out_row + int64_t(h) * s.HS, s.out_row,
                   s.Tq - t0 - warp_row, s.HS, p.wide, q_tile + warp_row * HS, sum, total);
}

// ---- backward ----

// For the backward kernels: stats (B,NH,stride) = {lse * log2 e, D}, from T on {infinity, 0}, so that the probabilities
// of queries that are not there come out as 0. Eight lanes work on one query of one head.
template <int W>
__global__ void __launch_bounds__(256)
    stats_kernel(float2* stats, const bf16* out, const bf16* dout, const float* lse, AttentionShape s, int stride) {
    int64_t i = (int64_t(blockIdx.x) * blockDim.x + threadIdx.x) / 8;
    int h = static_cast<int>(i % s.NH), t = static_cast<int>(i / s.NH % stride);
    int64_t b = i / s.NH / stride;
    float D = 0;
    if (b < s.B && t < s.Tq)
        for (int d = static_cast<int>(threadIdx.x) % 8 * W; d < s.HS; d += 8 * W) {
            int64_t at = b * s.out_batch + t * s.out_row + int64_t(h) * s.HS + d;
            float x[W], dx[W];
            load_pack(x, out + at);
            load_pack(dx, dout + at);
#pragma unroll
            for (int j = 0; j < W; j++) D += x[j] * dx[j];
        }
    for (int lane = 4; lane > 0; lane /= 2) D += __shfl_xor_sync(kAllLanes, D, lane);
    if (b < s.B && threadIdx.x % 8 == 0)
        stats[(b * s.NH + h) * stride + t] =
            t < s.Tq ? float2{lse[(b * s.NH + h) * s.Tq + t] * kLog2e, D} : float2{INFINITY, 0};
}

// One block: dk, dv of a tile of keys, columns [OUT * blockIdx.y, ..). STEP: queries of a tile worked on at a time, as
// many as registers have room for.
template <int HS, int M, int WARPS, int QUERIES, int STEP, int OUT, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    key_gradient_kernel(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                        const float2* stats, int stats_stride, Problem p) {
    constexpr int keys = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = QUERIES * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *k_tile = reinterpret_cast<bf16*>(shared), *v_tile = k_tile + keys * HS, *q_tiles = v_tile + keys * HS;
    bf16* dout_tiles = q_tiles + 2 * tile_size;
    float2* stats_tiles = reinterpret_cast<float2*>(dout_tiles + 2 * tile_size);
    const AttentionShape& s = p.s;
    const Work work(p, s.NKV);
    const int b = work.b, kv_head = work.head, key0 = work.rank * keys, key_end = min(key0 + keys, s.Tk);
    const int lane = static_cast<int>(threadIdx.x) % 32, group = lane / 4, quad = lane % 4;
    const int warp_row = 16 * M * (static_cast<int>(threadIdx.x) / 32), column = OUT * static_cast<int>(blockIdx.y);
    const int* starts = p.doc_start ? p.doc_start + int64_t(b) * s.Tk : nullptr;
    const int heads = s.NH / s.NKV;  // of the group
    const int64_t kv_offset = b * s.kv_batch + int64_t(kv_head) * s.HS;

    // The tiles of queries that see any of the keys, of the first head, the next, and so on.
    const int first_tile = key0 / QUERIES, tiles = (s.Tq + QUERIES - 1) / QUERIES;
    struct Position {
        int head, tile;
    };
    auto advance = [&](Position& at) {
        do {
            if (++at.tile == tiles) at.tile = first_tile, at.head++;
        } while (starts && at.head < heads &&
                 earliest_key(starts, at.tile * QUERIES, min((at.tile + 1) * QUERIES, s.Tq)) >= key_end);
    };
    auto load = [&](const Position& at, int slot) {
        if (at.head < heads) {
            int h = kv_head * heads + at.head, t = at.tile * QUERIES;
            load_tile<HS, QUERIES, threads>(q_tiles + slot * tile_size,
                                            q + b * s.q_batch + t * s.q_row + int64_t(h) * s.HS, s.q_row, s.Tq - t,
                                            s.HS, p.wide);
            load_tile<HS, QUERIES, threads>(dout_tiles + slot * tile_size,
                                            dout + b * s.out_batch + t * s.out_row + int64_t(h) * s.HS, s.out_row,
                                            s.Tq - t, s.HS, p.wide);
            if (int i = 2 * static_cast<int>(threadIdx.x); i < QUERIES)
                ptx::cp_async_16(stats_tiles + slot * QUERIES + i,
                                 stats + (int64_t(b) * s.NH + h) * stats_stride + t + i);
        }
        ptx::cp_async_commit();
    };
    load_tile<HS, keys, threads>(k_tile, k + kv_offset + key0 * s.kv_row, s.kv_row, s.Tk - key0, s.HS, p.wide);
    load_tile<HS, keys, threads>(v_tile, v + kv_offset + key0 * s.kv_row, s.kv_row, s.Tk - key0, s.HS, p.wide);
    Position next{0, first_tile - 1};
    advance(next);
    load(next, 0);

    const Reader<HS> reader;
    const float c = p.scale * kLog2e;
    const int lane_key = key0 + warp_row + row16(group);  // row (m, i) of this lane is key lane_key + 16 m + 2 i
    Rows<HS, M, KEPT> k_rows, v_rows;
    float dk_sum[M][OUT / 8][4], dv_sum[M][OUT / 8][4];
    clear(dk_sum), clear(dv_sum);
    bool first = true;
    for (int slot = 0; next.head < heads; slot ^= 1) {
        const Position at = next;
        advance(next);
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(next, slot ^ 1);
        if (first) {
            k_rows.load(k_tile + warp_row * HS, reader);
            v_rows.load(v_tile + warp_row * HS, reader);
            first = false;
        }
        const bf16 *q_tile = q_tiles + slot * tile_size, *dout_tile = dout_tiles + slot * tile_size;
#pragma unroll 1
        for (int step = 0; step < QUERIES; step += STEP) {
            const int t = at.tile * QUERIES + step;
            if (t + STEP <= key0 + warp_row) continue;  // these queries come before all keys of the warp
            float x[M][N][4], dx[M][N][4];              // s^T, dp^T
            score_product(x, k_rows, q_tile, step, reader);
            score_product(dx, v_rows, dout_tile, step, reader);
            const bool masked = t < key0 + warp_row + 16 * M - 1 || starts;
#pragma unroll
            for (int n = 0; n < N; n += 2) {
                const float4* pairs =
                    reinterpret_cast<const float4*>(stats_tiles + slot * QUERIES + step + 8 * n + 4 * quad);
                const float4 stats01 = pairs[0], stats23 = pairs[1];
                const float log_sum[4] = {stats01.x, stats01.z, stats23.x, stats23.z};
                const float D[4] = {stats01.y, stats01.w, stats23.y, stats23.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {  // four neighbouring queries
                    const int query = t + 8 * n + 4 * quad + j;
                    const int seen_from = starts && query < s.Tq ? starts[query] : 0;
#pragma unroll
                    for (int m = 0; m < M; m++) {
                        float keep[2] = {1, 1};
                        if (p.dropout.active()) {
                            float scale[4];  // of the four keys among which the lane has two
                            int64_t row = int64_t(kv_head * heads + at.head) * s.Tk + query;
                            dropout_scales(scale, p.dropout, b, row * s.Tk + lane_key - group % 2 + 16 * m);
                            keep[0] = group % 2 ? scale[1] : scale[0], keep[1] = group % 2 ? scale[3] : scale[2];
                        }
#pragma unroll
                        for (int i = 0; i < 2; i++) {
                            float &score = x[m][n + j / 2][2 * i + j % 2], &d = dx[m][n + j / 2][2 * i + j % 2];
                            const int key = lane_key + 16 * m + 2 * i;
                            float prob = ptx::exp2_approx(score * c - log_sum[j]);
                            if (masked && (key > query || key < seen_from)) prob = 0;
                            d = prob * (d * keep[i] - D[j]);
                            score = prob * keep[i];
                        }
                    }
                }
            }
            add_product(dv_sum, x, dout_tile, step, column / 16, reader);
            add_product(dk_sum, dx, q_tile, step, column / 16, reader);
        }
    }
    float one[M][2], scale[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) one[m][0] = one[m][1] = 1, scale[m][0] = scale[m][1] = p.scale;
    const int64_t to = kv_offset + (key0 + warp_row) * s.kv_row + column;
    const int count = s.Tk - key0 - warp_row, hs = s.HS - column;
    store_rows<HS>(dk + to, s.kv_row, count, hs, p.wide, k_tile + warp_row * HS, dk_sum, scale);
    store_rows<HS>(dv + to, s.kv_row, count, hs, p.wide, v_tile + warp_row * HS, dv_sum, one);
}

// One block: dq of a tile of queries. STEP: keys of a tile worked on at a time.
template <int HS, int M, int WARPS, int KEYS, int STEP, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)
    query_gradient_kernel(bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float2* stats,
                          int stats_stride, Problem p) {
    constexpr int queries = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = KEYS * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *dout_tile = q_tile + queries * HS;
    bf16 *k_tiles = dout_tile + queries * HS, *v_tiles = k_tiles + 2 * tile_size;
    const AttentionShape& s = p.s;
    const Work work(p, s.NH);
    const int b = work.b, h = work.head, t0 = (p.tiles - 1 - work.rank) * queries, end = min(t0 + queries, s.Tq);
    const int lane = static_cast<int>(threadIdx.x) % 32, quad = lane % 4;
    const int warp_row = 16 * M * (static_cast<int>(threadIdx.x) / 32);
    const int* starts = p.doc_start ? p.doc_start + int64_t(b) * s.Tk : nullptr;
    const int64_t q_offset = b * s.q_batch + t0 * s.q_row + int64_t(h) * s.HS;
    const int64_t out_offset = b * s.out_batch + t0 * s.out_row + int64_t(h) * s.HS;
    const int64_t kv_offset = b * s.kv_batch + int64_t(h / (s.NH / s.NKV)) * s.HS;

    const int first_tile = starts ? max(0, earliest_key(starts, t0, end)) / KEYS : 0, tiles = (end + KEYS - 1) / KEYS;
    auto load = [&](int tile) {
        if (tile < tiles) {
            int64_t key = int64_t(tile) * KEYS, at = kv_offset + key * s.kv_row;
            int count = s.Tk - tile * KEYS, to = tile % 2 * tile_size;
            load_tile<HS, KEYS, threads>(k_tiles + to, k + at, s.kv_row, count, s.HS, p.wide);
            load_tile<HS, KEYS, threads>(v_tiles + to, v + at, s.kv_row, count, s.HS, p.wide);
        }
        ptx::cp_async_commit();
    };
    load_tile<HS, queries, threads>(q_tile, q + q_offset, s.q_row, s.Tq - t0, s.HS, p.wide);
    load_tile<HS, queries, threads>(dout_tile, dout + out_offset, s.out_row, s.Tq - t0, s.HS, p.wide);
    load(first_tile);

    const Reader<HS> reader;
    const Queries<M> mine(starts, t0 + warp_row, s.Tk);
    const float c = p.scale * kLog2e;
    float2 mine_stats[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            mine_stats[m][i] = stats[(int64_t(b) * s.NH + h) * stats_stride + mine.position + 16 * m + 2 * i];
    Rows<HS, M, KEPT> q_rows, dout_rows;
    float sum[M][HS / 8][4];
    clear(sum);
    for (int tile = first_tile; tile < tiles; tile++) {
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(tile + 1);
        if (tile == first_tile) {
            q_rows.load(q_tile + warp_row * HS, reader);
            dout_rows.load(dout_tile + warp_row * HS, reader);
        }
        const bf16 *k_tile = k_tiles + tile % 2 * tile_size, *v_tile = v_tiles + tile % 2 * tile_size;
#pragma unroll 1
        for (int step = 0; step < KEYS; step += STEP) {
            const int key = tile * KEYS + step, lane_key = key + 4 * quad;
            if (key >= t0 + warp_row + 16 * M) break;  // these keys come after all queries of the warp
            float x[M][N][4], dx[M][N][4];
            score_product(x, q_rows, k_tile, step, reader);
            score_product(dx, dout_rows, v_tile, step, reader);
            if (p.dropout.active()) multiply_dropout(dx, p, b, h, mine.position, lane_key);
            const bool masked = key + STEP - 1 > t0 + warp_row || key < mine.latest_first;
#pragma unroll
            for (int m = 0; m < M; m++)
#pragma unroll
                for (int n = 0; n < N; n++)
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float prob = ptx::exp2_approx(x[m][n][e] * c - mine_stats[m][e / 2].x);
                        if (masked && !mine.sees(m, e / 2, lane_key + n / 2 * 16 + n % 2 * 2 + e % 2)) prob = 0;
                        dx[m][n][e] = prob * (dx[m][n][e] - mine_stats[m][e / 2].y);
                    }
            add_product(sum, dx, k_tile, step, 0, reader);
        }
    }
    float scale[M][2];
#pragma unroll
    for (int m = 0; m < M; m++) scale[m][0] = scale[m][1] = p.scale;
    store_rows<HS>(dq + q_offset + warp_row * s.q_row, s.q_row, s.Tq - t0 - warp_row, s.HS, p.wide,
                   q_tile + warp_row * HS, sum, scale);
}

// ---- launchers ----

constexpr int kStatsRows = 128;  // stats are padded to a multiple of the largest tile
inline int stats_stride(const AttentionShape& s) { return ceil_div(s.Tq, kStatsRows) * kStatsRows; }

template <typename... P>
bool wide_rows(const AttentionShape& s, const P*... tensors) {
    int64_t all = s.HS | s.q_row | s.kv_row | s.out_row | s.q_batch | s.kv_batch | s.out_batch;
    return all % 8 == 0 && ((reinterpret_cast<uintptr_t>(tensors) % 16 == 0) && ...);
}

// For kernels whose blocks take `tile` positions of `T` and one of `heads` heads, and read `bytes` that they share with
// the head's other blocks.
inline Problem problem(const AttentionShape& s, const int* doc_start, Dropout dropout, bool wide, int T, int tile,
                       int heads, int64_t bytes) {
    Problem p{s, doc_start, dropout, 1 / std::sqrt(static_cast<float>(s.HS)), wide, ceil_div(T, tile), 1};
    p.section_heads = static_cast<int>(std::clamp<int64_t>(device().l2_bytes / 2 / bytes, 1, int64_t(s.B) * heads));
    return p;
}

template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
void forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const AttentionShape& s,
             const int* doc_start, Dropout dropout, cudaStream_t stream) {
    constexpr int queries = 16 * M * WARPS;
    Problem p = problem(s, doc_start, dropout, wide_rows(s, out, q, k, v), s.Tq, queries, s.NH, 4ll * s.Tk * s.HS);
    launch(forward_kernel<HS, M, WARPS, KEYS, SLOTS, KEPT>, p.tiles * s.B * s.NH, 32 * WARPS,
           (queries + SLOTS * KEYS) * HS * sizeof(bf16), stream, out, lse, q, k, v, p);
}

template <int HS, int M, int WARPS, int QUERIES, int STEP, int OUT, bool KEPT>
void key_gradient(bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                  const float2* stats, const AttentionShape& s, const int* doc_start, Dropout dropout,
                  cudaStream_t stream) {
    constexpr int keys = 16 * M * WARPS;
    Problem p = problem(s, doc_start, dropout, wide_rows(s, dk, dv, dout, q, k, v), s.Tk, keys, s.NKV,
                        4ll * s.Tq * s.HS * (s.NH / s.NKV));
    launch(key_gradient_kernel<HS, M, WARPS, QUERIES, STEP, OUT, KEPT>, dim3(p.tiles * s.B * s.NKV, HS / OUT),
           32 * WARPS, (2 * keys + 4 * QUERIES) * HS * sizeof(bf16) + 2 * QUERIES * sizeof(float2), stream, dk, dv,
           dout, q, k, v, stats, stats_stride(s), p);
}

template <int HS, int M, int WARPS, int KEYS, int STEP, bool KEPT>
void query_gradient(bf16* dq, const bf16* dout, const bf16* q, const bf16* k, const bf16* v, const float2* stats,
                    const AttentionShape& s, const int* doc_start, Dropout dropout, cudaStream_t stream) {
    constexpr int queries = 16 * M * WARPS;
    static_assert(kStatsRows % queries == 0);
    Problem p = problem(s, doc_start, dropout, wide_rows(s, dq, dout, q, k, v), s.Tq, queries, s.NH, 4ll * s.Tk * s.HS);
    launch(query_gradient_kernel<HS, M, WARPS, KEYS, STEP, KEPT>, p.tiles * s.B * s.NH, 32 * WARPS,
           (2 * queries + 4 * KEYS) * HS * sizeof(bf16), stream, dq, dout, q, k, v, stats, stats_stride(s), p);
}

}  // namespace attention_mma

inline void attention_mma_forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v,
                                  const AttentionShape& s, const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    auto run = s.HS <= 64    ? forward<64, 2, 4, 64, 4, true>
               : s.HS <= 128 ? forward<128, 2, 4, 64, 3, false>
                             : forward<256, 1, 4, 32, 2, false>;
    run(out, lse, q, k, v, s, doc_start, dropout, stream);
}

inline size_t attention_mma_backward_workspace_bytes(const AttentionShape& s) {
    return sizeof(float2) * s.B * s.NH * attention_mma::stats_stride(s);
}

inline void attention_mma_backward(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k,
                                   const bf16* v, const bf16* out, const float* lse, const AttentionShape& s,
                                   const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    const int stride = stats_stride(s);
    const int64_t rows = int64_t(s.B) * s.NH * stride;
    float2* stats = workspace<float2>(static_cast<size_t>(rows));
    launch(wide_rows(s, out, dout) ? stats_kernel<8> : stats_kernel<1>, ceil_div(rows, 32), 256, 0, stream, stats, out,
           dout, lse, s, stride);
    auto keys = s.HS <= 64    ? key_gradient<64, 2, 4, 64, 16, 64, false>
                : s.HS <= 128 ? key_gradient<128, 1, 8, 32, 16, 128, true>
                              : key_gradient<256, 1, 4, 16, 16, 128, false>;
    keys(dk, dv, dout, q, k, v, stats, s, doc_start, dropout, stream);
    auto queries = s.HS <= 64    ? query_gradient<64, 2, 4, 64, 32, true>
                   : s.HS <= 128 ? query_gradient<128, 1, 8, 32, 32, true>
                                 : query_gradient<256, 1, 4, 16, 16, false>;
    queries(dq, dout, q, k, v, stats, s, doc_start, dropout, stream);
}
