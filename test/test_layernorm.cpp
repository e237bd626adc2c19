// Layer normalisation, and the same fused with the residual add.
#include <cstring>
#include "test/layer_test.h"

namespace {

struct Layernorm {
    int N, C;
    double mean = 0.7;

    NamedDoubles inputs() const {
        Doubles x = random_vector(N * C, 1, 2);
        for (double& v : x) v += mean;
        return {{"x", x}, {"w", random_vector(C, 2)}, {"bias", random_vector(C, 3)}};
    }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        auto x = narrow<X>(in.at("x")), w = narrow<X>(in.at("w")), bias = narrow<X>(in.at("bias"));
        auto y = unwritten<X>(N * C);
        auto mu = unwritten<acc_t<X>>(N), rstd = mu;
        layernorm_forward(y.data(), mu.data(), rstd.data(), x.data(), w.data(), bias.data(), N, C, 1e-5f, on);
        if (d.empty()) return {{"y", widen(y)}, {"kept mean", widen(mu)}, {"kept rstd", widen(rstd)}};
        auto dy = narrow<X>(d.at("y")), dx = accumulator<X>(N * C);
        auto dw = accumulator<grad_t<X>>(C), dbias = dw;
        layernorm_backward(dx.data(), dw.data(), dbias.data(), dy.data(), x.data(), w.data(), mu.data(), rstd.data(), N,
                           C, nullptr, on);
        return {{"x", accumulated(dx)}, {"w", accumulated(dw)}, {"bias", accumulated(dbias)}};
    }
};

// The two outputs are used as a block uses them: y by the next layer, r by the residual stream.
struct ResidualLayernorm {
    int B, T, C;
    bool in_place;  // r = a
    Dropout dropout;

    NamedDoubles inputs() const {
        int n = B * T * C;
        return {{"a", random_vector(n, 1)},
                {"b", random_vector(n, 2)},
                {"w", random_vector(C, 3)},
                {"bias", random_vector(C, 4)}};
    }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        const int N = B * T;
        auto a = narrow<X>(in.at("a")), b = narrow<X>(in.at("b")), w = narrow<X>(in.at("w"));
        auto bias = narrow<X>(in.at("bias")), y = unwritten<X>(N * C), separate = y;
        auto mean = unwritten<acc_t<X>>(N), rstd = mean;
        std::vector<X>& r = in_place ? a : separate;
        residual_layernorm_forward(r.data(), y.data(), mean.data(), rstd.data(), a.data(), b.data(), w.data(),
                                   bias.data(), N, C, T, dropout, 1e-5f, on);
        if (d.empty())
            return {{"y", widen(y)}, {"r", widen(r)}, {"kept mean", widen(mean)}, {"kept rstd", widen(rstd)}};
        auto dy = narrow<X>(d.at("y")), dr = narrow<X>(d.at("r")), db = unwritten<X>(N * C);
        auto dw = accumulator<grad_t<X>>(C), dbias = dw;
        layernorm_backward(dr.data(), dw.data(), dbias.data(), dy.data(), r.data(), w.data(), mean.data(), rstd.data(),
                           N, C, nullptr, on);
        dropout_apply(db.data(), dr.data(), B, int64_t(T) * C, dropout, on);
        return {{"a", widen(dr)}, {"b", widen(db)}, {"w", accumulated(dw)}, {"bias", accumulated(dbias)}};
    }
};

TEST(Layernorm, HasTheMeanOfTheBiasAndTheDeviationOfTheWeight) {
    const int C = 1000;
    Doubles x = random_vector(C, 1, 3), w(C, 2.0), bias(C, 5.0), y(C);
    double mean, rstd, sum = 0, squares = 0;
    layernorm_forward(y.data(), &mean, &rstd, x.data(), w.data(), bias.data(), 1, C, 1e-5f, Plain{});
    for (double v : y) sum += v, squares += (v - 5) * (v - 5);
    EXPECT_NEAR(sum / C, 5, 1e-12);
    EXPECT_NEAR(squares / C, 4, 1e-4);  // less by the epsilon of 1e-5
    EXPECT_LT(squares / C, 4);
}

TEST(Layernorm, AgreesWithPlain) {
    for (auto [N, C] : {std::pair(1, 5), {7, 13}, {37, 48}, {131, 67}, {3, 1030}}) {
        SCOPED_TRACE(testing::Message() << "N " << N << ", C " << C);
        check_layer(Layernorm{N, C});
    }
}

TEST(Layernorm, AMeanFarFromZeroCostsNoMoreDigitsThanItMust) {
    Layernorm layer{57, 77, 100};
    check_against_plain<double>(layer, CpuStream{}, 1e-11, "CPU, double");
    check_against_plain<float>(layer, CpuStream{}, 5e-5, "CPU, float");
}

TEST(ResidualLayernorm, AgreesWithPlain) {
    for (bool in_place : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout}) {
            SCOPED_TRACE(testing::Message() << "in place " << in_place << ", dropout " << dropout.p);
            check_layer(ResidualLayernorm{2, 5, 13, in_place, dropout});
            check_layer(ResidualLayernorm{3, 23, 50, in_place, dropout});
            check_layer(ResidualLayernorm{2, 3, 601, in_place, dropout});
            check_layer(ResidualLayernorm{2, 2, 1, in_place, dropout});
        }
}

// Recomputation relies on it: the norm alone, of the sum that was kept.
template <typename X>
void check_fused_is_the_same() {
    const int N = 57, C = 77;
    auto a = random_values<X>(N * C, 1), b = random_values<X>(N * C, 2), w = random_values<X>(C, 3), bias = w, r = a;
    auto y = unwritten<X>(N * C), again = y;
    std::vector<acc_t<X>> mean(N), rstd(N);
    residual_layernorm_forward(r.data(), y.data(), mean.data(), rstd.data(), a.data(), b.data(), w.data(), bias.data(),
                               N, C, 19, kDropout, 1e-5f);
    layernorm_forward(again.data(), mean.data(), rstd.data(), r.data(), w.data(), bias.data(), N, C, 1e-5f);
    EXPECT_EQ(0, memcmp(y.data(), again.data(), y.size() * sizeof(X)));
}
TEST(ResidualLayernorm, FusedAndSeparateHaveTheSameBits) {
    check_fused_is_the_same<float>();
    check_fused_is_the_same<bf16>();
    check_fused_is_the_same<double>();
}

}  // namespace
