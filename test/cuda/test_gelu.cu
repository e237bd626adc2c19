// GELU on the GPU against the CPU's.
#include "llmc/plain/layers.h"
#include "test/cuda/device_test.h"

namespace {

template <typename X>
struct Gelu : ::testing::Test {};
TYPED_TEST_SUITE(Gelu, StorageTypes);

// Lengths with and without a rest beside whole packs; shift moves addresses off their boundaries.
TYPED_TEST(Gelu, EqualsCpu) {
    using X = TypeParam;
    for (size_t n : {1, 8, 257, 4096})
        for (size_t shift : {0, 1}) {
            SCOPED_TRACE(::testing::Message() << "n " << n << " shift " << shift);
            auto x = random_vector<X>(n + shift, 1, 3), dy = random_vector<X>(n + shift, 2);
            for (size_t i = 3; i < n; i += 7) x[i] = X(i % 2 ? 60.0f : -60.0f);  // where exp(-2u) overflows
            auto y = x, dx = dy, erf_y = x, erf_dx = dy;
            gelu_forward(y.data() + shift, x.data() + shift, int64_t(n));
            gelu_backward(dx.data() + shift, x.data() + shift, dy.data() + shift, int64_t(n));
            gelu_erf_forward(erf_y.data() + shift, x.data() + shift, int64_t(n), Plain{});
            gelu_erf_backward(erf_dx.data() + shift, x.data() + shift, dy.data() + shift, int64_t(n), Plain{});
            for_each_schedule([&] {
                DeviceVector<X> device_x(x), device_y(x), device_dx(dy);
                gelu_forward(device_y.get() + shift, device_x.get() + shift, int64_t(n), current_stream());
                gelu_backward(device_dx.get() + shift, device_x.get() + shift, device_dx.get() + shift, int64_t(n),
                              current_stream());
                double tolerance = std::is_same_v<X, float> ? 1e-6 : 1e-3;
                EXPECT_LT(relative_error(device_y.host(), y), tolerance);
                EXPECT_LT(relative_error(device_dx.host(), dx), tolerance);
                device_y.set(x), device_dx.set(dy);
                gelu_erf_forward(device_y.get() + shift, device_x.get() + shift, int64_t(n), current_stream());
                gelu_erf_backward(device_dx.get() + shift, device_x.get() + shift, device_dx.get() + shift, int64_t(n),
                                  current_stream());
                EXPECT_LT(relative_error(device_y.host(), erf_y), tolerance) << "erf";
                EXPECT_LT(relative_error(device_dx.host(), erf_dx), tolerance) << "erf";
            });
        }
}

// Far from zero GELU is x or 0, and its derivative 1 or 0, without a NaN.
TEST(Gelu, OfTheLargestNumbers) {
    std::vector<float> x = {3e38f, -3e38f, 1e13f, -1e13f, 30, -30, 0}, one(x.size(), 1);
    DeviceVector<float> device_x(x), y(x.size()), dx(one);
    gelu_forward(y.get(), device_x.get(), int64_t(x.size()), current_stream());
    auto got = y.host();
    for (size_t i = 0; i < x.size(); i++) EXPECT_EQ(got[i], std::max(x[i], 0.0f)) << x[i];
    device_x.set({1e12f, -1e12f, 1e9f, -1e9f, 30, -30, 0});
    gelu_backward(dx.get(), device_x.get(), dx.get(), int64_t(x.size()), current_stream());
    got = dx.host();
    for (size_t i = 0; i < x.size(); i++) EXPECT_EQ(got[i], i == 6 ? 0.5f : i % 2 ? 0.0f : 1.0f) << x[i];
}

}  // namespace
