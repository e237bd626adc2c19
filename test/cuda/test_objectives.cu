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
