// Small matrix products on one thread, the building block of the portable matmul and of attention.
//
//   C (M,N) = [accumulate ? C : 0] + op(A) (M,K) . op(B) (K,N)        row-major, ld = elements from one row to the next
//
// The kernel holds a tile of C in registers: rows x 2 vectors of accumulators, and for each k multiplies a broadcast element of
// every row of A with two vectors of B. That is 2 * rows FMAs for rows + 2 loads, so the FMA units are the limit, not the loads.
// (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication".) GCC's vector extensions turn it into the
// widest vectors of the target, whatever that is.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
constexpr int gemm_vector_bytes = 64, gemm_rows = 14;  // 32 registers: 28 accumulators, 2 vectors of B, 1 of A
#elif defined(__AVX__)
constexpr int gemm_vector_bytes = 32, gemm_rows = 6;   // 16 registers: 12 + 2 + 1
#elif defined(__aarch64__)
constexpr int gemm_vector_bytes = 16, gemm_rows = 14;
#else
constexpr int gemm_vector_bytes = 16, gemm_rows = 6;
#endif

template <typename F>
struct GemmVector {
    static constexpr int lanes = gemm_vector_bytes / static_cast<int>(sizeof(F)), columns = 2 * lanes;
    typedef F type __attribute__((vector_size(gemm_vector_bytes), aligned(sizeof(F)), may_alias));
};

// c (rows, columns) [+]= sum_k a[r * a_row + k * a_k] * b[k * b_k + column], a full tile.
template <int rows, typename F>
[[gnu::always_inline]] inline void gemm_kernel(F* c, int64_t ldc, const F* a, int64_t a_row, int64_t a_k, const F* b, int64_t b_k,
                                               int K, bool accumulate) {
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
    for (int k = 0; k < K; k++, a += a_k, b += b_k) {
        V b0 = *reinterpret_cast<const V*>(b), b1 = *reinterpret_cast<const V*>(b + lanes);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            F x = a[r * a_row];
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

// lda, ldb: row strides of the matrices as they are stored, A (M,K) or, transposed, (K,M); B (K,N) or, transposed, (N,K).
template <typename F>
void gemm_tile(F* c, int64_t ldc, const F* a, int64_t lda, bool a_transposed, const F* b, int64_t ldb, bool b_transposed, int M, int N,
               int K, bool accumulate) {
    for (int m = 0; m < M; m++) {
        F* row = c + m * ldc;
        if (!accumulate) std::fill(row, row + N, F(0));
        for (int n = 0; n < N; n++) {
            F sum = 0;
            for (int k = 0; k < K; k++) sum += (a_transposed ? a[k * lda + m] : a[m * lda + k]) * (b_transposed ? b[n * ldb + k] : b[k * ldb + n]);
            row[n] += sum;
        }
    }
}
