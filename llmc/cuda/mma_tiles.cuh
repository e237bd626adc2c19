// Tiles of bf16 in shared memory, and what a warp does with them on tensor cores (mma.sync m16n8k16, see ptx.cuh):
// products of tiles, and between two products masks and dropout in registers. What attention_mma.cuh is made of.
//
// Tiles are rows of HS elements in chunks of 16 bytes; chunk c of row r is stored at c ^ swizzle(r), so that neither
// copying rows nor ldmatrix, which takes one chunk of each of eight rows, meets a bank twice. Copies from global memory
// are asynchronous (cp.async): while one tile is worked on, the next ones are under way.
//
// The result of a product, 16 rows of fp32 sums spread over a warp, has the layout that the next product wants for its
// left operand: what a warp has computed stays in its registers.
#pragma once
#include <type_traits>
#include "llmc/base/bf16.h"
#include "llmc/cuda/dropout.cuh"
#include "llmc/cuda/ptx.cuh"

namespace attention_mma {

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

// tile (ROWS,HS) = the first `count` rows of `from`, hs elements of each; zeros beyond them. By the whole block. wide:
// rows are whole chunks of 16 bytes on 16-byte boundaries.
template <int HS, int ROWS, int THREADS>
__device__ inline void load_tile(bf16* tile, const bf16* from, int64_t stride, int count, int hs, bool wide) {
    constexpr int chunks = HS / 8, rows = THREADS / chunks;  // rows: at a time
    static_assert(ROWS % rows == 0 && THREADS % chunks == 0);
    int row = thread() / chunks, c = thread() % chunks;
    from += row * stride + c * 8;
#pragma unroll 1
    for (int i = 0; i < ROWS / rows; i++, row += rows, from += rows * stride) {
        bf16* to = tile + row * HS + (c ^ swizzle(row)) * 8;
        if (wide) ptx::cp_async_16(to, from, row < count && c * 8 < hs);
        else
#pragma unroll 1
            for (int j = 0; j < 8; j++) to[j] = row < count && c * 8 + j < hs ? from[j] : bf16(0.0f);
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

// to [0, hs) = the column sums of what store_rows stores of a block's WARPS parts, `count` rows of this warp's: over a lane's
// rows, over the warp's lanes, over warps, in this order. scratch: (WARPS, 8 D) floats of shared memory.
template <int WARPS, int M, int D, typename F>
__device__ inline void store_column_sums(float* to, float* scratch, int count, int hs, const float (&sum)[M][D][4],
                                         F factor) {
#pragma unroll
    for (int d = 0; d < D; d++) {
        float2 total{0, 0};
        for_rows<M>([&](int m, int i) {
            if (16 * m + row16(lane() / 4) + 2 * i >= count) return;
            uint32_t pair = ptx::pack_bf16x2(sum[m][d][2 * i] * factor(m, i), sum[m][d][2 * i + 1] * factor(m, i));
            total.x += ptx::low_bf16(pair), total.y += ptx::high_bf16(pair);
        });
#pragma unroll
        for (int other = 4; other < 32; other *= 2) {
            total.x += __shfl_xor_sync(0xffffffffu, total.x, other);
            total.y += __shfl_xor_sync(0xffffffffu, total.y, other);
        }
        if (lane() < 4) reinterpret_cast<float2*>(scratch + (warp() * D + d) * 8)[lane()] = total;
    }
    __syncthreads();
    for (int c = thread(); c < min(hs, 8 * D); c += 32 * WARPS) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += scratch[w * 8 * D + c];
        to[c] = total;
    }
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
__device__ inline Bits<M, N> dropout_bits(const Dropout& dropout, int b, int h, int T, int row, int column) {
    constexpr int calls = KEY_ROWS ? 2 * N : N;  // of Philox for each m
    const int odd = row % 2;
    Bits<M, N> bits = 0;
#pragma unroll 1
    for (int i = 0; i < M * calls; i++) {
        int m = i / calls, r = i % calls;
        int query = KEY_ROWS ? column + column_of(r / 2, r) : row + 16 * m + r % 2 * 2;
        int key = KEY_ROWS ? row - odd + 16 * m : column + r / 2 * 16;
        float scale[4];
        dropout_scales(scale, dropout, b, (int64_t(h) * T + query) * T + key);
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

}  // namespace attention_mma
