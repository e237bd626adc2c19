// Attention on the CPU against a naive one in double, and against itself.
#include <gtest/gtest.h>
#include <functional>
#include <numeric>
#include <random>

#include "llmc/base/error.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/attention.h"

namespace {

using Doubles = std::vector<double>;

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

// E: what the tile products multiply.
template <typename X, typename E = attention_detail::operand_t<X>>
Results run(const Problem& p, bool backward = true) {
    auto from = [](const auto& x) { return Doubles(x.begin(), x.end()); };
    std::vector<X> q, k, v, dout;
    for (double e : p.q) q.push_back(X(acc_t<X>(e)));
    for (double e : p.k) k.push_back(X(acc_t<X>(e)));
    for (double e : p.v) v.push_back(X(acc_t<X>(e)));
    for (double e : p.dout) dout.push_back(X(acc_t<X>(e)));
    X blank = X(acc_t<X>(kUntouched));
    std::vector<X> out(dout.size(), blank), dq(q.size(), blank), dk(k.size(), blank), dv(v.size(), blank);
    std::vector<acc_t<X>> lse(size_t(p.s.B) * p.s.NH * p.s.Tq);
    attention_detail::forward<X, E>(out.data(), lse.data(), q.data(), k.data(), v.data(), p.s, p.starts(), p.dropout);
    if (backward)
        attention_detail::backward<X, E>(dq.data(), dk.data(), dv.data(), dout.data(), q.data(), k.data(), v.data(),
                                         out.data(), lse.data(), p.s, p.starts(), p.dropout);
    return {from(out), from(lse), from(dq), from(dk), from(dv)};
}

// The definition, with T x T probabilities.
Results naive(const Problem& p, bool backward = true) {
    const AttentionShape& s = p.s;
    Results r{Doubles(p.dout.size(), kUntouched), Doubles(size_t(s.B) * s.NH * s.Tq), Doubles(p.q.size(), kUntouched),
              Doubles(p.k.size(), kUntouched), Doubles(p.v.size(), kUntouched)};
    double scale = 1 / std::sqrt(double(s.HS));
    auto clear = [&](Doubles& x, int64_t batch, int64_t row, int rows, int n) {
        for (int b = 0; b < s.B; b++)
            for (int t = 0; t < rows; t++) std::fill_n(x.begin() + b * batch + t * row, n, 0.0);
    };
    clear(r.out, s.out_batch, s.out_row, s.Tq, s.NH * s.HS);
    if (backward) {
        clear(r.dq, s.q_batch, s.q_row, s.Tq, s.NH * s.HS);
        clear(r.dk, s.kv_batch, s.kv_row, s.Tk, s.NKV * s.HS);
        clear(r.dv, s.kv_batch, s.kv_row, s.Tk, s.NKV * s.HS);
    }
    for (int b = 0; b < s.B; b++)
        for (int h = 0; h < s.NH; h++)
            for (int i = 0; i < s.Tq; i++) {
                int position = i + s.Tk - s.Tq, kv_head = h * s.NKV / s.NH;
                int first = p.doc_start.empty() ? 0 : p.doc_start[size_t(b * s.Tk + position)],
                    n = position - first + 1;
                int64_t qi = b * s.q_batch + i * s.q_row + h * s.HS, oi = b * s.out_batch + i * s.out_row + h * s.HS;
                auto kv = [&](int j) { return b * s.kv_batch + (first + j) * s.kv_row + kv_head * s.HS; };
                Doubles prob(static_cast<size_t>(n)), dp(static_cast<size_t>(n));
                std::vector<float> mask(size_t(n), 1.0f);
                if (p.dropout.active())
                    for (int j = 0; j < n; j++)  // one by one: the mask is a function of the element alone
                        dropout_scales(&mask[size_t(j)], p.dropout, b,
                                       (int64_t(h) * s.Tk + position) * s.Tk + first + j, 1);
                double top = -1e300, sum = 0, D = 0;
                for (int j = 0; j < n; j++) {
                    double dot = 0;
                    for (int d = 0; d < s.HS; d++) dot += p.q[size_t(qi + d)] * p.k[size_t(kv(j) + d)];
                    prob[size_t(j)] = dot * scale;
                    top = std::max(top, dot * scale);
                }
                for (double& x : prob) sum += x = std::exp(x - top);
                r.lse[size_t((b * s.NH + h) * s.Tq + i)] = top + std::log(sum);
                for (double& x : prob) x /= sum;
                for (int j = 0; j < n; j++)
                    for (int d = 0; d < s.HS; d++)
                        r.out[size_t(oi + d)] += mask[size_t(j)] * prob[size_t(j)] * p.v[size_t(kv(j) + d)];
                if (!backward) continue;
                for (int j = 0; j < n; j++) {
                    for (int d = 0; d < s.HS; d++) {
                        dp[size_t(j)] += mask[size_t(j)] * p.dout[size_t(oi + d)] * p.v[size_t(kv(j) + d)];
                        r.dv[size_t(kv(j) + d)] += mask[size_t(j)] * prob[size_t(j)] * p.dout[size_t(oi + d)];
                    }
                    D += dp[size_t(j)] * prob[size_t(j)];
                }
                for (int j = 0; j < n; j++) {
                    double ds = prob[size_t(j)] * (dp[size_t(j)] - D) * scale;
                    for (int d = 0; d < s.HS; d++) {
                        r.dq[size_t(qi + d)] += ds * p.k[size_t(kv(j) + d)];
                        r.dk[size_t(kv(j) + d)] += ds * p.q[size_t(qi + d)];
                    }
                }
            }
    return r;
}

double relative_error(const Doubles& got, const Doubles& want) {
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

double dot(const Doubles& a, const Doubles& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }

void expect_close(const Results& got, const Results& want, double tolerance, bool backward = true) {
    EXPECT_LT(relative_error(got.out, want.out), tolerance);
    EXPECT_LT(relative_error(got.lse, want.lse), tolerance);
    if (!backward) return;
    // With one key the gradient of the scores is 0, and has no relative error.
    bool alone = true;
    for (double x : want.dq) alone &= x == kUntouched || std::abs(x) < 1e-12;
    if (!alone) {
        EXPECT_LT(relative_error(got.dq, want.dq), tolerance);
        EXPECT_LT(relative_error(got.dk, want.dk), tolerance);
    }
    EXPECT_LT(relative_error(got.dv, want.dv), tolerance);
}

void expect_all_types(const Problem& p, const char* name, double bf16_tolerance = 1.5e-2) {
    SCOPED_TRACE(strf("%s B=%d Tq=%d Tk=%d NH=%d NKV=%d HS=%d", name, p.s.B, p.s.Tq, p.s.Tk, p.s.NH, p.s.NKV, p.s.HS));
    bool backward = p.s.Tq == p.s.Tk;
    Results want = naive(p, backward);
    expect_close(run<double>(p, backward), want, 1e-13, backward);
    expect_close(run<float>(p, backward), want, 2e-6, backward);
    // Both ways of multiplying bf16, whichever this CPU would choose.
    expect_close(run<bf16, float>(p, backward), want, bf16_tolerance, backward);
    expect_close(run<bf16, bf16_pair>(p, backward), want, bf16_tolerance, backward);
}

TEST(Attention, MatchesDefinitionAtOddSizes) {
    for (int T : {1, 7, 65, 130})
        for (int HS : {8, 64, 80, 33}) expect_all_types(Problem(2, T, T, 4, 4, HS), "plain");
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

TEST(Attention, PairProductsAgreeWithPortableOnes) {
    constexpr int n = kLanes<float>;
    std::mt19937 random(3);
    std::normal_distribution<float> normal;
    Vector<float> sum;
    Vector<bf16_pair> b;
    bf16_pair a = pair_of(bf16(normal(random)), bf16(normal(random)));
    for (int i = 0; i < n; i++) sum[i] = normal(random), b[i] = pair_of(bf16(normal(random)), bf16(normal(random)));
    Vector<float> fast = multiply_add(sum, a, b), portable = multiply_add_portable(sum, a, b);
    for (int i = 0; i < n; i++) {
        float want = sum[i] + std::bit_cast<float>(a << 16) * std::bit_cast<float>(b[i] << 16) +
                     std::bit_cast<float>(a & 0xffff0000u) * std::bit_cast<float>(b[i] & 0xffff0000u);
        EXPECT_NEAR(fast[i], want, 1e-6);
        EXPECT_NEAR(portable[i], want, 1e-6);
    }
}

// The directional derivative of f = sum(out * dout) along a random direction of each input, by central differences.
TEST(Attention, BackwardIsTheDerivativeOfForward) {
    for (bool everything : {false, true}) {
        Problem p(2, 67, 67, 4, everything ? 2 : 4, 10);
        if (everything) p.add_documents(), p.add_dropout(0.2f);
        Results r = run<double>(p);
        std::mt19937 random(1);
        std::normal_distribution<double> normal;
        auto check = [&](Doubles Problem::*input, const Doubles& gradient, const char* name) {
            for (int trial = 0; trial < 3; trial++) {
                Problem plus = p, minus = p;
                Doubles direction(gradient.size());
                // along the gradient first: the error in its norm; then anywhere
                for (size_t i = 0; i < direction.size(); i++) direction[i] = trial == 0 ? gradient[i] : normal(random);
                double norm = std::sqrt(dot(direction, direction)), step = 1e-3 / norm;
                for (size_t i = 0; i < direction.size(); i++) {
                    (plus.*input)[i] += step * direction[i];
                    (minus.*input)[i] -= step * direction[i];
                }
                plus.dropout.state = &plus.state, minus.dropout.state = &minus.state;
                if (!everything) plus.dropout = minus.dropout = {};
                double numeric =
                    (dot(run<double>(plus, false).out, p.dout) - dot(run<double>(minus, false).out, p.dout)) / 2e-3;
                double analytic = dot(gradient, direction) / norm;
                EXPECT_LT(std::abs(numeric - analytic), 1e-6 * std::sqrt(dot(gradient, gradient)))
                    << name << " trial " << trial;
            }
        };
        check(&Problem::q, r.dq, "dq");
        check(&Problem::k, r.dk, "dk");
        check(&Problem::v, r.dv, "dv");
    }
}

template <typename X>
void expect_same_bits_for_any_threads() {
#ifdef _OPENMP
    Problem p(2, 200, 200, 3, 3, 64);
    p.add_dropout(0.1f);
    Problem decode(1, 1, 700, 4, 2, 64);
    Problem one_head(1, 300, 300, 1, 1, 16);  // fewer heads than threads: they are split
    expect_close(run<double>(one_head), naive(one_head), 1e-13);
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    Results one = run<X>(p), one_decode = run<X>(decode, false);
    for (int n : {2, 3}) {
        omp_set_num_threads(n);
        Results many = run<X>(p);
        EXPECT_EQ(one.out, many.out);
        EXPECT_EQ(one.lse, many.lse);
        EXPECT_EQ(one.dq, many.dq);
        EXPECT_EQ(one.dk, many.dk);
        EXPECT_EQ(one.dv, many.dv);
        EXPECT_EQ(one_decode.out, run<X>(decode, false).out);
        expect_close(run<double>(one_head), naive(one_head), 1e-13);
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

TEST(Attention, DecodeMatchesDefinition) {
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

TEST(Attention, LargeLogitsDoNotOverflow) {
    for (int Tq : {1, 80}) {
        Problem p(1, Tq, 80, 2, 2, 64, 0, 40);  // scores of several thousand
        Results want = naive(p, Tq == 80);
        Results got = run<float>(p, Tq == 80);
        EXPECT_LT(relative_error(got.out, want.out), 1e-3);
        EXPECT_LT(relative_error(got.lse, want.lse), 1e-5);
        if (Tq == 80) {
            EXPECT_LT(relative_error(got.dv, want.dv), 1e-3);
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
