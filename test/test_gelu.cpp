// GELU.
#include "test/layer_test.h"

namespace {

struct Gelu {
    int n;
    bool in_place;  // dx = dy
    bool erf;       // GELU itself, not the approximation

    NamedDoubles inputs() const { return {{"x", random_vector(n, 1, 2)}}; }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        auto x = narrow<X>(in.at("x")), y = unwritten<X>(n);
        if (d.empty()) {
            erf ? gelu_erf_forward(y.data(), x.data(), n, on) : gelu_forward(y.data(), x.data(), n, on);
            return {{"y", widen(y)}};
        }
        auto dy = narrow<X>(d.at("y")), dx = unwritten<X>(n);
        X* to = in_place ? dy.data() : dx.data();
        erf ? gelu_erf_backward(to, x.data(), dy.data(), n, on) : gelu_backward(to, x.data(), dy.data(), n, on);
        return {{"x", widen(in_place ? dy : dx)}};
    }
};

TEST(Gelu, AgreesWithPlain) {
    for (int n : {1, 15, 1003, 9001})
        for (bool in_place : {false, true})
            for (bool erf : {false, true}) {
                SCOPED_TRACE(testing::Message() << "n " << n << ", in place " << in_place << ", erf " << erf);
                check_layer(Gelu{n, in_place, erf});
            }
}

// x / (1 + exp(-2u)), computed with 60 digits.
TEST(Gelu, KnownValues) {
    Doubles x = {-3, -1, 0, 0.5, 2}, y(5);
    gelu_forward(y.data(), x.data(), 5, Plain{});
    const Doubles want = {-0.003637392081773019, -0.158808009391723295, 0, 0.345714009825143922, 1.954597694087775019};
    for (size_t i = 0; i < 5; i++) EXPECT_NEAR(y[i], want[i], 1e-15) << x[i];
}

// x (1 + erf(x / sqrt(2))) / 2 by Python's math.erf; far below zero there are few, and they count.
TEST(Gelu, KnownValuesOfGeluItself) {
    Doubles x = {-3, -1, 0, 0.5, 2}, y(5);
    const Doubles want = {-0.00404969409489031, -0.15865525393145707, 0, 0.34573123063700656, 1.9544997361036416};
    gelu_erf_forward(y.data(), x.data(), 5, Plain{});
    for (size_t i = 0; i < 5; i++) EXPECT_NEAR(y[i], want[i], 1e-15) << x[i];
    for (float z : {-6.0f, -5.0f, -4.0f, -2.0f, -0.1f, 0.1f, 3.0f}) {
        float got;
        gelu_erf_forward(&got, &z, 1, CpuStream{});
        EXPECT_NEAR(got, z * std::erfc(-z / std::sqrt(2.0)) / 2, 4e-7) << z;
    }
}

template <class On>
void check_far_from_zero(On on) {
    std::vector<float> x = {-1e6f, -1e4f, -50, -9, 9, 50, 1e4f, 1e6f}, y(8), dx(8), dy(8, 1.0f);
    gelu_forward(y.data(), x.data(), 8, on);
    gelu_backward(dx.data(), x.data(), dy.data(), 8, on);
    for (size_t i = 0; i < 8; i++) {
        EXPECT_FLOAT_EQ(y[i] + 1, (i < 4 ? 0 : x[i]) + 1) << x[i];
        EXPECT_NEAR(dx[i], i < 4 ? 0 : 1, 1e-6) << x[i];
    }
}
TEST(Gelu, FarFromZero) {
    check_far_from_zero(CpuStream{});
    check_far_from_zero(Plain{});
}

}  // namespace
