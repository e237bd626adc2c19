// Token and position embedding.
#include "test/layer_test.h"

namespace {

struct Encoder {
    int B, T, C, V, maxT;
    bool with_positions;
    Dropout dropout;

    NamedDoubles inputs() const { return {{"wte", random_vector(V * C, 1)}, {"wpe", random_vector(maxT * C, 2)}}; }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {
        std::vector<int> tokens, positions;
        for (int i = 0; i < B * T; i++) tokens.push_back(i * i % V), positions.push_back((i * 5 + 3) % maxT);
        const int* given = with_positions ? positions.data() : nullptr;
        if (d.empty()) {
            auto wte = narrow<X>(in.at("wte")), wpe = narrow<X>(in.at("wpe")), out = unwritten<X>(B * T * C);
            encoder_forward<X>(out.data(), tokens.data(), given, wte.data(), wpe.data(), nullptr, B, T, C, dropout, on);
            return {{"out", widen(out)}};
        }
        auto dout = narrow<X>(d.at("out"));
        auto dwte = accumulator<grad_t<X>>(V * C), dwpe = accumulator<grad_t<X>>(maxT * C);
        encoder_backward<X>(dwte.data(), dwpe.data(), dout.data(), tokens.data(), given, B, T, C, V, dropout, on);
        return {{"wte", accumulated(dwte)}, {"wpe", accumulated(dwpe)}};
    }
};

TEST(Encoder, IsTheSumOfTheRowsOfTokenAndPosition) {
    double wte[] = {1, 2, 10, 20, 100, 200}, wpe[] = {0.5, 0.25, -0.5, -0.25}, out[8];
    int tokens[] = {2, 0, 1, 1}, positions[] = {1, 1, 0, 0};
    encoder_forward<double>(out, tokens, nullptr, wte, wpe, nullptr, 2, 2, 2, kNoDropout, Plain{});
    EXPECT_EQ(Doubles(out, out + 8), (Doubles{100.5, 200.25, 0.5, 1.75, 10.5, 20.25, 9.5, 19.75}));
    encoder_forward<double>(out, tokens, positions, wte, wpe, nullptr, 2, 2, 2, kNoDropout, Plain{});
    EXPECT_EQ(Doubles(out, out + 8), (Doubles{99.5, 199.75, 0.5, 1.75, 10.5, 20.25, 10.5, 20.25}));
}

TEST(Encoder, AgreesWithPlain) {
    for (bool with_positions : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout}) {
            SCOPED_TRACE(testing::Message() << "positions " << with_positions << ", dropout " << dropout.p);
            check_layer(Encoder{3, 7, 13, 11, 9, with_positions, dropout});
            check_layer(Encoder{1, 1, 1, 1, 1, with_positions, dropout});
            check_layer(Encoder{2, 19, 70, 33, 40, with_positions, dropout});
            check_layer(Encoder{2, 2, 1301, 3, 2, with_positions, dropout});
        }
}

}  // namespace
