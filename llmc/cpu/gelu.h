// GELU: its tanh approximation (GPT-2's "gelu_new"), and itself.            (Hendrycks & Gimpel 2016, https://arxiv.org/abs/1606.08415)
//
//   y = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)
//     = x s, s = 1 / (1 + exp(-2u))                    the same, without the cancellation of 1 + tanh at negative x
//   dy/dx = s + x s (1 - s) 2 du/dx
//
//   y = x P(x), P(x) = erfc(-x / sqrt(2)) / 2, dy/dx = P(x) + x exp(-x^2 / 2) / sqrt(2 pi)
#pragma once
#include <cmath>
#include <type_traits>
#include "llmc/base/bf16.h"
#include "llmc/cpu/math.h"

// Where y is 0 to 24 digits: beyond, s would be too small for a normal float, and arithmetic on such takes ten times as long.
constexpr double kGeluFarLeft = -8.5;

// A is float or double.
template <typename A>
inline A gelu(A x) {
    A z = at_least(x, A(kGeluFarLeft));
    A u2 = z * (A(1.5957691216057308) + A(1.5957691216057308 * 0.044715) * z * z);  // 2u, with 2 sqrt(2/pi)
    return x / (A(1) + fast_exp(-u2));
}

template <typename A>
inline A gelu_gradient(A x) {
    x = at_least(x, A(kGeluFarLeft));
    A u2 = x * (A(1.5957691216057308) + A(1.5957691216057308 * 0.044715) * x * x);
    A s = A(1) / (A(1) + fast_exp(-u2));
    return s + x * s * (A(1) - s) * (A(1.5957691216057308) + A(1.5957691216057308 * 3 * 0.044715) * x * x);
}

// P(x) and, to `density`, P'(x). In fp32, for z >= 0, erfc(z) = t exp(-z^2 + a polynomial of t), t = 1 / (1 + z / 2), which
// is right to 1.2e-7 of itself, far from zero, too.             (Press et al. 1992, Numerical Recipes, section 6.2)
template <typename A>
inline A normal_cdf(A x, A* density) {
    if constexpr (std::is_same_v<A, double>) {
        *density = std::exp(-x * x / 2) * 0.3989422804014327;
        return std::erfc(-x * 0.7071067811865476) / 2;
    } else {
        constexpr A c[] = {A(-1.26551223), A(1.00002368),  A(0.37409196), A(0.09678418),  A(-0.18628806),
                           A(0.27886807),  A(-1.13520398), A(1.48851587), A(-0.82215223), A(0.17087277)};
        A z = std::fabs(x) * A(0.7071067811865476), t = 1 / (1 + z / 2), p = c[9];
        for (int i = 8; i >= 0; i--) p = c[i] + t * p;
        A tail = t * fast_exp(p - z * z) / 2;
        *density = fast_exp(-z * z) * A(0.3989422804014327);
        return x > 0 ? 1 - tail : tail;
    }
}
