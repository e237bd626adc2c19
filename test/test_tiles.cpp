// The arithmetic that the CPU's layers are made of: exp, sums, products of tiles (math.h, tile.h, gemm.h).
#include <array>
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/math.h"
#include "test/layer_test.h"

namespace {

TEST(Math, FastExpIsExactToAFloatOverItsWholeRange) {
    double worst = 0;
    for (float x = -87.32f; x < 88.36f; x += 3e-4f)
        worst = std::max(worst, std::abs(double(fast_exp(x)) / std::exp(double(x)) - 1));
    EXPECT_LT(worst, 1.2e-7);
    EXPECT_EQ(fast_exp(0.0f), 1.0f);
    for (float x : {-88.0f, -1e30f, -INFINITY}) EXPECT_LT(fast_exp(x), 1.3e-38f);
    for (float x : {89.0f, 1e30f, INFINITY}) EXPECT_GT(fast_exp(x), 2e38f);
    EXPECT_TRUE(std::isnan(fast_exp(NAN)));
}

TEST(Math, VectorSumOfAnyLength) {
    for (int n : {0, 1, 2, 3, 4, 5, 63, 64, 1001}) {
        Doubles x = random_vector(n, 1);
        double want = 0;
        for (double v : x) want += v;
        EXPECT_NEAR(vector_sum<double>(n, [&](int64_t i) { return x[i]; }), want, 1e-12) << n;
    }
}

template <typename X>
void check_gemm_tile(double tolerance) {
    using A = acc_t<X>;
    for (auto [M, N, K] : {std::array{1, 1, 1}, {14, 32, 16}, {15, 33, 257}, {64, 64, 64}, {29, 95, 40}})
        for (int transposes = 0; transposes < 4; transposes++)
            for (bool accumulate : {false, true}) {
                bool ta = transposes & 1, tb = transposes & 2;
                SCOPED_TRACE(testing::Message() << M << " x " << N << " x " << K << ", transposed " << ta << tb
                                                << ", accumulate " << accumulate);
                int lda = (ta ? M : K) + 3, ldb = (tb ? K : N) + 5, ldc = N + 2;
                auto a = random_values<X>((ta ? K : M) * lda, 1), b = random_values<X>((tb ? N : K) * ldb, 2);
                auto c = random_values<A>(M * ldc, 3);
                Doubles x = widen(a), y = widen(b), want = widen(c);
                for (int m = 0; m < M; m++)
                    for (int n = 0; n < N; n++) {
                        double sum = accumulate ? want[m * ldc + n] : 0;
                        for (int k = 0; k < K; k++)
                            sum += x[ta ? k * lda + m : m * lda + k] * y[tb ? n * ldb + k : k * ldb + n];
                        want[m * ldc + n] = sum;
                    }
                gemm_tile(c.data(), ldc, a.data(), lda, ta, b.data(), ldb, tb, M, N, K, accumulate);
                EXPECT_LT(relative_error(widen(c), want), tolerance);
                for (int m = 0; m < M; m++)  // what lies between the rows is as it was
                    for (int j = N; j < ldc; j++) EXPECT_EQ(double(c[m * ldc + j]), want[m * ldc + j]);
            }
}
TEST(GemmTile, Double) { check_gemm_tile<double>(1e-14); }
TEST(GemmTile, Float) { check_gemm_tile<float>(1e-6); }
TEST(GemmTile, Bf16) { check_gemm_tile<bf16>(1e-6); }

// The CPU's instruction for pairs of bf16, where it has one, and what stands for it where it has none.
TEST(Tile, PairProductsAgreeWithPortableOnes) {
    constexpr int n = kLanes<float>;
    auto x = random_values<bf16>(2 * n + 2, 1);
    auto sums = random_values<float>(n, 2);
    Vector<float> sum;
    Vector<bf16_pair> b;
    bf16_pair a = pair_of(x[2 * n], x[2 * n + 1]);
    for (int i = 0; i < n; i++) sum[i] = sums[i], b[i] = pair_of(x[2 * i], x[2 * i + 1]);
    Vector<float> fast = multiply_add(sum, a, b), portable = multiply_add_portable(sum, a, b);
    for (int i = 0; i < n; i++) {
        float want = sums[i] + float(x[2 * n]) * float(x[2 * i]) + float(x[2 * n + 1]) * float(x[2 * i + 1]);
        EXPECT_NEAR(fast[i], want, 1e-6);
        EXPECT_NEAR(portable[i], want, 1e-6);
    }
}

}  // namespace
