// Dropout, and the masks that it takes from Philox.
#include "llmc/cpu/dropout.h"
#include "test/layer_test.h"

namespace {

struct DropoutLayer {
    int B;
    int64_t per_sample;
    bool in_place;
    Dropout dropout;

    NamedDoubles inputs() const { return {{"x", random_vector(B * per_sample, 1)}}; }
    template <typename X, class On>
    NamedDoubles run(const NamedDoubles& in, const NamedDoubles& d, On on) const {  // both ways the same function
        auto from = narrow<X>(d.empty() ? in.at("x") : d.at("y")), to = unwritten<X>(B * per_sample);
        dropout_apply(in_place ? from.data() : to.data(), from.data(), B, per_sample, dropout, on);
        return {{d.empty() ? "y" : "x", widen(in_place ? from : to)}};
    }
};

TEST(DropoutLayer, AgreesWithPlain) {
    for (bool in_place : {false, true})
        for (const Dropout& dropout : {kNoDropout, kDropout}) {
            SCOPED_TRACE(testing::Message() << "in place " << in_place << ", dropout " << dropout.p);
            check_layer(DropoutLayer{1, 1, in_place, dropout});
            check_layer(DropoutLayer{3, 4999, in_place, dropout});
            check_layer(DropoutLayer{2, 8193, in_place, dropout});
        }
}

// step_state.h: element e of a sample is kept where philox(seed; e / 4, sample, step, dropout << 24 | site)[e % 4] >= p.
TEST(DropoutLayer, MaskIsTheDocumentedFunction) {
    Philox4 random = philox(0x123456789abcdefull, 250, 1002, 7, 2u << 24 | 6);
    for (int64_t e = 1000; e < 1004; e++)
        EXPECT_EQ(dropout_factor(kDropout, 2, e), uniform01(random.v[e - 1000]) < 0.3f ? 0 : 1 / (1 - 0.3f)) << e;
    for (int64_t e0 : {0, 1, 2, 3, 4, 1001})
        for (int n : {1, 2, 3, 4, 5, 63, 130}) {
            auto scale = unwritten<float>(n + 1);
            dropout_scales(scale.data(), kDropout, 2, e0, n);
            for (int i = 0; i < n; i++)
                ASSERT_EQ(scale[i], dropout_factor(kDropout, 2, e0 + i)) << "e0 " << e0 << ", n " << n;
            EXPECT_TRUE(std::isnan(scale[n])) << "wrote past the end, n " << n;
        }
    StepState next = kState;
    next.first_sample++;
    for (int64_t e = 0; e < 50; e++)  // the mask follows the global sample, not the row
        EXPECT_EQ(dropout_factor(kDropout, 3, e), dropout_factor({0.3f, 6, &next}, 2, e));
}

TEST(DropoutLayer, KeepsTheRightShare) {
    const int n = 120'000;
    int kept = 0;
    for (int e = 0; e < n; e++) kept += dropout_factor(kDropout, 0, e) != 0;
    EXPECT_NEAR(kept / double(n), 0.7, 4 * std::sqrt(0.21 / n));
}

}  // namespace
