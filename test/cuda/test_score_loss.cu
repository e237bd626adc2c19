// llmc/cuda/score_loss.cuh against the plain loops.
#include "llmc/plain/layers.h"
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaScoreLoss : public ::testing::Test {};
TYPED_TEST_SUITE(CudaScoreLoss, StorageTypes);

TYPED_TEST(CudaScoreLoss, EqualsPlain) {
    using X = TypeParam;
    struct Case {
        int N, K, Kp;
        bool preferred = false;
    };
    for (Case c : {Case{19, 1, 8}, Case{19, 1, 8, true}, Case{258, 1, 8, true}, Case{19, 2, 8}, Case{33, 3, 8},
                   Case{9, 77, 80}, Case{1, 40, 40}}) {
        SCOPED_TRACE(::testing::Message() << "N=" << c.N << " K=" << c.K);
        const size_t rows = static_cast<size_t>(c.N), n = rows * static_cast<size_t>(c.Kp);
        const std::vector<X> scores = random_vector<X>(n, 1, 3);
        std::vector<float> labels, losses(rows);
        std::vector<int> partners(rows, -1);
        for (int i = 0; i < c.N; i++)
            labels.push_back(i % 3 == 1 ? kNoLabel
                             : c.K == 1 ? 0.3f * static_cast<float>(i) - 2
                                        : static_cast<float>(i % c.K));
        if (c.N > 8) partners[3] = 8, partners[8] = 3, labels[8] = labels[3];
        if (c.preferred)
            for (int i = 0; i < c.N; i++) {
                const int other = i % 3 == 0 ? i + 2 : i % 3 == 2 ? i - 2 : -1;
                labels[i] = other < 0 || other >= c.N ? kNoLabel : other > i ? 1.0f : -1.0f;
                partners[i] = other >= c.N ? -1 : other;
            }
        StepState state;
        state.loss_normaliser = 0.37f;
        std::vector<X> want(n);
        score_loss<X>(want.data(), losses.data(), scores.data(), labels.data(), partners.data(), &state, c.N, c.K, c.Kp,
                      c.preferred, Plain{});
        for_each_schedule([&] {
            DeviceVector<X> s(scores), d(n);
            DeviceVector<float> l(labels), got(rows);
            DeviceVector<int> p(partners);
            DeviceVector<StepState> st({state});
            score_loss(d.get(), got.get(), s.get(), l.get(), p.get(), st.get(), c.N, c.K, c.Kp, c.preferred,
                       current_stream());
            EXPECT_LT(relative_error(got.host(), losses), 2e-6);
            EXPECT_LT(relative_error(d.host(), want), (std::is_same_v<X, bf16> ? 2e-3 : 5e-6));
            for (size_t i = 0; i < n; i++)
                ASSERT_TRUE(has_label(labels[i / static_cast<size_t>(c.Kp)]) || static_cast<float>(d.host()[i]) == 0);
        });
    }
}

}  // namespace
