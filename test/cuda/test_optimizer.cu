// llmc/cuda/global_norm.cuh and llmc/cuda/adamw.cuh against the CPU's.
#include <bit>
#include <cstring>
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

// An arena with tensors of all kinds of length, gaps and a frozen tensor between them.
const std::vector<AdamWSegment> kSegments = {{0, 131, 0.1f},  {192, 64, 0},      {256, 1, 0.2f},    {320, 0, 0.1f},
                                             {448, 64, 0.3f}, {512, 1003, 0.1f}, {1536, 128, 0.1f}, {1664, 3, 0}};
constexpr size_t kArena = 1728;

template <typename X>
struct Arena {
    std::vector<X> p;
    std::vector<float> master, m, v;
};
// Bit for bit, NaNs too.
template <typename X>
bool same_bits(const X& a, const X& b) {
    return std::memcmp(&a, &b, sizeof(X)) == 0;
}

struct Case {
    bool master, stochastic_rounding;
    int64_t begin, end;
    int offset;  // of the arrays from a 16-byte boundary, in elements
};

template <typename X>
class CudaAdamW : public ::testing::Test {};
TYPED_TEST_SUITE(CudaAdamW, StorageTypes);

StepState optimizer_state(int step) {
    StepState s;
    s.seed = 99, s.step = static_cast<uint32_t>(step), s.learning_rate = 1e-2f, s.clip_scale = 0.7f;
    s.beta1_correction = 1 - std::pow(0.9f, static_cast<float>(step + 1));
    s.beta2_correction = 1 - std::pow(0.95f, static_cast<float>(step + 1));
    return s;
}

TYPED_TEST(CudaAdamW, EqualsCpu) {
    using X = TypeParam;
    constexpr bool is_bf16 = std::is_same_v<X, bf16>;
    int64_t all = kArena;
    for (Case c : {Case{false, false, 0, all, 0}, Case{true, false, 0, all, 0}, Case{true, true, 0, all, 0},
                   Case{false, true, 0, all, 0}, Case{true, true, 37, 1402, 0}, Case{true, true, 130, 1601, 3}}) {
        if (!is_bf16 && (c.master || c.stochastic_rounding) && c.offset == 0) continue;
        if (!is_bf16) c.master = c.stochastic_rounding = false;
        SCOPED_TRACE(::testing::Message() << "master " << c.master << " stochastic " << c.stochastic_rounding
                                          << " range " << c.begin << ".." << c.end << " offset " << c.offset);
        AdamWOptions o{0.9f, 0.95f, 1e-8f, c.stochastic_rounding};
        std::vector<float> grad = random_vector<float>(kArena, 1, 1e-2f);
        Arena<X> start;
        start.master = random_vector<float>(kArena, 2);
        for (float x : start.master) start.p.push_back(X(x));
        start.m = random_vector<float>(kArena, 3, 1e-3f), start.v = random_vector<float>(kArena, 4, 1e-2f);
        for (float& x : start.v) x *= x;
        Arena<X> want = start;
        std::vector<bool> touched(kArena);
        for (const AdamWSegment& s : kSegments)
            for (int64_t i = std::max(s.begin, c.begin); i < std::min(s.begin + s.n, c.end); i++)
                touched[static_cast<size_t>(i)] = true;
        for (int step = 0; step < 3; step++) {
            StepState state = optimizer_state(step);
            adamw_update<X>(want.p.data() + c.begin, c.master ? want.master.data() + c.begin : nullptr,
                            want.m.data() + c.begin, want.v.data() + c.begin, grad.data() + c.begin, kSegments.data(),
                            static_cast<int>(kSegments.size()), c.begin, c.end, o, &state);
        }
        for_each_schedule([&] {
            // elements [begin, end) alone exist on the device, as where each rank has a piece of the arena
            size_t first = static_cast<size_t>(c.begin), n = static_cast<size_t>(c.end - c.begin),
                   lead = static_cast<size_t>(c.begin % 8 + c.offset);
            auto upload = [&]<typename Y>(const std::vector<Y>& x) {
                std::vector<Y> padded(lead, Y(1e30f));
                padded.insert(padded.end(), x.begin() + c.begin, x.begin() + c.end);
                return DeviceVector<Y>(padded);
            };
            DeviceVector<X> p = upload(start.p);
            DeviceVector<float> master = upload(start.master), m = upload(start.m), v = upload(start.v),
                                g = upload(grad);
            DeviceVector<AdamWSegment> segments(kSegments);
            auto base = [&](auto& x) { return x.get() + lead; };
            auto download = [&]<typename Y>(const DeviceVector<Y>& x) {
                std::vector<Y> host = x.host();
                for (size_t i = 0; i < lead; i++) EXPECT_TRUE(same_bits(host[i], Y(1e30f))) << "before the range";
                return std::vector(host.begin() + static_cast<int64_t>(lead), host.end());
            };
            for (int step = 0; step < 4; step++) {
                StepState state = optimizer_state(step);
                state.skip = step == 3;
                DeviceVector<StepState> s({state});
                adamw_update<X>(base(p), c.master ? base(master) : nullptr, base(m), base(v), base(g), segments.get(),
                                static_cast<int>(kSegments.size()), c.begin, c.end, o, s.get(), current_stream());
                CUDA_CHECK(cudaStreamSynchronize(current_stream()));
            }
            Arena<X> got{download(p), download(master), download(m), download(v)};
            int different = 0;
            for (size_t i = 0; i < n; i++) {
                size_t at = first + i;
                if (!touched[at]) {
                    ASSERT_TRUE(same_bits(got.p[i], start.p[at]) && same_bits(got.master[i], start.master[at]) &&
                                same_bits(got.m[i], start.m[at]) && same_bits(got.v[i], start.v[at]))
                        << at;
                    continue;
                }
                auto near = [&](float a, float b, float limit) {
                    ASSERT_LE(std::abs(a - b), limit * std::max(std::abs(b), 1e-3f)) << at;
                };
                near(got.m[i], want.m[at], 1e-6f), near(got.v[i], want.v[at], 1e-6f);
                near(got.master[i], want.master[at], c.master ? 1e-6f : 0);
                if constexpr (!is_bf16) near(got.p[i], want.p[at], 1e-6f);
                else if (!same_bits(got.p[i], want.p[at])) {
                    different++;
                    ASSERT_FALSE(c.master && got.master[i] == want.master[at]) << at << ": the rounding differs";
                    near(static_cast<float>(got.p[i]), static_cast<float>(want.p[at]), 1.0f / 64);
                }
            }
            EXPECT_LE(different, static_cast<int>(n / 200));
        });
    }
}

TYPED_TEST(CudaAdamW, SkipLeavesEverything) {
    using X = TypeParam;
    std::vector<X> p = random_vector<X>(kArena, 1);
    std::vector<float> f = random_vector<float>(kArena, 2);
    for_each_schedule([&] {
        DeviceVector<X> weights(p);
        DeviceVector<float> master(f), m(f), v(f), g(f);
        DeviceVector<AdamWSegment> segments(kSegments);
        StepState state = optimizer_state(0);
        state.skip = 1;
        DeviceVector<StepState> s({state});
        adamw_update(weights.get(), master.get(), m.get(), v.get(), g.get(), segments.get(),
                     static_cast<int>(kSegments.size()), 0, int64_t(kArena), AdamWOptions{0.9f, 0.95f, 1e-8f, true},
                     s.get(), current_stream());
        EXPECT_EQ(relative_error(weights.host(), p), 0);
        EXPECT_EQ(master.host(), f);
        EXPECT_EQ(m.host(), f);
        EXPECT_EQ(v.host(), f);
    });
}

}  // namespace
