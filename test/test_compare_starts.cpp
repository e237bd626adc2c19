// Whether ranks that are about to do different things are told apart before anything travels.
#include "llmc/run/compare_starts.h"
#include <gtest/gtest.h>

namespace {

std::string difference(const std::vector<std::string>& descriptions, int exit_code = 1) {
    try {
        compare_starts(descriptions);
    } catch (const Error& e) {
        EXPECT_EQ(e.exit_code, exit_code);
        return e.what();
    }
    return "";
}

::Run training_run() {
    ::Run run;
    run.train_shards = {"train_000000.bin"};
    run.state.data_json = R"({"train":[]})";
    return run;
}

}  // namespace

TEST(CompareStarts, NamesRankAndOption) {
    ::Run run = training_run(), other = training_run();
    EXPECT_EQ(difference({start_description(run, "CPU"), start_description(other, "CPU")}), "");
    other.options.learning_rate = 1e-2;
    std::string message =
        difference({start_description(run, "CPU"), start_description(run, "CPU"), start_description(other, "CPU")});
    EXPECT_NE(message.find("rank 2 differs from rank 0 in learning-rate: 0.01"), std::string::npos) << message;
    message = difference({start_description(run, "an H100"), start_description(run, "an A100")});
    EXPECT_NE(message.find("rank 1 differs from rank 0 in device"), std::string::npos) << message;
}

TEST(CompareStarts, ARankThatCouldNotPrepareSaysWhy) {
    ::Run run = training_run();
    EXPECT_EQ(difference({start_description(run, "CPU"), start_description(UsageError("no such file"))}, 2),
              "rank 1: no such file");
}

TEST(CompareStarts, WhatIsNoDescriptionIsNamed) {
    ::Run run = training_run();
    std::string good = start_description(run, "CPU");
    for (const char* bad : {"", "\x1b[2J", "{", "[1]", "7", "{} trailing"})
        EXPECT_NE(difference({good, good, bad}).find("rank 2 does not say what it was started with"), std::string::npos)
            << bad;
    EXPECT_EQ(difference({good, R"({"error": 7})"}), "rank 1: 7");
    // A failure is one, whatever its rank says.
    for (const char* code : {"0", "256", "\"x\"", "null", "-1"})
        EXPECT_EQ(difference({good, strf(R"({"error": "full", "exit code": %s})", code)}), "rank 1: full");
    EXPECT_EQ(difference({start_description(Error("full")), good}), "full");  // rank 0 speaks for itself
}

TEST(CompareStarts, EvaluationHasNoTrainingData) {
    ::Run run;
    EXPECT_EQ(difference({start_description(run, "CPU"), start_description(run, "CPU")}), "");
}
