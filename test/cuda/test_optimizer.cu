// llmc/cuda/global_norm.cuh and llmc/cuda/optimizer.cuh against the CPU's.
#include <bit>
#include <cstring>
#include "llmc/cpu/arena.h"
#include "llmc/cpu/layers.h"
#include "llmc/plain/optimizer.h"
#include "test/cuda/device_test.h"

namespace {

TEST(CudaGlobalNorm, EqualsCpuAndIsDeterministic) {
    reserve_workspace(global_norm_workspace_bytes(device().multiprocessors));
    for (int64_t n : {1, 3, 4, 1000, 50001, 80004}) {
        std::vector<float> grad = random_vector<float>(static_cast<size_t>(n), 1, 1e-3f);
        double want = 0, first = -1;
        global_norm_squared(&want, grad.data(), n, false);
        for_each_schedule([&] {
            DeviceVector<float> g(grad);
            DeviceVector<double> sum(1);
            global_norm_squared(sum.get(), g.get(), n, false, current_stream());
            double got = sum.host()[0];
            EXPECT_NEAR(got / want, 1, 2e-7) << "n=" << n;
            if (first < 0) first = got;
            EXPECT_EQ(got, first);
        });
    }
}

StepState finished(float loss, double norm_squared, float grad_clip, float skip_loss_above, float skip_norm_above) {
    StepState state;
    state.sums[0] = loss, state.loss_normaliser = 0.25f;
    state.skip_loss_above = skip_loss_above, state.skip_norm_above = skip_norm_above;
    DeviceVector<StepState> s({state});
    DeviceVector<double> n(std::vector<double>{norm_squared});
    finish_gradients(s.get(), n.get(), grad_clip, current_stream());
    return s.host()[0];
}

TEST(CudaGlobalNorm, FinishGradientsClipsAndSkips) {
    float nan = NAN, infinity = INFINITY, no = 1e30f;
    StepState s = finished(12, 9, 1, no, no);
    EXPECT_EQ(s.loss, 3);
    EXPECT_EQ(s.grad_norm, 3);
    EXPECT_EQ(s.clip_scale, 1.0f / 3);
    EXPECT_EQ(s.skip, 0);
    EXPECT_EQ(finished(12, 0.25, 1, no, no).clip_scale, 1) << "below the limit";
    EXPECT_EQ(finished(12, 9, 0, no, no).clip_scale, 1) << "no limit";
    EXPECT_EQ(finished(12, 9, 1, 3, 3).skip, 0) << "at the threshold";
    EXPECT_EQ(finished(12, 9, 1, 2.99f, no).skip, 1);
    EXPECT_EQ(finished(12, 9, 1, no, 2.99f).skip, 1);
    EXPECT_EQ(finished(nan, 9, 1, no, no).skip, 1);
    EXPECT_EQ(finished(infinity, 9, 1, no, no).skip, 1);
    EXPECT_EQ(finished(12, static_cast<double>(nan), 1, no, no).skip, 1);
    EXPECT_EQ(finished(12, static_cast<double>(infinity), 1, no, no).skip, 1);
}

// An arena with tensors of all kinds of length, gaps, a frozen tensor and one that is trained from its middle on between them.
std::vector<OptimizerSegment> arena_segments(Rule rule) {
    std::vector<OptimizerSegment> all = {{0, 131, 0, 0.1f},    {192, 64, 0, 0},    {256, 1, 0, 0.2f},
                                         {320, 0, 0, 0.1f},    {448, 64, 0, 0.3f}, {512, 1003, 0, 0.1f},
                                         {1545, 119, 0, 0.1f}, {1664, 3, 0, 0}};
    for (OptimizerSegment& s : all) s.rule = rule, s.l1 = 0.2f * s.weight_decay;
    if (rule == Rule::muon_momentum)
        all[1].rule = Rule::adamw, all[1].v_shift = 192, all[7].rule = Rule::adamw, all[7].v_shift = 1600;
    return all;
}
constexpr size_t kArena = 1728;

// Bit for bit, NaNs too.
template <typename X>
bool same_bits(const X& a, const X& b) {
    return std::memcmp(&a, &b, sizeof(X)) == 0;
}

struct Case {
    Rule rule;
    StateType state;
    bool master, stochastic_rounding;
    int64_t begin, end;
};
// An optimizer's memory on a host, of whole blocks of 64 elements.
template <typename X>
struct HostState {
    std::vector<X> p;
    std::vector<float> master, grad;
    std::vector<char> m, v;
    std::vector<bf16> m_scales, v_scales;

    Moment moment(bool first, const Case& c) {
        return {(first ? m : v).data(), (first ? m_scales : v_scales).data(), first && c.rule != Rule::adadelta};
    }
};

template <typename X>
class CudaOptimizer : public ::testing::Test {};
TYPED_TEST_SUITE(CudaOptimizer, StorageTypes);

StepState optimizer_state(int step) {
    StepState s;
    s.seed = 99, s.step = static_cast<uint32_t>(step), s.learning_rate = 1e-2f, s.clip_scale = 0.7f;
    s.beta1_correction = 1 - std::pow(0.9f, static_cast<float>(step + 1));
    s.beta2_correction = 1 - std::pow(0.95f, static_cast<float>(step + 1));
    return s;
}

template <typename X>
void check_case(const Case& c) {
    SCOPED_TRACE(::testing::Message() << "rule " << int(c.rule) << " state " << int(c.state) << " master " << c.master
                                      << " stochastic " << c.stochastic_rounding << " range " << c.begin << ".."
                                      << c.end);
    const OptimizerOptions o{0.9f, 0.95f,   c.rule == Rule::adadelta ? 1e-6f : 1e-8f,
                             0.9f, c.state, c.stochastic_rounding};
    const std::vector<OptimizerSegment> segments = arena_segments(c.rule);
    HostState<X> start;
    start.grad = random_vector<float>(kArena, 1, 1e-2f), start.master = random_vector<float>(kArena, 2);
    for (float x : start.master) start.p.push_back(X(x));
    const std::vector<float> m = random_vector<float>(kArena, 3, 1e-3f);
    std::vector<float> v = random_vector<float>(kArena, 4, 1e-2f), m_start = m;
    for (float& x : v) x *= x;
    if (c.rule == Rule::adadelta) m_start = v;
    start.m.resize(4 * kArena), start.v = start.m, start.m_scales.resize(kArena / 64), start.v_scales = start.m_scales;
    const auto none = [](int64_t) { return 0u; };
    store_moments(start.moment(true, c), c.state, 0, kArena, m_start.data(), none);
    store_moments(start.moment(false, c), c.state, 0, kArena, v.data(), none);
    HostState<X> want = start;
    for (int step = 0; step < 3; step++) {
        StepState state = optimizer_state(step);
        optimizer_update<X>({want.p.data() + c.begin, c.master ? want.master.data() + c.begin : nullptr,
                             want.moment(true, c).template from<float>(c.begin, c.state),
                             want.moment(false, c).template from<float>(c.begin, c.state), want.grad.data() + c.begin},
                            segments.data(), int(segments.size()), c.begin, c.end, o, &state, Plain{});
    }
    for_each_schedule([&] {
        DeviceVector<X> p(start.p);
        DeviceVector<float> master(start.master), grad(start.grad);
        DeviceVector<char> device_m(start.m), device_v(start.v);
        DeviceVector<bf16> m_scales(start.m_scales), v_scales(start.v_scales);
        DeviceVector<OptimizerSegment> device_segments(segments);
        const bool sign = c.rule != Rule::adadelta;
        for (int step = 0; step < 4; step++) {
            StepState state = optimizer_state(step);
            state.skip = step == 3;
            DeviceVector<StepState> s({state});
            optimizer_update<X>({p.get() + c.begin, c.master ? master.get() + c.begin : nullptr,
                                 Moment{device_m.get(), m_scales.get(), sign}.template from<float>(c.begin, c.state),
                                 Moment{device_v.get(), v_scales.get(), false}.template from<float>(c.begin, c.state),
                                 grad.get() + c.begin},
                                device_segments.get(), static_cast<int>(segments.size()), c.begin, c.end, o, s.get(),
                                current_stream());
            CUDA_CHECK(cudaStreamSynchronize(current_stream()));
        }
        HostState<X> got{p.host(),        master.host(),   grad.host(),    device_m.host(),
                         device_v.host(), m_scales.host(), v_scales.host()};
        const auto near = [](const std::vector<float>& a, const std::vector<float>& b, double limit, const char* what) {
            int far = 0;
            for (size_t i = 0; i < a.size(); i++)
                far += std::abs(a[i] - b[i]) > limit * std::max(std::abs(b[i]), 1e-3f);
            EXPECT_LE(far, int(a.size()) / 200) << what;  // where two floats fell on two sides of a rounding
            double worst = 0;
            for (size_t i = 0; i < a.size(); i++) worst = std::max(worst, std::abs(double(a[i]) - double(b[i])));
            EXPECT_LT(worst, 0.05) << what;
        };
        std::vector<float> a(kArena), b(kArena);
        for (bool first : {true, false}) {
            load_moments(a.data(), got.moment(first, c), c.state, 0, kArena),
                load_moments(b.data(), want.moment(first, c), c.state, 0, kArena);
            near(a, b, 2e-6, first ? "m" : "v");
        }
        const double limit = c.state == StateType::fp32 ? 2e-6 : 1e-4;
        near(got.grad, want.grad, limit, "gradient"), near(got.master, want.master, limit, "master");
        for (size_t i = 0; i < kArena; i++) a[i] = float(got.p[i]), b[i] = float(want.p[i]);
        near(a, b, sizeof(X) == 4 ? limit : 1e-9, "parameters");
        // what belongs to no tensor, or is not trained, or not in the range
        for (size_t i = 0; i < kArena; i++) {
            bool touched = false;
            for (const OptimizerSegment& s : segments)
                touched |= int64_t(i) >= std::max(s.begin, c.begin) && int64_t(i) < std::min(s.begin + s.n, c.end);
            if (!touched)
                ASSERT_TRUE(same_bits(got.p[i], start.p[i]) && same_bits(got.master[i], start.master[i]) &&
                            same_bits(got.grad[i], start.grad[i]))
                    << i;
        }
    });
}

TYPED_TEST(CudaOptimizer, EqualsPlain) {
    using X = TypeParam;
    const int64_t all = kArena;
    for (Rule rule : {Rule::adamw, Rule::sgd, Rule::adagrad, Rule::adadelta, Rule::muon_momentum, Rule::muon_descent})
        for (StateType state : {StateType::fp32, StateType::bf16, StateType::int8})
            check_case<X>({rule, state, false, false, 0, all});
    if (std::is_same_v<X, bf16>)
        for (bool stochastic : {false, true})
            for (StateType state : {StateType::fp32, StateType::int8}) {
                check_case<X>({Rule::adamw, state, true, stochastic, 0, all});
                check_case<X>({Rule::adamw, state, false, stochastic, 0, all});
            }
    check_case<X>({Rule::adamw, StateType::fp32, std::is_same_v<X, bf16>, false, 64, 1402});
    check_case<X>({Rule::adamw, StateType::int8, false, false, 512, 1601});
}

TYPED_TEST(CudaOptimizer, MuonsMatricesAreAsThePlainOnes) {
    using X = TypeParam;
    for (auto [rows, cols] : {std::pair(24, 10), {7, 33}, {1, 5}}) {
        const int64_t n = int64_t(rows) * cols;
        std::vector<float> start = random_vector<float>(static_cast<size_t>(n + 3), 1, 1e-2f);
        Parameter p{};
        p.rows = rows, p.cols = cols, p.matrices = 1;
        Arena host;
        MuonScratch<X> scratch{}, device_scratch{};
        scratch.add_to(host, {p}), host.allocate();
        std::vector<float> want = start;
        orthogonalise<X>(want.data() + 3, rows, cols, scratch, CpuStream{});
        reserve_workspace(1 << 20);
        for_each_schedule([&] {
            DeviceArena arena;
            device_scratch.add_to(arena, {p}), arena.allocate("a matrix", false);
            DeviceVector<float> u(start);
            orthogonalise<X>(u.get() + 3, rows, cols, device_scratch, current_stream());  // on no boundary
            const std::vector<float> got = u.host();
            EXPECT_LT(relative_error(got, want), sizeof(X) == 4 ? 1e-4 : 5e-2) << rows << " x " << cols;
            EXPECT_TRUE(std::equal(start.begin(), start.begin() + 3, got.begin()));
        });
    }
}

}  // namespace
