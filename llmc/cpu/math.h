// Arithmetic that the compiler can vectorise.
//
// exp: no branches, no table, no call into libm.
//
// exp(x) = 2^n * e^r, n = round(x / ln 2), |r| <= ln(2)/2; e^r by the polynomial of degree 6, 1 + r + ..., whose
// largest relative error is least: 3e-9, where a float's last bit is 6e-8. Double goes to libm: it is there for
// gradient checks, not for speed.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

#include "llmc/base/bf16.h"

// to = value, rounded. Assigning the bits and not the struct lets GCC vectorise the loop around it.
template <typename X>
inline void store(X& to, acc_t<X> value) {
    if constexpr (std::is_same_v<X, bf16>) to.bits = bf16(value).bits;
    else to = value;
}

// The larger of x and low, NaN if x is. By a bit mask: from "x < low ? low : x" GCC makes a path of its own for the
// constant, with its own divisions, beside what it computes from x as it was.
inline float at_least(float x, float low) {
    int32_t below = -(x < low);
    return std::bit_cast<float>((std::bit_cast<int32_t>(x) & ~below) | (std::bit_cast<int32_t>(low) & below));
}
inline double at_least(double x, double low) { return x < low ? low : x; }
inline float at_most(float x, float high) { return -at_least(-x, -high); }

// Saturates: 1.2e-38 below -87.3 (which no sum of ours can see) and 2.4e38 above 88.37. NaN stays NaN.
inline float fast_exp(float x) {
    x = at_most(at_least(x, -87.33f), 88.37f);
    float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum's low mantissa bits are n
    float n = shifted - 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;  // ln 2 in two parts, so that r keeps all its bits
    float p = 0.00138145988f;
    p = p * r + 0.00836871658f;
    p = p * r + 0.041668389f;
    p = p * r + 0.166665211f;
    p = p * r + 0.49999994f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    int32_t exponent = std::bit_cast<int32_t>(shifted) - 0x4B400000;
    return p * std::bit_cast<float>((exponent + 127) << 23);
}
inline double fast_exp(double x) { return std::exp(x); }

// Sum of f(i) over [0, n), in four chains of vector additions: one chain would wait for itself.
template <typename A, typename F>
inline A vector_sum(int64_t n, F f) {
    int64_t quarter = n / 4;
    A s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = 0; i < quarter; i++)
        s0 += f(i), s1 += f(i + quarter), s2 += f(i + 2 * quarter), s3 += f(i + 3 * quarter);
    for (int64_t i = 4 * quarter; i < n; i++) s0 += f(i);
    return (s0 + s1) + (s2 + s3);
}
