// llmc/cuda/distill_loss.cuh against the plain loops.
#include "llmc/plain/distill_loss.h"
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaDistillLoss : public ::testing::Test {};
TYPED_TEST_SUITE(CudaDistillLoss, StorageTypes);

TYPED_TEST(CudaDistillLoss, EqualsPlain) {
    using X = TypeParam;
    struct Case {
        int N, V, Vp;
        float scale, t, mix;
        bool weighted;
    };
    for (Case c :
         {Case{5, 300, 384, 3, 2, 0.25f, true}, Case{4, 7, 8, 1, 1, 0.5f, false}, Case{4, 33, 33, 2, 4, 0, true},
          Case{3, 1000, 1003, 10, 0.5f, 1, false}, Case{3, 4100, 4224, 1, 3, 0.1f, true}}) {
        SCOPED_TRACE(::testing::Message() << "N=" << c.N << " V=" << c.V << " Vp=" << c.Vp << " t=" << c.t);
        const size_t rows = static_cast<size_t>(c.N), n = rows * static_cast<size_t>(c.Vp);
        std::vector<X> logits = random_vector<X>(n, 1, c.scale), teacher = random_vector<X>(n, 2, c.scale);
        for (size_t i = 0; i < n; i++)  // padding columns do not count, whatever they hold
            if (static_cast<int>(i % static_cast<size_t>(c.Vp)) >= c.V) logits[i] = teacher[i] = X(NAN);
        std::vector<int> targets = random_integers(rows, 3, c.V);
        targets[1] = -1, targets[2] = c.V - 1;
        const std::vector<float> weights = random_vector<float>(rows, 4);
        StepState state;
        state.loss_normaliser = 0.37f;
        std::vector<double> want(logits.begin(), logits.end()), losses(rows);
        const std::vector<double> beside(teacher.begin(), teacher.end()), by(weights.begin(), weights.end());
        distill_loss<double>(want.data(), losses.data(), beside.data(), targets.data(),
                             c.weighted ? by.data() : nullptr, &state, c.t, c.mix, c.N, c.V, c.Vp, true, Plain{});
        for_each_schedule([&] {
            DeviceVector<X> x(logits), y(teacher);
            DeviceVector<int> t(targets);
            DeviceVector<float> w(weights), got(rows);
            DeviceVector<StepState> s({state});
            for (bool write : {false, true}) {
                distill_loss(x.get(), got.get(), y.get(), t.get(), c.weighted ? w.get() : nullptr, s.get(), c.t, c.mix,
                             c.N, c.V, c.Vp, write, current_stream());
                EXPECT_LT(relative_error(got.host(), losses), 5e-6);
            }
            const std::vector<X> dlogits = x.host();
            EXPECT_LT(relative_error(dlogits, want), (std::is_same_v<X, bf16> ? 4e-3 : 1e-5));
            for (size_t i = 0; i < n; i++) {
                const size_t row = i / static_cast<size_t>(c.Vp), column = i % static_cast<size_t>(c.Vp);
                ASSERT_TRUE((column < static_cast<size_t>(c.V) && targets[row] >= 0) ||
                            static_cast<float>(dlogits[i]) == 0);
            }
        });
    }
}

TYPED_TEST(CudaDistillLoss, NothingToLearnIsNoGradient) {
    using X = TypeParam;
    const std::vector<X> teacher = random_vector<X>(2 * 512, 1, 5);
    StepState state;
    state.loss_normaliser = 0.37f;
    for_each_schedule([&] {
        DeviceVector<X> x(teacher), y(teacher);
        DeviceVector<int> targets({3, 5});
        DeviceVector<float> losses(2);
        DeviceVector<StepState> s({state});
        distill_loss<X>(x.get(), losses.get(), y.get(), targets.get(), nullptr, s.get(), 3, 0, 2, 500, 512, true,
                        current_stream());
        for (float loss : losses.host()) EXPECT_EQ(loss, 0);
        for (const X& d : x.host()) ASSERT_EQ(static_cast<float>(d), 0);
    });
}

}  // namespace
