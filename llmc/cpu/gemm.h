// Matrix products on one thread: the building block of the portable matmul.
//
//   C (M,N) = [accumulate ? C : 0] + op(A) (M,K) . op(B) (K,N)        row-major
//
// A and B are copied (and transposed, and converted to F) into scratch of fixed strides, a piece of gemm_depth along K
// at a time, so that the tile kernel reads contiguous cache lines of few pages.        (Goto & van de Geijn 2008,
// "Anatomy of high-performance matrix multiplication")
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "llmc/base/bf16.h"
#include "llmc/cpu/tile.h"

// A panel of B, depth x kTileColumns vectors, fits the L1 cache. With short vectors it is small, and C's rows are written
// half as often: products 5% faster by AVX2.
constexpr int gemm_depth = kVectorBytes < 64 ? 256 : 128;
constexpr int gemm_row_stride =
    gemm_depth + 16;  // of A's copy; no power of two: its rows fall into different cache sets

// to[r * to_stride + c] = from[r * stride + c] or, transposed, from[c * stride + r], for r < rows, c < columns.
template <typename F, typename S>
inline void gemm_copy(F* to, int64_t to_stride, const S* from, int64_t stride, bool transposed, int rows, int columns) {
    constexpr int lanes = kLanes<F>;
    using I = Vector<std::conditional_t<sizeof(F) == 4, int32_t, int64_t>>;
    if (!transposed) {
        for (int r = 0; r < rows; r++) {
            int c = 0;
            for (; c + lanes <= columns; c += lanes)
                store_vector<F>(to + r * to_stride + c, load_vector<F>(from + r * stride + c));
            for (; c < columns; c++) to[r * to_stride + c] = F(from[r * stride + c]);
        }
        return;
    }
    // Squares of lanes x lanes by log2(lanes) perfect shuffles: each interleaves row i of the first half with row i of
    // the second.
    I low, high;
    for (int i = 0; i < lanes; i++) low[i] = (i % 2) * lanes + i / 2, high[i] = low[i] + lanes / 2;
    int whole_rows = rows / lanes * lanes, whole_columns = columns / lanes * lanes;
    for (int c = 0; c < whole_columns; c += lanes)
        for (int r = 0; r < whole_rows; r += lanes) {
            Vector<F> x[lanes], y[lanes];
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) x[i] = load_vector<F>(from + (c + i) * stride + r);
#pragma GCC unroll 4
            for (int round = 1; round < lanes; round *= 2) {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++)
                    y[i] = __builtin_shuffle(x[i / 2], x[i / 2 + lanes / 2], i % 2 ? high : low);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) x[i] = y[i];
            }
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) store_vector<F>(to + (r + i) * to_stride + c, x[i]);
        }
    for (int r = 0; r < rows; r++)
        for (int c = r < whole_rows ? whole_columns : 0; c < columns; c++)
            to[r * to_stride + c] = F(from[c * stride + r]);
}

// A (M,K) or, transposed, stored (K,M); B (K,N) or, transposed, stored (N,K); lda, ldb, ldc: elements from one stored
// row to the next. F is float or double; A and B may be bf16 where F is float. The caller keeps the working set in the
// L2 cache: M * gemm_depth of A's copy and M * N of C.
template <typename F, typename SA, typename SB>
void gemm_tile(F* c, int64_t ldc, const SA* a, int64_t lda, bool a_transposed, const SB* b, int64_t ldb,
               bool b_transposed, int M, int N, int K, bool accumulate) {
    constexpr int columns = kTileColumns * kLanes<F>;
    static thread_local std::vector<F> scratch;
    size_t a_size = static_cast<size_t>(M) * gemm_row_stride, b_size = gemm_depth * columns,
           edge_size = static_cast<size_t>(M) * columns;
    F *b_panel = cache_aligned(scratch, b_size + a_size + edge_size), *a_rows = b_panel + b_size,
      *edge = a_rows + a_size;
    if (K == 0 && !accumulate)
        for (int m = 0; m < M; m++) std::fill(c + m * ldc, c + m * ldc + N, F(0));
    for (int k0 = 0; k0 < K; k0 += gemm_depth) {
        int depth = std::min(gemm_depth, K - k0);
        bool add = accumulate || k0 > 0;
        gemm_copy(a_rows, gemm_row_stride, a + (a_transposed ? k0 * lda : k0), lda, a_transposed, M, depth);
        for (int n = 0; n < N; n += columns) {
            int width = std::min(columns, N - n);
            gemm_copy(b_panel, columns, b + (b_transposed ? n * ldb + k0 : k0 * ldb + n), ldb, b_transposed, depth,
                      width);
            if (width == columns) {
                tile_product(c + n, ldc, a_rows, gemm_row_stride, 1, b_panel, columns, M, columns, depth, add);
                continue;
            }
            // The last columns: a whole tile at the side, of which `width` columns count (stale numbers beyond them
            // stay there).
            tile_product(edge, columns, a_rows, gemm_row_stride, 1, b_panel, columns, M, columns, depth, false);
            for (int m = 0; m < M; m++)
                for (int j = 0; j < width; j++)
                    c[m * ldc + n + j] = (add ? c[m * ldc + n + j] : F(0)) + edge[m * columns + j];
        }
    }
}
