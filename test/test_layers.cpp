// The CPU layers against plain double loops, at odd sizes, in float, bf16 and double.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "llmc/cpu/adamw.h"
#include "llmc/cpu/classifier.h"
#include "llmc/cpu/encoder.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/global_norm.h"
#include "llmc/cpu/layernorm.h"
#include "llmc/cpu/matmul.h"
#include "llmc/error.h"

namespace {

template <typename X>
std::vector<X> random_vector(int64_t n, unsigned seed, double scale = 1.0) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0.0, scale);
    std::vector<X> v(static_cast<size_t>(n));
    for (X& x : v) x = X(static_cast<acc_t<X>>(normal(generator)));
    return v;
}

template <typename X>
constexpr double tolerance = std::is_same_v<X, double>  ? 1e-13
                             : std::is_same_v<X, float> ? 2e-6
                                                        : 6e-3;

// |got - want| / |want| over the whole tensor
template <typename X>
double relative_error(const std::vector<X>& got, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); i++) {
        double g = static_cast<double>(static_cast<acc_t<X>>(got[i]));
        difference += (g - want[i]) * (g - want[i]), norm += want[i] * want[i];
    }
    return std::sqrt(difference / (norm + 1e-300));
}

template <typename X>
double at(const std::vector<X>& v, int64_t i) {
    return static_cast<double>(static_cast<acc_t<X>>(v[static_cast<size_t>(i)]));
}

template <typename X>
struct LayersOf : testing::Test {};
using Types = testing::Types<float, bf16, double>;
TYPED_TEST_SUITE(LayersOf, Types);

double gelu_reference(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_gradient_reference(double x) {
    double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), t = std::tanh(u);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

template <typename X, typename O>
void check_matmul(int M, int N, int K, bool ta, bool tb, bool accumulate, bool bias, Epilogue epilogue, bool with_aux) {
    SCOPED_TRACE(strf("M=%d N=%d K=%d ta=%d tb=%d accumulate=%d bias=%d epilogue=%d aux=%d", M, N, K, ta, tb,
                      accumulate, bias, static_cast<int>(epilogue), with_aux));
    auto a = random_vector<X>(int64_t(M) * K, 1), b = random_vector<X>(int64_t(K) * N, 2),
         bias_values = random_vector<X>(N, 3);
    auto aux = random_vector<X>(int64_t(M) * N, 5);
    auto out = random_vector<O>(int64_t(M) * N, 4);
    std::vector<double> want(out.size()), want_aux(out.size());
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            int64_t i = int64_t(m) * N + n;
            double sum = accumulate ? at(out, i) : 0.0;
            for (int k = 0; k < K; k++)
                sum += at(a, ta ? int64_t(k) * M + m : int64_t(m) * K + k) *
                       at(b, tb ? int64_t(n) * K + k : int64_t(k) * N + n);
            if (bias) sum += at(bias_values, n);
            want_aux[static_cast<size_t>(i)] = sum;
            if (epilogue == Epilogue::gelu) sum = gelu_reference(sum);
            if (epilogue == Epilogue::gelu_backward) sum *= gelu_gradient_reference(at(aux, i));
            want[static_cast<size_t>(i)] = sum;
        }
    Matmul<X, O> args{.out = out.data(), .a = a.data(), .b = b.data(), .M = M, .N = N, .K = K};
    args.a_transposed = ta, args.b_transposed = tb, args.accumulate = accumulate, args.epilogue = epilogue;
    args.bias = bias ? bias_values.data() : nullptr;
    args.aux = with_aux ? aux.data() : nullptr;
    matmul(args);
    EXPECT_LT(relative_error(out, want), tolerance<X>);
    if (epilogue == Epilogue::gelu && with_aux) {
        EXPECT_LT(relative_error(aux, want_aux), tolerance<X>);
    }
}

TYPED_TEST(LayersOf, matmul_equals_naive_loops) {
    using X = TypeParam;
    for (bool onednn : {true, false}) {
        SCOPED_TRACE(onednn ? "oneDNN" : "portable");
        matmul_use_onednn() = onednn;
        const std::array<int, 3> sizes[] = {{1, 1, 1},   {1, 37, 65},   {2, 130, 48},   {5, 64, 7},    {8, 33, 129},
                                            {9, 31, 17}, {67, 45, 300}, {130, 259, 70}, {33, 530, 515}};
        for (auto [M, N, K] : sizes)
            for (int transposes = 0; transposes < 4; transposes++) {
                bool ta = transposes & 1, tb = transposes & 2;
                check_matmul<X, X>(M, N, K, ta, tb, false, false, Epilogue::none, false);
                check_matmul<X, X>(M, N, K, ta, tb, false, true, Epilogue::gelu, true);
                check_matmul<X, X>(M, N, K, ta, tb, false, true, Epilogue::gelu, false);
                check_matmul<X, X>(M, N, K, ta, tb, false, false, Epilogue::gelu_backward, true);
                check_matmul<X, acc_t<X>>(M, N, K, ta, tb, true, false, Epilogue::none, false);
                check_matmul<X, acc_t<X>>(M, N, K, ta, tb, true, true, Epilogue::none, false);
            }
        matmul_use_onednn() = true;
    }
}

}  // namespace
