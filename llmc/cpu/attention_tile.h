// Products of small tiles that lie in a cache, for the blocks of attention: one thread, row-major, no packing.
//
//   c (m,n) = [accumulate ? c : 0] + a (m,k) . b (k,n)
//
// Element (r,p) of a is a[r * a_row + p * a_k], so a transposed tile costs nothing: a's elements are broadcast one by
// one. b and c are read in whole vectors: n is a multiple of the vector's lanes, and callers pad.
//
// Limit: arithmetic. rows x columns vectors of c stay in registers over the loop over k; with 32 registers 6 x 4 of
// them, so that 24 multiply-adds come with 10 loads.
#pragma once
#include <cstdint>
#include <cstring>

#include "llmc/bf16.h"

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileColumns = 4;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32, kTileColumns = 2;  // 16 registers
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kTileColumns = 4;
#else
constexpr int kVectorBytes = 16, kTileColumns = 2;
#endif
constexpr int kTileRows = 6;

template <typename A>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(A));
template <typename A>
constexpr int pad_to_lanes(int n) {
    return (n + kLanes<A> - 1) / kLanes<A> * kLanes<A>;
}

// A vector that may lie at any address and alias any other object.
template <typename A, int BYTES = kVectorBytes>
struct VectorOf {
    typedef A type __attribute__((vector_size(BYTES), aligned(sizeof(A)), may_alias));
};
template <typename A>
using Vector = typename VectorOf<A>::type;

// kLanes<A> elements from p on, of type A or bf16.
template <typename A>
inline Vector<A> load_vector(const A* p) {
    return *reinterpret_cast<const Vector<A>*>(p);
}
template <typename A>
inline Vector<A> load_vector(const bf16* p) {
    using Halves = VectorOf<uint16_t, kVectorBytes / 2>::type;
    using Words = VectorOf<uint32_t>::type;
    return (Vector<float>)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Words) << 16);
}

// Sum over the lanes, half by half.
template <typename A, int BYTES = kVectorBytes>
inline A sum_lanes(typename VectorOf<A, BYTES>::type v) {
    if constexpr (BYTES == 2 * sizeof(A)) return v[0] + v[1];
    else if constexpr (BYTES == 4 * sizeof(A)) return (v[0] + v[2]) + (v[1] + v[3]);
    else {
        struct {
            typename VectorOf<A, BYTES / 2>::type low, high;
        } half;
        static_assert(sizeof half == BYTES);
        std::memcpy(&half, &v, sizeof half);
        return sum_lanes<A, BYTES / 2>(half.low + half.high);
    }
}

template <typename A, int ROWS, int COLUMNS>
inline void tile_registers(A* c, int64_t c_row, const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_row,
                           int k, bool accumulate) {
    constexpr int L = kLanes<A>;
    Vector<A> sum[ROWS][COLUMNS] = {};
    for (int p = 0; p < k; p++, a += a_k, b += b_row) {
        Vector<A> bv[COLUMNS];
#pragma GCC unroll 8
        for (int x = 0; x < COLUMNS; x++) bv[x] = load_vector<A>(b + x * L);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            A ar = a[r * a_row];
#pragma GCC unroll 8
            for (int x = 0; x < COLUMNS; x++) sum[r][x] += ar * bv[x];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
        for (int x = 0; x < COLUMNS; x++) {
            Vector<A>* out = reinterpret_cast<Vector<A>*>(c + r * c_row + x * L);
            *out = accumulate ? *out + sum[r][x] : sum[r][x];
        }
    }
}

template <typename A>
void tile_product(A* c, int64_t c_row, const A* a, int64_t a_row, int64_t a_k, const A* b, int64_t b_row, int m, int n,
                  int k, bool accumulate) {
    constexpr int L = kLanes<A>;
    auto rows = [&]<int COLUMNS>(int column) {
        A* c0 = c + column;
        const A *a0 = a, *b0 = b + column;
        int r = 0;
        for (; r + kTileRows <= m; r += kTileRows, c0 += kTileRows * c_row, a0 += kTileRows * a_row)
            tile_registers<A, kTileRows, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
        switch (m - r) {
            case 5:
                return tile_registers<A, 5, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
            case 4:
                return tile_registers<A, 4, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
            case 3:
                return tile_registers<A, 3, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
            case 2:
                return tile_registers<A, 2, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
            case 1:
                return tile_registers<A, 1, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
        }
    };
    int column = 0;
    for (; column + kTileColumns * L <= n; column += kTileColumns * L) rows.template operator()<kTileColumns>(column);
    int rest = (n - column) / L;
    if (rest == 3) rows.template operator()<3>(column);
    if (rest == 2) rows.template operator()<2>(column);
    if (rest == 1) rows.template operator()<1>(column);
}
