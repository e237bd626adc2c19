// Attention: with documents, grouped queries, dropout, gaps between rows, and a cache.
#include "llmc/plain/step.h"
#include "llmc/cpu/attention.h"
#include "test/layer_test.h"

namespace {

// Every array of one problem. Positions are `gap` elements further apart than they need be, samples `gap` more.
struct Problem {
    AttentionShape s;
    std::vector<int> doc_start;
    Dropout dropout;
    StepState state;
    Doubles q, k, v, dout;

    Problem(int B, int Tq, int Tk, int NH, int NKV, int HS, int gap = 0, double size = 1) {
        int64_t q_row = NH * HS + gap, kv_row = NKV * HS + 2 * gap, out_row = NH * HS + 3 * gap;
        s = {B, Tq, Tk, NH, NKV, HS, q_row, kv_row, out_row, Tq * q_row + gap, Tk * kv_row + gap, Tq * out_row + gap};
        std::mt19937 random(42);
        std::normal_distribution<double> normal(0, size);
        auto fill = [&](Doubles& x, int64_t n) {
            x.resize(size_t(n));
            for (double& e : x) e = double(float(bf16(float(normal(random)))));  // exact in every storage type
        };
        fill(q, B * s.q_batch), fill(k, B * s.kv_batch), fill(v, B * s.kv_batch), fill(dout, B * s.out_batch);
        state.seed = 7, state.step = 3;
    }
    // Documents of uneven lengths, other ones in each sample.
    void add_documents() {
        doc_start.assign(size_t(s.B) * s.Tk, 0);
        for (int b = 0; b < s.B; b++)
            for (int t = 1; t < s.Tk; t++) {
                bool boundary = (t * 7 + b * 3) % 29 == 0 || t == 70 + b;
                doc_start[size_t(b * s.Tk + t)] = boundary ? t : doc_start[size_t(b * s.Tk + t - 1)];
            }
    }
    void add_dropout(float p) {
        state.first_sample = 5;
        dropout = {p, 8, &state};
    }
    const int* starts() const { return doc_start.empty() ? nullptr : doc_start.data(); }
};

struct Results {
    Doubles out, lse, dq, dk, dv;
};

constexpr double kUntouched = -77;

// forward(out, lse, q, k, v) and backward(dq, dk, dv, dout, q, k, v, out, lse) on the problem's arrays, stored as X.
template <typename X, typename Forward, typename Backward>
Results run_with(const Problem& p, bool with_backward, Forward forward, Backward backward) {
    auto q = narrow<X>(p.q), k = narrow<X>(p.k), v = narrow<X>(p.v), dout = narrow<X>(p.dout);
    const X blank = X(float(kUntouched));
    std::vector<X> out(dout.size(), blank), dq(q.size(), blank), dk(k.size(), blank), dv(v.size(), blank);
    std::vector<acc_t<X>> lse(size_t(p.s.B) * p.s.NH * p.s.Tq);
    forward(out.data(), lse.data(), q.data(), k.data(), v.data());
    if (with_backward)
        backward(dq.data(), dk.data(), dv.data(), dout.data(), q.data(), k.data(), v.data(), out.data(), lse.data());
    return {widen(out), widen(lse), widen(dq), widen(dk), widen(dv)};
}
// By the CPU's layer. E: what its tile products multiply.
template <typename X, typename E = attention_detail::operand_t<X>>
Results run(const Problem& p, bool backward = true) {
    return run_with<X>(
        p, backward, [&](auto... args) { attention_detail::forward<X, E>(args..., p.s, p.starts(), p.dropout); },
        [&](auto... args) { attention_detail::backward<X, E>(args..., p.s, p.starts(), p.dropout); });
}
// By the plain layer.
template <typename X = double>
Results plain(const Problem& p, bool backward = true) {
    return run_with<X>(
        p, backward, [&](auto... args) { attention_forward<X>(args..., p.s, p.starts(), p.dropout, Plain{}); },
        [&](auto... args) { attention_backward<X>(args..., p.s, p.starts(), p.dropout, Plain{}); });
}

double error(const Doubles& got, const Doubles& want) {
    EXPECT_EQ(got.size(), want.size());
    double difference = 0, size = 0;
    bool gap_written = false;
    for (size_t i = 0; i < got.size(); i++) {
        difference += (got[i] - want[i]) * (got[i] - want[i]);
        size += want[i] == kUntouched ? 0 : want[i] * want[i];
        gap_written |= want[i] == kUntouched && got[i] != kUntouched;
    }
    EXPECT_FALSE(gap_written);
    return std::sqrt(difference) / (std::sqrt(size) + 1e-30);
}

void expect_close(const Results& got, const Results& want, double tolerance, bool backward = true) {
    EXPECT_LT(error(got.out, want.out), tolerance) << "out";
    EXPECT_LT(error(got.lse, want.lse), tolerance) << "lse";
    if (!backward) return;
    // With one key the gradient of the scores is 0, and has no relative error.
    bool alone = true;
    for (double x : want.dq) alone &= x == kUntouched || std::abs(x) < 1e-12;
    if (!alone) {
        EXPECT_LT(error(got.dq, want.dq), tolerance) << "dq";
        EXPECT_LT(error(got.dk, want.dk), tolerance) << "dk";
    }
    EXPECT_LT(error(got.dv, want.dv), tolerance) << "dv";
}

void expect_all_types(const Problem& p, const char* name, double half = 1.5e-2) {
    SCOPED_TRACE(testing::Message() << name << ", B " << p.s.B << ", Tq " << p.s.Tq << ", Tk " << p.s.Tk << ", NH "
                                    << p.s.NH << ", NKV " << p.s.NKV << ", HS " << p.s.HS);
    bool backward = p.s.Tq == p.s.Tk;
    Results want = plain(p, backward);
    expect_close(plain<float>(p, backward), want, 2e-6, backward);
    expect_close(plain<bf16>(p, backward), want, half, backward);
    expect_close(run<double>(p, backward), want, 1e-13, backward);
    expect_close(run<float>(p, backward), want, 2e-6, backward);
    // All ways of multiplying bf16, whichever this CPU would choose.
    expect_close(run<bf16, float>(p, backward), want, half, backward);
    expect_close(run<bf16, bf16_pair>(p, backward), want, half, backward);
    if (amx_available() || !kCompiledForAmx) expect_close(run<bf16, amx_pair>(p, backward), want, half, backward);
}

// ---- the plain layer ----

TEST(PlainAttention, TwoTokensByHand) {
    // One head of width 1, q k v of each token side by side. Token 0 sees itself alone; token 1 has scores 2 and 4.
    double qkv[] = {3, 1, 10, 2, 2, 20}, out[2], lse[2];
    attention_forward(out, lse, qkv, qkv + 1, qkv + 2, packed_qkv_shape(1, 2, 1, 1), nullptr, kNoDropout, Plain{});
    EXPECT_NEAR(out[0], 10, 1e-14);
    EXPECT_NEAR(out[1], (10 + 20 * std::exp(2)) / (1 + std::exp(2)), 1e-13);
    EXPECT_NEAR(lse[0], 3, 1e-14);
    EXPECT_NEAR(lse[1], std::log(std::exp(2) + std::exp(4)), 1e-14);
}

TEST(PlainAttention, BackwardIsTheDerivativeOfForward) {
    for (int NKV : {4, 2, 1})
        for (bool everything : {false, true}) {
            SCOPED_TRACE(testing::Message() << "NKV " << NKV << ", documents and dropout " << everything);
            Problem p(2, 17, 17, 4, NKV, 6, 3);
            if (everything) p.add_documents(), p.add_dropout(0.2f);
            auto f = [&] {
                Doubles out = plain(p, false).out;
                double sum = 0;
                for (size_t i = 0; i < out.size(); i++) sum += out[i] == kUntouched ? 0 : out[i] * p.dout[i];
                return sum;
            };
            Results r = plain(p);
            for (auto [x, gradient] : {std::pair(&p.q, &r.dq), {&p.k, &r.dk}, {&p.v, &r.dv}}) {
                for (double& g : *gradient) g = g == kUntouched ? 0 : g;  // the gaps have none
                EXPECT_LT(gradient_error(x->data(), *gradient, f, 1, 12), 1e-8);
            }
        }
}

// ---- the CPU's layer against it ----

TEST(Attention, AgreesWithPlainAtOddSizes) {
    for (int T : {1, 7, 65, 130})
        for (int HS : {8, 64, 80, 33}) expect_all_types(Problem(2, T, T, 4, 4, HS), "all heads");
}

TEST(Attention, GroupedQueriesDocumentsDropoutAndGaps) {
    for (int T : {1, 7, 65, 130}) {
        int HS = T == 65 ? 33 : 64;
        expect_all_types(Problem(2, T, T, 4, 2, HS, 5), "grouped queries, gaps");
        expect_all_types(Problem(1, T, T, 3, 1, HS), "one key head");
        Problem documents(2, T, T, 2, 2, HS, 3);
        documents.add_documents();
        expect_all_types(documents, "documents");
        Problem dropped(2, T, T, 4, 2, HS);
        dropped.add_dropout(0.3f);
        expect_all_types(dropped, "dropout");
        dropped.add_documents();
        expect_all_types(dropped, "dropout and documents");
    }
}

TEST(Attention, PackedQkv) {
    const int B = 2, T = 70, NH = 3, HS = 16, C = NH * HS;
    Problem p(B, T, T, NH, NH, HS);
    std::vector<float> qkv(size_t(B) * T * 3 * C), dqkv(qkv.size()), out(size_t(B) * T * C), lse(size_t(B) * NH * T);
    std::vector<float> dout(p.dout.begin(), p.dout.end());
    for (int row = 0; row < B * T; row++)
        for (int c = 0; c < C; c++) {
            qkv[size_t(row * 3 * C + c)] = float(p.q[size_t(row * C + c)]);
            qkv[size_t(row * 3 * C + C + c)] = float(p.k[size_t(row * C + c)]);
            qkv[size_t(row * 3 * C + 2 * C + c)] = float(p.v[size_t(row * C + c)]);
        }
    AttentionShape s = packed_qkv_shape(B, T, C, NH);
    attention_forward(out.data(), lse.data(), qkv.data(), qkv.data() + C, qkv.data() + 2 * C, s, nullptr, {});
    attention_backward(dqkv.data(), dqkv.data() + C, dqkv.data() + 2 * C, dout.data(), qkv.data(), qkv.data() + C,
                       qkv.data() + 2 * C, out.data(), lse.data(), s, nullptr, {});
    Results want = run<float>(p);
    EXPECT_EQ(Doubles(out.begin(), out.end()), want.out);
    for (int row = 0; row < B * T; row++)
        for (int c = 0; c < C; c++) {
            ASSERT_EQ(dqkv[size_t(row * 3 * C + c)], want.dq[size_t(row * C + c)]);
            ASSERT_EQ(dqkv[size_t(row * 3 * C + C + c)], want.dk[size_t(row * C + c)]);
            ASSERT_EQ(dqkv[size_t(row * 3 * C + 2 * C + c)], want.dv[size_t(row * C + c)]);
        }
}

template <typename X>
void expect_same_bits_for_any_threads() {
#ifdef _OPENMP
    Problem p(2, 200, 200, 3, 3, 64);
    p.add_dropout(0.1f);
    Problem decode(1, 1, 700, 4, 2, 64);
    Problem one_head(1, 300, 300, 2, 1, 16);  // fewer heads than threads: they are split
    one_head.add_documents();
    one_head.add_dropout(0.1f);
    expect_close(run<double>(one_head), plain(one_head), 1e-13);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    Results one = run<X>(p), one_decode = run<X>(decode, false), whole_head = run<X>(one_head);
    auto expect_same = [](const Results& a, const Results& b) {
        EXPECT_EQ(a.out, b.out);
        EXPECT_EQ(a.lse, b.lse);
        EXPECT_EQ(a.dq, b.dq);
        EXPECT_EQ(a.dk, b.dk);
        EXPECT_EQ(a.dv, b.dv);
    };
    for (int n : {2, 3, 5}) {
        omp_set_num_threads(n);
        expect_same(one, run<X>(p));
        expect_same(whole_head, run<X>(one_head));
        EXPECT_EQ(one_decode.out, run<X>(decode, false).out);
        expect_close(run<double>(one_head), plain(one_head), 1e-13);
    }
    omp_set_num_threads(threads);
#else
    GTEST_SKIP() << "built without OpenMP";
#endif
}
TEST(Attention, SameBitsForAnyNumberOfThreads) {
    expect_same_bits_for_any_threads<float>();
    expect_same_bits_for_any_threads<bf16>();
}

TEST(Attention, FewQueriesToManyKeysAgreeWithPlain) {
    for (int Tk : {1, 5, 64, 65, 300, 530})
        for (int Tq : {1, 2, 3, 4, 5, 70}) {
            if (Tq > Tk) continue;
            Problem p(2, Tq, Tk, 4, 2, Tk == 65 ? 33 : 64, Tk == 5 ? 3 : 0);
            expect_all_types(p, "decode");
            p.add_documents();
            expect_all_types(p, "decode, documents");
        }
    Problem p(2, 3, 100, 4, 2, 16);
    p.add_dropout(0.5f);
    expect_all_types(p, "decode, dropout");
}

// A cache with room for more positions than it holds: the queries of the full pass, its last rows.
TEST(Attention, DecodeGivesTheRowsOfTheFullPass) {
    Problem full(2, 131, 131, 4, 2, 64);
    Results want = run<float>(full, false);
    for (int T : {1, 2, 60, 131})
        for (int Tq = 1; Tq <= std::min(T, 5); Tq++) {
            Problem part = full;
            part.s.Tq = Tq, part.s.Tk = T;
            part.s.kv_batch = full.s.kv_batch, part.s.q_batch = Tq * full.s.q_row,
            part.s.out_batch = Tq * full.s.out_row;
            part.q.clear();
            for (int b = 0; b < 2; b++) {
                auto begin = full.q.begin() + b * full.s.q_batch + (T - Tq) * full.s.q_row;
                part.q.insert(part.q.end(), begin, begin + Tq * full.s.q_row);
            }
            part.dout.resize(size_t(2 * part.s.out_batch));
            Results got = run<float>(part, false);
            for (int b = 0; b < 2; b++)
                for (int64_t e = 0; e < part.s.out_batch; e++)
                    ASSERT_NEAR(got.out[size_t(b * part.s.out_batch + e)],
                                want.out[size_t(b * full.s.out_batch + (T - Tq) * full.s.out_row + e)], 2e-6);
        }
}

// The layer of sampling: queries, packed with their keys and values, of some of the texts of a cache; a text's own are
// among its keys, and what lies beyond them must not matter.
template <typename X>
void check_decode(double tolerance) {
    const int capacity = 90, NH = 3, HS = 10, C = NH * HS;
    const std::vector<int> texts{3, 0, 2};
    for (int Tq : {1, 4, 7}) {
        SCOPED_TRACE(testing::Message() << "Tq " << Tq);
        const AttentionShape s{3, Tq, capacity, NH, NH, HS, 3 * C, C, C, 3 * C * Tq, C * capacity, C * Tq};
        std::vector<int> positions;
        for (int length : {Tq, 65, capacity})
            for (int t = 0; t < Tq; t++) positions.push_back(length - Tq + t);
        auto qkv = random_values<X>(3 * Tq * 3 * C, 3), out = unwritten<X>(3 * Tq * C);
        auto k = unwritten<X>(4 * capacity * C), v = k;
        for (int b = 0; b < 3; b++) {
            const int64_t at = texts[size_t(b)] * s.kv_batch, n = (positions[size_t(b * Tq)]) * C;
            std::ranges::copy(random_values<X>(n, 10 + uint64_t(b)), k.begin() + at);
            std::ranges::copy(random_values<X>(n, 20 + uint64_t(b)), v.begin() + at);
        }
        append_to_cache(k.data(), v.data(), qkv.data(), 3, Tq, C, capacity, texts.data(), positions.data(), Plain{});
        attention_decode(out.data(), qkv.data(), k.data(), v.data(), s, texts.data(), positions.data());
        Doubles want(out.size()), wide = widen(qkv), wide_k = widen(k), wide_v = widen(v);
        attention_decode(want.data(), wide.data(), wide_k.data(), wide_v.data(), s, texts.data(), positions.data(),
                         Plain{});
        for (double x : want) ASSERT_TRUE(std::isfinite(x));
        EXPECT_LT(relative_error(widen(out), want), tolerance);
    }
}
TEST(Attention, DecodeAgreesWithPlain) {
    check_decode<double>(1e-13);
    check_decode<float>(2e-6);
    check_decode<bf16>(1.5e-2);
}

TEST(Attention, LargeLogitsDoNotOverflow) {
    for (int Tq : {1, 80}) {
        Problem p(1, Tq, 80, 2, 2, 64, 0, 40);  // scores of several thousand
        Results want = plain(p, Tq == 80);
        Results got = run<float>(p, Tq == 80);
        EXPECT_LT(error(got.out, want.out), 1e-3);
        EXPECT_LT(error(got.lse, want.lse), 1e-5);
        if (Tq == 80) {
            EXPECT_LT(error(got.dv, want.dv), 1e-3);
        }
        for (const Doubles* x : {&got.dq, &got.dk, &got.dv})
            for (double e : *x) ASSERT_TRUE(std::isfinite(e));
    }
}

// Keys that a query may not see have no influence at all, not even a tiny one.
TEST(Attention, MaskedKeysContributeExactlyNothing) {
    const int T = 100;
    for (int Tq : {T, 2}) {
        Problem p(1, Tq, T, 2, 2, 64);
        p.doc_start.assign(T, 0);
        for (int t = 50; t < T; t++) p.doc_start[size_t(t)] = 50;
        Results before = run<float>(p, Tq == T);
        for (int j = 0; j < 50; j++)  // keys of the first document: very large scores with the second's queries
            for (int c = 0; c < 128; c++) p.k[size_t(j * 128 + c)] = 1000, p.v[size_t(j * 128 + c)] = 1e30;
        Results after = run<float>(p, Tq == T);
        for (size_t i = size_t(Tq == T ? 50 * 128 : 0); i < before.out.size(); i++)
            ASSERT_EQ(before.out[i], after.out[i]);
        if (Tq < T) continue;
        for (size_t i = 50 * 128; i < before.dk.size(); i++) {
            ASSERT_EQ(before.dq[i], after.dq[i]);
            ASSERT_EQ(before.dk[i], after.dk[i]);
            ASSERT_EQ(before.dv[i], after.dv[i]);
        }
    }
}

TEST(Attention, WithoutLogSumExp) {
    Problem p(1, 20, 20, 2, 2, 16);
    std::vector<float> q(p.q.begin(), p.q.end()), k(p.k.begin(), p.k.end()), v(p.v.begin(), p.v.end()), out(q.size());
    attention_forward<float>(out.data(), nullptr, q.data(), k.data(), v.data(), p.s, nullptr, {});
    EXPECT_EQ(Doubles(out.begin(), out.end()), run<float>(p, false).out);
    p.s.Tq = 1;
    attention_forward<float>(out.data(), nullptr, q.data(), k.data(), v.data(), p.s, nullptr, {});
}

TEST(Attention, RefusesShapesThatMakeNoSense) {
    Problem p(1, 4, 4, 4, 2, 8);
    std::vector<float> x(1000), lse(100);
    auto forward = [&] {
        attention_forward<float>(x.data(), lse.data(), x.data(), x.data(), x.data(), p.s, nullptr, {});
    };
    auto backward = [&] {
        attention_backward<float>(x.data(), x.data(), x.data(), x.data(), x.data(), x.data(), x.data(), x.data(),
                                  lse.data(), p.s, nullptr, {});
    };
    p.s.Tk = 3;
    EXPECT_THROW(forward(), std::logic_error);
    p.s.Tk = 5;
    EXPECT_THROW(backward(), std::logic_error);
    p.s.Tk = 4, p.s.NKV = 3;
    EXPECT_THROW(forward(), std::logic_error);
}

}  // namespace
