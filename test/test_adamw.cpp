// AdamW, its stochastic rounding, and the norm of the gradient.
#include <cstring>
#include "test/layer_test.h"

namespace {

// An arena of a few tensors with gaps between them, and some steps of training on it.
template <typename X>
struct Arena {
    using A = acc_t<X>;
    static constexpr int n = 9100;
    const std::vector<AdamWSegment> segments{{0, 1, 0.1f}, {64, 4500, 0.0f}, {4608, 4400, 0.1f}, {9024, 64, 0.3f}};
    AdamWOptions options{0.9f, 0.95f, 1e-8f, false};
    StepState state = dropout_state();
    std::vector<X> p = random_values<X>(n, 1);
    std::vector<A> master, m = std::vector<A>(n), v = m;

    explicit Arena(bool with_master) {
        if (with_master) master = narrow<A>(widen(p));
    }
    // Elements [begin, end) of step t
    template <class On>
    void update(int t, int begin, int end, On on) {
        auto grad = narrow<A>(widen(random_values<bf16>(n, 10 + t, 3)));
        grad[0] = 0, grad[70] = A(1e-9f);  // epsilon matters
        state.step = t, state.learning_rate = 1e-2f, state.clip_scale = 0.37f;
        state.beta1_correction = float(1 - std::pow(0.9, t)), state.beta2_correction = float(1 - std::pow(0.95, t));
        adamw_update<X>(p.data() + begin, master.empty() ? nullptr : master.data() + begin, m.data() + begin,
                        v.data() + begin, grad.data() + begin, segments.data(), int(segments.size()), begin, end,
                        options, &state, on);
    }
    // The values that are updated from one step to the next
    Doubles exact() const { return master.empty() ? widen(p) : widen(master); }
};

template <typename X, class On>
void check_adamw(bool with_master, double tolerance, On on) {
    SCOPED_TRACE(testing::Message() << sizeof(X) << " bytes, master " << with_master);
    Arena<X> arena(with_master);
    Arena<double> plain(false);
    plain.p = widen(arena.p);
    Doubles got = arena.exact(), want = plain.p;
    for (int t = 1; t <= 6; t++) {
        for (auto [begin, end] : {std::pair(0, 4999), {4999, 5000}, {5000, arena.n}})  // pieces that cut tensors
            arena.update(t, begin, end, on);
        plain.update(t, 0, plain.n, Plain{});
    }
    Doubles now = arena.exact();
    for (size_t i = 0; i < now.size(); i++) got[i] = now[i] - got[i], want[i] = plain.p[i] - want[i];
    EXPECT_LT(relative_error(got, want), tolerance) << "change of the parameters";
    EXPECT_LT(relative_error(widen(arena.m), plain.m), (std::is_same_v<X, double> ? 1e-13 : 2e-6));
    EXPECT_LT(relative_error(widen(arena.v), plain.v), (std::is_same_v<X, double> ? 1e-13 : 2e-6));
    if (with_master) {
        EXPECT_EQ(widen(arena.p), widen(narrow<X>(now))) << "the storage type is not rounded from the master";
    }
    for (int gap : {1, 63, 4564, 9008, 9099}) EXPECT_EQ(got[gap], 0) << "element " << gap << " belongs to no tensor";
}
TEST(AdamW, AgreesWithPlain) {
    check_adamw<double>(false, 1e-12, CpuStream{});
    check_adamw<float>(false, 1e-5, CpuStream{});
    check_adamw<float>(true, 1e-5, CpuStream{});
    check_adamw<bf16>(true, 1e-5, CpuStream{});
    check_adamw<float>(false, 1e-5, Plain{});
    check_adamw<bf16>(true, 1e-5, Plain{});
}

// A bf16 parameter without a master moves by steps of its own size: each step alone must be the plain layer's, rounded.
TEST(AdamW, Bf16WithoutMasterIsRoundedFromThePlainStep) {
    Arena<bf16> arena(false);
    for (int t = 1; t <= 3; t++) {
        Arena<double> plain(false);
        plain.p = widen(arena.p), plain.m = widen(arena.m), plain.v = widen(arena.v);
        arena.update(t, 0, arena.n, CpuStream{});
        plain.update(t, 0, plain.n, Plain{});
        int differ = 0;  // float and double may fall on two sides of the middle between two bf16
        for (int i = 0; i < arena.n; i++) differ += float(arena.p[i]) != float(bf16(float(plain.p[i])));
        EXPECT_LE(differ, 2) << "step " << t;
    }
}

// One step in double on one number: by the paper's formula, written out.
TEST(PlainAdamW, OneStepByHand) {
    double p = 2, m = 0.5, v = 0.25, grad = 16;
    StepState state;
    state.clip_scale = 0.125f, state.learning_rate = 0.5f, state.beta1_correction = 0.75f,
    state.beta2_correction = 0.5f;
    AdamWSegment all{0, 1, 0.25f};
    adamw_update<double>(&p, nullptr, &m, &v, &grad, &all, 1, 0, 1, {0.5f, 0.75f, 0.5f, false}, &state, Plain{});
    EXPECT_EQ(m, 0.5 * 0.5 + 0.5 * 2);  // the gradient is 16 / 8 = 2
    EXPECT_EQ(v, 0.75 * 0.25 + 0.25 * 2 * 2);
    EXPECT_NEAR(p, 2 - 0.5 * (1.25 / 0.75 / (std::sqrt(1.1875 / 0.5) + 0.5) + 0.25 * 2), 1e-15);
}

template <class On>
void check_skip(On on) {
    Arena<float> arena(true), before(true);
    arena.state.skip = 1;
    arena.update(1, 0, arena.n, on);
    EXPECT_EQ(arena.p, before.p);
    EXPECT_EQ(arena.master, before.master);
    EXPECT_TRUE(arena.m == before.m && arena.v == before.v);
}
TEST(AdamW, SkippedStepChangesNothing) {
    check_skip(CpuStream{});
    check_skip(Plain{});
}

TEST(AdamW, StochasticRoundingIsThePlainLayersBitByBit) {
    for (bool with_master : {false, true}) {
        Arena<bf16> arena(with_master), plain(with_master);
        arena.options.stochastic_rounding = plain.options.stochastic_rounding = true;
        plain.update(1, 0, plain.n, Plain{});
        for (auto [begin, end] : {std::pair(0, 777), {777, 5003}, {5003, arena.n}})
            arena.update(1, begin, end, CpuStream{});
        int differ = 0;
        for (int i = 0; i < arena.n; i++) differ += arena.p[i].bits != plain.p[i].bits;
        EXPECT_LE(differ, 3) << "master " << with_master;  // where the two floats differ in their last bit
    }
}

TEST(AdamW, StochasticRoundingIsUnbiasedAndRepeatable) {
    const int n = 100'000;
    auto run = [&](bool stochastic, uint32_t step, int64_t first_index) {
        std::vector<bf16> p(n, bf16(1.0f));  // its neighbours: 1 + 2^-7 and 1 - 2^-8
        std::vector<float> m(n), v(n), grad(n, -1.0f);
        StepState state;
        state.seed = 5, state.step = step, state.learning_rate = 1e-3f;
        state.beta1_correction = 0.1f, state.beta2_correction = 0.05f;  // the first update: +lr
        AdamWSegment all{0, first_index + n, 0};
        adamw_update<bf16>(p.data(), nullptr, m.data(), v.data(), grad.data(), &all, 1, first_index, first_index + n,
                           {0.9f, 0.95f, 1e-8f, stochastic}, &state);
        return widen(p);
    };
    EXPECT_EQ(run(false, 0, 0), Doubles(n, 1.0)) << "to nearest, a small update is lost";
    Doubles p = run(true, 0, 0);
    double up = 0;
    for (double x : p) {
        ASSERT_TRUE(x == 1.0 || x == 1.0078125) << x;
        up += x > 1;
    }
    double share = 1e-3 / 0.0078125;
    EXPECT_NEAR(up / n, share, 4 * std::sqrt(share * (1 - share) / n));
    EXPECT_EQ(run(true, 0, 0), p);
    EXPECT_NE(run(true, 1, 0), p);
    Doubles shifted = run(true, 0, 1000);  // numbers belong to the place in the arena
    EXPECT_TRUE(std::equal(shifted.begin(), shifted.end() - 1000, p.begin() + 1000));
}

TEST(AdamW, RoundStochasticallyLeavesWhatIsNotFinite) {
    EXPECT_EQ(round_stochastically(INFINITY, 0xffffffff), 0x7f80);
    EXPECT_TRUE(std::isnan(float(std::bit_cast<bf16>(round_stochastically(std::bit_cast<float>(0x7f800001), 0)))));
}

template <typename G>
void check_global_norm() {
    for (int n : {0, 1, 15, 4096, 100'003, 200'001}) {
        auto grad = random_values<G>(n, 3);
        double want, got, again;
        global_norm_squared(&want, grad.data(), n, false, Plain{});
        global_norm_squared(&got, grad.data(), n, false);
        EXPECT_LT(std::abs(got - want), 1e-12 * want + 1e-300) << n;
        for (int n_threads : {1, 3}) {
            Threads threads(n_threads);
            global_norm_squared(&again, grad.data(), n, false);
            EXPECT_EQ(again, got);
        }
    }
    G grad[] = {3, 4};
    double norm;
    global_norm_squared(&norm, grad, 2, false, Plain{});
    EXPECT_EQ(norm, 25);
}
TEST(GlobalNorm, Float) { check_global_norm<float>(); }
TEST(GlobalNorm, Double) { check_global_norm<double>(); }

}  // namespace
