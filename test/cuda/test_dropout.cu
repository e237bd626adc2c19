// llmc/cuda/dropout.cuh: the masks of the CPU, bit for bit.
#include "llmc/cuda/dropout.cuh"
#include "test/cuda/device_test.h"

namespace {

StepState some_state() {
    StepState s;
    s.seed = 0x123456789abcdefull, s.step = 17, s.first_sample = 5;
    return s;
}

// out[i * W ..] = scales of elements e0 + i * step ..
template <int W, bool aligned>
__global__ void scales_kernel(float* out, Dropout d, int b, int64_t e0, int step, int n) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    float scale[W];
    dropout_scales<W, aligned>(scale, d, b, e0 + int64_t(i) * step);
    for (int j = 0; j < W; j++) out[i * W + j] = scale[j];
}

template <int W, bool aligned>
void check_scales(float p, int64_t e0, int step) {
    constexpr int n = 50, b = 3;
    StepState state = some_state();
    std::vector<float> want;
    for (int i = 0; i < n; i++)
        for (int64_t e = e0 + int64_t(i) * step, j = 0; j < W; j++) {
            Philox4 r = philox(state.seed, static_cast<uint32_t>((e + j) / 4), state.first_sample + b, state.step,
                               (static_cast<uint32_t>(Use::dropout) << 24) | 9);
            want.push_back(uniform01(r.v[(e + j) % 4]) >= p ? 1 / (1 - p) : 0);
        }
    DeviceVector<StepState> device_state({state});
    DeviceVector<float> got(static_cast<size_t>(n * W));
    launch(scales_kernel<W, aligned>, 2, 32, 0, current_stream(), got.get(), Dropout{p, 9, device_state.get()}, b, e0,
           step, n);
    EXPECT_EQ(got.host(), want) << "W=" << W << " p=" << p << " e0=" << e0 << " step=" << step;
}

TEST(CudaDropout, ScalesOfNeighboursAreThePhiloxWords) {
    for (float p : {0.1f, 0.5f, 1.0f / 3, 1e-9f, 0.99999994f})
        for (int64_t e0 : {int64_t(0), (int64_t(1) << 32) - 12, int64_t(1) << 33}) {
            check_scales<1, false>(p, e0 + 1, 1);
            check_scales<2, false>(p, e0, 1);
            check_scales<4, false>(p, e0 + 3, 5);
            check_scales<8, false>(p, e0, 7);
            check_scales<2, true>(p, e0, 4);
            check_scales<4, true>(p, e0, 12);
            check_scales<8, true>(p, e0, 4);
        }
}

// p between two neighbouring values of uniform01: kept at p = uniform01(word), dropped at the next value above.
TEST(CudaDropout, TheThresholdIsExact) {
    StepState state = some_state();
    DeviceVector<StepState> device_state({state});
    for (uint32_t e = 0; e < 40; e += 4) {
        uint32_t word =
            philox(state.seed, e / 4, state.first_sample, state.step, (static_cast<uint32_t>(Use::dropout) << 24) | 9)
                .v[0];
        for (uint32_t above : {0u, 1u}) {
            DeviceVector<float> got(1);
            float p = uniform01(word + (above << 8));
            launch(scales_kernel<1, false>, 1, 1, 0, current_stream(), got.get(), Dropout{p, 9, device_state.get()}, 0,
                   e, 1, 1);
            EXPECT_EQ(got.host()[0], above ? 0 : 1 / (1 - p)) << e;
        }
    }
}

template <typename X>
class CudaDropoutApply : public ::testing::Test {};
TYPED_TEST_SUITE(CudaDropoutApply, StorageTypes);

TYPED_TEST(CudaDropoutApply, EqualsCpu) {
    using X = TypeParam;
    struct Case {
        int B;
        int64_t per_sample;
        float p;
    };
    for (Case c :
         {Case{1, 1, 0.5f}, Case{3, 7, 0.2f}, Case{2, 48 * 5, 0.1f}, Case{2, 9000, 0.1f}, Case{2, 4099, 0.3f}}) {
        SCOPED_TRACE(::testing::Message() << "B=" << c.B << " per_sample=" << c.per_sample);
        size_t n = static_cast<size_t>(c.B * c.per_sample);
        std::vector<X> x = random_vector<X>(n, 1), want(n);
        StepState state = some_state();
        dropout_apply(want.data(), x.data(), c.B, c.per_sample, Dropout{c.p, 6, &state});
        for_each_schedule([&] {
            DeviceVector<StepState> device_state({state});
            DeviceVector<X> dx(x), y(n);
            Dropout d{c.p, 6, device_state.get()};
            dropout_apply(y.get(), dx.get(), c.B, c.per_sample, d, current_stream());
            EXPECT_EQ(relative_error(y.host(), want), 0);
            dropout_apply(dx.get(), dx.get(), c.B, c.per_sample, d, current_stream());
            EXPECT_EQ(relative_error(dx.host(), want), 0) << "in place";
            DeviceVector<X> copy(n);
            dropout_apply(copy.get(), y.get(), c.B, c.per_sample, Dropout{}, current_stream());
            EXPECT_EQ(relative_error(copy.host(), want), 0) << "p = 0";
        });
    }
}

}  // namespace
