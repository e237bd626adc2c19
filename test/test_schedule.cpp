#include <gtest/gtest.h>
#include <cmath>
#include <limits>
#include "llmc/base/error.h"
#include "llmc/run/schedule.h"

TEST(Schedule, WarmupIsLinearAndReachesTheHighestRateAtItsLastStep) {
    for (const char* kind : {"cosine", "linear", "constant", "wsd"}) {
        Schedule s{kind, 6e-4, 0.1, 7, 100};
        for (int step = 0; step < 7; step++) EXPECT_DOUBLE_EQ(s.at(step), 6e-4 * (step + 1) / 7) << kind;
        EXPECT_DOUBLE_EQ(s.at(7), 6e-4) << kind;
    }
}

TEST(Schedule, KnownValues) {
    // llm.c's GPT-2 124M run: 18,865 steps, 700 of warm-up, decay to 0.
    Schedule cosine{"cosine", 6e-4, 0.0, 700, 18865};
    EXPECT_DOUBLE_EQ(cosine.at(0), 6e-4 / 700);
    EXPECT_NEAR(cosine.at(10000), 0.5 * (1 + std::cos(M_PI * 9300 / 18165)) * 6e-4, 1e-18);
    EXPECT_NEAR(cosine.at(18865), 0, 1e-18);
    Schedule quarter{"cosine", 1.0, 0.2, 0, 8};
    EXPECT_DOUBLE_EQ(quarter.at(4), 0.6);
    EXPECT_NEAR(quarter.at(2), 0.2 + 0.8 * (0.5 + std::sqrt(0.125)), 1e-15);

    Schedule linear{"linear", 1.0, 0.2, 10, 50};
    EXPECT_DOUBLE_EQ(linear.at(30), 0.6);
    EXPECT_DOUBLE_EQ(linear.at(40), 0.4);

    Schedule wsd{"wsd", 1.0, 0.1, 10, 100};
    EXPECT_DOUBLE_EQ(wsd.at(50), 1.0);
    EXPECT_DOUBLE_EQ(wsd.at(80), 1.0);
    EXPECT_DOUBLE_EQ(wsd.at(85), 0.1 + 0.9 * 0.5);  // 1 - sqrt(1/4)
    EXPECT_NEAR(wsd.at(100), 0.1, 1e-15);

    EXPECT_DOUBLE_EQ((Schedule{"constant", 0.5, 0.1, 0, 10}.at(9)), 0.5);
}

TEST(Schedule, EndsAndOddLengths) {
    for (const char* kind : {"cosine", "linear", "wsd"}) {
        Schedule s{kind, 1.0, 0.25, 3, 20};
        EXPECT_NEAR(s.at(20), 0.25, 1e-15) << kind;
        EXPECT_NEAR(s.at(1000), 0.25, 1e-15) << kind;  // beyond the end: stays low
        for (int step = 3; step < 20; step++) EXPECT_LE(s.at(step + 1), s.at(step)) << kind;
        for (int64_t steps : {1, 2, 3}) {  // warm-up as long as the run, or longer
            Schedule shorter{kind, 1.0, 0.25, 3, steps};
            for (int step = 0; step < 3; step++) EXPECT_DOUBLE_EQ(shorter.at(step), (step + 1) / 3.0);
            EXPECT_TRUE(std::isfinite(shorter.at(3)));
        }
        EXPECT_DOUBLE_EQ((Schedule{kind, 1.0, 0.25, 0, 1}.at(0)), 1.0) << kind;
        EXPECT_DOUBLE_EQ((Schedule{kind, 1.0, 1.0, 0, 9}.at(8)), 1.0) << kind;
    }
    // Warm-up that reaches into the last 20%: the decay begins where it ends.
    Schedule late{"wsd", 1.0, 0.0, 90, 100};
    EXPECT_DOUBLE_EQ(late.at(89), 1.0);
    EXPECT_DOUBLE_EQ(late.at(90), 1.0);
    EXPECT_LT(late.at(91), 1.0);
}

TEST(Schedule, UnknownKindIsAUsageError) {
    try {
        Schedule{"cosin", 1, 0, 0, 10}.at(0);
        FAIL();
    } catch (const UsageError& e) {
        EXPECT_NE(std::string(e.what()).find("--lr-schedule"), std::string::npos);
        EXPECT_NE(std::string(e.what()).find("'cosin'"), std::string::npos);
        EXPECT_EQ(e.exit_code, 2);
    }
}

TEST(OutlierDetector, ThresholdIsMeanPlusDeviations) {
    OutlierDetector d;
    EXPECT_EQ(d.threshold(7), 1e30f);
    for (int i = 0; i < 127; i++) d.add(i % 2 ? 5.0 : 3.0);
    EXPECT_EQ(d.threshold(7), 1e30f);  // not full yet
    d.add(5.0);
    EXPECT_FLOAT_EQ(d.threshold(7), 4 + 7 * 1.0f);
    EXPECT_FLOAT_EQ(d.threshold(0.5), 4.5f);
    EXPECT_EQ(d.threshold(0), 1e30f);  // off
}

TEST(OutlierDetector, TheWindowMoves) {
    OutlierDetector d;
    for (int i = 0; i < 128; i++) d.add(1e6 * (i % 3));
    for (int i = 0; i < 128; i++) d.add(i % 2 ? 1.0 : -1.0);
    EXPECT_EQ(d.window().size(), 128u);
    EXPECT_FLOAT_EQ(d.threshold(3), 3.0f);
}

TEST(OutlierDetector, EqualValuesAndValuesThatAreNotFinite) {
    OutlierDetector d;
    for (int i = 0; i < 128; i++) d.add(2.5);
    EXPECT_EQ(d.threshold(3), 1e30f);  // no deviation: nothing is an outlier
    OutlierDetector e;
    for (int i = 0; i < 128; i++) e.add(i % 2 ? 5.0 : 3.0);
    const float before = e.threshold(7);
    e.add(std::numeric_limits<double>::quiet_NaN());
    e.add(std::numeric_limits<double>::infinity());
    EXPECT_EQ(e.threshold(7), before);
    EXPECT_EQ(e.window().size(), 128u);
}

TEST(OutlierDetector, LargeMeanSmallDeviation) {  // sum of squares minus square of the sum would lose every digit
    OutlierDetector d;
    for (int i = 0; i < 128; i++) d.add(1e9 + (i % 2 ? 1.0 : -1.0));
    EXPECT_NEAR(d.threshold(1e6), 1e9 + 1e6, 100);
}

TEST(OutlierDetector, Restore) {
    OutlierDetector a, b;
    for (int i = 0; i < 200; i++) a.add(std::sin(i));
    b.restore(a.window());
    for (int i = 200; i < 230; i++) a.add(std::sin(i)), b.add(std::sin(i));
    EXPECT_EQ(a.window(), b.window());
    EXPECT_EQ(a.threshold(7), b.threshold(7));
    std::deque<double> longer(500, 1.0);
    longer.back() = std::nan("");
    b.restore(longer);
    EXPECT_EQ(b.window().size(), 128u);
    EXPECT_EQ(b.threshold(7), 1e30f);
}
