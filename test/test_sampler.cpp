#include "llmc/text/generate.h"

#include <gtest/gtest.h>
#include <map>
#include "llmc/model/config.h"
#include "llmc/text/tokenizer.h"

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

// The definitions of transformers (generation/logits_process.py): MinPLogitsWarper keeps p >= min_p * max p, RepetitionPenaltyLogitsProcessor has
// x < 0 ? x * penalty : x / penalty for the ids of the text, and the order is penalty, temperature, top_k, top_p, min_p.
TEST(Sampler, MinPKeepsWhatIsAsLikelyAsTheLikeliestTimesIt) {
    std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
    SamplerOptions o;
    for (auto [p, kept] :
         {std::pair{0.0f, 4u}, {0.09f, 4u}, {0.11f, 3u}, {0.29f, 3u}, {0.31f, 2u}, {0.61f, 1u}, {1.0f, 1u}}) {
        o.min_p = p;
        EXPECT_EQ(frequencies(logits, o).size(), kept) << p;
    }
    o.min_p = 0.2f, o.temperature = 2;  // after temperature: ratios are square roots, 0.32 is the least
    EXPECT_EQ(frequencies(logits, o).size(), 4u);
    o.temperature = 1;
    EXPECT_NEAR(frequencies(logits, o)[1], 0.3 / 0.95, 2e-3);
    o.top_p = 0.4f, o.min_p = 0.01f;  // the nucleus comes first
    EXPECT_EQ(frequencies(logits, o).size(), 1u);
}

TEST(Sampler, RepetitionPenaltyTakesFromBothSigns) {
    std::vector<float> logits{2, -1, 0.5f, 3};
    const std::vector<int> text{1, 0, 1, 1};  // an id that is there three times is penalised once
    penalise_repetition(logits.data(), text, 1.25f);
    EXPECT_EQ(logits, (std::vector<float>{1.6f, -1.25f, 0.5f, 3}));
}

TEST(Sampler, LogProbabilityIsThatOfTheSoftmax) {
    const std::vector<float> logits{1, 2, 3, 1e4f};
    EXPECT_NEAR(log_probability(logits.data(), 3, 1), -1.4076059644443804, 1e-6);
    EXPECT_EQ(log_probability(logits.data(), 4, 3), 0);
}

// A small vocabulary takes the same steps as a large one, whose nucleus is sorted piece by piece.
TEST(Sampler, ANucleusOfManyTokens) {
    std::vector<float> logits(2000);
    for (size_t i = 0; i < 2000; i++) logits[i * 7 % 2000] = -0.001f * static_cast<float>(i);
    SamplerOptions o;
    o.top_p = 0.5f;
    double sum = 0, kept = 0;
    size_t want = 0;
    for (size_t i = 0; i < 2000; i++) sum += std::exp(-0.001 * static_cast<double>(i));
    while (kept < 0.5 * sum) kept += std::exp(-0.001 * static_cast<double>(want++));
    auto f = frequencies(logits, o, 4000);
    EXPECT_NEAR(static_cast<double>(f.size()), static_cast<double>(want), 1.0);
    EXPECT_EQ(f.count(static_cast<int>((want + 10) * 7 % 2000)), 0u);
}

// A model that counts: after token x comes (x + 1) % V; with `wild` anything may, by all of the text. It keeps each
// text's tokens, and counts those that it is fed.
struct Counter {
    ModelConfig m{1, 1, 1, 8, 10};
    const int texts;
    bool wild = false;
    int fed = 0, first = 0;
    std::vector<std::vector<int>> cache;
    std::vector<float> logits;
    explicit Counter(int n, int T = 8) : texts(n), cache(static_cast<size_t>(n)) { m.T = T; }
    const ModelConfig& config() const { return m; }
    void keep(int text, int n) {
        ASSERT_LE(static_cast<size_t>(n), cache[static_cast<size_t>(text)].size());
        cache[static_cast<size_t>(text)].resize(static_cast<size_t>(n));
    }
    void copy(int to, int from, int n) {
        const std::vector<int>& source = cache[static_cast<size_t>(from)];
        ASSERT_LE(static_cast<size_t>(n), source.size());
        cache[static_cast<size_t>(to)] = std::vector<int>(source.begin(), source.begin() + n);
    }
    const float* decode(const std::vector<Feed>& feeds) {
        logits.clear();
        std::vector<bool> seen(cache.size());
        for (const Feed& f : feeds) {
            EXPECT_FALSE(seen[static_cast<size_t>(f.text)]);
            seen[static_cast<size_t>(f.text)] = true;
            std::vector<int>& text = cache[static_cast<size_t>(f.text)];
            text.insert(text.end(), f.tokens, f.tokens + f.n);
            if (fed == 0) first = f.n;
            fed += f.n;
            EXPECT_LE(static_cast<int>(text.size()), m.T);
            int hash = 0;
            for (int id : text) hash = (hash * 31 + id + 1) % 10007;
            for (int i = 0; i < 10; i++)
                logits.push_back(wild                          ? static_cast<float>((hash * (i + 3)) % 17) * 0.2f
                                 : i == (text.back() + 1) % 10 ? 100
                                                               : 0);
        }
        return logits.data();
    }
};
template <class D>
std::vector<std::vector<int>> run(D& decoder, const std::vector<Prompt>& prompts, int max_tokens,
                                  SamplerOptions o = {}) {
    std::vector<std::vector<int>> ids(prompts.size());
    Generator generator(decoder);
    generator.run(prompts, max_tokens, o, false, [&](size_t i, Drawn d) { return ids[i].push_back(d.id), true; });
    return ids;
}

TEST(Generator, GoesOnBeyondTheContext) {
    Counter model(1);
    const auto ids = run(model, {{{3, 4}}}, 25)[0];
    ASSERT_EQ(ids.size(), 25u);
    for (int i = 0; i < 25; i++) EXPECT_EQ(ids[static_cast<size_t>(i)], (5 + i) % 10);
}

TEST(Generator, PromptLongerThanTheContext) {
    Counter model(1);
    std::vector<int> prompt(50, 1);
    prompt.back() = 6;
    EXPECT_EQ(run(model, {{prompt}}, 3)[0], (std::vector<int>{7, 8, 9}));
    EXPECT_EQ(model.first, model.m.T);  // all that the model can see, as nanoGPT crops
}

TEST(Generator, StopsWhenTold) {
    Counter model(2);
    int n = 0;
    Generator generator(model);
    generator.run({{{0}}, {{1}}}, 100, {}, false, [&](size_t i, Drawn) { return i == 0 || ++n < 5; });
    EXPECT_EQ(n, 5);
}

// A text is the same whatever is sampled beside it, and with however much room.
TEST(Generator, ATextDoesNotDependOnTheOthers) {
    std::vector<Prompt> prompts;
    for (uint32_t i = 0; i < 7; i++) {
        std::vector<int> ids(static_cast<size_t>(1 + i * 9 % 30), static_cast<int>(i));
        if (i > 3) ids.assign(25, 4), ids.push_back(static_cast<int>(i) % 2);  // 4 and 6 are alike, 5 begins as they do
        prompts.push_back({ids, i});
    }
    std::vector<std::vector<int>> want;
    for (const Prompt& p : prompts) {
        Counter alone(1, 60);
        alone.wild = true;
        want.push_back(run(alone, {p}, 20)[0]);
    }
    EXPECT_NE(want[4], want[6]);  // another sample
    for (int texts : {1, 2, 3, 7, 9}) {
        Counter model(texts, 60);
        model.wild = true;
        EXPECT_EQ(run(model, prompts, 20), want) << texts;
    }
}

// Samples of one prompt, and what a conversation has already said, are fed once.
TEST(Generator, FeedsWhatTextsHaveInCommonOnce) {
    Counter model(4, 100);
    std::vector<int> prompt(40, 2);
    run(model, {{prompt, 0}, {prompt, 1}, {prompt, 2}, {prompt, 3}}, 1);
    EXPECT_EQ(model.fed, 39 + 4);
    Counter chat(1, 100);
    Generator generator(chat);
    const auto on_token = [&](size_t, Drawn d) { return prompt.push_back(d.id), true; };
    generator.run({{prompt}}, 5, {}, false, on_token);
    EXPECT_EQ(chat.fed, 44);  // nothing follows the last token
    prompt.push_back(7);
    generator.run({{prompt}}, 1, {}, false, on_token);
    EXPECT_EQ(chat.fed, 46);
    prompt[10] = 9;
    generator.run({{prompt}}, 1, {}, false, on_token);
    EXPECT_EQ(chat.fed, 46 + static_cast<int>(prompt.size()) - 1 - 10);
}

TEST(Generator, PenalisesWhatIsInPromptAndText) {
    Counter model(1, 50);
    SamplerOptions o;
    o.temperature = 0, o.repetition_penalty = 1e9f;
    const auto ids = run(model, {{{5, 6}}}, 8, o)[0];
    EXPECT_EQ(ids, (std::vector<int>{7, 8, 9, 0, 1, 2, 3, 4}));
    model.cache[0].clear();
    o.repetition_penalty = 1e-9f;  // below 1: what was there comes again
    EXPECT_EQ(run(model, {{{5, 6, 7}}}, 3, o)[0].size(), 3u);
}

// ---- text ----

std::string said(const std::vector<std::string>& stops, const std::vector<std::string>& pieces, GrowingText::End end) {
    const Tokenizer tokenizer = Tokenizer::from_merges({});  // of single bytes
    GrowingText text(&tokenizer, stops);
    std::string out;
    bool goes_on = true;
    for (const std::string& piece : pieces) {
        std::vector<int> ids;
        tokenizer.encode(piece, ids);
        for (int id : ids)
            if (goes_on) goes_on = text.push({id, -1}), out += text.take(false);
        out += goes_on ? "|" : "";
    }
    out += text.take(true);
    EXPECT_EQ(text.end(), end);
    EXPECT_EQ(text.log_probability(), -static_cast<double>(text.tokens().size()));
    return out;
}
TEST(GrowingText, EndsBeforeAStopStringAndHoldsBackWhatMayBecomeOne) {
    using End = GrowingText::End;
    EXPECT_EQ(said({}, {"abc"}, End::length), "abc|");
    EXPECT_EQ(said({"<end>"}, {"ab<e", "nd>cd"}, End::stop), "ab|");
    EXPECT_EQ(said({"<end>"}, {"ab<e", "x"}, End::length), "ab|<ex|");
    EXPECT_EQ(said({"<end>"}, {"ab<e"}, End::length), "ab|<e");
    EXPECT_EQ(said({"aab"}, {"aa", "ab"}, End::stop), "|a");  // the beginning of a stop within one
    EXPECT_EQ(said({"xy", "b"}, {"abxy"}, End::stop), "a");
    EXPECT_EQ(said({"\n"}, {"h\xC3", "\xA4\nx"}, End::stop), "h|\xC3\xA4");  // whole characters
    EXPECT_EQ(said({"b"}, {"a\xC3", "b"}, End::stop), "a|\xEF\xBF\xBD");
}
TEST(GrowingText, TokensOfSeveralBytesAreCutWithin) {
    const Tokenizer tokenizer = Tokenizer::from_merges({{'a' - '!', 'b' - '!'}, {256, 'c' - '!'}});
    std::vector<int> ids;
    tokenizer.encode("abc", ids);
    ASSERT_EQ(ids.size(), 1u);
    const std::vector<std::string> stops{"c"};
    GrowingText text(&tokenizer, stops);
    EXPECT_FALSE(text.push({ids[0], 0}));
    EXPECT_EQ(text.take(true), "ab");
    GrowingText ended(&tokenizer, stops);
    EXPECT_FALSE(ended.push({tokenizer.end_of_text(), 0}));
    EXPECT_EQ(ended.take(true), "");
    EXPECT_EQ(ended.end(), GrowingText::End::end);
}

}  // namespace
