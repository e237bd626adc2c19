// For tests of the harness itself (CUDA on the CPU): planted faults, and whether they are found.
#pragma once
#include "test/cuda/device_test.h"

#ifdef CUDAHOST

// How many of the eight schedules say no, by a wrong answer or by an exception.
template <typename IsRight>
int schedules_that_fail(IsRight is_right) {
    int failed = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        cudahost::set_seed(seed);
        try {
            bool right = is_right();
            cudahost::check();
            failed += !right;
        } catch (const cudahost::Bug&) {
            failed++;
        }
    }
    return failed;
}
// The message of the Bug that body throws; empty: it throws none.
template <typename Body>
std::string bug(Body body) {
    try {
        body();
        cudahost::check();
    } catch (const cudahost::Bug& b) {
        return b.what();
    }
    return "";
}
inline testing::AssertionResult says(const std::string& message, const std::string& text) {
    bool right = text.empty() ? message.empty() : message.find(text) != std::string::npos;
    return (right ? testing::AssertionSuccess() : testing::AssertionFailure()) << "message: '" << message << "'";
}
#define EXPECT_BUG(text, ...) EXPECT_TRUE(says(bug([&] { __VA_ARGS__; }), text))

// Under AddressSanitizer the process ends at the very access.
#ifdef __SANITIZE_ADDRESS__
#define EXPECT_OUT_OF_BOUNDS(guard, ...) \
    EXPECT_DEATH(                        \
        {                                \
            __VA_ARGS__;                 \
            cudaDeviceSynchronize();     \
        },                               \
        "use-after-poison|out of bounds")
#else
#define EXPECT_OUT_OF_BOUNDS(guard, ...) EXPECT_BUG(guard, __VA_ARGS__)
#endif

#endif  // CUDAHOST
