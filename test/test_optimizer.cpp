// Optimizers: against PyTorch's, the layers against each other, what is remembered in fewer bits, and the norm of the gradient.
#include <cstring>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/cpu/arena.h"
#include "llmc/plain/optimizer.h"
#include "test/layer_test.h"

namespace {

// Room for a moment of n elements, of any type.
struct Remembered {
    std::vector<char> values;
    std::vector<bf16> scales;
    bool has_sign;
    Remembered(int64_t n, bool sign)
        : values(static_cast<size_t>(8 * n)), scales(static_cast<size_t>(n / kMomentBlock + 1)), has_sign(sign) {}
    Moment moment() { return {values.data(), scales.data(), has_sign}; }
    Doubles doubles(StateType type, int64_t n, bool is_double) {
        Doubles x(static_cast<size_t>(n));
        std::vector<float> y(static_cast<size_t>(n));
        if (is_double && type == StateType::fp32) load_moments(x.data(), moment(), type, 0, n);
        else load_moments(y.data(), moment(), type, 0, n), x = widen(y);
        return x;
    }
};

// ---- dynamic quantisation ----

TEST(Moments, CodesAreThePapersTree) {
    EXPECT_EQ(dynamic_value(0, 7), 0);
    EXPECT_FLOAT_EQ(dynamic_value(127, 7), 0.1f + 0.9f * 63.5f / 64);
    EXPECT_FLOAT_EQ(dynamic_value(64, 7), 0.1f + 0.9f * 0.5f / 64) << "the first of the largest decade";
    EXPECT_FLOAT_EQ(dynamic_value(63, 7), (0.1f + 0.9f * 31.5f / 32) / 10);
    EXPECT_FLOAT_EQ(dynamic_value(1, 7), 0.55e-6f);
    EXPECT_FLOAT_EQ(dynamic_value(1, 8), 0.55e-7f);
    for (int bits : {7, 8})
        for (int j = 0; j < 1 << bits; j++) {
            EXPECT_EQ(dynamic_code(dynamic_value(j, bits), bits), j);
            if (j > 0) {
                EXPECT_GT(dynamic_value(j, bits), dynamic_value(j - 1, bits));
            }
        }
    EXPECT_EQ(dynamic_code(1e-9f, 7), 0);
    EXPECT_EQ(dynamic_code(1e-30f, 8), 1) << "what a step is divided by must not become 0";
    EXPECT_EQ(dynamic_code(0, 8), 0);
    EXPECT_EQ(dynamic_code(1.01f, 7), 127);
}

TEST(Moments, BlocksKeepTheirValuesNearlyAndComeBackAsTheyWere) {
    for (bool sign : {true, false}) {
        const int64_t n = 64 * 300;
        std::vector<float> x = random_values<float>(n, 3), back(x.size()), again(x.size());
        for (int64_t i = 0; i < n; i++) {
            x[i] *= std::pow(10.0f, float(i / 64 % 20) - 10);
            if (!sign) x[i] *= x[i];
        }
        Remembered room(n, sign), copy(n, sign);
        const auto store = [&](Remembered& to, const std::vector<float>& from) {
            store_moments(to.moment(), StateType::int8, 0, n, from.data(), [](int64_t) { return 0u; });
        };
        store(room, x), load_moments(back.data(), room.moment(), StateType::int8, 0, n);
        double error = 0, norm = 0;
        for (int64_t i = 0; i < n; i++) {
            const double largest =
                std::abs(*std::max_element(x.begin() + i / 64 * 64, x.begin() + i / 64 * 64 + 64,
                                           [](float a, float b) { return std::abs(a) < std::abs(b); }));
            // half a step of the decade that it is in, or of the one above at its border
            const double step = (sign ? 0.9 / 64 : 0.9 / 128) * std::max(largest, std::abs(double(x[i])));
            ASSERT_LE(std::abs(back[i] - x[i]), 0.6 * step) << i;
            const double weight = 1 / largest;
            error += std::pow((back[i] - x[i]) * weight, 2), norm += std::pow(x[i] * weight, 2);
        }
        EXPECT_LT(std::sqrt(error / norm), 0.012);
        store(copy, back), load_moments(again.data(), copy.moment(), StateType::int8, 0, n);
        EXPECT_TRUE(room.values == copy.values && room.scales == copy.scales) << "as a checkpoint would bring it back";
        EXPECT_EQ(again, back);
    }
}

// ---- PyTorch ----

const Json& torch() {
    static const Json j = parse_json(read_file("test/fixtures/optimizers.json"));
    return j;
}
Doubles numbers(const Json& j) { return j.get<Doubles>(); }

template <class On>
Doubles after_steps(const std::string& name, Rule rule, OptimizerOptions o, float l1, On on) {
    Doubles p = numbers(torch()["start"]);
    const int64_t n = static_cast<int64_t>(p.size());
    p.resize(128);
    Remembered m(128, true), v(128, false);
    const OptimizerSegment all{.begin = 0, .n = n, .v_shift = 0, .weight_decay = 0.1f, .l1 = l1, .rule = rule};
    int t = 0;
    for (const Json& g : torch()["gradients"]) {
        Doubles grad = numbers(g);
        grad.resize(128);
        StepState state;
        t++;
        state.learning_rate = 0.05f;
        state.beta1_correction = float(1 - std::pow(0.9, t)), state.beta2_correction = float(1 - std::pow(0.95, t));
        optimizer_update<double>({p.data(), nullptr, m.moment(), v.moment(), grad.data()}, &all, 1, 0, n, o, &state,
                                 on);
    }
    p.resize(static_cast<size_t>(n));
    EXPECT_LT(relative_error(p, numbers(torch()[name])), 1e-7) << name;
    return p;
}
TEST(Optimizers, AreAsPyTorchHasThem) {
    const auto check = [](auto on) {
        after_steps("adamw", Rule::adamw, {0.9f, 0.95f, 1e-8f}, 0, on);
        after_steps("sgd", Rule::sgd, {0, 0, 0, 0.9f}, 0, on);
        after_steps("adagrad", Rule::adagrad, {0, 0, 1e-10f}, 0, on);
        after_steps("adadelta", Rule::adadelta, {0, 0.95f, 1e-6f}, 0, on);
        const Doubles sparse = after_steps("sgd_l1", Rule::sgd, {0, 0, 0, 0.9f}, 2, on);
        EXPECT_GT(std::count(sparse.begin(), sparse.end(), 0.0), 2) << "L1 makes weights exactly zero";
    };
    check(Plain{}), check(CpuStream{});
}

template <typename X>
struct Scratch {
    Arena arena;
    MuonScratch<X> s;
    Scratch(int rows, int cols) {
        Parameter p{};
        p.rows = rows, p.cols = cols, p.matrices = 1;
        s.add_to(arena, {p}), arena.allocate();
    }
};
TEST(Muon, IsAsItsFormulaAndAsPyTorchHasIt) {
    for (const Json& c : torch()["muon"]) {
        const int rows = c["rows"].get<int>(), cols = c["cols"].get<int>();
        const int64_t n = int64_t(rows) * cols, room = 128;
        Doubles p = numbers(c["start"]);
        p.resize(room);
        Remembered m(room, true);
        Scratch<double> scratch(rows, cols);
        OptimizerSegment momentum{.begin = 0, .n = n, .v_shift = 0, .weight_decay = 0.1f, .rule = Rule::muon_momentum},
            descent = momentum;
        descent.rule = Rule::muon_descent;
        for (const Json& g : c["gradients"]) {
            Doubles grad = numbers(g);
            grad.resize(room);
            StepState state;
            state.learning_rate = 0.05f;
            for (const OptimizerSegment& s : {momentum, descent}) {
                optimizer_update<double>({p.data(), nullptr, m.moment(), {}, grad.data()}, &s, 1, 0, n,
                                         {0, 0, 0, 0.95f}, &state, CpuStream{});
                if (s.rule == Rule::muon_momentum)
                    orthogonalise<double>(grad.data(), rows, cols, scratch.s, CpuStream{});
            }
        }
        p.resize(static_cast<size_t>(n));
        Doubles start = numbers(c["start"]), formula = numbers(c["by_formula"]), by_torch = numbers(c["by_torch"]);
        for (size_t i = 0; i < p.size(); i++) p[i] -= start[i], formula[i] -= start[i], by_torch[i] -= start[i];
        EXPECT_LT(relative_error(p, formula), 1e-6);
        EXPECT_LT(relative_error(p, by_torch), 0.02) << "PyTorch's iteration is in bf16";
    }
}
TEST(Muon, SingularValuesComeNearOne) {
    const auto check = [](auto x, double tolerance) {
        using X = decltype(x);
        using A = acc_t<X>;
        for (auto [rows, cols] : {std::pair(24, 10), {7, 33}, {1, 5}, {6, 1}, {16, 16}}) {
            std::vector<A> u = random_values<A>(int64_t(rows) * cols, 4, 1e-3);
            Scratch<X> scratch(rows, cols);
            orthogonalise<X>(u.data(), rows, cols, scratch.s, CpuStream{});
            const double factor = 0.2 * std::sqrt(double(std::max(rows, cols)));
            // of U V^T the squares of all elements add up to the number of singular values, which are between 0.68 and 1.13
            double sum = 0;
            for (A y : u) sum += double(y) * double(y) / factor / factor;
            const int values = std::min(rows, cols);
            EXPECT_GT(sum, (0.4 - tolerance) * values) << rows << " x " << cols;
            EXPECT_LT(sum, (1.35 + tolerance) * values) << rows << " x " << cols;
        }
    };
    check(0.0, 0), check(0.0f, 1e-3), check(bf16(0.0f), 0.1);
}

// ---- the layers against each other: an arena of a few tensors with gaps between them ----

constexpr OptimizerOptions kAdamW{0.9f, 0.95f, 1e-8f};

template <typename X>
struct TestArena {
    using A = acc_t<X>;
    static constexpr int n = 9152, no_v = 192;  // of them, elements without v
    std::vector<OptimizerSegment> segments{
        {0, 1, 0, 0.1f}, {64, 4500, 0, 0.0f}, {4608, 4400, 0, 0.1f}, {9024, 64, 0, 0.3f}};
    OptimizerOptions options = kAdamW;
    StepState state = dropout_state();
    std::vector<X> p = random_values<X>(n, 1);
    std::vector<A> master;
    Remembered m{n, true}, v{n, false};

    explicit TestArena(bool with_master) {
        if (with_master) master = narrow<A>(widen(p));
    }
    // Elements [begin, end) of step t
    template <class On>
    void update(int t, int begin, int end, On on) {
        auto grad = narrow<A>(widen(random_values<bf16>(n, 10 + t, 3)));
        grad[0] = 0, grad[70] = A(1e-9f);  // epsilon matters
        state.step = t, state.learning_rate = 1e-2f, state.clip_scale = 0.37f;
        state.beta1_correction = float(1 - std::pow(0.9, t)), state.beta2_correction = float(1 - std::pow(0.95, t));
        optimizer_update<X>({p.data() + begin, master.empty() ? nullptr : master.data() + begin,
                             m.moment().template from<A>(begin, options.state_type),
                             v.moment().template from<A>(begin, options.state_type), grad.data() + begin},
                            segments.data(), int(segments.size()), begin, end, options, &state, on);
        gradients.resize(n);
        for (int i = begin; i < end; i++) gradients[i] = double(grad[i]);
    }
    Doubles gradients;
    // The values that are updated from one step to the next
    Doubles exact() const { return master.empty() ? widen(p) : widen(master); }
    Doubles of(Remembered& r) { return r.doubles(options.state_type, n, std::is_same_v<A, double>); }
};

template <typename X, class On>
void check_update(Rule rule, StateType type, bool with_master, double tolerance, On on) {
    SCOPED_TRACE(testing::Message() << "rule " << int(rule) << ", state " << int(type) << ", " << sizeof(X)
                                    << " bytes, master " << with_master);
    TestArena<X> arena(with_master);
    TestArena<double> plain(false);
    plain.p = widen(arena.p);
    const auto set = [&](auto& a, StateType t) {
        a.options = {0.9f, 0.95f, rule == Rule::adadelta ? 1e-6f : 1e-8f, 0.9f, t};
        a.m.has_sign = rule != Rule::adadelta;
        for (OptimizerSegment& s : a.segments) s.rule = rule, s.l1 = 0.05f;
        a.segments[1].n -= 5, a.segments[1].begin += 5;  // a part of it is at rest
        if (rule == Rule::muon_momentum)
            a.segments[2].rule = Rule::adamw, a.segments[2].v_shift = 4608, a.segments[3].v_shift = 4608;
    };
    set(arena, type), set(plain, StateType::fp32);
    Doubles got = arena.exact(), want = plain.p;
    for (int t = 1; t <= 6; t++) {
        for (auto [begin, end] : {std::pair(0, 4992), {4992, 5056}, {5056, arena.n}})  // pieces that cut tensors
            arena.update(t, begin, end, on);
        plain.update(t, 0, plain.n, Plain{});
    }
    Doubles now = arena.exact();
    for (size_t i = 0; i < now.size(); i++) got[i] = now[i] - got[i], want[i] = plain.p[i] - want[i];
    if (rule != Rule::muon_momentum) {
        EXPECT_LT(relative_error(got, want), tolerance) << "change of the parameters";
    }
    EXPECT_LT(relative_error(arena.gradients, plain.gradients), tolerance) << "what momentum left of the gradient";
    const double remembered = type == StateType::int8     ? 0.05
                              : type == StateType::bf16   ? 0.01
                              : std::is_same_v<X, double> ? 1e-13
                                                          : 5e-6;
    EXPECT_LT(relative_error(arena.of(arena.m), plain.of(plain.m)), remembered);
    EXPECT_LT(relative_error(arena.of(arena.v), plain.of(plain.v)), remembered);
    if (with_master && rule != Rule::muon_momentum) {
        EXPECT_EQ(widen(arena.p), widen(narrow<X>(now))) << "the storage type is not rounded from the master";
    }
    for (int gap : {1, 63, 64, 68, 4564, 9008, 9099})
        EXPECT_EQ(got[gap], 0) << "element " << gap << " belongs to no tensor";
}
constexpr Rule kRules[] = {Rule::adamw,    Rule::sgd,           Rule::adagrad,
                           Rule::adadelta, Rule::muon_momentum, Rule::muon_descent};
TEST(Optimizers, AgreeWithPlain) {
    for (Rule rule : kRules) {
        check_update<double>(rule, StateType::fp32, false, 1e-12, CpuStream{});
        check_update<float>(rule, StateType::fp32, false, 5e-5, CpuStream{});
        check_update<float>(rule, StateType::fp32, true, 5e-5, CpuStream{});
        check_update<bf16>(rule, StateType::fp32, true, 5e-5, CpuStream{});
        check_update<float>(rule, StateType::fp32, false, 5e-5, Plain{});
        check_update<bf16>(rule, StateType::fp32, true, 5e-5, Plain{});
    }
}
TEST(Optimizers, WithFewerBitsAreNearTheSame) {
    for (Rule rule : kRules)
        for (StateType type : {StateType::bf16, StateType::int8}) {
            const double tolerance = type == StateType::int8 ? 0.06 : 0.015;
            check_update<float>(rule, type, false, tolerance, CpuStream{});
            check_update<bf16>(rule, type, true, tolerance, CpuStream{});
            check_update<float>(rule, type, false, tolerance, Plain{});
        }
}
// What a moment is rounded to is the same in all layers, whatever the pieces.
TEST(Optimizers, RoundWhatTheyRememberAsThePlainLayerDoes) {
    for (StateType type : {StateType::bf16, StateType::int8}) {
        TestArena<float> arena(false), plain(false);
        arena.options.state_type = plain.options.state_type = type;
        for (int t = 1; t <= 3; t++) {
            for (auto [begin, end] : {std::pair(0, 832), {832, 5056}, {5056, arena.n}})
                arena.update(t, begin, end, CpuStream{});
            plain.update(t, 0, plain.n, Plain{});
        }
        int differ = 0;
        const size_t bytes = size_t(type == StateType::bf16 ? 2 : 1) * size_t(arena.n);
        for (size_t i = 0; i < bytes; i++)
            differ += (arena.m.values[i] != plain.m.values[i]) + (arena.v.values[i] != plain.v.values[i]);
        EXPECT_LE(differ, 20) << "where two floats differ in their last bit";
    }
}
TEST(Optimizers, Bf16MomentsAreUnbiased) {
    const int n = 64 * 1000;
    Remembered m(n, true), v(n, false);
    std::vector<float> p(n), grad(n, 1.0f);
    const OptimizerSegment all{.begin = 0, .n = n, .v_shift = 0, .weight_decay = 0};
    // v: 0.001 of 1 joins each step, which is lost between 0.5 and 1 where it is rounded to nearest
    for (uint32_t t = 0; t < 1500; t++) {
        StepState state;
        state.seed = 3, state.step = t, state.learning_rate = 0;
        optimizer_update<float>({p.data(), nullptr, m.moment(), v.moment(), grad.data()}, &all, 1, 0, n,
                                {0.999f, 0.999f, 1e-8f, 0, StateType::bf16}, &state);
    }
    const double want = 1 - std::pow(0.999, 1500);
    for (Remembered* r : {&m, &v}) {
        double sum = 0;
        for (double x : r->doubles(StateType::bf16, n, false)) sum += x;
        EXPECT_NEAR(sum / n, want, 2e-3);
    }
}

// A bf16 parameter without a master moves by steps of its own size: each step alone must be the plain layer's, rounded.
TEST(AdamW, Bf16WithoutMasterIsRoundedFromThePlainStep) {
    TestArena<bf16> arena(false);
    for (int t = 1; t <= 3; t++) {
        TestArena<double> plain(false);
        plain.p = widen(arena.p);
        for (auto [to, from] : {std::pair(&plain.m, &arena.m), {&plain.v, &arena.v}}) {
            const Doubles x = from->doubles(StateType::fp32, arena.n, false);
            store_moments(to->moment(), StateType::fp32, 0, arena.n, x.data(), [](int64_t) { return 0u; });
        }
        arena.update(t, 0, arena.n, CpuStream{});
        plain.update(t, 0, plain.n, Plain{});
        int differ = 0;  // float and double may fall on two sides of the middle between two bf16
        for (int i = 0; i < arena.n; i++) differ += float(arena.p[i]) != float(bf16(float(plain.p[i])));
        EXPECT_LE(differ, 2) << "step " << t;
    }
}

// One step in double on one number: by the paper's formula, written out.
TEST(PlainAdamW, OneStepByHand) {
    Doubles p(64), grad(64), m(64), v(64);
    p[0] = 2, m[0] = 0.5, v[0] = 0.25, grad[0] = 16;
    StepState state;
    state.clip_scale = 0.125f, state.learning_rate = 0.5f, state.beta1_correction = 0.75f,
    state.beta2_correction = 0.5f;
    OptimizerSegment all{0, 1, 0, 0.25f};
    optimizer_update<double>(
        {p.data(), nullptr, {reinterpret_cast<char*>(m.data())}, {reinterpret_cast<char*>(v.data())}, grad.data()},
        &all, 1, 0, 1, {0.5f, 0.75f, 0.5f}, &state, Plain{});
    EXPECT_EQ(m[0], 0.5 * 0.5 + 0.5 * 2);  // the gradient is 16 / 8 = 2
    EXPECT_EQ(v[0], 0.75 * 0.25 + 0.25 * 2 * 2);
    EXPECT_NEAR(p[0], 2 - 0.5 * (1.25 / 0.75 / (std::sqrt(1.1875 / 0.5) + 0.5) + 0.25 * 2), 1e-15);
}

template <class On>
void check_skip(On on) {
    for (StateType type : {StateType::fp32, StateType::bf16, StateType::int8}) {
        TestArena<float> arena(true), before(true);
        arena.options.state_type = type;
        arena.state.skip = 1;
        arena.update(1, 0, arena.n, on);
        EXPECT_EQ(arena.p, before.p);
        EXPECT_EQ(arena.master, before.master);
        EXPECT_TRUE(arena.m.values == before.m.values && arena.v.values == before.v.values);
    }
}
TEST(AdamW, SkippedStepChangesNothing) {
    check_skip(CpuStream{});
    check_skip(Plain{});
}

TEST(AdamW, StochasticRoundingIsThePlainLayersBitByBit) {
    for (bool with_master : {false, true}) {
        TestArena<bf16> arena(with_master), plain(with_master);
        arena.options.stochastic_rounding = plain.options.stochastic_rounding = true;
        plain.update(1, 0, plain.n, Plain{});
        for (auto [begin, end] : {std::pair(0, 832), {832, 5056}, {5056, arena.n}})
            arena.update(1, begin, end, CpuStream{});
        int differ = 0;
        for (int i = 0; i < arena.n; i++) differ += arena.p[i].bits != plain.p[i].bits;
        EXPECT_LE(differ, 3) << "master " << with_master;  // where the two floats differ in their last bit
    }
}

TEST(AdamW, StochasticRoundingIsUnbiasedAndRepeatable) {
    const int n = 1562 * 64;
    auto run = [&](bool stochastic, uint32_t step, int64_t first_index) {
        std::vector<bf16> p(n, bf16(1.0f));  // its neighbours: 1 + 2^-7 and 1 - 2^-8
        std::vector<float> m(n), v(n), grad(n, -1.0f);
        StepState state;
        state.seed = 5, state.step = step, state.learning_rate = 1e-3f;
        state.beta1_correction = 0.1f, state.beta2_correction = 0.05f;  // the first update: +lr
        OptimizerSegment all{0, first_index + n, 0, 0};
        OptimizerOptions o = kAdamW;
        o.stochastic_rounding = stochastic;
        optimizer_update<bf16>(
            {p.data(), nullptr, {reinterpret_cast<char*>(m.data())}, {reinterpret_cast<char*>(v.data())}, grad.data()},
            &all, 1, first_index, first_index + n, o, &state);
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
    Doubles shifted = run(true, 0, 1024);  // numbers belong to the place in the arena
    EXPECT_TRUE(std::equal(shifted.begin(), shifted.end() - 1024, p.begin() + 1024));
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
