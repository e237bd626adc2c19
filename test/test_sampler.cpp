#include "llmc/text/sampler.h"

#include <gtest/gtest.h>
#include <map>
#include "llmc/model/config.h"

namespace {

std::map<int, double> frequencies(const std::vector<float>& logits, SamplerOptions o, int n = 20000) {
    std::map<int, double> f;
    for (int i = 0; i < n; i++)
        f[sample_token(logits.data(), static_cast<int>(logits.size()), o,
                       (static_cast<float>(i) + 0.5f) / static_cast<float>(n))] += 1.0 / n;
    return f;
}

TEST(Sampler, FrequenciesAreTheSoftmax) {
    std::vector<float> logits{0, 1, -1, 2, 0.5f};
    for (float temperature : {0.5f, 1.0f, 3.0f}) {
        SamplerOptions o;
        o.temperature = temperature;
        auto f = frequencies(logits, o);
        double sum = 0;
        for (float x : logits) sum += std::exp(static_cast<double>(x / temperature));
        for (int i = 0; i < 5; i++)
            EXPECT_NEAR(f[i], std::exp(static_cast<double>(logits[static_cast<size_t>(i)] / temperature)) / sum, 2e-3)
                << i;
    }
}

TEST(Sampler, TemperatureZeroTakesTheLikeliestAndTheFirstOfTies) {
    SamplerOptions o;
    o.temperature = 0;
    std::vector<float> logits{1, 3, 3, 2};
    EXPECT_EQ(sample_token(logits.data(), 4, o, 0.99f), 1);
}

TEST(Sampler, TopKKeepsK) {
    SamplerOptions o;
    o.top_k = 2;
    auto f = frequencies({0, 1, -1, 2, 0.5f}, o);
    EXPECT_EQ(f.size(), 2u);
    EXPECT_NEAR(f[3], 1 / (1 + std::exp(-1.0)), 2e-3);
    o.top_k = 1;
    EXPECT_EQ(frequencies({0, 1, -1, 2, 0.5f}, o).size(), 1u);
    o.top_k = 99;  // more than there are
    EXPECT_EQ(frequencies({0, 1, -1, 2, 0.5f}, o).size(), 5u);
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesP) {
    std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
    SamplerOptions o;
    for (auto [p, kept] : {std::pair{0.45f, 1u}, {0.6f, 2u}, {0.79f, 2u}, {0.9f, 3u}, {0.99f, 4u}}) {
        o.top_p = p;
        EXPECT_EQ(frequencies(logits, o).size(), kept) << p;
    }
    o.top_p = 0.6f;
    EXPECT_NEAR(frequencies(logits, o)[0], 0.5 / 0.8, 2e-3);
}

TEST(Sampler, HugeLogitsDoNotOverflow) {
    SamplerOptions o;
    auto f = frequencies({1e30f, -1e30f, 1e30f}, o);
    EXPECT_NEAR(f[0], 0.5, 1e-3);
    EXPECT_EQ(f.count(1), 0u);
}

// A model that counts: after token x comes (x + 1) % V, and that remembers how it was called.
struct Counter {
    ModelConfig m{1, 1, 1, 8, 10};
    int length = 0, calls = 0, first = 0;
    std::vector<float> logits = std::vector<float>(10);
    const ModelConfig& config() const { return m; }
    const float* decode(const int* tokens, int n, bool reset) {
        if (calls == 0) first = n;
        length = reset ? n : length + n;
        calls++;
        EXPECT_LE(length, m.T);
        std::fill(logits.begin(), logits.end(), 0.0f);
        logits[static_cast<size_t>((tokens[n - 1] + 1) % 10)] = 100;
        return logits.data();
    }
};

TEST(Sampler, GoesOnBeyondTheContext) {
    Counter model;
    std::vector<int> ids;
    generate(model, {3, 4}, 25, SamplerOptions{}, 0, [&](int id) { return ids.push_back(id), true; });
    ASSERT_EQ(ids.size(), 25u);
    for (int i = 0; i < 25; i++) EXPECT_EQ(ids[static_cast<size_t>(i)], (5 + i) % 10);
}

TEST(Sampler, PromptLongerThanTheContext) {
    Counter model;
    std::vector<int> prompt(50, 1), ids;
    prompt.back() = 6;
    generate(model, prompt, 3, SamplerOptions{}, 0, [&](int id) { return ids.push_back(id), true; });
    EXPECT_EQ(ids, (std::vector<int>{7, 8, 9}));
    EXPECT_EQ(model.first, model.m.T);  // all that the model can see, as nanoGPT crops
}

TEST(Sampler, StopsWhenTold) {
    Counter model;
    int n = 0;
    generate(model, {0}, 100, SamplerOptions{}, 0, [&](int) { return ++n < 5; });
    EXPECT_EQ(n, 5);
}

}  // namespace
