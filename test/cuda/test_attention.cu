// Attention on the GPU, both storage types, against the CPU's.
#include <array>
#include <cstring>
#include <utility>
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaAttention : public ::testing::Test {};
TYPED_TEST_SUITE(CudaAttention, StorageTypes);

// Every array of one problem. Positions are `gap` elements further apart than they need be, samples `gap` more.
template <typename X>
struct Problem {
    AttentionShape s;
    std::vector<X> q, k, v, dout;
    std::vector<int> doc_start;
    float dropout = 0;
    StepState state;
    // Tensor cores multiply probabilities rounded to bf16; the CPU does so only where it has an instruction for it.
    double tolerance = std::is_same_v<X, bf16> ? 1e-2 : 2e-6;

    Problem(int B, int Tq, int Tk, int NH, int NKV, int HS, int gap = 0, float size = 1) {
        int64_t q_row = NH * HS + gap, kv_row = NKV * HS + 2 * gap, out_row = NH * HS + 3 * gap;
        s = {B, Tq, Tk, NH, NKV, HS, q_row, kv_row, out_row, Tq * q_row + gap, Tk * kv_row + gap, Tq * out_row + gap};
        q = random_vector<X>(static_cast<size_t>(B * s.q_batch), 1, size);
        k = random_vector<X>(static_cast<size_t>(B * s.kv_batch), 2, size);
        v = random_vector<X>(static_cast<size_t>(B * s.kv_batch), 3);
        dout = random_vector<X>(static_cast<size_t>(B * s.out_batch), 4);
        state.seed = 7, state.step = 3, state.first_sample = 2;
    }
    // Documents of uneven lengths, other ones in each sample.
    void add_documents() {
        doc_start.assign(static_cast<size_t>(s.B) * static_cast<size_t>(s.Tk), 0);
        for (int b = 0; b < s.B; b++)
            for (int t = 1; t < s.Tk; t++) {
                bool boundary = (t * 7 + b * 3) % 29 == 0 || t == 70 + b;
                size_t i = static_cast<size_t>(b * s.Tk + t);
                doc_start[i] = boundary ? t : doc_start[i - 1];
            }
    }
};

template <typename X>
struct Results {
    std::vector<X> out, dq, dk, dv;
    std::vector<float> lse;
    explicit Results(const Problem<X>& p)  // what a layer must not write, the gaps, stays as it is
        : out(p.dout), dq(p.q), dk(p.k), dv(p.v), lse(static_cast<size_t>(p.s.B * p.s.NH * p.s.Tq)) {}
};

// Under how many schedules: small problems under all of for_each_schedule, large ones, for their numbers alone, once.
enum Schedules { all, once };

// CPU and CUDA agree; the gaps between rows stay as they are; all schedules give the same bits.
template <typename X>
void expect_equals_cpu(const Problem<X>& p, bool backward = true, Schedules schedules = all) {
    const AttentionShape& s = p.s;
    SCOPED_TRACE(::testing::Message() << "B=" << s.B << " Tq=" << s.Tq << " Tk=" << s.Tk << " NH=" << s.NH
                                      << " NKV=" << s.NKV << " HS=" << s.HS);
    const int* starts = p.doc_start.empty() ? nullptr : p.doc_start.data();
    Results<X> want(p), first(p);
    Dropout dropout{p.dropout, 5, &p.state};
    attention_forward(want.out.data(), want.lse.data(), p.q.data(), p.k.data(), p.v.data(), s, starts, dropout);
    if (backward)
        attention_backward(want.dq.data(), want.dk.data(), want.dv.data(), p.dout.data(), p.q.data(), p.k.data(),
                           p.v.data(), want.out.data(), want.lse.data(), s, starts, dropout);
    reserve_workspace(std::max(attention_forward_workspace_bytes(s), attention_backward_workspace_bytes(s)));
    bool again = false;
    auto body = [&] {
        Results<X> blank(p), got(p);
        DeviceVector<StepState> state({p.state});
        DeviceVector<int> device_starts(p.doc_start);
        DeviceVector<X> q(p.q), k(p.k), v(p.v), out(blank.out);
        DeviceVector<float> lse(want.lse.size());
        const int* on_device = starts ? device_starts.get() : nullptr;
        Dropout d{p.dropout, 5, state.get()};
        attention_forward(out.get(), lse.get(), q.get(), k.get(), v.get(), s, on_device, d, current_stream());
        got.out = out.host(), got.lse = lse.host();
        EXPECT_LT(relative_error(got.out, want.out), p.tolerance);
        EXPECT_LT(relative_error(got.lse, want.lse), 1e-5);
        if (backward) {
            DeviceVector<X> dout(p.dout), dq(blank.dq), dk(blank.dk), dv(blank.dv);
            out.set(want.out), lse.set(want.lse);
            attention_backward(dq.get(), dk.get(), dv.get(), dout.get(), q.get(), k.get(), v.get(), out.get(),
                               lse.get(), s, on_device, d, nullptr, current_stream());
            got.dq = dq.host(), got.dk = dk.host(), got.dv = dv.host();
            // One position sees only itself: its true dq and dk are 0, what is computed is rounding.
            auto error = [&](std::vector<X> x, std::vector<X> y) {
                if (s.Tq == 1) x.push_back(X(1.0f)), y.push_back(X(1.0f));
                return relative_error(x, y);
            };
            EXPECT_LT(error(got.dq, want.dq), p.tolerance) << "dq";
            EXPECT_LT(error(got.dk, want.dk), p.tolerance) << "dk";
            EXPECT_LT(error(got.dv, want.dv), p.tolerance) << "dv";
        }
        auto same = [](const auto& a, const auto& b) {
            return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
        };
        if (again)
            EXPECT_TRUE(same(got.out, first.out) && same(got.lse, first.lse) && same(got.dq, first.dq) &&
                        same(got.dk, first.dk) && same(got.dv, first.dv));
        first = got, again = true;
    };
    if (schedules == all) for_each_schedule(body);
    else body();
}

TYPED_TEST(CudaAttention, ScoresWithADivisor) {
    Problem<TypeParam> p(2, 70, 70, 2, 1, 40);
    p.s.divisor = 3;
    expect_equals_cpu(p);
}

TYPED_TEST(CudaAttention, LengthsAroundTiles) {
    for (int T : {1, 2, 15, 17, 64, 65, 130}) expect_equals_cpu(Problem<TypeParam>(1, T, T, 1, 1, 64));
    expect_equals_cpu(Problem<TypeParam>(1, 270, 270, 1, 1, 64), true, once);
}

// Tuned sizes, and those that are padded: with rows of whole packs, with rows that are not, and with one element.
TYPED_TEST(CudaAttention, HeadSizes) {
    for (int HS : {1, 7, 16, 80, 96, 160}) expect_equals_cpu(Problem<TypeParam>(1, 19, 19, 2, 2, HS), true, once);
    for (int HS : {20, 130}) expect_equals_cpu(Problem<TypeParam>(1, 35, 35, 1, 1, HS));
    expect_equals_cpu(Problem<TypeParam>(1, 70, 70, 1, 1, 256));
}

TYPED_TEST(CudaAttention, GroupedHeads) {
    expect_equals_cpu(Problem<TypeParam>(2, 37, 37, 6, 2, 16));
    expect_equals_cpu(Problem<TypeParam>(1, 70, 70, 3, 1, 64));
}

TYPED_TEST(CudaAttention, RowsFurtherApart) {
    for (int gap : {8, 3}) expect_equals_cpu(Problem<TypeParam>(2, 21, 21, 2, 1, 64, gap));
}

// dq, dk and dv of one (B,T,3C), or less than 3C where heads share keys: their column sums, the same bits each time.
TEST(CudaAttentionColumnSums, OfPackedGradients) {
    struct Case {
        int B, T, NH, NKV, HS;
        float dropout;
    };
    for (auto [B, T, NH, NKV, HS, p] : {Case{2, 37, 4, 2, 64, 0.2f},
                                        {1, 130, 1, 1, 64, 0},
                                        {2, 70, 2, 2, 20, 0},
                                        {1, 131, 1, 1, 128, 0},
                                        {1, 67, 2, 1, 256, 0},
                                        {3, 5, 3, 3, 7, 0}}) {
        SCOPED_TRACE(::testing::Message() << "B=" << B << " T=" << T << " HS=" << HS);
        const int C = NH * HS, KC = NKV * HS, row = C + 2 * KC, N = B * T;
        const AttentionShape s{B, T, T, NH, NKV, HS, row, row, C, int64_t(T) * row, int64_t(T) * row, int64_t(T) * C};
        const auto qkv = random_vector<bf16>(size_t(N) * size_t(row), 1), dout = random_vector<bf16>(size_t(N * C), 2);
        reserve_workspace(attention_backward_workspace_bytes(s));
        std::vector<float> first;
        for_each_schedule([&, NH = NH, HS = HS, p = p] {
            StepState state;
            state.seed = 7;
            DeviceVector<StepState> device_state({state});
            const Dropout dropout{p, 5, device_state.get()};
            DeviceVector<bf16> x(qkv), d(dout), out(dout.size()), dx(qkv.size());
            DeviceVector<float> lse(size_t(N * NH)), parts(size_t(attention_sum_parts(s) * row));
            const bf16 *q = x.get(), *k = q + C, *v = k + KC;
            attention_own_forward(out.get(), lse.get(), q, k, v, s, nullptr, dropout, current_stream());
            ColumnSums<bf16> sums{parts.get()};
            attention_own_backward(dx.get(), dx.get() + C, dx.get() + C + KC, d.get(), q, k, v, out.get(), lse.get(), s,
                                   nullptr, dropout, &sums, current_stream());
            auto again = sums;
            expect_column_sums(sums, dx, N, row);
            auto got = bias_gradient_by(again, static_cast<const bf16*>(dx.get()), N, row);
            if (first.empty()) first = got;
            EXPECT_EQ(got, first);
        });
    }
}
TEST(CudaAttentionColumnSums, AreLeftOnlyWhereTheLinearLayerReadsOneArray) {
    Problem<bf16> p(1, 20, 20, 1, 1, 64, 8);
    reserve_workspace(attention_backward_workspace_bytes(p.s));
    DeviceVector<bf16> q(p.q), k(p.k), v(p.v), dout(p.dout), dq(p.q), dk(p.k), dv(p.v);
    DeviceVector<float> lse(std::vector<float>(20, 1)), parts(std::vector<float>(3 * 64));
    ColumnSums<bf16> sums{parts.get()};
    attention_own_backward(dq.get(), dk.get(), dv.get(), dout.get(), q.get(), k.get(), v.get(), dout.get(), lse.get(),
                           p.s, nullptr, Dropout{}, &sums, current_stream());
    EXPECT_EQ(sums.of, nullptr);
}

TYPED_TEST(CudaAttention, Documents) {
    for (int HS : {64, 128}) {
        Problem<TypeParam> p(1, 150, 150, 1, 1, HS), q(2, 80, 80, 2, 1, HS);
        p.add_documents(), q.add_documents();
        expect_equals_cpu(p);
        expect_equals_cpu(q, true, once);
    }
}

// T % 4 != 0: neighbouring keys are in two of Philox's groups of four.
TYPED_TEST(CudaAttention, Dropout) {
    for (auto [B, T, HS] : std::vector<std::array<int, 3>>{{1, 72, 64}, {1, 135, 64}, {2, 39, 128}}) {
        Problem<TypeParam> p(B, T, T, B, 1, HS);
        p.dropout = 0.3f;
        expect_equals_cpu(p, true, once);
        if (T == 39) p.add_documents(), expect_equals_cpu(p, true, once);
    }
}

TYPED_TEST(CudaAttention, FewerQueriesThanKeys) {
    for (auto [Tq, Tk] : std::vector<std::pair<int, int>>{{1, 5}, {3, 70}, {33, 140}, {130, 200}}) {
        Problem<TypeParam> p(2, Tq, Tk, 2, 1, 64);
        expect_equals_cpu(p, false, once);
        p.add_documents(), p.dropout = 0.2f;
        expect_equals_cpu(p, false, once);
    }
}

// Scores of some thousands: the probabilities are 0 and 1, and nothing overflows on the way to them. In the backward
// pass p = exp(s - lse) has the rounding error of lse.
TYPED_TEST(CudaAttention, LargeScores) {
    Problem<TypeParam> p(1, 150, 150, 1, 1, 64, 0, 25);
    p.tolerance = std::max(p.tolerance, 1e-3);
    expect_equals_cpu(p, true, once);
}

// The heads that share the cache take their turns before the next ones start; every tile is still done once.
TYPED_TEST(CudaAttention, MoreHeadsThanTheCacheHolds) {
    int l2_bytes = std::exchange(device().l2_bytes, 4 * 150 * 16 * static_cast<int>(sizeof(TypeParam)) * 2);
    expect_equals_cpu(Problem<TypeParam>(2, 150, 150, 3, 3, 16), true, once);
    device().l2_bytes = l2_bytes;
}

}  // namespace
