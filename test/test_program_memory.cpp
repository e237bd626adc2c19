// Memory and threads that run out: one line, wherever it happens. test/faults/memory.sh tries every point.
#include "program_fixture.h"

TEST_F(Program, MemoryThatRunsOutIsOneLine) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the sanitizer needs more address space than a limit leaves";
#endif
    int ended = 0, went_on = 0;
    for (int kilobytes = 66'000; kilobytes <= 1'000'000; kilobytes += kilobytes < 250'000 ? 8'000 : 150'000) {
        const std::string limit =
            "ulimit -c 0; ulimit -v " + std::to_string(kilobytes) + "; export OMP_NUM_THREADS=2; exec ";
        fs::remove_all(dir / "run");
        CommandResult r = gpt2("train " + small() + "-x 4 -n 2 -o run", limit);
        if (r.exit_code == 127) continue;  // the loader did not get as far as the program
        (r.exit_code == 0 ? went_on : ended)++;
        EXPECT_LE(r.exit_code, 1) << kilobytes << ": " << r.err;
        EXPECT_EQ(r.exit_code == 0, r.err.find("error: ") == std::string::npos) << kilobytes << ": " << r.err;
    }
    EXPECT_GT(ended, 0);
    EXPECT_GT(went_on, 0);
}

TEST_F(Program, ThreadsThatCannotBeHadAreOneLine) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "the sanitizer needs more address space than a limit leaves";
#endif
    // Each thread has 8 MB of address space for its stack.
    expect_one_error(
        gpt2("train " + small() + "-o run", "ulimit -s 8192; ulimit -v 1000000; export OMP_NUM_THREADS=200; exec "), 1,
        "cannot start a thread");
}
