// What the tests of the CPU's layers have in common.
//
// A test describes its layer as a struct of sizes with
//
//   NamedDoubles inputs() const;
//   template <typename X, class On>                  // On: Plain or CpuStream, says which layer is meant
//   NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const;
//
// where run() stores what it is given as X and returns the layer's outputs if d is empty, else (d: gradients of the
// outputs) the gradients of its inputs. Then finite differences check the plain layer, and the plain layer in double
// checks all others.
#pragma once
#include <gtest/gtest.h>
#include <algorithm>
#include <limits>
#include <string>
#include <vector>
#include "llmc/base/bf16.h"
#include "llmc/cpu/layers.h"
#include "llmc/plain/layers.h"
#include "test/finite_difference.h"

template <typename X>
std::vector<X> random_values(int64_t n, uint64_t seed, double deviation = 1) {
    return narrow<X>(random_vector(n, seed, deviation));
}

// What a layer overwrites starts as NaN; what it adds to starts as 1/4, exact in every type, which is taken off again.
template <typename X>
std::vector<X> unwritten(int64_t n) {
    return std::vector<X>(static_cast<size_t>(n), X(std::numeric_limits<float>::quiet_NaN()));
}
template <typename X>
std::vector<X> accumulator(int64_t n) {
    return std::vector<X>(static_cast<size_t>(n), X(0.25f));
}
template <typename X>
Doubles accumulated(const std::vector<X>& x) {
    Doubles out = widen(x);
    for (double& v : out) v -= 0.25;
    return out;
}

inline StepState dropout_state() {
    StepState state;
    state.seed = 0x123456789abcdefull, state.step = 7, state.first_sample = 1000;
    return state;
}
inline const StepState kState = dropout_state();
inline const Dropout kDropout{0.3f, 6, &kState}, kNoDropout{};

// Outputs that are kept for the backward pass have no gradient of their own; their names begin with "kept ".
inline NamedDoubles random_gradients(const NamedDoubles& outputs, uint64_t seed) {
    NamedDoubles out;
    for (auto& [name, x] : outputs)
        if (name.rfind("kept ", 0) != 0) out[name] = widen(random_values<bf16>(static_cast<int64_t>(x.size()), seed++));
    return out;
}

// A tensor counts at least as much as 0.3 of the largest: with one position, or one class, the true gradient is zero.
inline void expect_close(const NamedDoubles& got, const NamedDoubles& want, double tolerance, const std::string& what) {
    ASSERT_EQ(got.size(), want.size()) << what;
    double floor = 1e-30;
    for (auto& [name, w] : want) floor = std::max(floor, 0.3 * std::sqrt(dot(w, w)));
    for (auto& [name, w] : want)
        EXPECT_LT(relative_error(got.at(name), w, floor), tolerance) << what << ", tensor " << name;
}

// The plain layer's backward pass against differences of its forward pass, in double.
template <class Layer>
void check_gradients(const Layer& layer) {
    NamedDoubles in = layer.inputs();
    NamedDoubles projection = random_gradients(layer.template run<double>(in, {}, Plain{}), 901);
    auto f = [&] {
        NamedDoubles outputs = layer.template run<double>(in, {}, Plain{});
        double sum = 0;
        for (auto& [name, p] : projection) sum += dot(p, outputs.at(name));
        return sum;
    };
    for (auto& [name, gradient] : layer.template run<double>(in, projection, Plain{})) {
        ASSERT_EQ(gradient.size(), in.at(name).size()) << name;
        EXPECT_LT(gradient_error(in.at(name).data(), gradient, f, 300, 8), 1e-8) << "plain, gradient of " << name;
    }
}

// Values that bf16, and so every type, holds exactly.
inline NamedDoubles exact_in_every_type(NamedDoubles in) {
    for (auto& [name, x] : in) x = widen(narrow<bf16>(x));
    return in;
}

// The layer in X, there, against the plain layer in double.
template <typename X, class Layer, class On>
void check_against_plain(const Layer& layer, On on, double tolerance, const char* what) {
    NamedDoubles in = exact_in_every_type(layer.inputs()), want = layer.template run<double>(in, {}, Plain{});
    NamedDoubles d = random_gradients(want, 902);
    expect_close(layer.template run<X>(in, {}, on), want, tolerance, std::string(what) + ", forward");
    expect_close(layer.template run<X>(in, d, on), layer.template run<double>(in, d, Plain{}), tolerance,
                 std::string(what) + ", backward");
}

// Training repeats itself whatever the number of threads.
template <typename X, class Layer>
void check_threads(const Layer& layer) {
    NamedDoubles in = layer.inputs(), outputs[2], gradients[2];
    for (int i = 0; i < 2; i++) {
        Threads threads(i == 0 ? 1 : 3);
        outputs[i] = layer.template run<X>(in, {}, CpuStream{});
        gradients[i] = layer.template run<X>(in, random_gradients(outputs[i], 903), CpuStream{});
    }
    EXPECT_EQ(outputs[0], outputs[1]) << "with one thread and with three";
    EXPECT_EQ(gradients[0], gradients[1]) << "with one thread and with three";
}

// Tolerances: a few roundings of each type. half: what bf16 is allowed.
template <class Layer>
void check_layer(const Layer& layer, double half = 1e-2) {
    check_gradients(layer);
    check_against_plain<float>(layer, Plain{}, 2e-6, "plain, float");
    check_against_plain<bf16>(layer, Plain{}, half, "plain, bf16");
    check_against_plain<double>(layer, CpuStream{}, 1e-12, "CPU, double");
    check_against_plain<float>(layer, CpuStream{}, 2e-6, "CPU, float");
    check_against_plain<bf16>(layer, CpuStream{}, half, "CPU, bf16");
    check_threads<float>(layer);
    check_threads<bf16>(layer);
}
