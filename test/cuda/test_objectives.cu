// llmc/cuda/objectives.cuh against the plain loops.
#include "llmc/plain/objectives.h"
#include "test/cuda/device_test.h"

TEST(CudaObjectives, PreferenceWeightsArePlainOnes) {
    for (auto [rows, T, second, end] : {std::array{1, 2, 1, 2}, {3, 7, 3, 6}, {2, 100, 41, 100}, {5, 33, 32, 33}}) {
        const int N = rows * T;
        const size_t n = static_cast<size_t>(N);
        std::vector<float> token_losses = random_vector<float>(n, 1), mask, labels(n, kNoLabel), weights(n), losses(n);
        std::vector<int> doc_start, partners(n, -1);
        for (int i = 0; i < N; i++) {
            const int t = i % T;
            doc_start.push_back(t < second ? 0 : t < end ? second : end), mask.push_back(i % 3 ? 1 : 0);
            if (t == second - 1) labels[i] = 0.1f * static_cast<float>(i), partners[i] = i - t + end - 1;
            if (t == end - 1) labels[i] = -0.2f, partners[i] = i - t + second - 1;
        }
        preference_weights<float>(
            weights.data(), losses.data(), token_losses.data(),
            {nullptr, nullptr, mask.data(), doc_start.data(), nullptr, labels.data(), partners.data()}, 0.3f, N, T,
            Plain{});
        for_each_schedule([&] {
            DeviceVector<float> d_losses(token_losses), d_mask(mask), d_labels(labels),
                got(std::vector<float>(2 * n, 0.0f));
            DeviceVector<int> d_start(doc_start), d_partners(partners);
            preference_weights(
                got.get(), got.get() + n, d_losses.get(),
                {nullptr, nullptr, d_mask.get(), d_start.get(), nullptr, d_labels.get(), d_partners.get()}, 0.3f, N, T,
                current_stream());
            const std::vector<float> all = got.host();
            EXPECT_LT(relative_error(std::vector<float>(all.begin(), all.begin() + N), weights), 5e-6);
            EXPECT_LT(relative_error(std::vector<float>(all.begin() + N, all.end()), losses), 5e-6);
        });
    }
}

namespace {
// Tokens of which a third does not count, and what is known of them.
struct Written {
    std::vector<float> mask, token_losses;
    std::vector<TokenSignals> signals;
    explicit Written(int N) {
        const std::vector<float> x = random_vector<float>(6 * static_cast<size_t>(N), 3);
        for (int i = 0; i < N; i++) {
            const float* r = &x[6 * static_cast<size_t>(i)];
            mask.push_back(i % 3 ? 0.25f * static_cast<float>(1 + i % 4) : 0), token_losses.push_back(2 + 0.3f * r[0]);
            signals.push_back({-2 + 0.2f * r[1], -2 + 0.4f * r[2], r[3], r[4], r[5]});
        }
    }
};
}  // namespace

TEST(CudaObjectives, PolicyWeightsArePlainOnes) {
    for (int N : {1, 7, 256, 1000}) {
        const Written w(N);
        const size_t n = static_cast<size_t>(N);
        for (float kl : {0.0f, 0.3f}) {
            RewardOptions o;
            o.kl = kl;
            std::vector<float> mask = w.mask, want(4 * n);
            std::vector<TokenSignals> signals = w.signals;
            MicroBatch<float> tokens{};
            tokens.weights = mask.data(), tokens.signals = signals.data();
            policy_weights<float>({&want[0], &want[n], &want[2 * n], &want[3 * n]}, w.token_losses.data(), tokens, o, N,
                                  Plain{});
            for_each_schedule([&] {
                DeviceVector<float> d_mask(w.mask), d_losses(w.token_losses), got(std::vector<float>(4 * n, 0.0f));
                DeviceVector<TokenSignals> d_signals(w.signals);
                MicroBatch<float> there{};
                there.weights = d_mask.get(), there.signals = d_signals.get();
                float* x = got.get();
                policy_weights({x, x + n, x + 2 * n, x + 3 * n}, d_losses.get(), there, o, N, current_stream());
                EXPECT_LT(relative_error(got.host(), want), 1e-5);
            });
        }
    }
}

template <typename X>
static void check_value_loss(double tolerance) {
    for (int N : {1, 7, 1000}) {
        const Written w(N);
        const size_t n = static_cast<size_t>(N);
        constexpr int Kp = 8;
        const std::vector<X> scores = random_vector<X>(n * Kp, 8);
        std::vector<X> dwant(n * Kp);
        std::vector<float> mask = w.mask, want(n, 9.0f);
        std::vector<TokenSignals> signals = w.signals;
        MicroBatch<float> tokens{};
        tokens.weights = mask.data(), tokens.signals = signals.data();
        StepState state;
        state.loss_normaliser = 0.1f;
        value_loss<X>(dwant.data(), want.data(), scores.data(), tokens, {}, &state, N, Kp, Plain{});
        for_each_schedule([&] {
            DeviceVector<float> d_mask(w.mask), got(std::vector<float>(n, 9.0f));
            DeviceVector<TokenSignals> d_signals(w.signals);
            DeviceVector<X> d_scores(scores), dgot(std::vector<X>(n * Kp, X(9.0f)));
            DeviceVector<StepState> d_state(std::vector<StepState>{state});
            MicroBatch<float> there{};
            there.weights = d_mask.get(), there.signals = d_signals.get();
            value_loss<X>(dgot.get(), got.get(), d_scores.get(), there, {}, d_state.get(), N, Kp, current_stream());
            EXPECT_LT(relative_error(got.host(), want), 1e-5);
            const std::vector<X> all = dgot.host();
            EXPECT_LT(relative_error(std::vector<float>(all.begin(), all.end()),
                                     std::vector<float>(dwant.begin(), dwant.end())),
                      tolerance);
        });
    }
}
TEST(CudaObjectives, ValueLossIsThePlainOne) {
    check_value_loss<float>(1e-5);
    check_value_loss<bf16>(1e-5);
}
