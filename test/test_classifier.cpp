// Softmax and cross entropy, with the gradient of the logits in their place.
#include <array>
#include <cstring>
#include "test/layer_test.h"

namespace {

// One number, the loss of a step: sum of the losses times their weights and the normaliser.
struct Classifier {
    int N, V, Vp;
    bool weighted;

    NamedDoubles inputs() const { return {{"logits", random_vector(N * Vp, 1, 2)}}; }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        StepState state;
        state.loss_normaliser = 0.125f;
        std::vector<int> targets;
        std::vector<acc_t<X>> weights, losses = unwritten<acc_t<X>>(N);
        for (int n = 0; n < N; n++) targets.push_back(n % 4 == 3 ? -1 : n * 7 % V), weights.push_back(0.25f * (n % 5));
        auto logits = narrow<X>(in.at("logits"));
        fused_classifier<X>(logits.data(), losses.data(), targets.data(), weighted ? weights.data() : nullptr, &state,
                            N, V, Vp, !d.empty(), on);
        if (!d.empty()) {
            Doubles gradient = widen(logits);
            for (double& g : gradient) g *= d.at("loss")[0];
            return {{"logits", gradient}};
        }
        EXPECT_EQ(widen(logits), widen(narrow<X>(in.at("logits")))) << "changed without a gradient to write";
        double loss = 0;
        for (int n = 0; n < N; n++)
            if (targets[n] >= 0) loss += losses[n] * (weighted ? weights[n] : 1) * 0.125;
        return {{"loss", {loss}}, {"kept losses", widen(losses)}};
    }
};

TEST(Classifier, AgreesWithPlain) {
    for (bool weighted : {false, true})
        for (auto [N, V, Vp] : {std::array{3, 2, 8}, {9, 31, 32}, {7, 64, 64}, {11, 131, 256}, {5, 2503, 2560}}) {
            SCOPED_TRACE(testing::Message() << "N " << N << ", V " << V << ", Vp " << Vp << ", weighted " << weighted);
            check_layer(Classifier{N, V, Vp, weighted});
        }
}

TEST(Classifier, OneClassHasNeitherLossNorGradient) {
    Classifier layer{1, 1, 1, false};
    for (double logit : {-3.0, 0.0, 40.0}) {
        EXPECT_EQ(layer.run<float>({{"logits", {logit}}}, {}, CpuStream{}).at("loss")[0], 0);
        EXPECT_EQ(layer.run<float>({{"logits", {logit}}}, {{"loss", {1}}}, CpuStream{}).at("logits")[0], 0);
    }
}

// A whole row beside another one, so that any part of the row may hold the maximum; the rows are pieces of 1024 columns.
template <typename X>
void check_far_apart() {
    using A = acc_t<X>;
    const int N = 7, V = 2049, Vp = 2176;
    StepState state;
    state.loss_normaliser = 0.25f;
    auto logits = random_values<X>(N * Vp, 1, 3);
    for (int v = 0; v < V; v++) {  // far from 0, either way
        logits[1 * Vp + v] = X(A(logits[1 * Vp + v]) + A(3e4));
        logits[2 * Vp + v] = X(A(logits[2 * Vp + v]) - A(3e4));
    }
    logits[3 * Vp + 1500] = X(A(200));  // the maximum in a later piece
    std::vector<int> targets{5, 0, V - 1, 17, -1, 3, 1500};
    for (bool write : {false, true}) {
        auto x = logits;
        Doubles y = widen(logits), want(N);
        std::vector<A> losses(N);
        fused_classifier<X>(x.data(), losses.data(), targets.data(), nullptr, &state, N, V, Vp, write);
        fused_classifier<double>(y.data(), want.data(), targets.data(), nullptr, &state, N, V, Vp, write, Plain{});
        for (int i = 0; i < N; i++) {
            EXPECT_NEAR(double(losses[i]), want[i], 1e-5 * (1 + want[i])) << i;
            std::vector<X> row(x.begin() + i * Vp, x.begin() + (i + 1) * Vp);
            EXPECT_LT(relative_error(widen(row), Doubles(y.begin() + i * Vp, y.begin() + (i + 1) * Vp)), 1e-2) << i;
        }
    }
}
TEST(Classifier, LogitsFarFromZeroAndFarApart) {
    check_far_apart<float>();
    check_far_apart<bf16>();
    check_far_apart<double>();
}

template <typename X, class On>
void check_padding(On on) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const int N = 3, V = 37, Vp = 128;
    StepState state;
    state.loss_normaliser = 1;
    auto logits = unwritten<X>(N * Vp);
    std::vector<acc_t<X>> losses(N);
    for (int v = 0; v < V; v++) {
        logits[v] = logits[Vp + v] = X(v == 5 ? 30000.0f : -30000.0f);
        logits[2 * Vp + v] = X(nan);
    }
    std::vector<int> targets = {5, 6, -1};
    auto untouched = logits;
    fused_classifier<X>(logits.data(), losses.data(), targets.data(), nullptr, &state, N, V, Vp, false, on);
    EXPECT_EQ(std::memcmp(logits.data(), untouched.data(), logits.size() * sizeof(X)), 0);
    EXPECT_EQ(losses[0], 0);
    EXPECT_NEAR(losses[1], 6e4, 6e4 / 256);
    EXPECT_EQ(losses[2], 0);
    fused_classifier<X>(logits.data(), losses.data(), targets.data(), nullptr, &state, N, V, Vp, true, on);
    for (int i = 0; i < N; i++)
        for (int v = 0; v < Vp; v++) {
            float want = i != 1 ? 0.0f : v == 5 ? 1.0f : v == 6 ? -1.0f : 0.0f;
            EXPECT_NEAR(float(logits[i * Vp + v]), want, 1e-6) << i << " " << v;
        }
    targets[2] = 0;  // now the NaN counts, and must not stay hidden
    fused_classifier<X>(untouched.data(), losses.data(), targets.data(), nullptr, &state, N, V, Vp, false, on);
    EXPECT_TRUE(std::isnan(losses[2]));
}
TEST(Classifier, PaddingAndIgnoredRowsAreNeitherReadNorLeft) {
    check_padding<float>(CpuStream{});
    check_padding<bf16>(CpuStream{});
    check_padding<double>(CpuStream{});
    check_padding<float>(Plain{});
    check_padding<bf16>(Plain{});
}

}  // namespace
