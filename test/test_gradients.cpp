// Every layer in llmc/cpu: the forward pass against a plain formula in double, the backward pass against finite
// differences, fp32 and bf16 against double, the bits of one thread against those of three.
#include <gtest/gtest.h>
#include <algorithm>
#include <cstring>
#include <functional>
#include <limits>
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/matmul.h"
#include "test/finite_difference.h"

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

// A layer as a function of named tensors, in double outside and in some X inside.
struct Layer {
    NamedDoubles inputs;
    std::function<NamedDoubles(const NamedDoubles&)> forward;  // outputs by name
    std::function<NamedDoubles(const NamedDoubles&, const NamedDoubles&)>
        backward;  // (inputs, gradients of outputs) -> gradients of inputs
    std::function<NamedDoubles(const NamedDoubles&)> reference;  // the plain formula
};

template <typename X>
std::vector<X> narrow(const Doubles& x) {
    std::vector<X> out(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        if constexpr (std::is_same_v<X, bf16>) out[i] = bf16(static_cast<float>(x[i]));
        else out[i] = static_cast<X>(x[i]);
    }
    return out;
}
template <typename X>
Doubles widen(const std::vector<X>& x) {
    Doubles out(x.size());
    for (size_t i = 0; i < x.size(); i++) {
        if constexpr (std::is_same_v<X, bf16>) out[i] = static_cast<float>(x[i]);
        else out[i] = static_cast<double>(x[i]);
    }
    return out;
}

// What a layer writes without reading starts as NaN, what it adds to as 1/4 (exact in every type, and subtracted
// afterwards).
template <typename X>
std::vector<X> unwritten(size_t n) {
    return narrow<X>(Doubles(n, std::numeric_limits<double>::quiet_NaN()));
}
template <typename X>
std::vector<X> accumulator(size_t n) {
    return narrow<X>(Doubles(n, 0.25));
}
template <typename X>
Doubles accumulated(const std::vector<X>& x) {
    Doubles out = widen(x);
    for (double& v : out) v -= 0.25;
    return out;
}

size_t size(int64_t n) { return static_cast<size_t>(n); }

NamedDoubles random_like(const NamedDoubles& tensors, uint64_t seed) {
    NamedDoubles out;
    for (auto& [name, x] : tensors) out[name] = random_vector(static_cast<int64_t>(x.size()), seed++);
    return out;
}

double project(const NamedDoubles& outputs, const NamedDoubles& projection) {
    double sum = 0;
    for (auto& [name, p] : projection) sum += dot(p, outputs.at(name));
    return sum;
}

// A tensor counts at least as much as 0.3 of the largest: with one position, or one class, the true gradient is
// zero.
void expect_close(const NamedDoubles& got, const NamedDoubles& want, double tolerance, const std::string& what) {
    ASSERT_EQ(got.size(), want.size()) << what;
    double floor = 1e-30;
    for (auto& [name, w] : want) floor = std::max(floor, 0.3 * std::sqrt(dot(w, w)));
    for (auto& [name, w] : want)
        EXPECT_LT(relative_error(got.at(name), w, floor), tolerance) << what << ", tensor " << name;
}

// Outputs named "lse..." are kept for the backward pass and take no gradient of their own.
NamedDoubles without_lse(NamedDoubles outputs) {
    std::erase_if(outputs, [](auto& item) { return item.first.rfind("lse", 0) == 0; });
    return outputs;
}

void check_gradients(const Layer& layer) {
    Threads one(1);  // thousands of tiny calls: starting threads would take most of the time
    NamedDoubles inputs = layer.inputs;
    NamedDoubles outputs = layer.forward(inputs);
    expect_close(outputs, layer.reference(inputs), 1e-12, "double, forward");
    NamedDoubles projection = random_like(without_lse(outputs), 901);
    NamedDoubles gradients = layer.backward(inputs, projection);
    auto f = [&] { return project(layer.forward(inputs), projection); };
    for (auto& [name, gradient] : gradients) {
        ASSERT_EQ(gradient.size(), inputs.at(name).size()) << name;
        EXPECT_LT(gradient_error(inputs.at(name).data(), gradient, f, 300, 8), 1e-8) << "gradient of " << name;
    }
}

// The layer in X against the layer in double, both given values that X (and bf16) holds exactly.
void check_precision(const Layer& layer, const Layer& in_double, double tolerance) {
    NamedDoubles inputs = layer.inputs;
    for (auto& [name, x] : inputs) x = widen(narrow<bf16>(x));
    NamedDoubles outputs = layer.forward(inputs), exact = in_double.forward(inputs);
    expect_close(outputs, exact, tolerance, "forward");
    NamedDoubles projection = random_like(without_lse(exact), 902);
    for (auto& [name, x] : projection) x = widen(narrow<bf16>(x));
    expect_close(layer.backward(inputs, projection), in_double.backward(inputs, projection), tolerance, "backward");
}

void check_threads(const Layer& layer) {
    NamedDoubles projection = random_like(without_lse(layer.forward(layer.inputs)), 903), outputs[2], gradients[2];
    for (int i = 0; i < 2; i++) {
        Threads threads(i == 0 ? 1 : 3);
        outputs[i] = layer.forward(layer.inputs);
        gradients[i] = layer.backward(layer.inputs, projection);
    }
    EXPECT_EQ(outputs[0], outputs[1]);
    EXPECT_EQ(gradients[0], gradients[1]);
}

// make<X>() for the three types. The tolerances are a few roundings of each type.
template <typename Make>
void check_precisions(Make make) {
    Layer exact = make(double());
    check_precision(make(float()), exact, 2e-6);
    check_precision(make(bf16(0.0f)), exact, 1e-2);
}
template <typename Make>
void check_layer(Make make) {
    check_gradients(make(double()));
    check_precisions(make);
    check_threads(make(float()));
    check_threads(make(bf16(0.0f)));
}

StepState dropout_state() {
    StepState state;
    state.seed = 0x123456789abcdefull, state.step = 7, state.first_sample = 1000;
    return state;
}
const StepState kState = dropout_state();
const Dropout kDropout{0.3f, 6, &kState}, kNoDropout{};

// As step_state.h defines it.
double reference_dropout_scale(const Dropout& d, int b, int64_t e) {
    if (!d.active()) return 1;
    Philox4 random =
        philox(d.state->seed, static_cast<uint32_t>(e / 4), d.state->first_sample + static_cast<uint32_t>(b),
               d.state->step, static_cast<uint32_t>(Use::dropout) << 24 | d.site);
    return uniform01(random.v[e % 4]) >= d.p ? static_cast<double>(1.0f / (1.0f - d.p)) : 0.0;
}

}  // namespace

// --------------------------------------------------------------------------------------------- encoder

template <typename X>
Layer encoder_layer(int B, int T, int C, int V, int maxT, bool with_positions, Dropout dropout) {
    std::vector<int> tokens(size(B * T)), positions(size(B * T));
    for (int i = 0; i < B * T; i++)
        tokens[size(i)] = i * i % V, positions[size(i)] = with_positions ? i * 5 % maxT : i % T;
    const bool given = with_positions;
    Layer layer;
    layer.inputs = {{"wte", random_vector(V * C, 1)}, {"wpe", random_vector(maxT * C, 2)}};
    layer.forward = [=](const NamedDoubles& in) {
        auto wte = narrow<X>(in.at("wte")), wpe = narrow<X>(in.at("wpe"));
        auto out = unwritten<X>(size(B * T * C));
        encoder_forward(out.data(), tokens.data(), given ? positions.data() : nullptr, wte.data(), wpe.data(), B, T, C,
                        dropout);
        return NamedDoubles{{"out", widen(out)}};
    };
    layer.backward = [=](const NamedDoubles&, const NamedDoubles& d) {
        auto dout = narrow<X>(d.at("out"));
        auto dwte = accumulator<grad_t<X>>(size(V * C)), dwpe = accumulator<grad_t<X>>(size(maxT * C));
        encoder_backward<X>(dwte.data(), dwpe.data(), dout.data(), tokens.data(), given ? positions.data() : nullptr, B,
                            T, C, dropout);
        return NamedDoubles{{"wte", accumulated(dwte)}, {"wpe", accumulated(dwpe)}};
    };
    layer.reference = [=](const NamedDoubles& in) {
        Doubles out;
        for (int i = 0; i < B * T; i++)
            for (int c = 0; c < C; c++)
                out.push_back(
                    (in.at("wte")[size(tokens[size(i)] * C + c)] + in.at("wpe")[size(positions[size(i)] * C + c)]) *
                    reference_dropout_scale(dropout, i / T, int64_t(i % T) * C + c));
        return NamedDoubles{{"out", out}};
    };
    return layer;
}

TEST(EncoderGradients, AllCases) {
    for (bool with_positions : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout}) {
            SCOPED_TRACE(testing::Message() << "positions " << with_positions << ", dropout " << dropout.p);
            check_layer([&](auto x) { return encoder_layer<decltype(x)>(3, 7, 13, 11, 9, with_positions, dropout); });
            check_layer([&](auto x) { return encoder_layer<decltype(x)>(1, 1, 1, 1, 1, with_positions, dropout); });
            check_layer([&](auto x) { return encoder_layer<decltype(x)>(2, 19, 70, 33, 40, with_positions, dropout); });
            check_layer([&](auto x) { return encoder_layer<decltype(x)>(2, 2, 1301, 3, 2, with_positions, dropout); });
        }
}

// --------------------------------------------------------------------------------------------- dropout

TEST(DropoutLayer, MaskIsTheDocumentedFunction) {
    Dropout d = kDropout;
    for (int64_t e0 : {0, 1, 2, 3, 4, 1001}) {
        for (int n : {1, 2, 3, 4, 5, 63, 130}) {
            auto scale = unwritten<float>(size(n + 1));
            dropout_scales(scale.data(), d, 2, e0, n);
            for (int i = 0; i < n; i++)
                ASSERT_EQ(scale[size(i)], static_cast<float>(reference_dropout_scale(d, 2, e0 + i)))
                    << "e0 " << e0 << ", n " << n;
            EXPECT_TRUE(std::isnan(scale[size(n)])) << "wrote past the end, n " << n;
        }
    }
    StepState next = kState;
    next.first_sample++;
    d.state = &next;  // the mask follows the global sample, not the row
    auto a = unwritten<float>(50), b = unwritten<float>(50);
    dropout_scales(a.data(), kDropout, 3, 0, 50);
    dropout_scales(b.data(), d, 2, 0, 50);
    EXPECT_EQ(a, b);
}

TEST(DropoutLayer, AppliesInPlaceAndKeepsTheRightShare) {
    const int B = 3, n = 40'001;
    auto x = narrow<float>(random_vector(B * n, 5));
    auto y = unwritten<float>(x.size());
    dropout_apply(y.data(), x.data(), B, n, kDropout);
    int kept = 0;
    for (int b = 0; b < B; b++)
        for (int e = 0; e < n; e++) {
            float want = x[size(b * n + e)] * static_cast<float>(reference_dropout_scale(kDropout, b, e));
            ASSERT_EQ(y[size(b * n + e)], want);
            kept += want != 0;
        }
    EXPECT_NEAR(kept / double(B * n), 0.7, 4 * std::sqrt(0.21 / (B * n)));
    auto in_place = x;
    dropout_apply(in_place.data(), in_place.data(), B, n, kDropout);
    EXPECT_EQ(in_place, y);
    dropout_apply(y.data(), x.data(), B, n, kNoDropout);
    EXPECT_EQ(y, x);
}

// ------------------------------------------------------------------------------------------- layernorm

Doubles reference_layernorm(const Doubles& x, const Doubles& w, const Doubles& bias) {
    size_t C = w.size();
    Doubles y(x.size());
    for (size_t n = 0; n < x.size(); n += C) {
        double mean = 0, variance = 0;
        for (size_t c = 0; c < C; c++) mean += x[n + c] / static_cast<double>(C);
        for (size_t c = 0; c < C; c++) variance += (x[n + c] - mean) * (x[n + c] - mean) / static_cast<double>(C);
        for (size_t c = 0; c < C; c++) y[n + c] = (x[n + c] - mean) / std::sqrt(variance + 1e-5) * w[c] + bias[c];
    }
    return y;
}

template <typename X>
Layer layernorm_layer(int N, int C) {
    Layer layer;
    layer.inputs = {{"x", random_vector(N * C, 1)}, {"w", random_vector(C, 2)}, {"bias", random_vector(C, 3)}};
    for (double& v : layer.inputs["x"]) v = 2 * v + 0.7;
    struct State {
        std::vector<X> x, w, bias, y;
        std::vector<acc_t<X>> mean, rstd;
    };
    auto run = [=](const NamedDoubles& in) {
        State s{narrow<X>(in.at("x")),     narrow<X>(in.at("w")),        narrow<X>(in.at("bias")),
                unwritten<X>(size(N * C)), unwritten<acc_t<X>>(size(N)), unwritten<acc_t<X>>(size(N))};
        layernorm_forward(s.y.data(), s.mean.data(), s.rstd.data(), s.x.data(), s.w.data(), s.bias.data(), N, C);
        return s;
    };
    layer.forward = [=](const NamedDoubles& in) { return NamedDoubles{{"y", widen(run(in).y)}}; };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        State s = run(in);
        auto dy = narrow<X>(d.at("y"));
        auto dx = accumulator<X>(size(N * C));
        auto dw = accumulator<grad_t<X>>(size(C)), db = accumulator<grad_t<X>>(size(C));
        layernorm_backward(dx.data(), dw.data(), db.data(), dy.data(), s.x.data(), s.w.data(), s.mean.data(),
                           s.rstd.data(), N, C);
        return NamedDoubles{{"x", accumulated(dx)}, {"w", accumulated(dw)}, {"bias", accumulated(db)}};
    };
    layer.reference = [=](const NamedDoubles& in) {
        return NamedDoubles{{"y", reference_layernorm(in.at("x"), in.at("w"), in.at("bias"))}};
    };
    return layer;
}

TEST(LayernormGradients, AllCases) {
    for (auto [N, C] : {std::pair(1, 5), {7, 13}, {37, 48}, {131, 67}, {3, 1030}}) {
        SCOPED_TRACE(testing::Message() << "N " << N << ", C " << C);
        check_layer([N = N, C = C](auto x) { return layernorm_layer<decltype(x)>(N, C); });
    }
}

// The two outputs are used as a block uses them: y by the next layer, r by the residual stream.
template <typename X>
Layer residual_layernorm_layer(int B, int T, int C, bool in_place, Dropout dropout) {
    const int N = B * T;
    Layer layer;
    layer.inputs = {{"a", random_vector(N * C, 1)},
                    {"b", random_vector(N * C, 2)},
                    {"w", random_vector(C, 3)},
                    {"bias", random_vector(C, 4)}};
    struct State {
        std::vector<X> a, b, w, bias, r, y;
        std::vector<acc_t<X>> mean, rstd;
    };
    auto run = [=](const NamedDoubles& in) {
        State s{narrow<X>(in.at("a")),        narrow<X>(in.at("b")),       narrow<X>(in.at("w")),
                narrow<X>(in.at("bias")),     unwritten<X>(size(N * C)),   unwritten<X>(size(N * C)),
                unwritten<acc_t<X>>(size(N)), unwritten<acc_t<X>>(size(N))};
        X* r = in_place ? s.a.data() : s.r.data();
        residual_layernorm_forward(r, s.y.data(), s.mean.data(), s.rstd.data(), s.a.data(), s.b.data(), s.w.data(),
                                   s.bias.data(), N, C, T, dropout);
        if (in_place) s.r = s.a;
        return s;
    };
    layer.forward = [=](const NamedDoubles& in) {
        State s = run(in);
        return NamedDoubles{{"y", widen(s.y)}, {"r", widen(s.r)}};
    };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        State s = run(in);
        auto dy = narrow<X>(d.at("y")), dr = narrow<X>(d.at("r"));
        auto dw = accumulator<grad_t<X>>(size(C)), db = accumulator<grad_t<X>>(size(C));
        layernorm_backward(dr.data(), dw.data(), db.data(), dy.data(), s.r.data(), s.w.data(), s.mean.data(),
                           s.rstd.data(), N, C);
        auto d_b = unwritten<X>(size(N * C));
        dropout_apply(d_b.data(), dr.data(), B, int64_t(T) * C, dropout);
        return NamedDoubles{{"a", widen(dr)}, {"b", widen(d_b)}, {"w", accumulated(dw)}, {"bias", accumulated(db)}};
    };
    layer.reference = [=](const NamedDoubles& in) {
        Doubles r = in.at("a");
        for (int i = 0; i < N * C; i++)
            r[size(i)] += in.at("b")[size(i)] * reference_dropout_scale(dropout, i / (T * C), i % (T * C));
        return NamedDoubles{{"r", r}, {"y", reference_layernorm(r, in.at("w"), in.at("bias"))}};
    };
    return layer;
}

TEST(ResidualLayernormGradients, AllCases) {
    for (bool in_place : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout}) {
            SCOPED_TRACE(testing::Message() << "in place " << in_place << ", dropout " << dropout.p);
            check_layer([&](auto x) { return residual_layernorm_layer<decltype(x)>(2, 5, 13, in_place, dropout); });
            check_layer([&](auto x) { return residual_layernorm_layer<decltype(x)>(3, 23, 50, in_place, dropout); });
            check_layer([&](auto x) { return residual_layernorm_layer<decltype(x)>(2, 3, 601, in_place, dropout); });
        }
}

// ------------------------------------------------------------------------------------------------ gelu

double reference_gelu(double x) { return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))); }

template <typename X>
Layer gelu_layer(int n, bool in_place) {
    Layer layer;
    layer.inputs = {{"x", random_vector(n, 1, 2)}};
    layer.forward = [=](const NamedDoubles& in) {
        auto x = narrow<X>(in.at("x")), y = unwritten<X>(x.size());
        gelu_forward(y.data(), x.data(), n);
        return NamedDoubles{{"y", widen(y)}};
    };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        auto x = narrow<X>(in.at("x")), dy = narrow<X>(d.at("y")), dx = unwritten<X>(x.size());
        gelu_backward(in_place ? dy.data() : dx.data(), x.data(), dy.data(), n);
        return NamedDoubles{{"x", widen(in_place ? dy : dx)}};
    };
    layer.reference = [=](const NamedDoubles& in) {
        Doubles y;
        for (double x : in.at("x")) y.push_back(reference_gelu(x));
        return NamedDoubles{{"y", y}};
    };
    return layer;
}

TEST(GeluGradients, AllCases) {
    for (int n : {1, 15, 1003, 9001})
        for (bool in_place : {false, true}) check_layer([=](auto x) { return gelu_layer<decltype(x)>(n, in_place); });
}

TEST(GeluGradients, FarFromZero) {
    std::vector<float> x = {-1e6f, -1e4f, -50, -9, 9, 50, 1e4f, 1e6f}, y(8), dx(8), dy(8, 1.0f);
    gelu_forward(y.data(), x.data(), 8);
    gelu_backward(dx.data(), x.data(), dy.data(), 8);
    for (size_t i = 0; i < 8; i++) {
        EXPECT_FLOAT_EQ(y[i] + 1, (i < 4 ? 0 : x[i]) + 1) << x[i];
        EXPECT_NEAR(dx[i], i < 4 ? 0 : 1, 1e-6) << x[i];
    }
}

// ---------------------------------------------------------------------------------------------- matmul

// With gelu: a whole MLP, y = GELU(x w1^T + b1) w2^T + b2; else one linear layer.
template <typename X>
Layer linear_layer(int N, int C, int H, int OC, bool gelu) {
    Layer layer;
    double s1 = 1 / std::sqrt(C), s2 = 1 / std::sqrt(H);
    layer.inputs = {{"x", random_vector(N * C, 1)}, {"w1", random_vector(H * C, 2, s1)}, {"b1", random_vector(H, 3)}};
    if (gelu) layer.inputs["w2"] = random_vector(OC * H, 4, s2), layer.inputs["b2"] = random_vector(OC, 5);
    struct State {
        std::vector<X> x, w1, b1, w2, b2, pre, h, y;
    };
    auto run = [=](const NamedDoubles& in) {
        State s{narrow<X>(in.at("x")),     narrow<X>(in.at("w1")),    narrow<X>(in.at("b1")),    {}, {},
                unwritten<X>(size(N * H)), unwritten<X>(size(N * H)), unwritten<X>(size(N * OC))};
        matmul_forward<X>(s.h.data(), gelu ? s.pre.data() : nullptr, s.x.data(), s.w1.data(), s.b1.data(), N, C, H,
                          gelu);
        if (gelu) {
            s.w2 = narrow<X>(in.at("w2")), s.b2 = narrow<X>(in.at("b2"));
            matmul_forward<X>(s.y.data(), nullptr, s.h.data(), s.w2.data(), s.b2.data(), N, H, OC);
        }
        return s;
    };
    layer.forward = [=](const NamedDoubles& in) {
        State s = run(in);
        return NamedDoubles{{"y", widen(gelu ? s.y : s.h)}};
    };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        State s = run(in);
        auto dy = narrow<X>(d.at("y")), dh = gelu ? unwritten<X>(size(N * H)) : dy, dx = unwritten<X>(size(N * C));
        NamedDoubles out;
        if (gelu) {
            auto dw2 = accumulator<grad_t<X>>(size(OC * H)), db2 = accumulator<grad_t<X>>(size(OC));
            matmul_backward<X>(dh.data(), dw2.data(), db2.data(), dy.data(), s.h.data(), s.w2.data(), s.pre.data(), N,
                               H, OC);
            out["w2"] = accumulated(dw2), out["b2"] = accumulated(db2);
        }
        auto dw1 = accumulator<grad_t<X>>(size(H * C)), db1 = accumulator<grad_t<X>>(size(H));
        matmul_backward<X>(dx.data(), dw1.data(), db1.data(), dh.data(), s.x.data(), s.w1.data(), nullptr, N, C, H);
        out["w1"] = accumulated(dw1), out["b1"] = accumulated(db1), out["x"] = widen(dx);
        return out;
    };
    layer.reference = [=](const NamedDoubles& in) {
        auto linear = [&](const Doubles& x, const Doubles& w, const Doubles& b, int K) {
            Doubles y;
            for (int n = 0; n < N; n++)
                for (size_t o = 0; o < b.size(); o++) {
                    double sum = b[o];
                    for (int k = 0; k < K; k++) sum += x[size(n * K + k)] * w[o * size(K) + size(k)];
                    y.push_back(sum);
                }
            return y;
        };
        Doubles h = linear(in.at("x"), in.at("w1"), in.at("b1"), C);
        if (!gelu) return NamedDoubles{{"y", h}};
        for (double& v : h) v = reference_gelu(v);
        return NamedDoubles{{"y", linear(h, in.at("w2"), in.at("b2"), H)}};
    };
    return layer;
}

// oneDNN where it is built in, and the portable loops. Restores the choice however a test ends.
struct MatmulPath {
    const bool saved = matmul_use_onednn();
    explicit MatmulPath(bool use_onednn) { matmul_use_onednn() = use_onednn; }
    ~MatmulPath() { matmul_use_onednn() = saved; }
};
class MatmulGradients : public testing::TestWithParam<bool> {
    MatmulPath path{GetParam()};
};
class MatmulStruct : public MatmulGradients {};
std::string path_name(const testing::TestParamInfo<bool>& path) { return path.param ? "OneDnn" : "Portable"; }
#ifdef USE_ONEDNN
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulGradients, testing::Bool(), path_name);
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulStruct, testing::Bool(), path_name);
#else
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulGradients, testing::Values(false), path_name);
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulStruct, testing::Values(false), path_name);
#endif

TEST_P(MatmulGradients, AllCases) {
    for (bool gelu : {false, true})
        for (auto [N, C, H, OC] :
             {std::array{1, 1, 1, 1}, {5, 7, 19, 11}, {67, 35, 130, 47}, {48, 64, 192, 64}, {131, 8, 300, 3}}) {
            SCOPED_TRACE(testing::Message() << "gelu " << gelu << ", N " << N << ", C " << C);
            auto make = [=, N = N, C = C, H = H, OC = OC](auto x) {
                return linear_layer<decltype(x)>(N, C, H, OC, gelu);
            };
            check_precisions(make);
            if (GetParam())
                continue;  // double, and results that are free of the number of threads: the portable loops only
            check_gradients(make(double()));
            check_threads(make(float()));
        }
}

TEST_P(MatmulGradients, EachGradientMayBeNullAndSoMayTheBias) {
    const int N = 9, C = 17, OC = 21;
    auto x = narrow<float>(random_vector(N * C, 1)), w = narrow<float>(random_vector(OC * C, 2));
    auto dy = narrow<float>(random_vector(N * OC, 3)), zero = std::vector<float>(OC);
    auto y0 = unwritten<float>(N * OC), y1 = y0;
    matmul_forward<float>(y0.data(), nullptr, x.data(), w.data(), nullptr, N, C, OC);
    matmul_forward<float>(y1.data(), nullptr, x.data(), w.data(), zero.data(), N, C, OC);
    EXPECT_LT(relative_error(widen(y0), widen(y1)), 1e-6);
    matmul_forward<float>(y0.data(), nullptr, x.data(), w.data(), nullptr, N, C, OC,
                          true);  // GELU, and nobody wants its input
    for (size_t i = 0; i < y0.size(); i++) EXPECT_NEAR(y0[i], reference_gelu(y1[i]), 1e-5);

    std::vector<float> dx0(N * C), dw0(OC * C), db0(OC);
    matmul_backward<float>(dx0.data(), dw0.data(), db0.data(), dy.data(), x.data(), w.data(), nullptr, N, C, OC);
    for (int mask = 0; mask < 8; mask++) {
        std::vector<float> dx(N * C), dw(OC * C), db(OC);
        matmul_backward<float>(mask & 1 ? dx.data() : nullptr, mask & 2 ? dw.data() : nullptr,
                               mask & 4 ? db.data() : nullptr, dy.data(), x.data(), w.data(), nullptr, N, C, OC);
        if (mask & 1) {
            EXPECT_EQ(dx, dx0) << mask;
        }
        if (mask & 2) {
            EXPECT_EQ(dw, dw0) << mask;
        }
        if (mask & 4) {
            EXPECT_EQ(db, db0) << mask;
        }
    }
}

template <typename X, typename O>
void check_matmul(int M, int N, int K, int flags, Epilogue epilogue, double tolerance) {
    bool a_transposed = flags & 1, b_transposed = flags & 2, accumulate = flags & 4, with_bias = flags & 8;
    // Epilogues belong to activations, which are never accumulated, and biases to products of one type.
    if (epilogue != Epilogue::none && (accumulate || !std::is_same_v<X, O>)) return;
    if (with_bias && !std::is_same_v<X, O>) return;
    auto a = narrow<X>(random_vector(M * K, 1)), b = narrow<X>(random_vector(K * N, 2)),
         bias = narrow<X>(random_vector(N, 3));
    auto aux = epilogue == Epilogue::gelu_backward ? narrow<X>(random_vector(M * N, 4)) : unwritten<X>(size(M * N));
    auto out = accumulate ? narrow<O>(random_vector(M * N, 5)) : unwritten<O>(size(M * N));
    Doubles exact_a = widen(a), exact_b = widen(b), exact_bias = widen(bias), want = widen(out), want_aux = widen(aux);
    for (int m = 0; m < M; m++)
        for (int n = 0; n < N; n++) {
            double sum = (accumulate ? want[size(m * N + n)] : 0) + (with_bias ? exact_bias[size(n)] : 0);
            for (int k = 0; k < K; k++)
                sum += exact_a[size(a_transposed ? k * M + m : m * K + k)] *
                       exact_b[size(b_transposed ? n * K + k : k * N + n)];
            double& x = want_aux[size(m * N + n)];
            if (epilogue == Epilogue::gelu) x = sum, sum = reference_gelu(sum);
            if (epilogue == Epilogue::gelu_backward)
                sum *= directional_derivative(
                    &x, {1.0}, [&] { return reference_gelu(x); }, 1e-3);
            want[size(m * N + n)] = sum;
        }
    Matmul<X, O> args{.out = out.data(), .a = a.data(), .b = b.data(), .M = M, .N = N, .K = K};
    args.a_transposed = a_transposed, args.b_transposed = b_transposed, args.accumulate = accumulate;
    args.bias = with_bias ? bias.data() : nullptr;
    args.epilogue = epilogue, args.aux = epilogue == Epilogue::none ? nullptr : aux.data();
    matmul(args);
    EXPECT_LT(relative_error(widen(out), want), tolerance)
        << M << "x" << N << "x" << K << ", flags " << flags << ", epilogue " << int(epilogue);
    if (epilogue == Epilogue::gelu) {
        EXPECT_LT(relative_error(widen(aux), want_aux), tolerance) << "value before GELU";
    }
}

template <typename X, typename O>
void check_matmul_struct(double tolerance) {
    for (auto [M, N, K] : {std::array{1, 1, 1}, {3, 5, 7}, {8, 37, 70}, {33, 17, 65}, {70, 130, 41}, {64, 48, 32}})
        for (int flags = 0; flags < 16; flags++)
            for (Epilogue epilogue : {Epilogue::none, Epilogue::gelu, Epilogue::gelu_backward})
                check_matmul<X, O>(M, N, K, flags, epilogue, tolerance);
    for (int flags : {0, 1, 2, 7}) {  // more than one block each way
        check_matmul<X, O>(461, 531, 30, flags, Epilogue::none, tolerance);
        check_matmul<X, O>(5, 35, 601, flags, Epilogue::none, tolerance);
        check_matmul<X, O>(31, 35, 601, flags, Epilogue::none, tolerance);
    }
}

TEST_P(MatmulStruct, Double) { check_matmul_struct<double, double>(1e-10); }
TEST_P(MatmulStruct, Float) { check_matmul_struct<float, float>(2e-6); }
TEST_P(MatmulStruct, Bf16) { check_matmul_struct<bf16, bf16>(6e-3); }
TEST_P(MatmulStruct, Bf16IntoFloat) { check_matmul_struct<bf16, float>(2e-6); }

// ------------------------------------------------------------------------------------------- attention

struct AttentionCase {
    int B, Tq, Tk, NH, NKV, HS;
    bool documents = false;
    Dropout dropout = {};
};

// q (B,Tq,NH*HS) and k, v (B,Tk,NKV*HS) as the layer gets them: packed in one tensor if the shapes allow it, else apart
// and with a gap after each row.
template <typename X>
Layer attention_layer(const AttentionCase& c) {
    const int qC = c.NH * c.HS, kvC = c.NKV * c.HS;
    const bool packed = c.Tq == c.Tk && c.NH == c.NKV;
    std::vector<int> doc_start(size(c.B * c.Tk));
    for (int i = 0; i < c.B * c.Tk; i++) {
        int b = i / c.Tk, t = i % c.Tk, length = 4 + 3 * b;
        doc_start[size(i)] = t / length * length;
    }
    struct Buffers {
        AttentionShape shape;
        std::vector<X> q, k, v;  // packed: all in q
        X* at(int which) {
            return which == 0   ? q.data()
                   : which == 1 ? (k.empty() ? q.data() + shape.out_row : k.data())
                                : (v.empty() ? q.data() + 2 * shape.out_row : v.data());
        }
    };
    auto buffers = [=] {
        Buffers s;
        if (packed) {
            s.shape = packed_qkv_shape(c.B, c.Tq, qC, c.NH);
            s.q = unwritten<X>(size(c.B * c.Tq * 3 * qC));
        } else {
            s.shape = {c.B,
                       c.Tq,
                       c.Tk,
                       c.NH,
                       c.NKV,
                       c.HS,
                       qC + 3,
                       kvC + 5,
                       qC,
                       c.Tq * int64_t(qC + 3),
                       c.Tk * int64_t(kvC + 5),
                       c.Tq * int64_t(qC)};
            s.q = unwritten<X>(size(c.B * s.shape.q_batch));
            s.k = s.v = unwritten<X>(size(c.B * s.shape.kv_batch));
        }
        return s;
    };
    // Calls body(element of the buffer, index in the plain tensor) for q, k or v.
    auto walk = [=](Buffers& s, int which, auto body) {
        int T = which == 0 ? c.Tq : c.Tk, C = which == 0 ? qC : kvC;
        int64_t row = which == 0 ? s.shape.q_row : s.shape.kv_row,
                batch = which == 0 ? s.shape.q_batch : s.shape.kv_batch;
        for (int b = 0; b < c.B; b++)
            for (int t = 0; t < T; t++)
                for (int i = 0; i < C; i++) body(s.at(which)[b * batch + t * row + i], size((b * T + t) * C + i));
    };
    const char* names[] = {"q", "k", "v"};
    auto fill = [=](const NamedDoubles& in) {
        Buffers s = buffers();
        for (int which = 0; which < 3; which++) {
            auto x = narrow<X>(in.at(names[which]));
            walk(s, which, [&](X& element, size_t i) { element = x[i]; });
        }
        return s;
    };
    auto forward = [=](Buffers& s, std::vector<X>& out, std::vector<acc_t<X>>& lse) {
        out = unwritten<X>(size(c.B * c.Tq * qC)), lse = unwritten<acc_t<X>>(size(c.B * c.NH * c.Tq));
        attention_forward<X>(out.data(), lse.data(), s.at(0), s.at(1), s.at(2), s.shape,
                             c.documents ? doc_start.data() : nullptr, c.dropout);
    };
    Layer layer;
    layer.inputs = {{"q", random_vector(c.B * c.Tq * qC, 1)},
                    {"k", random_vector(c.B * c.Tk * kvC, 2)},
                    {"v", random_vector(c.B * c.Tk * kvC, 3)}};
    layer.forward = [=](const NamedDoubles& in) {
        Buffers s = fill(in);
        std::vector<X> out;
        std::vector<acc_t<X>> lse;
        forward(s, out, lse);
        return NamedDoubles{{"out", widen(out)}, {"lse", widen(lse)}};
    };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        Buffers s = fill(in), ds = buffers();
        std::vector<X> out, dout = narrow<X>(d.at("out"));
        std::vector<acc_t<X>> lse;
        forward(s, out, lse);
        attention_backward<X>(ds.at(0), ds.at(1), ds.at(2), dout.data(), s.at(0), s.at(1), s.at(2), out.data(),
                              lse.data(), s.shape, c.documents ? doc_start.data() : nullptr, c.dropout);
        NamedDoubles gradients;
        for (int which = 0; which < 3; which++) {
            Doubles& g = gradients[names[which]];
            g.resize(in.at(names[which]).size());
            walk(ds, which, [&](X& element, size_t i) { g[i] = static_cast<double>(element); });
        }
        return gradients;
    };
    layer.reference = [=](const NamedDoubles& in) {
        const Doubles &q = in.at("q"), &k = in.at("k"), &v = in.at("v");
        Doubles out(size(c.B * c.Tq * qC)), lse(size(c.B * c.NH * c.Tq)), p(size(c.Tk));
        for (int b = 0; b < c.B; b++)
            for (int h = 0; h < c.NH; h++)
                for (int i = 0; i < c.Tq; i++) {
                    int last = i + c.Tk - c.Tq, kvh = h * c.NKV / c.NH,
                        first = c.documents ? doc_start[size(b * c.Tk + i)] : 0;
                    double sum = 0;
                    for (int j = first; j <= last; j++) {
                        double s = 0;
                        for (int e = 0; e < c.HS; e++)
                            s += q[size((b * c.Tq + i) * qC + h * c.HS + e)] *
                                 k[size((b * c.Tk + j) * kvC + kvh * c.HS + e)];
                        sum += p[size(j)] = std::exp(s / std::sqrt(c.HS));
                    }
                    for (int j = first; j <= last; j++)
                        for (int e = 0; e < c.HS; e++)
                            out[size((b * c.Tq + i) * qC + h * c.HS + e)] +=
                                p[size(j)] / sum *
                                reference_dropout_scale(c.dropout, b, (int64_t(h) * c.Tk + i) * c.Tk + j) *
                                v[size((b * c.Tk + j) * kvC + kvh * c.HS + e)];
                    lse[size((b * c.NH + h) * c.Tq + i)] = std::log(sum);
                }
        return NamedDoubles{{"out", out}, {"lse", lse}};
    };
    return layer;
}

TEST(AttentionGradients, AllCases) {
    for (bool documents : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout})
            for (AttentionCase c : {AttentionCase{1, 1, 1, 1, 1, 2},
                                    {2, 7, 7, 3, 3, 6},
                                    {2, 19, 19, 2, 2, 10},
                                    {2, 9, 9, 4, 2, 16},
                                    {1, 13, 13, 3, 1, 8},
                                    {1, 75, 75, 2, 2, 24},
                                    {1, 131, 131, 2, 1, 64}}) {
                c.documents = documents, c.dropout = dropout;
                SCOPED_TRACE(testing::Message() << "T " << c.Tq << ", NH " << c.NH << ", NKV " << c.NKV << ", HS "
                                                << c.HS << ", documents " << documents << ", dropout " << dropout.p);
                check_layer([&](auto x) { return attention_layer<decltype(x)>(c); });
            }
}

TEST(AttentionGradients, FewerQueriesThanKeys) {  // decoding: forward only
    for (AttentionCase c : {AttentionCase{2, 1, 1, 2, 2, 8},
                            {2, 1, 17, 4, 2, 16},
                            {1, 1, 300, 2, 2, 64},
                            {2, 5, 23, 3, 3, 10},
                            {1, 70, 200, 2, 2, 24},
                            {3, 33, 97, 2, 1, 8}}) {
        SCOPED_TRACE(testing::Message() << "Tq " << c.Tq << ", Tk " << c.Tk);
        Layer layer = attention_layer<double>(c);
        NamedDoubles want = layer.reference(layer.inputs);
        expect_close(layer.forward(layer.inputs), want, 1e-12, "double");
        expect_close(attention_layer<float>(c).forward(layer.inputs), want, 2e-6, "float");
        expect_close(attention_layer<bf16>(c).forward(layer.inputs), want, 1e-2, "bf16");
    }
}

TEST(AttentionGradients, LargeScoresDoNotOverflow) {
    Layer layer = attention_layer<float>({1, 70, 70, 1, 1, 8});
    for (double& q : layer.inputs["q"])
        q *= 300;  // scores of many hundreds: exp without the maximum taken off is infinite
    NamedDoubles want = layer.reference(layer.inputs);
    Doubles got = layer.forward(layer.inputs).at("out");
    for (double x : got) EXPECT_TRUE(std::isfinite(x));
    NamedDoubles inputs = layer.inputs;
    for (auto& [name, x] : layer.backward(inputs, {{"out", random_vector(static_cast<int64_t>(got.size()), 8)}}))
        for (double g : x) EXPECT_TRUE(std::isfinite(g)) << name;
}

// ------------------------------------------------------------------------------------------ classifier

template <typename X>
Layer classifier_layer(int N, int V, int Vp, bool weighted) {
    std::vector<int> targets(size(N));
    Doubles weights;
    for (int n = 0; n < N; n++) targets[size(n)] = n % 4 == 3 ? -1 : n * 7 % V, weights.push_back(0.25 * (n % 5));
    const double normaliser = 0.125;  // exact in float
    auto weight = [=](int n) { return targets[size(n)] < 0 ? 0.0 : weighted ? weights[size(n)] : 1.0; };
    auto run = [=](const NamedDoubles& in, std::vector<X>& logits, bool write) {
        logits = narrow<X>(in.at("logits"));
        auto losses = unwritten<acc_t<X>>(size(N));
        auto w = narrow<acc_t<X>>(weights);
        classifier<X>(logits.data(), losses.data(), targets.data(), weighted ? w.data() : nullptr,
                            normaliser, N, V, Vp, write);
        return widen(losses);
    };
    Layer layer;
    layer.inputs = {{"logits", random_vector(N * Vp, 1, 2)}};
    layer.forward = [=](const NamedDoubles& in) {
        std::vector<X> logits;
        Doubles losses = run(in, logits, false);
        double loss = 0;
        for (int n = 0; n < N; n++) loss += losses[size(n)] * weight(n) * normaliser;
        return NamedDoubles{{"loss", {loss}}, {"lse: losses", losses}};
    };
    layer.backward = [=](const NamedDoubles& in, const NamedDoubles& d) {
        std::vector<X> logits;
        run(in, logits, true);
        Doubles gradient = widen(logits);
        for (double& g : gradient) g *= d.at("loss")[0];
        return NamedDoubles{{"logits", gradient}};
    };
    layer.reference = [=](const NamedDoubles& in) {
        Doubles losses;
        double loss = 0;
        for (int n = 0; n < N; n++) {
            const double* row = in.at("logits").data() + n * Vp;
            double sum = 0;
            for (int v = 0; v < V; v++) sum += std::exp(row[v]);
            losses.push_back(targets[size(n)] < 0 ? 0 : std::log(sum) - row[targets[size(n)]]);
            loss += losses.back() * weight(n) * normaliser;
        }
        return NamedDoubles{{"loss", {loss}}, {"lse: losses", losses}};
    };
    return layer;
}

TEST(ClassifierGradients, AllCases) {
    for (bool weighted : {false, true})
        for (auto [N, V, Vp] :
             {std::array{1, 1, 1}, {3, 2, 8}, {9, 31, 32}, {7, 64, 64}, {11, 131, 256}, {5, 2503, 2560}}) {
            SCOPED_TRACE(testing::Message() << "N " << N << ", V " << V << ", Vp " << Vp << ", weighted " << weighted);
            if (V == 1) {  // loss and gradient are zero
                Layer layer = classifier_layer<float>(N, V, Vp, weighted);
                EXPECT_EQ(layer.forward(layer.inputs).at("loss")[0], 0);
                EXPECT_EQ(layer.backward(layer.inputs, {{"loss", {1}}}).at("logits"), Doubles(1, 0.0));
                continue;
            }
            check_layer([N = N, V = V, Vp = Vp, weighted = weighted](auto x) {
                return classifier_layer<decltype(x)>(N, V, Vp, weighted);
            });
        }
}

TEST(ClassifierGradients, PaddingIsNeitherReadNorLeftAndBigLogitsDoNotOverflow) {
    const int N = 2, V = 37, Vp = 128;
    std::vector<float> logits(N * Vp, std::numeric_limits<float>::quiet_NaN()), losses(N);
    for (int i = 0; i < N; i++)
        for (int v = 0; v < V; v++) logits[size(i * Vp + v)] = v == 5 ? 3e4f : -3e4f;
    std::vector<int> targets = {5, 6};
    auto untouched = logits;
    classifier<float>(logits.data(), losses.data(), targets.data(), nullptr, 1.0f, N, V, Vp, false);
    EXPECT_EQ(std::memcmp(logits.data(), untouched.data(), logits.size() * 4), 0);
    EXPECT_EQ(losses, (std::vector<float>{0.0f, 6e4f}));
    classifier<float>(logits.data(), losses.data(), targets.data(), nullptr, 1.0f, N, V, Vp, true);
    for (int i = 0; i < N; i++)
        for (int v = 0; v < Vp; v++) {
            float want = i == 0 ? 0.0f : v == 5 ? 1.0f : v == 6 ? -1.0f : 0.0f;
            EXPECT_NEAR(logits[size(i * Vp + v)], want, 1e-6) << i << " " << v;
        }
}

// ----------------------------------------------------------------------------------------------- adamw

template <typename X>
void check_adamw(bool with_master, double tolerance) {
    using A = acc_t<X>;
    const int n = 9001;  // more than a block
    const AdamWOptions options{0.9f, 0.95f, 1e-8f, 0.1f, false};
    auto p = narrow<X>(random_vector(n, 1));
    std::vector<A> master, m(n), v(n);
    if (with_master) master = narrow<A>(widen(p));
    std::vector<long double> rp, rm(n), rv(n);
    for (double x : widen(p)) rp.push_back(x);
    auto start = rp;
    for (int t = 1; t <= 6; t++) {
        auto grad = narrow<A>(random_vector(n, 10 + static_cast<uint64_t>(t), 3));
        grad[0] = 0, grad[1] = A(1e-9);  // eps matters
        StepState state;
        state.learning_rate = 1e-2f;
        state.beta1_correction = static_cast<float>(1 - std::pow(0.9, t));
        state.beta2_correction = static_cast<float>(1 - std::pow(0.95, t));
        state.clip_scale = 0.37f;
        if (t == 4) {  // skipped: nothing may change
            state.skip = 1;
            auto p0 = p;
            auto m0 = m, v0 = v;
            adamw<X>(p.data(), with_master ? master.data() : nullptr, m.data(), v.data(), grad.data(), n, 64,
                            options, &state);
            EXPECT_EQ(std::memcmp(p.data(), p0.data(), n * sizeof(X)), 0);
            EXPECT_TRUE(m == m0 && v == v0);
            continue;
        }
        adamw<X>(p.data(), with_master ? master.data() : nullptr, m.data(), v.data(), grad.data(), n, 64,
                        options, &state);
        for (size_t i = 0; i < n; i++) {
            long double g = static_cast<long double>(grad[i]) * 0.37f;
            rm[i] = static_cast<long double>(0.9f) * rm[i] + (1 - static_cast<long double>(0.9f)) * g;
            rv[i] = static_cast<long double>(0.95f) * rv[i] + (1 - static_cast<long double>(0.95f)) * g * g;
            long double step = rm[i] / state.beta1_correction / (std::sqrt(rv[i] / state.beta2_correction) + 1e-8f);
            rp[i] -= state.learning_rate * (step + 0.1f * rp[i]);
        }
    }
    Doubles got = with_master ? widen(master) : widen(p), want;
    for (size_t i = 0; i < n; i++)
        got[i] -= static_cast<double>(start[i]), want.push_back(static_cast<double>(rp[i] - start[i]));
    EXPECT_LT(relative_error(got, want), tolerance) << "change of the parameters";
    if (with_master) {
        EXPECT_EQ(widen(p), widen(narrow<X>(widen(master)))) << "the storage type is not rounded from the master";
    }
    EXPECT_LT(relative_error(widen(m), Doubles(rm.begin(), rm.end())), 2e-6);
    EXPECT_LT(relative_error(widen(v), Doubles(rv.begin(), rv.end())), 2e-6);
}

TEST(AdamWLayer, Double) { check_adamw<double>(false, 2e-7); }
TEST(AdamWLayer, Float) { check_adamw<float>(false, 1e-5); }
TEST(AdamWLayer, Bf16WithMaster) { check_adamw<bf16>(true, 1e-5); }
TEST(AdamWLayer, FloatWithMaster) { check_adamw<float>(true, 1e-5); }

TEST(AdamWLayer, StochasticRoundingIsUnbiasedAndRepeatable) {
    const int n = 100'000;
    auto run = [&](bool stochastic, uint32_t step, int64_t first_index) {
        std::vector<bf16> p(n, bf16(1.0f));  // its neighbours: 1 + 2^-7 and 1 - 2^-8
        std::vector<float> m(n), v(n), grad(n, -1.0f);
        StepState state;
        state.seed = 5, state.step = step, state.learning_rate = 1e-3f;
        state.beta1_correction = 0.1f, state.beta2_correction = 0.05f;  // the first update: +lr
        adamw<bf16>(p.data(), nullptr, m.data(), v.data(), grad.data(), n, first_index,
                           {0.9f, 0.95f, 1e-8f, 0, stochastic}, &state);
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

// ----------------------------------------------------------------------------------------- global norm

template <typename G>
void check_global_norm() {
    for (int n : {0, 1, 15, 4096, 100'003}) {
        auto grad = narrow<G>(random_vector(n, 3));
        long double want = 0;
        for (G g : grad) want += static_cast<long double>(g) * static_cast<long double>(g);
        double got = norm_squared(grad.data(), n);
        EXPECT_LT(std::abs(got - static_cast<double>(want)), 1e-12 * static_cast<double>(want) + 1e-300) << n;
        for (int n_threads : {1, 3}) {
            Threads threads(n_threads);
            EXPECT_EQ(norm_squared(grad.data(), n), got);
        }
    }
}
TEST(GlobalNormLayer, Float) { check_global_norm<float>(); }
TEST(GlobalNormLayer, Double) { check_global_norm<double>(); }
