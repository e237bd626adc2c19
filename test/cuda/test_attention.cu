// llmc/attention.cuh, both storage types, against llmc/cpu/attention.h.
#include "llmc/attention.cuh"
#include "test/cuda/device_test.h"

namespace {

template <typename X>
class CudaAttention : public ::testing::Test {};
TYPED_TEST_SUITE(CudaAttention, StorageTypes);

// Probabilities are rounded to bf16 before tensor cores multiply them, on the CPU only where it multiplies bf16 too.
template <typename X>
constexpr double tolerance = std::is_same_v<X, bf16> ? 1e-2 : 2e-6;

// Every array of one problem. Positions are `gap` elements further apart than they need be, samples `gap` more.
template <typename X>
struct Problem {
    AttentionShape s;
    std::vector<X> q, k, v, dout;
    std::vector<int> doc_start;
    float dropout = 0;
    StepState state;

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

// CPU and CUDA agree; the gaps between rows stay as they are; all schedules give the same bits.
template <typename X>
void expect_equals_cpu(const Problem<X>& p, bool backward = true, double slack = 1) {
    const AttentionShape& s = p.s;
    SCOPED_TRACE(::testing::Message() << "B=" << s.B << " Tq=" << s.Tq << " Tk=" << s.Tk << " NH=" << s.NH
                                      << " NKV=" << s.NKV << " HS=" << s.HS);
    const int* starts = p.doc_start.empty() ? nullptr : p.doc_start.data();
    Results<X> want(p), first(p);
    Dropout dropout{p.dropout, 5, &p.state};
    cpu::attention_forward(want.out.data(), want.lse.data(), p.q.data(), p.k.data(), p.v.data(), s, starts, dropout);
    if (backward)
        cpu::attention_backward(want.dq.data(), want.dk.data(), want.dv.data(), p.dout.data(), p.q.data(), p.k.data(),
                                p.v.data(), want.out.data(), want.lse.data(), s, starts, dropout);
    reserve_workspace(std::max(attention_forward_workspace_bytes(s), attention_backward_workspace_bytes(s)));
    bool again = false;
    for_each_schedule([&] {
        Results<X> blank(p), got(p);
        DeviceVector<StepState> state({p.state});
        DeviceVector<int> device_starts(p.doc_start);
        DeviceVector<X> q(p.q), k(p.k), v(p.v), out(blank.out);
        DeviceVector<float> lse(want.lse.size());
        const int* on_device = starts ? device_starts.get() : nullptr;
        Dropout d{p.dropout, 5, state.get()};
        attention_forward(out.get(), lse.get(), q.get(), k.get(), v.get(), s, on_device, d, current_stream());
        got.out = out.host(), got.lse = lse.host();
        EXPECT_LT(relative_error(got.out, want.out), slack * tolerance<X>);
        EXPECT_LT(relative_error(got.lse, want.lse), 1e-5);
        if (backward) {
            DeviceVector<X> dout(p.dout), dq(blank.dq), dk(blank.dk), dv(blank.dv);
            out.set(want.out), lse.set(want.lse);
            attention_backward(dq.get(), dk.get(), dv.get(), dout.get(), q.get(), k.get(), v.get(), out.get(),
                               lse.get(), s, on_device, d, current_stream());
            got.dq = dq.host(), got.dk = dk.host(), got.dv = dv.host();
            EXPECT_LT(relative_error(got.dq, want.dq), slack * tolerance<X>) << "dq";
            EXPECT_LT(relative_error(got.dk, want.dk), slack * tolerance<X>) << "dk";
            EXPECT_LT(relative_error(got.dv, want.dv), slack * tolerance<X>) << "dv";
        }
        auto same = [](const auto& a, const auto& b) {
            return std::memcmp(a.data(), b.data(), a.size() * sizeof(a[0])) == 0;
        };
        if (again)
            EXPECT_TRUE(same(got.out, first.out) && same(got.lse, first.lse) && same(got.dq, first.dq) &&
                        same(got.dk, first.dk) && same(got.dv, first.dv));
        first = got, again = true;
    });
}

TYPED_TEST(CudaAttention, LengthsAroundTiles) {
    for (int T : {1, 2, 15, 16, 17, 33, 64, 65, 129, 200}) expect_equals_cpu(Problem<TypeParam>(1, T, T, 2, 2, 64));
}

}  // namespace
