// llmc/cuda/layernorm.cuh against llmc/cpu/layernorm.h.
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaLayerNorm : public ::testing::Test {};
TYPED_TEST_SUITE(CudaLayerNorm, StorageTypes);

// Results differ where the order of sums pushes a value over a rounding boundary.
template <typename X>
constexpr double tolerance = std::is_same_v<X, bf16> ? 1e-3 : 2e-6;

template <typename X>
struct Inputs {
    size_t rows, channels;
    std::vector<X> a, b, w, bias;
    Inputs(int N, int C) : rows(static_cast<size_t>(N)), channels(static_cast<size_t>(C)) {
        a = random_vector<X>(rows * channels, 1), b = random_vector<X>(rows * channels, 2);
        for (X& x : a) x = X(static_cast<float>(x) + 3);  // a mean that a variance in one pass would suffer from
        w = random_vector<X>(channels, 3), bias = random_vector<X>(channels, 4);
    }
};

constexpr float epsilon = 3e-3f;  // not the usual one, which nobody would miss

// C: one warp a row with few and many packs, one block a row, odd rows of each kind
const std::vector<std::pair<int, int>> kForwardSizes = {{1, 1},    {9, 7},    {5, 48},   {7, 768},  {3, 1000},
                                                        {3, 1023}, {3, 1600}, {2, 2312}, {2, 4100}, {1, 12288}};

TYPED_TEST(CudaLayerNorm, ForwardEqualsCpu) {
    using X = TypeParam;
    for (auto [N, C] : kForwardSizes) {
        SCOPED_TRACE(::testing::Message() << "N=" << N << " C=" << C);
        Inputs<X> in(N, C);
        std::vector<X> want(in.a.size());
        std::vector<float> mean(in.rows), rstd(in.rows);
        layernorm_forward(want.data(), mean.data(), rstd.data(), in.a.data(), in.w.data(), in.bias.data(), N, C,
                          epsilon);
        for_each_schedule([&, N = N, C = C] {
            DeviceVector<X> x(in.a), w(in.w), bias(in.bias), y(in.a.size());
            DeviceVector<float> m(in.rows), s(in.rows);
            layernorm_forward(y.get(), m.get(), s.get(), x.get(), w.get(), bias.get(), N, C, epsilon, current_stream());
            EXPECT_LT(relative_error(y.host(), want), tolerance<X>);
            EXPECT_LT(relative_error(m.host(), mean), 1e-6);
            EXPECT_LT(relative_error(s.host(), rstd), 1e-6);
        });
    }
}

TYPED_TEST(CudaLayerNorm, ResidualForwardEqualsCpu) {
    using X = TypeParam;
    StepState state;
    state.seed = 42, state.step = 3, state.first_sample = 2;
    for (auto [N, C] : kForwardSizes)
        for (float p : {0.0f, 0.2f}) {
            SCOPED_TRACE(::testing::Message() << "N=" << N << " C=" << C << " p=" << p);
            int T = std::max(1, N / 2);  // rows of a sample
            Inputs<X> in(N, C);
            std::vector<X> r(in.a.size()), y(in.a.size());
            std::vector<float> mean(in.rows), rstd(in.rows);
            residual_layernorm_forward(r.data(), y.data(), mean.data(), rstd.data(), in.a.data(), in.b.data(),
                                       in.w.data(), in.bias.data(), N, C, T, Dropout{p, 5, &state}, epsilon);
            for_each_schedule([&, N = N, C = C] {
                DeviceVector<StepState> device_state({state});
                Dropout d{p, 5, device_state.get()};
                DeviceVector<X> a(in.a), b(in.b), w(in.w), bias(in.bias), got_r(in.a.size()), got_y(in.a.size());
                DeviceVector<float> m(in.rows), s(in.rows);
                residual_layernorm_forward(got_r.get(), got_y.get(), m.get(), s.get(), a.get(), b.get(), w.get(),
                                           bias.get(), N, C, T, d, epsilon, current_stream());
                EXPECT_LT(relative_error(got_r.host(), r), p > 0 ? tolerance<X> / 10 : 1e-30);
                EXPECT_LT(relative_error(got_y.host(), y), tolerance<X>);
                EXPECT_LT(relative_error(m.host(), mean), 1e-6);
                EXPECT_LT(relative_error(s.host(), rstd), 2e-6);
                residual_layernorm_forward(a.get(), got_y.get(), m.get(), s.get(), a.get(), b.get(), w.get(),
                                           bias.get(), N, C, T, d, epsilon, current_stream());
                EXPECT_EQ(relative_error(a.host(), got_r.host()), 0) << "r = a";
            });
        }
}

TYPED_TEST(CudaLayerNorm, BackwardEqualsCpuAndIsDeterministic) {
    using X = TypeParam;
    for (auto [N, C] : std::vector<std::pair<int, int>>{{1, 1},
                                                        {50, 7},
                                                        {37, 48},
                                                        {600, 9},
                                                        {83, 264},
                                                        {6, 768},
                                                        {18, 1000},
                                                        {5, 1023},
                                                        {2, 4104},
                                                        {2, 4101},
                                                        {1, 12288},
                                                        {37, 4099},
                                                        {2, 12287}}) {
        SCOPED_TRACE(::testing::Message() << "N=" << N << " C=" << C);
        Inputs<X> in(N, C);
        std::vector<X> dy = random_vector<X>(in.a.size(), 5), dx = random_vector<X>(in.a.size(), 6), y(in.a.size());
        std::vector<float> dw = random_vector<float>(in.channels, 7), db = random_vector<float>(in.channels, 8),
                           mean(in.rows), rstd(in.rows);
        layernorm_forward(y.data(), mean.data(), rstd.data(), in.a.data(), in.w.data(), in.bias.data(), N, C, epsilon);
        std::vector<X> want = dx;
        std::vector<float> want_dw = dw, want_db = db, first_dw, first_db;
        layernorm_backward(want.data(), want_dw.data(), want_db.data(), dy.data(), in.a.data(), in.w.data(),
                           mean.data(), rstd.data(), N, C);
        reserve_workspace(layernorm_backward_workspace_bytes(N, C, device().multiprocessors));
        for_each_schedule([&, N = N, C = C] {
            DeviceVector<X> gdx(dx), gdy(dy), x(in.a), w(in.w);
            DeviceVector<float> gdw(dw), gdb(db), m(mean), s(rstd);
            DeviceVector<float> parts(size_t(layernorm_backward_blocks(N, C, device().multiprocessors)) * in.channels);
            ColumnSums<X> sums{parts.get()};
            layernorm_backward(gdx.get(), gdw.get(), gdb.get(), gdy.get(), x.get(), w.get(), m.get(), s.get(), N, C,
                               &sums, current_stream());
            if (C <= 4096) expect_column_sums(sums, gdx, N, C);
            EXPECT_EQ(sums.of, nullptr) << "long rows have none";
            // C = 1: the true gradient is 0, what is left is rounding errors times rstd = 316
            EXPECT_LT(relative_error(gdx.host(), want), C == 1 ? 1e-4 : tolerance<X>);
            EXPECT_LT(relative_error(gdw.host(), want_dw), 2e-6);
            EXPECT_LT(relative_error(gdb.host(), want_db), 2e-6);
            if (first_dw.empty()) first_dw = gdw.host(), first_db = gdb.host();
            EXPECT_EQ(gdw.host(), first_dw);
            EXPECT_EQ(gdb.host(), first_db);
        });
    }
}

}  // namespace
