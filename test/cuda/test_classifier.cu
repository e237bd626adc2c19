// llmc/cuda/classifier.cuh against the CPU's.
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaClassifier : public ::testing::Test {};
TYPED_TEST_SUITE(CudaClassifier, StorageTypes);

TYPED_TEST(CudaClassifier, EqualsCpu) {
    using X = TypeParam;
    struct Case {
        int N, V, Vp;
        float scale, shift;  // of the logits
    };
    for (Case c : {Case{5, 300, 384, 3, 0}, Case{4, 7, 8, 1, 0}, Case{4, 1, 8, 1, 0}, Case{4, 33, 33, 2, 500},
                   Case{3, 1000, 1003, 30, 0}, Case{3, 4100, 4224, 1, -1000}, Case{4, 50257, 50304, 4, 0}})
        for (bool weighted : {false, true}) {
            SCOPED_TRACE(::testing::Message()
                         << "N=" << c.N << " V=" << c.V << " Vp=" << c.Vp << " weighted " << weighted);
            size_t rows = static_cast<size_t>(c.N), n = rows * static_cast<size_t>(c.Vp);
            std::vector<X> logits = random_vector<X>(n, 1, c.scale);
            for (size_t i = 0; i < n; i++)  // padding columns do not count, whatever they hold
                logits[i] =
                    X(static_cast<int>(i % static_cast<size_t>(c.Vp)) < c.V ? static_cast<float>(logits[i]) + c.shift
                                                                            : NAN);
            std::vector<int> targets = random_integers(rows, 2, c.V);
            targets[1] = -1, targets[2] = c.V - 1;
            std::vector<float> weights = random_vector<float>(rows, 3), losses(rows);
            StepState state;
            state.loss_normaliser = 0.37f;
            std::vector<X> want = logits;
            fused_classifier<X>(want.data(), losses.data(), targets.data(), weighted ? weights.data() : nullptr, &state,
                                c.N, c.V, c.Vp, true);
            for_each_schedule([&] {
                DeviceVector<X> x(logits);
                DeviceVector<int> t(targets);
                DeviceVector<float> w(weights), got(rows);
                DeviceVector<StepState> s({state});
                fused_classifier(x.get(), got.get(), t.get(), weighted ? w.get() : nullptr, s.get(), c.N, c.V, c.Vp,
                                 false, current_stream());
                EXPECT_LT(relative_error(got.host(), losses), 1e-6);
                fused_classifier(x.get(), got.get(), t.get(), weighted ? w.get() : nullptr, s.get(), c.N, c.V, c.Vp,
                                 true, current_stream());
                EXPECT_LT(relative_error(got.host(), losses), 1e-6);
                std::vector<X> dlogits = x.host();
                EXPECT_LT(relative_error(dlogits, want), (std::is_same_v<X, bf16> ? 1e-3 : 5e-6));
                for (size_t i = 0; i < n; i++) {
                    size_t row = i / static_cast<size_t>(c.Vp), column = i % static_cast<size_t>(c.Vp);
                    bool zero = column >= static_cast<size_t>(c.V) || targets[row] < 0;
                    ASSERT_TRUE(!zero || static_cast<float>(dlogits[i]) == 0) << i;
                }
            });
        }
}

TYPED_TEST(CudaClassifier, LossesAloneLeaveTheLogits) {
    using X = TypeParam;
    std::vector<X> logits = random_vector<X>(3 * 128, 1);
    for_each_schedule([&] {
        DeviceVector<X> x(logits);
        DeviceVector<int> targets({3, -1, 99});
        DeviceVector<float> losses(3);
        fused_classifier<X>(x.get(), losses.get(), targets.get(), nullptr, nullptr, 3, 100, 128, false,
                            current_stream());
        EXPECT_EQ(relative_error(x.host(), logits), 0);
        EXPECT_EQ(losses.host()[1], 0);
    });
}

TYPED_TEST(CudaClassifier, ANaNAmongTheLogitsShowsInTheLoss) {
    using X = TypeParam;
    std::vector<X> logits = random_vector<X>(2 * 128, 1);
    logits[77] = X(NAN);
    for_each_schedule([&] {
        DeviceVector<X> x(logits);
        DeviceVector<int> targets({3, 5});
        DeviceVector<float> losses(2);
        fused_classifier<X>(x.get(), losses.get(), targets.get(), nullptr, nullptr, 2, 100, 128, false,
                            current_stream());
        EXPECT_TRUE(std::isnan(losses.host()[0]));
        EXPECT_TRUE(std::isfinite(losses.host()[1]));
    });
}

TEST(CudaLosses, AddUpInAFixedOrder) {
    for (int N : {1, 31, 1025, 5000}) {
        std::vector<float> losses = random_vector<float>(static_cast<size_t>(N), 1);
        double want = 0.5;
        for (float& x : losses) x += 4, want += static_cast<double>(x);
        double first = NAN;
        for_each_schedule([&] {
            StepState state;
            state.sums[0] = 0.5;
            DeviceVector<StepState> s({state});
            DeviceVector<float> x(losses);
            add_losses(s.get()->sums, x.get(), nullptr, N, current_stream());
            double got = s.host()[0].sums[0];
            EXPECT_NEAR(got / want, 1, 5e-7) << "N=" << N;
            if (std::isnan(first)) first = got;
            EXPECT_EQ(got, first);
        });
    }
}

}  // namespace
