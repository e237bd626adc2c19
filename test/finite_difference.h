// Tensors of doubles, from and to other types; finite differences, the oracle of every backward pass; errors by norm.
//
// Central differences of fourth order: the error of a step h is h^4 f'''''/30, 1e-13 at h = 1e-3, as small as what
// rounding leaves, 1e-16 |f| / h. Second order would not reach the 1e-6 that is asked of gradients with room to spare.
#pragma once
#include <gtest/gtest.h>
#include <cmath>
#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>
#include "llmc/base/bf16.h"
#ifdef _OPENMP
#include <omp.h>
#endif

using Doubles = std::vector<double>;
using NamedDoubles = std::map<std::string, Doubles>;

inline Doubles random_vector(int64_t n, uint64_t seed, double deviation = 1) {
    std::mt19937_64 generator(seed);
    std::normal_distribution<double> normal(0, deviation);
    Doubles x(static_cast<size_t>(n));
    for (double& v : x) v = normal(generator);
    return x;
}

// As another type, and back.
template <typename X>
std::vector<X> narrow(const Doubles& x) {
    std::vector<X> out;
    for (double v : x) out.push_back(static_cast<X>(static_cast<acc_t<X>>(v)));
    return out;
}
template <typename X>
Doubles widen(const X* x, int64_t n) {
    Doubles out;
    for (int64_t i = 0; i < n; i++) out.push_back(static_cast<double>(static_cast<acc_t<X>>(x[i])));
    return out;
}
template <typename X>
Doubles widen(const std::vector<X>& x) {
    return widen(x.data(), static_cast<int64_t>(x.size()));
}

inline double dot(const Doubles& a, const Doubles& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
    return sum;
}

// |got - want| / max(|want|, floor). The floor is the scale below which a tensor counts as zero: a key bias has no
// gradient. NaN and a wrong size are an infinite error.
inline double relative_error(const Doubles& got, const Doubles& want, double floor = 1e-30) {
    if (got.size() != want.size()) return INFINITY;
    double error = 0;
    for (size_t i = 0; i < got.size(); i++) error += (got[i] - want[i]) * (got[i] - want[i]);
    double result = std::sqrt(error) / std::max(std::sqrt(dot(want, want)), floor);
    return std::isnan(result) ? INFINITY : result;
}

// Runs what follows with n threads.
struct Threads {
#ifdef _OPENMP
    const int saved = omp_get_max_threads();
    explicit Threads(int n) { omp_set_num_threads(n); }
    ~Threads() { omp_set_num_threads(saved); }
#else
    explicit Threads(int) {}
#endif
};

// d/ds f(x + s direction) at s = 0. x is as it was afterwards, bit for bit.
template <typename X, typename F>
double directional_derivative(X* x, const Doubles& direction, F f, double h) {
    std::vector<X> saved(x, x + direction.size());
    auto at = [&](double s) {
        for (size_t i = 0; i < direction.size(); i++) x[i] = saved[i] + s * direction[i];
        return f();
    };
    double derivative = (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h);
    std::copy(saved.begin(), saved.end(), x);
    return derivative;
}

// Compares the gradient of f() with respect to x[0..n) with differences: in every element if n <= all_up_to, else along
// `directions` random directions. Returns the relative error by norm.
template <typename F>
double gradient_error(double* x, const Doubles& gradient, F f, size_t all_up_to = 2000, int directions = 12,
                      double floor = 1e-30, double h = 1e-3) {
    Doubles numeric, analytic;
    size_t n = gradient.size();
    if (n <= all_up_to) {
        for (size_t i = 0; i < n; i++) numeric.push_back(directional_derivative(x + i, {1.0}, f, h));
        return relative_error(numeric, gradient, floor);
    }
    for (int k = 0; k < directions; k++) {
        Doubles direction = random_vector(static_cast<int64_t>(n), 77 + static_cast<uint64_t>(k));
        double norm = std::sqrt(dot(direction, direction));
        for (double& d : direction) d /= norm;
        numeric.push_back(directional_derivative(x, direction, f, 4 * h));
        analytic.push_back(dot(direction, gradient));
    }
    // Along a random direction a gradient's component is norm / sqrt(n).
    return relative_error(numeric, analytic, floor * std::sqrt(directions / static_cast<double>(n)));
}
