// Matrix products, and the linear layers made of them: by oneDNN where it is built in, and by the portable tiles.
#include <array>
#include "llmc/cpu/amx.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/workspaces.h"
#include "test/layer_test.h"

namespace {

class MatmulPath : public testing::TestWithParam<bool> {
    const bool saved = matmul_use_onednn();

  protected:
    MatmulPath() { matmul_use_onednn() = GetParam(); }
    ~MatmulPath() override { matmul_use_onednn() = saved; }
};
class LinearLayer : public MatmulPath {};
class MatmulStruct : public MatmulPath {};
std::string path_name(const testing::TestParamInfo<bool>& path) { return path.param ? "OneDnn" : "Portable"; }
#ifdef USE_ONEDNN
INSTANTIATE_TEST_SUITE_P(Matmul, LinearLayer, testing::Bool(), path_name);
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulStruct, testing::Bool(), path_name);
#else
INSTANTIATE_TEST_SUITE_P(Matmul, LinearLayer, testing::Values(false), path_name);
INSTANTIATE_TEST_SUITE_P(Matmul, MatmulStruct, testing::Values(false), path_name);
#endif

// ---- linear layers: matmul_forward, matmul_backward, against plain ----

// One linear layer, y = x w1^T + b1, or with gelu a whole MLP, y = GELU(x w1^T + b1) w2^T + b2.
struct Linear {
    int N, C, H, OC;
    bool gelu;

    NamedDoubles inputs() const {
        NamedDoubles in = {{"x", random_vector(N * C, 1)},
                           {"w1", random_vector(H * C, 2, 1 / std::sqrt(C))},
                           {"b1", random_vector(H, 3)}};
        if (gelu) in["w2"] = random_vector(OC * H, 4, 1 / std::sqrt(H)), in["b2"] = random_vector(OC, 5);
        return in;
    }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        auto x = narrow<X>(in.at("x")), w1 = narrow<X>(in.at("w1")), b1 = narrow<X>(in.at("b1"));
        auto pre = unwritten<X>(N * H), h = pre, y = unwritten<X>(N * OC), dh = pre, dx = unwritten<X>(N * C);
        X* keep = gelu ? pre.data() : nullptr;
        matmul_forward<X>(h.data(), keep, x.data(), w1.data(), b1.data(), N, C, H, gelu, on);
        if (!gelu && d.empty()) return {{"y", widen(h)}};
        NamedDoubles out;
        if (!gelu) dh = narrow<X>(d.at("y"));
        else {
            auto w2 = narrow<X>(in.at("w2")), b2 = narrow<X>(in.at("b2"));
            matmul_forward<X>(y.data(), nullptr, h.data(), w2.data(), b2.data(), N, H, OC, false, on);
            if (d.empty()) return {{"y", widen(y)}, {"kept pre", widen(pre)}};
            auto dy = narrow<X>(d.at("y"));
            auto dw2 = accumulator<grad_t<X>>(OC * H), db2 = accumulator<grad_t<X>>(OC);
            matmul_backward<X>(dh.data(), dw2.data(), db2.data(), dy.data(), h.data(), w2.data(), keep, N, H, OC, true,
                               nullptr, on);
            out = {{"w2", accumulated(dw2)}, {"b2", accumulated(db2)}};
        }
        auto dw1 = unwritten<grad_t<X>>(H * C), db1 = accumulator<grad_t<X>>(H);  // here dw is not added to
        matmul_backward<X>(dx.data(), dw1.data(), db1.data(), dh.data(), x.data(), w1.data(), nullptr, N, C, H, false,
                           nullptr, on);
        out["w1"] = widen(dw1), out["b1"] = accumulated(db1), out["x"] = widen(dx);
        return out;
    }
};

TEST_P(LinearLayer, AgreesWithPlain) {
    for (bool gelu : {false, true})
        for (auto [N, C, H, OC] :
             {std::array{1, 1, 1, 1}, {5, 7, 19, 11}, {67, 35, 130, 47}, {48, 64, 192, 64}, {131, 8, 300, 3}}) {
            SCOPED_TRACE(testing::Message() << "gelu " << gelu << ", N " << N << ", C " << C);
            Linear layer{N, C, H, OC, gelu};
            check_against_plain<float>(layer, CpuStream{}, 2e-6, "CPU, float");
            check_against_plain<bf16>(layer, CpuStream{}, 1e-2, "CPU, bf16");
            if (GetParam()) continue;  // double, and sums that do not depend on threads: the portable tiles only
            if (N < 40) check_gradients(layer);
            check_against_plain<float>(layer, Plain{}, 2e-6, "plain, float");
            check_against_plain<bf16>(layer, Plain{}, 1e-2, "plain, bf16");
            check_against_plain<double>(layer, CpuStream{}, 1e-12, "CPU, double");
            check_threads<float>(layer);
        }
}

// Null: no bias, no gradient wanted, nobody wants GELU's input.
template <class On>
void check_nulls(On on) {
    const int N = 9, C = 17, OC = 21;
    auto x = random_values<float>(N * C, 1), w = random_values<float>(OC * C, 2), dy = random_values<float>(N * OC, 3);
    std::vector<float> zero(OC), pre = unwritten<float>(N * OC), y0 = pre, y1 = pre;
    matmul_forward<float>(y0.data(), nullptr, x.data(), w.data(), nullptr, N, C, OC, false, on);
    matmul_forward<float>(y1.data(), nullptr, x.data(), w.data(), zero.data(), N, C, OC, false, on);
    EXPECT_LT(relative_error(widen(y0), widen(y1)), 1e-6);
    matmul_forward<float>(y0.data(), nullptr, x.data(), w.data(), nullptr, N, C, OC, true, on);
    matmul_forward<float>(y1.data(), pre.data(), x.data(), w.data(), nullptr, N, C, OC, true, on);
    EXPECT_LT(relative_error(widen(y0), widen(y1)), 1e-6);

    std::vector<float> dx0(N * C), dw0(OC * C), db0(OC);
    matmul_backward<float>(dx0.data(), dw0.data(), db0.data(), dy.data(), x.data(), w.data(), nullptr, N, C, OC, true,
                           nullptr, on);
    for (int mask = 0; mask < 8; mask++) {
        std::vector<float> dx(N * C), dw(OC * C), db(OC);
        matmul_backward<float>(mask & 1 ? dx.data() : nullptr, mask & 2 ? dw.data() : nullptr,
                               mask & 4 ? db.data() : nullptr, dy.data(), x.data(), w.data(), nullptr, N, C, OC, true,
                               nullptr, on);
        EXPECT_EQ(dx, mask & 1 ? dx0 : std::vector<float>(N * C)) << mask;
        EXPECT_EQ(dw, mask & 2 ? dw0 : std::vector<float>(OC * C)) << mask;
        EXPECT_EQ(db, mask & 4 ? db0 : std::vector<float>(OC)) << mask;
    }
}
TEST_P(LinearLayer, EachGradientMayBeNullAndSoMayTheBias) {
    check_nulls(CpuStream{});
    check_nulls(Plain{});
}

// ---- Matmul with all that it can say, against loops ----

// Operands as they are stored, and their product.
template <typename X>
struct Product {
    int M, N, K;
    bool a_transposed, b_transposed;
    std::vector<X> a = random_values<X>(M * K, 1), b = random_values<X>(K * N, 2);
    Doubles sum{};

    void multiply() {
        Doubles x = widen(a), y = widen(b);
        for (int m = 0; m < M; m++)
            for (int n = 0; n < N; n++) {
                double dot = 0;
                for (int k = 0; k < K; k++)
                    dot += x[a_transposed ? k * M + m : m * K + k] * y[b_transposed ? n * K + k : k * N + n];
                sum.push_back(dot);
            }
    }
};

const auto multiply = [](const auto& args) { matmul(args); };

template <typename X, typename O, typename Multiply>
void check_matmul(const Product<X>& p, bool accumulate, bool with_bias, Epilogue epilogue, bool with_aux,
                  double tolerance, Multiply run) {
    SCOPED_TRACE(testing::Message() << p.M << " x " << p.N << " x " << p.K << ", transposed " << p.a_transposed
                                    << p.b_transposed << ", accumulate " << accumulate << ", bias " << with_bias
                                    << ", epilogue " << int(epilogue) << ", aux " << with_aux);
    auto bias = random_values<X>(p.N, 3);
    auto aux = epilogue == Epilogue::gelu_backward ? random_values<X>(p.M * p.N, 4) : unwritten<X>(p.M * p.N);
    auto out = accumulate ? random_values<O>(p.M * p.N, 5) : unwritten<O>(p.M * p.N);
    Doubles want = p.sum, want_aux = widen(aux), before = widen(out), wide_bias = widen(bias);
    for (size_t i = 0; i < want.size(); i++) {
        if (accumulate) want[i] += before[i];
        if (with_bias) want[i] += wide_bias[i % p.N];
        if (epilogue == Epilogue::gelu) want_aux[i] = want[i], want[i] = plain_gelu(want[i]);
        if (epilogue == Epilogue::gelu_backward) want[i] *= plain_gelu_gradient(want_aux[i]);
    }
    Matmul<X, O> args{.out = out.data(), .a = p.a.data(), .b = p.b.data(), .M = p.M, .N = p.N, .K = p.K};
    args.a_transposed = p.a_transposed, args.b_transposed = p.b_transposed, args.accumulate = accumulate;
    args.bias = with_bias ? bias.data() : nullptr;
    args.epilogue = epilogue, args.aux = with_aux ? aux.data() : nullptr;
    run(args);
    EXPECT_LT(relative_error(widen(out), want), tolerance);
    if (epilogue == Epilogue::gelu && with_aux) {
        EXPECT_LT(relative_error(widen(aux), want_aux), tolerance) << "value before GELU";
    }
}

// All that a product can say, each with and without bias, or without alone.
template <typename X, typename Multiply>
void check_matmuls(int M, int N, int K, double tolerance, double into_float, bool with_bias, Multiply run) {
    for (int transposed = 0; transposed < 4; transposed++) {
        Product<X> p{M, N, K, (transposed & 1) != 0, (transposed & 2) != 0};
        p.multiply();
        for (bool bias : {false, true}) {
            if (bias && !with_bias) continue;
            check_matmul<X, X>(p, false, bias, Epilogue::none, false, tolerance, run);
            check_matmul<X, X>(p, false, bias, Epilogue::gelu, true, tolerance, run);
            check_matmul<X, X>(p, false, bias, Epilogue::gelu, false, tolerance, run);
            check_matmul<X, X>(p, false, bias, Epilogue::gelu_backward, true, tolerance, run);
            check_matmul<X, acc_t<X>>(p, false, bias, Epilogue::none, false, into_float, run);
            check_matmul<X, acc_t<X>>(p, true, bias, Epilogue::none, false, into_float, run);
        }
    }
}

// From one element to beyond every block; the last two are packed for oneDNN.
template <typename X>
void check_matmuls(double tolerance, double into_float) {
    for (auto [M, N, K] : {std::array{1, 1, 1},
                           {1, 37, 65},
                           {2, 130, 48},
                           {3, 64, 7},
                           {4, 33, 129},
                           {9, 31, 17},
                           {33, 17, 65},
                           {67, 45, 300},
                           {130, 259, 7},
                           {17, 530, 515},
                           {515, 9, 2050},
                           {2050, 17, 5}})
        check_matmuls<X>(M, N, K, tolerance, into_float, true, multiply);
}
TEST_P(MatmulStruct, Double) { check_matmuls<double>(1e-13, 1e-13); }
TEST_P(MatmulStruct, Float) { check_matmuls<float>(2e-6, 2e-6); }
TEST_P(MatmulStruct, Bf16) { check_matmuls<bf16>(6e-3, 2e-6); }

// By tiles of AMX, or the loops that stand for them where this CPU has none: edges of tiles, of panels, of pieces of K; either
// operand the larger one; sums that wait (K beyond AmxBlocks::kAmxDepth).
TEST(MatmulAmx, AgreesWithLoops) {
    if (kCompiledForAmx && !amx_available()) GTEST_SKIP() << "the kernel gives no tiles of AMX";
    const auto by_tiles = [](const auto& args) { matmul_amx(args); };
    for (auto [M, N, K] : {std::array{1, 1, 1}, {33, 17, 65}, {67, 545, 30}, {30, 259, 300}, {545, 65, 31}})
        check_matmuls<bf16>(M, N, K, 6e-3, 2e-6, M == 33, by_tiles);
    for (auto [M, N] : {std::array{19, 33}, {34, 7}})
        check_matmuls<bf16>(M, N, AmxBlocks::kAmxDepth + 270, 6e-3, 2e-6, false, by_tiles);
}
// Blocks follow the number of threads; sums do not.
TEST(MatmulAmx, SumsDoNotDependOnThreads) {
    if (kCompiledForAmx && !amx_available()) GTEST_SKIP() << "the kernel gives no tiles of AMX";
    Product<bf16> p{300, 140, 333, false, true};
    std::vector<float> outs[2];
    for (auto& out : outs) {
        Threads threads(&out == outs ? 1 : 7);
        out = unwritten<float>(p.M * p.N);
        Matmul<bf16, float> args{.out = out.data(), .a = p.a.data(), .b = p.b.data(), .M = p.M, .N = p.N, .K = p.K};
        args.b_transposed = true;
        matmul_amx(args);
    }
    EXPECT_EQ(outs[0], outs[1]);
}

}  // namespace
