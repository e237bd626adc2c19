// Trained prompts on the GPU against the loops of llmc/plain/.
#include "test/cuda/device_test.h"
#include "llmc/plain/prompts.h"

namespace {

template <typename X>
struct Prompts : ::testing::Test {};
TYPED_TEST_SUITE(Prompts, StorageTypes);

TYPED_TEST(Prompts, EmbeddedAmongWordsAsOnTheCpu) {
    using X = TypeParam;
    for (auto [B, T, C, P] : {std::array{2, 5, 24, 3}, {3, 37, 37, 1}, {1, 9, 264, 5}}) {
        const int N = B * T, V = 11;
        auto tokens = random_integers(N, 1, V + P);
        for (int& t : tokens) t -= P;
        auto wte = random_vector<X>(size_t(V) * C, 3), wpe = random_vector<X>(size_t(T) * C, 4),
             prompts = random_vector<X>(size_t(P) * C, 5);
        std::vector<X> want(size_t(N) * C);
        encoder_forward<X>(want.data(), tokens.data(), nullptr, wte.data(), wpe.data(), prompts.data(), B, T, C,
                           Dropout{}, Plain{});
        for_each_schedule([&] {
            DeviceVector<int> d_tokens(tokens);
            DeviceVector<X> d_wte(wte), d_wpe(wpe), d_prompts(prompts), out(want.size());
            encoder_forward<X>(out.get(), d_tokens.get(), nullptr, d_wte.get(), d_wpe.get(), d_prompts.get(), B, T, C,
                               Dropout{}, current_stream());
            EXPECT_LT(relative_error(out.host(), want), 2 * rounding<X>) << B << " " << T << " " << C;
        });
    }
}

// O: of gradients of weights, and of the encoder's output.
template <typename X, typename O>
void check_prompt_backward() {
    for (auto [B, T, C, P] : {std::array{2, 5, 24, 3}, {3, 37, 300, 2}, {1, 9, 1, 5}})
        for (bool identity : {false, true}) {
            const int N = B * T;
            StepState state;
            state.seed = 11, state.step = 4, state.first_sample = 9;
            auto tokens = random_integers(N, 1, 2 * P);
            for (int& t : tokens) t -= P;
            auto dout = random_vector<X>(size_t(N) * C, 5);
            auto before = random_vector<O>(size_t(P) * C, 6), want = before;
            prompt_backward<X>(want.data(), dout.data(), identity ? nullptr : tokens.data(), P, B, T, C,
                               Dropout{0.2f, 12, &state}, Plain{});
            for_each_schedule([&] {
                DeviceVector<StepState> d_state(std::vector<StepState>{state});
                DeviceVector<int> d_tokens(tokens);
                DeviceVector<X> d_dout(dout);
                DeviceVector<O> got(before);
                prompt_backward<X>(got.get(), d_dout.get(), identity ? nullptr : d_tokens.get(), P, B, T, C,
                                   Dropout{0.2f, 12, d_state.get()}, current_stream());
                EXPECT_LT(relative_error(got.host(), want), 2 * rounding<O>) << B << " " << T << " " << C;
            });
        }
}
TYPED_TEST(Prompts, GradientIsTheCpus) {
    using X = TypeParam;
    check_prompt_backward<X, float>();
    check_prompt_backward<X, X>();
}

TYPED_TEST(Prompts, LstmIsTheCpus) {
    using X = TypeParam;
    for (auto [P, H] : {std::array{1, 1}, {4, 3}, {3, 37}, {7, 20}}) {
        const size_t gates = size_t(8) * P * H, hs = size_t(2) * (P + 1) * H, cs = size_t(2) * P * H;
        auto wh = random_vector<X>(size_t(8) * H * H, 1), in = random_vector<X>(gates, 2),
             dout = random_vector<X>(cs, 3);
        std::vector<X> want_gates = in, want_h(hs), want_out(cs), want_dgates(gates);
        std::vector<float> want_cells(cs);
        lstm_forward<X>(want_out.data(), want_h.data(), want_cells.data(), want_gates.data(), wh.data(), P, H, Plain{});
        lstm_backward<X>(want_dgates.data(), dout.data(), want_gates.data(), want_cells.data(), wh.data(), P, H,
                         Plain{});
        for_each_schedule([&] {
            DeviceVector<X> d_wh(wh), d_gates(in), d_dout(dout), h(hs), out(cs), dgates(gates);
            DeviceVector<float> cells(cs);
            lstm_forward<X>(out.get(), h.get(), cells.get(), d_gates.get(), d_wh.get(), P, H, current_stream());
            EXPECT_LT(relative_error(out.host(), want_out), 4 * rounding<X>) << P << " " << H;
            EXPECT_LT(relative_error(h.host(), want_h), 4 * rounding<X>) << P << " " << H;
            EXPECT_LT(relative_error(cells.host(), want_cells), 4 * rounding<X>) << P << " " << H;
            lstm_backward<X>(dgates.get(), d_dout.get(), d_gates.get(), cells.get(), d_wh.get(), P, H,
                             current_stream());
            EXPECT_LT(relative_error(dgates.host(), want_dgates), 10 * rounding<X>) << P << " " << H;
        });
    }
}

TYPED_TEST(Prompts, ReluIsTheCpus) {
    using X = TypeParam;
    for (int n : {1, 256, 777}) {
        auto x = random_vector<X>(n, 1), dy = random_vector<X>(n, 2);
        std::vector<X> want = x, dwant = dy;
        relu_forward<X>(want.data(), want.data(), n, Plain{});
        relu_backward<X>(dwant.data(), want.data(), dwant.data(), n, Plain{});
        for_each_schedule([&] {
            DeviceVector<X> y(x), dx(dy);
            relu_forward<X>(y.get(), y.get(), n, current_stream());
            relu_backward<X>(dx.get(), y.get(), dx.get(), n, current_stream());
            EXPECT_EQ(relative_error(y.host(), want), 0);
            EXPECT_EQ(relative_error(dx.host(), dwant), 0);
        });
    }
}

}  // namespace
