// Vectors, and products of small tiles that lie in a cache: what gemm.h and attention are made of. One thread,
// row-major.
//
//   c (m,n) = [accumulate ? c : 0] + a (m,k) . b (k,n)
//
// Element (r,p) of a is a[r * a_row + p * a_k], so a transposed tile costs nothing: a's elements are broadcast one by
// one. b and c are read in whole vectors: n is a multiple of the vector's lanes, and callers pad.
//
// Elements of a and b have c's type, or they are pairs of bf16, neighbours along k: then one instruction multiplies and
// adds both (vdpbf16ps of AVX512_BF16), and k counts pairs.
//
// Limit: arithmetic. rows x columns vectors of c stay in registers over the loop over k; with 32 registers 6 x 4 of
// them, so that 24 multiply-adds come with 10 loads.
#pragma once
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#include "llmc/base/bf16.h"
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

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

template <typename A, int BYTES = kVectorBytes>
struct VectorOf {
    typedef A type __attribute__((vector_size(BYTES)));
    typedef A in_memory __attribute__((vector_size(BYTES), aligned(sizeof(A)), may_alias));  // at any address
};
template <typename A>
using Vector = typename VectorOf<A>::type;

// Room for n new elements in v, from a cache line's start on: a vector that straddles two lines takes two loads.
template <typename A>
inline A* cache_aligned(std::vector<A>& v, size_t n) {
    if (v.size() < n + 64 / sizeof(A)) v = {}, v.resize(n + 64 / sizeof(A));  // nothing is kept
    return reinterpret_cast<A*>((reinterpret_cast<uintptr_t>(v.data()) + 63) / 64 * 64);
}

// kLanes<A> elements from p on, of type A or bf16.
template <typename A>
inline Vector<A> load_vector(const A* p) {
    return *reinterpret_cast<const typename VectorOf<A>::in_memory*>(p);
}
template <typename A>
inline Vector<A> load_vector(const bf16* p) {
    using Halves = VectorOf<uint16_t, kVectorBytes / 2>::in_memory;
    return (Vector<float>)(__builtin_convertvector(*reinterpret_cast<const Halves*>(p), Vector<uint32_t>) << 16);
}
template <typename A>
inline void store_vector(A* p, Vector<A> v) {
    *reinterpret_cast<typename VectorOf<A>::in_memory*>(p) = v;
}

// Sum over the lanes, half by half.
template <typename A, int BYTES = kVectorBytes>
inline A sum_lanes(typename VectorOf<A, BYTES>::type v) {
    if constexpr (BYTES == 2 * sizeof(A)) return v[0] + v[1];
    else if constexpr (BYTES == 4 * sizeof(A)) return (v[0] + v[2]) + (v[1] + v[3]);
    else {
        struct {
            typename VectorOf<A, BYTES / 2>::type low, high;
        } both;
        static_assert(sizeof both == BYTES);
        std::memcpy(&both, &v, sizeof both);
        return sum_lanes<A, BYTES / 2>(both.low + both.high);
    }
}

// a . b, n elements each, of type A or bf16.
template <typename A, typename Y, typename X>
A dot(const Y* a, const X* b, int n) {
    Vector<A> sums = {};
    int d = 0;
    for (; d + kLanes<A> <= n; d += kLanes<A>) sums += load_vector<A>(a + d) * load_vector<A>(b + d);
    A sum = sum_lanes<A>(sums);
    for (; d < n; d++) sum += A(a[d]) * A(b[d]);
    return sum;
}

// Two bf16, the first in the low half.
using bf16_pair = uint32_t;

inline bf16_pair pair_of(bf16 first, bf16 second) { return first.bits | uint32_t{second.bits} << 16; }

// Lane by lane a pair of first and second; to = x. Both rounded to nearest.
inline Vector<uint32_t> rounded(Vector<float> x) {  // in the upper half
    const Vector<uint32_t> bits = (Vector<uint32_t>)x, up = bits + 0x7fff + (bits >> 16 & 1), quiet = bits | 0x400000;
    return (bits & 0x7fffffff) > 0x7f800000 ? quiet : up;  // rounding must not turn a NaN into infinity
}
inline Vector<bf16_pair> pair_vectors(Vector<float> first, Vector<float> second) {
    return rounded(first) >> 16 | (rounded(second) & 0xffff0000u);
}
inline void store_bf16(bf16* to, Vector<float> x) {
    using Halves = VectorOf<uint16_t, kVectorBytes / 2>;
#ifdef __AVX512BF16__
    *reinterpret_cast<Halves::in_memory*>(to) = (Halves::type)_mm512_cvtneps_pbh((__m512)x);
#else
    *reinterpret_cast<Halves::in_memory*>(to) = __builtin_convertvector(rounded(x) >> 16, Halves::type);
#endif
}

// sum + a * b
template <typename A>
[[gnu::always_inline]] inline Vector<A> multiply_add(Vector<A> sum, A a, Vector<A> b) {
    return sum + a * b;
}
[[gnu::always_inline]] inline Vector<float> multiply_add_portable(Vector<float> sum, bf16_pair a, Vector<bf16_pair> b) {
    sum += std::bit_cast<float>(a << 16) * (Vector<float>)(b << 16);
    return sum + std::bit_cast<float>(a & 0xffff0000u) * (Vector<float>)(b & 0xffff0000u);
}
#ifdef __AVX512BF16__
constexpr bool kFastPairs = true;
[[gnu::always_inline]] inline Vector<float> multiply_add(Vector<float> sum, bf16_pair a, Vector<bf16_pair> b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(static_cast<int>(a)), (__m512bh)b);
}
#else
constexpr bool kFastPairs = false;
[[gnu::always_inline]] inline Vector<float> multiply_add(Vector<float> sum, bf16_pair a, Vector<bf16_pair> b) {
    return multiply_add_portable(sum, a, b);
}
#endif

template <typename A, typename E, int ROWS, int COLUMNS>
inline void tile_registers(A* c, int64_t c_row, const E* a, int64_t a_row, int64_t a_k, const E* b, int64_t b_row,
                           int k, bool accumulate) {
    constexpr int L = kLanes<A>;
    Vector<A> sum[ROWS][COLUMNS] = {};
    for (int p = 0; p < k; p++, a += a_k, b += b_row) {
        Vector<E> bv[COLUMNS];
#pragma GCC unroll 8
        for (int x = 0; x < COLUMNS; x++) bv[x] = load_vector<E>(b + x * L);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            E ar = a[r * a_row];
#pragma GCC unroll 8
            for (int x = 0; x < COLUMNS; x++) sum[r][x] = multiply_add(sum[r][x], ar, bv[x]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++) {
#pragma GCC unroll 8
        for (int x = 0; x < COLUMNS; x++) {
            A* out = c + r * c_row + x * L;
            store_vector<A>(out, accumulate ? load_vector<A>(out) + sum[r][x] : sum[r][x]);
        }
    }
}

template <typename A, typename E>
void tile_product(A* c, int64_t c_row, const E* a, int64_t a_row, int64_t a_k, const E* b, int64_t b_row, int m, int n,
                  int k, bool accumulate) {
    constexpr int L = kLanes<A>;
    auto rows = [&]<int COLUMNS>(int column) {
        A* c0 = c + column;
        const E *a0 = a, *b0 = b + column;
        int r = 0;
        for (; r + kTileRows <= m; r += kTileRows, c0 += kTileRows * c_row, a0 += kTileRows * a_row)
            tile_registers<A, E, kTileRows, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate);
        [&]<int... N>(std::integer_sequence<int, N...>) {  // the last m - r = 1 .. kTileRows - 1 rows
            ((m - r == N + 1 ? tile_registers<A, E, N + 1, COLUMNS>(c0, c_row, a0, a_row, a_k, b0, b_row, k, accumulate)
                             : void()),
             ...);
        }
        (std::make_integer_sequence<int, kTileRows - 1>());
    };
    int column = 0;
    for (; column + kTileColumns * L <= n; column += kTileColumns * L) rows.template operator()<kTileColumns>(column);
    int rest = (n - column) / L;  // of vectors, fewer than kTileColumns
    if constexpr (kTileColumns > 3)
        if (rest == 3) rows.template operator()<3>(column);
    if constexpr (kTileColumns > 2)
        if (rest == 2) rows.template operator()<2>(column);
    if (rest == 1) rows.template operator()<1>(column);
}
