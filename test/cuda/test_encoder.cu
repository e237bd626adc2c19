// Embedding on the GPU against the CPU layer.
#include "test/cuda/device_test.h"

#include <cstring>

namespace {

template <typename X>
struct Encoder : ::testing::Test {};
TYPED_TEST_SUITE(Encoder, StorageTypes);

struct Sizes {
    int B, T, C, V;
    bool positions;
    float dropout;
};
// V small: runs longer than a block's slots, which all slots share; C: packs, odd rows, rows wider than a block
const Sizes kSizes[] = {{2, 5, 24, 11, false, 0},   {3, 67, 40, 3, false, 0.2f}, {2, 33, 37, 50, true, 0.1f},
                        {2, 161, 72, 2, true, 0},   {1, 1, 8, 1, false, 0},      {5, 31, 3, 1, false, 0},
                        {4, 47, 136, 7, true, 0.3f}};

StepState step_state() {
    StepState state;
    state.seed = 11, state.step = 4, state.first_sample = 9;
    return state;
}

// Bits, so that NaN equals NaN.
template <typename X>
bool same_bits(const std::vector<X>& a, const std::vector<X>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(X)) == 0;
}

TYPED_TEST(Encoder, ForwardEqualsCpu) {
    using X = TypeParam;
    for (auto [B, T, C, V, with_positions, p] : kSizes) {
        const int N = B * T;
        StepState state = step_state();
        auto tokens = random_integers(N, 1, V), positions = random_integers(N, 2, T);
        auto wte = random_vector<X>(size_t(V) * C, 3), wpe = random_vector<X>(size_t(T) * C, 4);
        std::vector<X> want(size_t(N) * C);
        encoder_forward<X>(want.data(), tokens.data(), with_positions ? positions.data() : nullptr, wte.data(),
                           wpe.data(), nullptr, B, T, C, Dropout{p, 12, &state});
        for_each_schedule([&] {
            DeviceVector<StepState> d_state(std::vector<StepState>{state});
            DeviceVector<int> d_tokens(tokens), d_positions(positions);
            DeviceVector<X> d_wte(wte), d_wpe(wpe), out(want.size());
            encoder_forward<X>(out.get(), d_tokens.get(), with_positions ? d_positions.get() : nullptr, d_wte.get(),
                               d_wpe.get(), nullptr, B, T, C, Dropout{p, 12, d_state.get()}, current_stream());
            EXPECT_LT(relative_error(out.host(), want), 2 * rounding<X>) << B << " " << T << " " << C;
        });
    }
}

TYPED_TEST(Encoder, BackwardEqualsCpuAndItself) {
    using X = TypeParam;
    for (auto [B, T, C, V, with_positions, p] : kSizes) {
        const int N = B * T;
        StepState state = step_state();
        auto tokens = random_integers(N, 1, V), positions = random_integers(N, 2, with_positions ? 3 : T);
        auto dout = random_vector<X>(size_t(N) * C, 5);
        auto dwte0 = random_vector<float>(size_t(V) * C, 6), dwpe0 = random_vector<float>(size_t(T) * C, 7);
        auto want_dwte = dwte0, want_dwpe = dwpe0;
        encoder_backward(want_dwte.data(), want_dwpe.data(), dout.data(), tokens.data(),
                         with_positions ? positions.data() : nullptr, B, T, C, V, Dropout{p, 12, &state});
        std::vector<float> first_dwte, first_dwpe;
        for_each_schedule([&] {
            reserve_workspace(encoder_backward_workspace_bytes(N, sort_scratch_bytes(N)));
            DeviceVector<StepState> d_state(std::vector<StepState>{state});
            DeviceVector<int> d_tokens(tokens), d_positions(positions);
            DeviceVector<X> d_dout(dout);
            DeviceVector<float> dwte(dwte0), dwpe(dwpe0);
            encoder_backward(dwte.get(), dwpe.get(), d_dout.get(), d_tokens.get(),
                             with_positions ? d_positions.get() : nullptr, B, T, C, V, Dropout{p, 12, d_state.get()},
                             current_stream());
            EXPECT_LT(relative_error(dwte.host(), want_dwte), 1e-6) << B << " " << T << " " << C;
            EXPECT_LT(relative_error(dwpe.host(), want_dwpe), 1e-6) << B << " " << T << " " << C;
            if (first_dwte.empty()) first_dwte = dwte.host(), first_dwpe = dwpe.host();
            EXPECT_TRUE(same_bits(dwte.host(), first_dwte));
            EXPECT_TRUE(same_bits(dwpe.host(), first_dwpe));
        });
    }
}

// Runs of every length around the number of a block's slots (16, 32, 64), at every place of a block.
TEST(EncoderRuns, OfEveryLength) {
    const int C = 8, V = 140;
    std::vector<int> tokens;
    for (int token = 0; token < V; token++) tokens.insert(tokens.end(), token * 37 % 131 + 1, token);
    const int N = static_cast<int>(tokens.size());
    auto dout = random_vector<float>(size_t(N) * C, 5);
    std::vector<float> want_dwte(V * C), want_dwpe(size_t(N) * C);
    encoder_backward(want_dwte.data(), want_dwpe.data(), dout.data(), tokens.data(), nullptr, 1, N, C, V, Dropout{});
    for_each_schedule([&] {
        reserve_workspace(encoder_backward_workspace_bytes(N, sort_scratch_bytes(N)));
        DeviceVector<int> d_tokens(tokens);
        DeviceVector<float> d_dout(dout), dwte(std::vector<float>(V * C)), dwpe(std::vector<float>(size_t(N) * C));
        encoder_backward(dwte.get(), dwpe.get(), d_dout.get(), d_tokens.get(), nullptr, 1, N, C, V, Dropout{},
                         current_stream());
        EXPECT_LT(relative_error(dwte.host(), want_dwte), 1e-6);
        EXPECT_LT(relative_error(dwpe.host(), want_dwpe), 1e-6);
    });
}

}  // namespace
