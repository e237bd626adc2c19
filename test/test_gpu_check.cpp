// dev/gpu_check.sh's own arithmetic: dev/gpu_check/test_gpu_check.py, which needs no GPU.
#include <gtest/gtest.h>

#include "command.h"

namespace {

TEST(GpuCheck, ReadsWhatAProfilerWrites) {
    if (run_shell("python3 --version").exit_code != 0) GTEST_SKIP() << "python3 is missing";
    const CommandResult r = run_shell("python3 -B dev/gpu_check/test_gpu_check.py 2>&1");
    EXPECT_EQ(r.exit_code, 0) << r.out;
    EXPECT_NE(r.out.find("OK"), std::string::npos) << r.out;
}

}  // namespace
