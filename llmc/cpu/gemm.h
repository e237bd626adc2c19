// Matrix products on one thread: the building block of the portable matmul and of attention.
//
//   C (M,N) = [accumulate ? C : 0] + op(A) (M,K) . op(B) (K,N)        row-major
//
// The kernel holds a tile of C in registers, gemm_rows x 2 vectors, and for each k multiplies a broadcast element of
// every row of A with two vectors of B: 2 * rows FMAs for rows + 2 loads, so the FMA units are the limit. A and B are
// copied (and transposed, and converted to F) into scratch of fixed strides first, a piece of gemm_depth along K at a
// time, so that the kernel reads contiguous cache lines of few pages.        (Goto & van de Geijn 2008, "Anatomy of
// high-performance matrix multiplication") GCC's vector extensions turn it into the widest vectors of the target,
// whatever that is.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "llmc/bf16.h"

#if defined(__AVX512F__)
constexpr int gemm_vector_bytes = 64, gemm_rows = 14;  // 32 registers: 28 sums, 2 vectors of B, 1 of A
#elif defined(__AVX__)
constexpr int gemm_vector_bytes = 32, gemm_rows = 6;  // 16 registers: 12 + 2 + 1
#elif defined(__aarch64__)
constexpr int gemm_vector_bytes = 16, gemm_rows = 14;
#else
constexpr int gemm_vector_bytes = 16, gemm_rows = 6;
#endif
constexpr int gemm_depth = 256;  // a panel of B, depth x 2 vectors, fits the L1 cache
constexpr int gemm_row_stride =
    gemm_depth + 16;  // of A's copy; not a power of two: its rows fall into different cache sets

template <typename F>
struct GemmVector {
    static constexpr int lanes = gemm_vector_bytes / static_cast<int>(sizeof(F)), columns = 2 * lanes;
    using index = std::conditional_t<sizeof(F) == 4, int32_t, int64_t>;
    typedef F type __attribute__((vector_size(gemm_vector_bytes), aligned(sizeof(F)), may_alias));
    typedef index index_type __attribute__((vector_size(gemm_vector_bytes), may_alias));
};

// Room for n elements in v, from a cache line's start on: a vector that straddles two lines takes two loads.
template <typename F>
inline F* cache_aligned(std::vector<F>& v, size_t n) {
    if (v.size() < n + 64 / sizeof(F)) v.resize(n + 64 / sizeof(F));
    return reinterpret_cast<F*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
}

// Reads one vector of F from consecutive elements of S.
template <typename F, typename S>
[[gnu::always_inline]] inline typename GemmVector<F>::type gemm_load(const S* from) {
    using V = typename GemmVector<F>::type;
    if constexpr (std::is_same_v<S, bf16>) {
        typedef uint16_t half __attribute__((vector_size(gemm_vector_bytes / 2), aligned(2), may_alias));
        typedef uint32_t whole __attribute__((vector_size(gemm_vector_bytes)));
        return (V)(__builtin_convertvector(*reinterpret_cast<const half*>(from), whole) << 16);
    } else {
        static_assert(std::is_same_v<S, F>);
        return *reinterpret_cast<const V*>(from);
    }
}

// A vector of indices for __builtin_shuffle, made by the compiler: element i is f(i).
template <typename F, typename Function>
consteval auto gemm_indices(Function f) {
    struct {
        alignas(gemm_vector_bytes) typename GemmVector<F>::index value[GemmVector<F>::lanes];
    } indices{};
    for (int i = 0; i < GemmVector<F>::lanes; i++) indices.value[i] = f(i);
    return indices;
}

// Sum of a vector's elements, halves added to halves.
template <typename F, int half = GemmVector<F>::lanes / 2>
[[gnu::always_inline]] inline F gemm_sum(typename GemmVector<F>::type x) {
    if constexpr (half == 0) {
        return x[0];
    } else {
        static constexpr auto other = gemm_indices<F>([](int i) { return i ^ half; });
        return gemm_sum<F, half / 2>(
            x + __builtin_shuffle(x, *reinterpret_cast<const typename GemmVector<F>::index_type*>(&other)));
    }
}

// to[r * to_stride + c] = from[r * stride + c] or, transposed, from[c * stride + r], for r < rows, c < columns.
template <typename F, typename S>
inline void gemm_copy(F* to, int64_t to_stride, const S* from, int64_t stride, bool transposed, int rows, int columns) {
    using V = typename GemmVector<F>::type;
    using I = typename GemmVector<F>::index_type;
    constexpr int lanes = GemmVector<F>::lanes;
    if (!transposed) {
        for (int r = 0; r < rows; r++) {
            int c = 0;
            for (; c + lanes <= columns; c += lanes)
                *reinterpret_cast<V*>(to + r * to_stride + c) = gemm_load<F>(from + r * stride + c);
            for (; c < columns; c++) to[r * to_stride + c] = F(from[r * stride + c]);
        }
        return;
    }
    // Squares of lanes x lanes by log2(lanes) perfect shuffles: each interleaves row i of the first half with row i of
    // the second.
    static constexpr auto low_half = gemm_indices<F>([](int i) { return (i % 2) * lanes + i / 2; });
    static constexpr auto high_half = gemm_indices<F>([](int i) { return (i % 2) * lanes + i / 2 + lanes / 2; });
    I low = *reinterpret_cast<const I*>(&low_half), high = *reinterpret_cast<const I*>(&high_half);
    int whole_rows = rows / lanes * lanes, whole_columns = columns / lanes * lanes;
    for (int c = 0; c < whole_columns; c += lanes)
        for (int r = 0; r < whole_rows; r += lanes) {
            V x[lanes], y[lanes];
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) x[i] = gemm_load<F>(from + (c + i) * stride + r);
#pragma GCC unroll 4
            for (int round = 1; round < lanes; round *= 2) {
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++)
                    y[i] = __builtin_shuffle(x[i / 2], x[i / 2 + lanes / 2], i % 2 ? high : low);
#pragma GCC unroll 16
                for (int i = 0; i < lanes; i++) x[i] = y[i];
            }
#pragma GCC unroll 16
            for (int i = 0; i < lanes; i++) *reinterpret_cast<V*>(to + (r + i) * to_stride + c) = x[i];
        }
    for (int r = 0; r < rows; r++)
        for (int c = r < whole_rows ? whole_columns : 0; c < columns; c++)
            to[r * to_stride + c] = F(from[c * stride + r]);
}

// c (rows, columns) [+]= a (rows, K; gemm_row_stride) . b (K, columns; columns): one tile.
template <int rows, typename F>
[[gnu::noinline]] void gemm_kernel(F* c, int64_t ldc, const F* a, const F* b, int K, bool accumulate) {
    using V = typename GemmVector<F>::type;
    constexpr int lanes = GemmVector<F>::lanes;
    V sum[rows][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = sum[r][1] = V{};
        if (accumulate) {
            sum[r][0] = *reinterpret_cast<const V*>(c + r * ldc);
            sum[r][1] = *reinterpret_cast<const V*>(c + r * ldc + lanes);
        }
    }
    for (int k = 0; k < K; k++, a++, b += 2 * lanes) {
        V b0 = *reinterpret_cast<const V*>(b), b1 = *reinterpret_cast<const V*>(b + lanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            F x = a[r * gemm_row_stride];
            sum[r][0] += x * b0;
            sum[r][1] += x * b1;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        *reinterpret_cast<V*>(c + r * ldc) = sum[r][0];
        *reinterpret_cast<V*>(c + r * ldc + lanes) = sum[r][1];
    }
}

// All rows of a column of tiles: as many of full height as there are, then halves.
template <int rows, typename F>
inline void gemm_column(F* c, int64_t ldc, const F* a, const F* b, int M, int K, bool accumulate) {
    int m = 0;
    for (; m + rows <= M; m += rows) gemm_kernel<rows>(c + m * ldc, ldc, a + m * gemm_row_stride, b, K, accumulate);
    if constexpr (rows > 1) {
        constexpr int fewer = rows > 8 ? 8 : rows > 4 ? 4 : rows / 2;
        if (m < M) gemm_column<fewer>(c + m * ldc, ldc, a + m * gemm_row_stride, b, M - m, K, accumulate);
    }
}

// A (M,K) or, transposed, stored (K,M); B (K,N) or, transposed, stored (N,K); lda, ldb, ldc: elements from one stored
// row to the next. F is float or double; A and B may be bf16 where F is float. The caller keeps the working set in the
// L2 cache: M * gemm_depth of A's copy and M * N of C.
template <typename F, typename SA, typename SB>
void gemm_tile(F* c, int64_t ldc, const SA* a, int64_t lda, bool a_transposed, const SB* b, int64_t ldb,
               bool b_transposed, int M, int N, int K, bool accumulate) {
    constexpr int columns = GemmVector<F>::columns;
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
                gemm_column<gemm_rows>(c + n, ldc, a_rows, b_panel, M, depth, add);
                continue;
            }
            // The last columns: a whole tile at the side, of which `width` columns count (stale numbers beyond them
            // stay there).
            gemm_column<gemm_rows>(edge, columns, a_rows, b_panel, M, depth, false);
            for (int m = 0; m < M; m++)
                for (int j = 0; j < width; j++)
                    c[m * ldc + n + j] = (add ? c[m * ldc + n + j] : F(0)) + edge[m * columns + j];
        }
    }
}
