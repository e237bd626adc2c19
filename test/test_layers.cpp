// The CPU layers against plain double loops, at odd sizes, in float, bf16 and double.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "llmc/base/error.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/math.h"
#include "llmc/cpu/matmul.h"

namespace {

// The CPU's layers with the arguments that these tests give them.
template <typename X>
void classifier(X* logits, acc_t<X>* losses, const int* targets, const acc_t<X>* weights, double normaliser, int N,
                int V, int Vp, bool write_dlogits) {
    StepState state;
    state.loss_normaliser = static_cast<float>(normaliser);
    fused_classifier<X>(logits, losses, targets, weights, &state, N, V, Vp, write_dlogits);
}
template <typename X>
void adamw(X* p, acc_t<X>* master, acc_t<X>* m, acc_t<X>* v, const grad_t<X>* grad, int64_t n, int64_t first_index,
           const AdamWOptions& options, const StepState* state) {
    AdamWSegment segment{first_index, n, options.weight_decay};
    adamw_update<X>(p, master, m, v, grad, &segment, 1, first_index, first_index + n, options, state);
}
template <typename G>
double norm_squared(const G* grad, int64_t n) {
    double sum;
    global_norm_squared(&sum, grad, n);
    return sum;
}

template <typename X>
std::vector<X> random_vector(int64_t n, unsigned seed, double scale = 1.0) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal(0.0, scale);
    std::vector<X> v(static_cast<size_t>(n));
    for (X& x : v) x = X(static_cast<acc_t<X>>(normal(generator)));
    return v;
}

template <typename X>
constexpr double tolerance = std::is_same_v<X, double>  ? 1e-13
                             : std::is_same_v<X, float> ? 2e-6
                                                        : 6e-3;

// |got - want| / |want| over the whole tensor
template <typename X>
double relative_error(const std::vector<X>& got, const std::vector<double>& want) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < want.size(); i++) {
        double g = static_cast<double>(static_cast<acc_t<X>>(got[i]));
        difference += (g - want[i]) * (g - want[i]), norm += want[i] * want[i];
    }
    return std::sqrt(difference / (norm + 1e-300));
}

template <typename X>
double at(const std::vector<X>& v, int64_t i) {
    return static_cast<double>(static_cast<acc_t<X>>(v[static_cast<size_t>(i)]));
}

template <typename X>
struct LayersOf : testing::Test {};
using Types = testing::Types<float, bf16, double>;
TYPED_TEST_SUITE(LayersOf, Types);

double gelu_reference(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }
double gelu_gradient_reference(double x) {
    double u = std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x), t = std::tanh(u);
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

// Operands as they are stored, and their product by plain loops.
template <typename X>
struct Product {
    int M, N, K;
    bool ta, tb;
    std::vector<X> a = random_vector<X>(int64_t(M) * K, 1), b = random_vector<X>(int64_t(K) * N, 2);
    std::vector<double> sum{};

    void multiply() {
        std::vector<double> x(a.size()), y(b.size());  // x (M,K), y (N,K)
        for (int m = 0; m < M; m++)
            for (int k = 0; k < K; k++) x[size_t(m * K + k)] = at(a, ta ? k * M + m : m * K + k);
        for (int n = 0; n < N; n++)
            for (int k = 0; k < K; k++) y[size_t(n * K + k)] = at(b, tb ? n * K + k : k * N + n);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++)
                sum.push_back(std::inner_product(&x[size_t(m * K)], &x[size_t(m * K)] + K, &y[size_t(n * K)], 0.0));
    }
};

template <typename X, typename O>
void check_matmul(const Product<X>& p, bool accumulate, bool bias, Epilogue epilogue, bool with_aux) {
    SCOPED_TRACE(strf("M=%d N=%d K=%d ta=%d tb=%d accumulate=%d bias=%d epilogue=%d aux=%d", p.M, p.N, p.K, p.ta, p.tb,
                      accumulate, bias, static_cast<int>(epilogue), with_aux));
    auto bias_values = random_vector<X>(p.N, 3), aux = random_vector<X>(int64_t(p.M) * p.N, 5);
    auto out = random_vector<O>(int64_t(p.M) * p.N, 4);
    std::vector<double> want = p.sum, want_aux;
    for (size_t i = 0; i < want.size(); i++) {
        if (accumulate) want[i] += at(out, int64_t(i));
        if (bias) want[i] += at(bias_values, int64_t(i) % p.N);
    }
    want_aux = want;
    for (size_t i = 0; i < want.size(); i++) {
        if (epilogue == Epilogue::gelu) want[i] = gelu_reference(want[i]);
        if (epilogue == Epilogue::gelu_backward) want[i] *= gelu_gradient_reference(at(aux, int64_t(i)));
    }
    Matmul<X, O> args{.out = out.data(), .a = p.a.data(), .b = p.b.data(), .M = p.M, .N = p.N, .K = p.K};
    args.a_transposed = p.ta, args.b_transposed = p.tb, args.accumulate = accumulate, args.epilogue = epilogue;
    args.bias = bias ? bias_values.data() : nullptr;
    args.aux = with_aux ? aux.data() : nullptr;
    matmul(args);
    EXPECT_LT(relative_error(out, want), tolerance<X>);
    if (epilogue == Epilogue::gelu && with_aux) {
        EXPECT_LT(relative_error(aux, want_aux), tolerance<X>);
    }
}

TYPED_TEST(LayersOf, matmul_equals_naive_loops) {
    using X = TypeParam;
    // From one element to beyond every block; the last two are packed for oneDNN.
    const std::array<int, 3> sizes[] = {{1, 1, 1},      {1, 37, 65},    {2, 130, 48},  {3, 64, 7},
                                        {4, 33, 129},   {9, 31, 17},    {67, 45, 300}, {130, 259, 7},
                                        {17, 530, 515}, {515, 9, 2050}, {2050, 17, 5}};
    for (auto [M, N, K] : sizes)
        for (int transposes = 0; transposes < 4; transposes++) {
            Product<X> p{M, N, K, (transposes & 1) != 0, (transposes & 2) != 0};
            p.multiply();
            for (bool onednn : {true, false}) {
                SCOPED_TRACE(onednn ? "oneDNN" : "portable");
                matmul_use_onednn() = onednn;
                check_matmul<X, X>(p, false, false, Epilogue::none, false);
                check_matmul<X, X>(p, false, true, Epilogue::gelu, true);
                check_matmul<X, X>(p, false, true, Epilogue::gelu, false);
                check_matmul<X, X>(p, false, false, Epilogue::gelu_backward, true);
                check_matmul<X, acc_t<X>>(p, true, false, Epilogue::none, false);
                check_matmul<X, acc_t<X>>(p, true, true, Epilogue::none, false);
            }
            matmul_use_onednn() = true;
        }
}

TYPED_TEST(LayersOf, gemm_tile_equals_naive_loops) {
    using X = TypeParam;
    using A = acc_t<X>;
    const std::array<int, 3> sizes[] = {{1, 1, 1}, {14, 32, 16}, {15, 33, 257}, {64, 64, 64}, {29, 95, 40}};
    for (auto [M, N, K] : sizes)
        for (int transposes = 0; transposes < 4; transposes++)
            for (bool accumulate : {false, true}) {
                bool ta = transposes & 1, tb = transposes & 2;
                SCOPED_TRACE(strf("M=%d N=%d K=%d ta=%d tb=%d accumulate=%d", M, N, K, ta, tb, accumulate));
                int lda = (ta ? M : K) + 3, ldb = (tb ? K : N) + 5, ldc = N + 2;
                auto a = random_vector<X>(int64_t(ta ? K : M) * lda, 1),
                     b = random_vector<X>(int64_t(tb ? N : K) * ldb, 2);
                auto c = random_vector<A>(int64_t(M) * ldc, 3);
                std::vector<double> want(c.begin(), c.end());
                for (int m = 0; m < M; m++)
                    for (int n = 0; n < N; n++) {
                        double sum = accumulate ? want[size_t(m * ldc + n)] : 0;
                        for (int k = 0; k < K; k++)
                            sum += at(a, ta ? k * lda + m : m * lda + k) * at(b, tb ? n * ldb + k : k * ldb + n);
                        want[size_t(m * ldc + n)] = sum;
                    }
                gemm_tile(c.data(), ldc, a.data(), lda, ta, b.data(), ldb, tb, M, N, K, accumulate);
                EXPECT_LT(relative_error(c, want),
                          (std::is_same_v<A, double> ? 1e-14 : 1e-6));  // and what lies between the rows is unchanged
                for (int m = 0; m < M; m++)
                    for (int j = N; j < ldc; j++) EXPECT_EQ(double(c[size_t(m * ldc + j)]), want[size_t(m * ldc + j)]);
            }
}

StepState test_state() {
    StepState s;
    s.seed = 0x123456789abcdef, s.step = 7;
    return s;
}

// The definition, element by element (step_state.h).
double dropout_reference(const Dropout& d, int b, int64_t e) {
    if (!d.active()) return 1;
    Philox4 r = philox(d.state->seed, uint32_t(e / 4), d.state->first_sample + uint32_t(b), d.state->step,
                       (uint32_t(Use::dropout) << 24) | d.site);
    return uniform01(r.v[e % 4]) >= d.p ? 1 / (1 - double(d.p)) : 0;
}

TYPED_TEST(LayersOf, dropout_equals_its_definition) {
    using X = TypeParam;
    StepState state = test_state();
    state.first_sample = 11;
    Dropout d{0.3f, 5, &state};
    const int B = 3;
    const int64_t n = 4999;
    auto x = random_vector<X>(B * n, 1);
    std::vector<X> y(x.size()), same = x;
    std::vector<double> want;
    int64_t dropped = 0;
    for (int b = 0; b < B; b++)
        for (int64_t e = 0; e < n; e++) {
            want.push_back(at(x, b * n + e) * dropout_reference(d, b, e));
            dropped += dropout_reference(d, b, e) == 0;
        }
    dropout_apply(y.data(), x.data(), B, n, d);
    EXPECT_LT(relative_error(y, want), std::max(tolerance<X>, 1e-7));
    EXPECT_NEAR(double(dropped) / double(B * n), 0.3, 0.02);
    dropout_apply(same.data(), same.data(), B, n, d);
    EXPECT_EQ(0, memcmp(y.data(), same.data(), y.size() * sizeof(X)));
    dropout_apply(y.data(), x.data(), B, n, Dropout{});
    EXPECT_EQ(0, memcmp(y.data(), x.data(), y.size() * sizeof(X)));
    float scale[7];  // a start that is no multiple of a Philox block
    dropout_scales(scale, d, 2, 1001, 7);
    for (int i = 0; i < 7; i++) EXPECT_FLOAT_EQ(scale[i], float(dropout_reference(d, 2, 1001 + i)));
}

TYPED_TEST(LayersOf, encoder_equals_naive_loops) {
    using X = TypeParam;
    using A = acc_t<X>;
    const int B = 3, T = 13, C = 77, V = 20;
    StepState state = test_state();
    auto wte = random_vector<X>(V * C, 1), wpe = random_vector<X>(2 * T * C, 2), dout = random_vector<X>(B * T * C, 3);
    std::vector<int> tokens, positions;
    for (int i = 0; i < B * T; i++) tokens.push_back(i * i % V), positions.push_back((i * 5 + 3) % (2 * T));
    for (bool with_positions : {false, true})
        for (float p : {0.0f, 0.2f}) {
            state.first_sample = 1;
            Dropout d{p, 3, &state};
            auto dwte = random_vector<A>(V * C, 4), dwpe = random_vector<A>(2 * T * C, 5);
            std::vector<double> want(size_t(B * T * C)), want_wte(dwte.begin(), dwte.end()),
                want_wpe(dwpe.begin(), dwpe.end());
            for (int row = 0; row < B * T; row++)
                for (int c = 0; c < C; c++) {
                    int64_t i = int64_t(row) * C + c, te = tokens[size_t(row)] * C + c,
                            pe = (with_positions ? positions[size_t(row)] : row % T) * C + c;
                    double scale = dropout_reference(d, row / T, (row % T) * C + c);
                    want[size_t(i)] = (at(wte, te) + at(wpe, pe)) * scale;
                    want_wte[size_t(te)] += at(dout, i) * scale, want_wpe[size_t(pe)] += at(dout, i) * scale;
                }
            std::vector<X> out(size_t(B * T * C));
            const int* at_positions = with_positions ? positions.data() : nullptr;
            encoder_forward(out.data(), tokens.data(), at_positions, wte.data(), wpe.data(), B, T, C, d);
            encoder_backward(dwte.data(), dwpe.data(), dout.data(), tokens.data(), at_positions, B, T, C, d);
            EXPECT_LT(relative_error(out, want), std::max(tolerance<X>, 1e-7));
            EXPECT_LT(relative_error(dwte, want_wte), 1e-6);
            EXPECT_LT(relative_error(dwpe, want_wpe), 1e-6);
        }
}

TYPED_TEST(LayersOf, layernorm_equals_naive_loops) {
    using X = TypeParam;
    using A = acc_t<X>;
    StepState state = test_state();
    for (int C : {1, 5, 77, 513})
        for (float p : {0.0f, 0.25f}) {
            const int T = 19, N = 3 * T;
            SCOPED_TRACE(strf("C=%d p=%g", C, double(p)));
            state.first_sample = 2;
            Dropout d{p, 6, &state};
            auto a = random_vector<X>(N * C, 1), b = random_vector<X>(N * C, 2), w = random_vector<X>(C, 3),
                 bias = random_vector<X>(C, 4);
            auto dy = random_vector<X>(N * C, 5), dx = random_vector<X>(N * C, 6);
            auto dw = random_vector<A>(C, 7), db = random_vector<A>(C, 8);
            for (X& x : a) x = X(A(x) + A(10));  // a mean far from 0
            std::vector<X> r(a.size()), y(a.size()), y_again(a.size());
            std::vector<A> mean(N), rstd(N), mean_again(N), rstd_again(N);
            residual_layernorm_forward(r.data(), y.data(), mean.data(), rstd.data(), a.data(), b.data(), w.data(),
                                       bias.data(), N, C, T, d);
            layernorm_forward(y_again.data(), mean_again.data(), rstd_again.data(), r.data(), w.data(), bias.data(), N,
                              C);
            EXPECT_EQ(0, memcmp(y.data(), y_again.data(), y.size() * sizeof(X)));
            std::vector<double> want_r, want_y, want_dx, want_dw(dw.begin(), dw.end()), want_db(db.begin(), db.end());
            for (int n = 0; n < N; n++) {
                double m = 0, v = 0, mean_g = 0, mean_gx = 0;
                for (int c = 0; c < C; c++) {
                    want_r.push_back(at(a, n * C + c) +
                                     at(b, n * C + c) * dropout_reference(d, n / T, (n % T) * C + c));
                    m += at(r, n * C + c) / C;
                }
                for (int c = 0; c < C; c++) v += (at(r, n * C + c) - m) * (at(r, n * C + c) - m) / C;
                double s = 1 / std::sqrt(v + 1e-5);
                auto xhat = [&](int c) { return (at(r, n * C + c) - m) * s; };
                for (int c = 0; c < C; c++) {
                    double g = at(dy, n * C + c) * at(w, c);
                    want_y.push_back(xhat(c) * at(w, c) + at(bias, c));
                    mean_g += g / C, mean_gx += g * xhat(c) / C;
                    want_dw[size_t(c)] += at(dy, n * C + c) * xhat(c), want_db[size_t(c)] += at(dy, n * C + c);
                }
                for (int c = 0; c < C; c++)
                    want_dx.push_back(at(dx, n * C + c) +
                                      s * (at(dy, n * C + c) * at(w, c) - mean_g - xhat(c) * mean_gx));
            }
            layernorm_backward(dx.data(), dw.data(), db.data(), dy.data(), r.data(), w.data(), mean.data(), rstd.data(),
                               N, C);
            double loose =
                std::is_same_v<X, double> ? 1e-7 : 1e-4;  // a mean of 10 costs digits; dropout's 1/(1-p) is a float
            EXPECT_LT(relative_error(r, want_r), std::max(tolerance<X>, 1e-7));
            EXPECT_LT(relative_error(y, want_y), std::max(tolerance<X>, loose));
            EXPECT_LT(relative_error(dx, want_dx), std::max(tolerance<X>, loose));
            EXPECT_LT(relative_error(dw, want_dw), loose);
            EXPECT_LT(relative_error(db, want_db), 1e-6);
        }
}

TYPED_TEST(LayersOf, gelu_equals_definition) {
    using X = TypeParam;
    const int n = 5003;
    auto x = random_vector<X>(n, 1, 4), dy = random_vector<X>(n, 2);
    x[0] = X(acc_t<X>(-40)), x[1] = X(acc_t<X>(40)), x[2] = X(acc_t<X>(0));
    std::vector<X> y(x.size());
    std::vector<double> want, want_dx;
    for (int i = 0; i < n; i++)
        want.push_back(gelu_reference(at(x, i))), want_dx.push_back(at(dy, i) * gelu_gradient_reference(at(x, i)));
    gelu_forward(y.data(), x.data(), n);
    EXPECT_LT(relative_error(y, want), tolerance<X>);
    EXPECT_EQ(at(y, 1), 40);
    EXPECT_EQ(at(y, 2), 0);
    EXPECT_LT(std::abs(at(y, 0)), 1e-30);
    gelu_backward(dy.data(), x.data(), dy.data(), n);
    EXPECT_LT(relative_error(dy, want_dx), tolerance<X>);
}

TYPED_TEST(LayersOf, classifier_equals_definition) {
    using X = TypeParam;
    using A = acc_t<X>;
    const int N = 7, V = 2049, Vp = 2176;
    auto logits = random_vector<X>(N * Vp, 1, 3);
    for (int v = 0; v < V; v++)
        logits[size_t(1 * Vp + v)] = X(at(logits, Vp + v) + 3e4),
                               logits[size_t(2 * Vp + v)] = X(at(logits, 2 * Vp + v) - 3e4);
    for (int i = 0; i < N; i++) logits[size_t(i * Vp + V)] = X(A(1e6));  // beyond V: of no consequence
    logits[size_t(3 * Vp + 1500)] = X(A(200));                           // maximum in a later piece
    std::vector<int> targets{5, 0, V - 1, 17, -1, 3, 1500};
    std::vector<A> weights{1, 2, A(0.5), 1, 1, 0, 1}, losses(N);
    logits[size_t(6 * Vp + 2)] = X(std::numeric_limits<A>::quiet_NaN());
    const A normaliser = A(0.25);
    for (bool weighted : {false, true}) {
        auto x = logits;
        classifier(x.data(), losses.data(), targets.data(), weighted ? weights.data() : nullptr, normaliser, N, V,
                         Vp, false);
        EXPECT_EQ(0, memcmp(x.data(), logits.data(), x.size() * sizeof(X)));
        classifier(x.data(), losses.data(), targets.data(), weighted ? weights.data() : nullptr, normaliser, N, V,
                         Vp, true);
        for (int i = 0; i < N - 1; i++) {
            double max = -1e300, sum = 0;
            for (int v = 0; v < V; v++) max = std::max(max, at(logits, i * Vp + v));
            for (int v = 0; v < V; v++) sum += std::exp(at(logits, i * Vp + v) - max);
            int target = targets[size_t(i)];
            double loss = target < 0 ? 0 : std::log(sum) + max - at(logits, i * Vp + target);
            EXPECT_NEAR(losses[size_t(i)], loss, 1e-5 * (1 + loss)) << i;
            std::vector<double> want(size_t(Vp), 0.0);
            double weight = target < 0 ? 0 : (weighted ? double(weights[size_t(i)]) : 1.0) * 0.25;
            for (int v = 0; v < V; v++)
                want[size_t(v)] = (std::exp(at(logits, i * Vp + v) - max) / sum - (v == target)) * weight;
            EXPECT_LT(relative_error(std::vector<X>(x.begin() + i * Vp, x.begin() + (i + 1) * Vp), want),
                      weight == 0 ? 1e-300 : std::max(tolerance<X>, 1e-6))
                << i;
        }
        EXPECT_TRUE(std::isnan(losses[N - 1]));
    }
}

TYPED_TEST(LayersOf, adamw_equals_definition) {
    using X = TypeParam;
    using A = acc_t<X>;
    const int n = 4999;
    StepState state = test_state();
    state.learning_rate = 1e-2f, state.beta1_correction = 0.19f, state.beta2_correction = 0.0975f,
    state.clip_scale = 0.5f;
    AdamWOptions options{0.9f, 0.95f, 1e-8f, 0.1f, false};
    for (bool with_master : {false, true}) {
        auto p = random_vector<X>(n, 1);
        auto m = random_vector<A>(n, 2), v = random_vector<A>(n, 3), grad = random_vector<A>(n, 4),
             master = random_vector<A>(n, 5);
        for (A& x : v) x = x * x;
        std::vector<double> want_p, want_m, want_v;
        for (int i = 0; i < n; i++) {
            double g = at(grad, i) * 0.5, m1 = double(0.9f) * at(m, i) + (1 - double(0.9f)) * g,
                   v1 = double(0.95f) * at(v, i) + (1 - double(0.95f)) * g * g;
            double old = with_master ? at(master, i) : at(p, i);
            want_m.push_back(m1), want_v.push_back(v1);
            want_p.push_back(old -
                             double(1e-2f) * (m1 / double(0.19f) / (std::sqrt(v1 / double(0.0975f)) + double(1e-8f)) +
                                              double(0.1f) * old));
        }
        auto before = p;
        state.skip = 1;
        adamw(p.data(), with_master ? master.data() : nullptr, m.data(), v.data(), grad.data(), n, 0, options,
                     &state);
        EXPECT_EQ(0, memcmp(p.data(), before.data(), p.size() * sizeof(X)));
        state.skip = 0;
        adamw(p.data(), with_master ? master.data() : nullptr, m.data(), v.data(), grad.data(), n, 0, options,
                     &state);
        EXPECT_LT(relative_error(p, want_p), std::max(tolerance<X>, 1e-13));
        EXPECT_LT(relative_error(m, want_m), (std::is_same_v<A, double> ? 1e-13 : 1e-6));
        EXPECT_LT(relative_error(v, want_v), (std::is_same_v<A, double> ? 1e-13 : 1e-6));
        if (with_master) {
            EXPECT_LT(relative_error(master, want_p), (std::is_same_v<A, double> ? 1e-13 : 1e-6));
        }
    }
}

TEST(Layers, stochastic_rounding_keeps_the_mean_and_depends_on_the_index_alone) {
    const int n = 100003, first = 1000;
    StepState state = test_state();
    state.learning_rate = 0;
    AdamWOptions options{0.9f, 0.95f, 1e-8f, 0, true};
    const float value = 1.0f + 0.3f / 128;  // 0.3 of the way from one bf16 to the next
    std::vector<bf16> p(n), part(n);
    std::vector<float> master(n, value), m(n), v(n), grad(n);
    adamw(p.data(), master.data(), m.data(), v.data(), grad.data(), n, first, options, &state);
    int up = 0;
    for (bf16 x : p) {
        ASSERT_TRUE(float(x) == 1.0f || float(x) == 1.0f + 1.0f / 128);
        up += float(x) > 1;
    }
    EXPECT_NEAR(double(up) / n, 0.3, 0.01);
    Philox4 r = philox(state.seed, (first + 6) / 4, 0, state.step, uint32_t(Use::stochastic_rounding) << 24);
    EXPECT_EQ(p[6].bits, round_stochastically(value, r.v[(first + 6) % 4]));
    const int cut = 777;  // the same tensor in two pieces
    adamw(part.data(), master.data(), m.data(), v.data(), grad.data(), cut, first, options, &state);
    adamw(part.data() + cut, master.data() + cut, m.data(), v.data(), grad.data(), n - cut, first + cut, options,
                 &state);
    EXPECT_EQ(0, memcmp(p.data(), part.data(), p.size() * sizeof(bf16)));
    EXPECT_EQ(round_stochastically(INFINITY, 0xffffffff), 0x7f80);
    EXPECT_TRUE(std::isnan(float(std::bit_cast<bf16>(round_stochastically(std::bit_cast<float>(0x7f800001), 0)))));
}

TEST(Layers, fast_exp_is_exact_to_a_float_over_its_whole_range) {
    double worst = 0;
    for (float x = -87.32f; x < 88.36f; x += 3e-4f)
        worst = std::max(worst, std::abs(double(fast_exp(x)) / std::exp(double(x)) - 1));
    EXPECT_LT(worst, 1.2e-7);
    EXPECT_EQ(fast_exp(0.0f), 1.0f);
    for (float x : {-88.0f, -1e30f, -INFINITY}) EXPECT_LT(fast_exp(x), 1.3e-38f);
    for (float x : {89.0f, 1e30f, INFINITY}) EXPECT_GT(fast_exp(x), 2e38f);
    EXPECT_TRUE(std::isnan(fast_exp(NAN)));
}

// What training repeats must not depend on how many threads it had.
TYPED_TEST(LayersOf, sums_over_rows_have_the_same_bits_for_any_number_of_threads) {
    using X = TypeParam;
    using A = acc_t<X>;
    const int N = 300, C = 131, V = 40;
    auto x = random_vector<X>(N * C, 1), dy = random_vector<X>(N * C, 2), w = random_vector<X>(V * C, 3);
    std::vector<A> mean(N, A(0.1)), rstd(N, A(0.9));
    std::vector<int> tokens;
    for (int i = 0; i < N; i++) tokens.push_back(i * i % V);
    auto gradients = [&](int threads) {
#ifdef _OPENMP
        int before = omp_get_max_threads();
        omp_set_num_threads(threads);
#endif
        std::vector<A> all;
        std::vector<A> dw(size_t(V) * C), db(size_t(N) * C);
        std::vector<X> dx(size_t(N) * C, X(A(0)));
        auto keep = [&](const std::vector<A>& v) { all.insert(all.end(), v.begin(), v.end()); };
        layernorm_backward(dx.data(), dw.data(), db.data(), dy.data(), x.data(), w.data(), mean.data(), rstd.data(), N,
                           C);
        keep(dw), keep(db);
        encoder_backward(dw.data(), db.data(), dy.data(), tokens.data(), nullptr, 2, N / 2, C, Dropout{});
        keep(dw), keep(db);
        bias_backward(db.data(), dy.data(), N, C);
        keep(db);
        matmul_use_onednn() = false;
        std::vector<A> product(size_t(C) * C);
        matmul_backward<X>(nullptr, product.data(), nullptr, dy.data(), x.data(), nullptr, nullptr, N, C, C);
        matmul_use_onednn() = true;
        keep(product);
        std::vector<A> big;
        for (int i = 0; i < 5; i++) keep(db), big.insert(big.end(), all.begin(), all.end());
        all.push_back(A(norm_squared(big.data(), int64_t(big.size()))));
        for (X value : dx) all.push_back(A(value));
#ifdef _OPENMP
        omp_set_num_threads(before);
#endif
        return all;
    };
    auto one = gradients(1);
    for (int threads : {2, 3, 5}) {
        auto many = gradients(threads);
        ASSERT_EQ(one.size(), many.size());
        EXPECT_EQ(0, memcmp(one.data(), many.data(), one.size() * sizeof(A))) << threads << " threads";
    }
    auto norm = random_vector<A>(200001, 9);
    double want = 0;
    for (A g : norm) want += double(g) * double(g);
    EXPECT_NEAR(norm_squared(norm.data(), int64_t(norm.size())), want, 1e-10 * want);
}

TYPED_TEST(LayersOf, linear_layer_forward_and_backward) {
    using X = TypeParam;
    using A = acc_t<X>;
    const int N = 70, C = 45, OC = 83;
    auto x = random_vector<X>(N * C, 1), w = random_vector<X>(OC * C, 2, 0.3), b = random_vector<X>(OC, 3),
         dy = random_vector<X>(N * OC, 4);
    auto before_gelu = random_vector<X>(N * C, 5);
    auto dw = random_vector<A>(OC * C, 6), db = random_vector<A>(OC, 7);
    std::vector<X> y(size_t(N) * OC), pre(y.size()), dx(x.size());
    std::vector<double> want_y, want_pre, want_dx(x.size(), 0.0), want_dw(dw.begin(), dw.end()),
        want_db(db.begin(), db.end());
    for (int n = 0; n < N; n++)
        for (int o = 0; o < OC; o++) {
            double sum = at(b, o), d = at(dy, n * OC + o);
            for (int c = 0; c < C; c++) {
                sum += at(x, n * C + c) * at(w, o * C + c);
                want_dx[size_t(n * C + c)] +=
                    d * at(w, o * C + c) * gelu_gradient_reference(at(before_gelu, n * C + c));
                want_dw[size_t(o * C + c)] += d * at(x, n * C + c);
            }
            want_db[size_t(o)] += d, want_pre.push_back(sum), want_y.push_back(gelu_reference(sum));
        }
    matmul_forward(y.data(), pre.data(), x.data(), w.data(), b.data(), N, C, OC);
    EXPECT_LT(relative_error(y, want_y), tolerance<X>);
    EXPECT_LT(relative_error(pre, want_pre), tolerance<X>);
    matmul_forward<X>(y.data(), nullptr, x.data(), w.data(), b.data(), N, C, OC);
    EXPECT_LT(relative_error(y, want_pre), tolerance<X>);
    matmul_forward<X>(y.data(), nullptr, x.data(), w.data(), b.data(), N, C, OC, true);
    EXPECT_LT(relative_error(y, want_y), tolerance<X>);
    matmul_backward(dx.data(), dw.data(), db.data(), dy.data(), x.data(), w.data(), before_gelu.data(), N, C, OC);
    EXPECT_LT(relative_error(dx, want_dx), tolerance<X>);
    EXPECT_LT(relative_error(dw, want_dw), (std::is_same_v<A, double> ? 1e-13 : 2e-6));
    EXPECT_LT(relative_error(db, want_db), (std::is_same_v<A, double> ? 1e-13 : 2e-6));
}

}  // namespace
