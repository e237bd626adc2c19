// How threads wait: what libgomp was told when it was loaded, wherever the program was started, and that they do sleep.
#include <gtest/gtest.h>
#include <strings.h>
#include <unistd.h>
#include <chrono>
#include <sstream>
#include <thread>

#include "llmc/base/parallel.h"
#include "mpi_fixture.h"

struct Mpi : MpiProgram {
    using MpiProgram::environment;
};

// libgomp says what it has read; nothing depends on how fast the machine is.
class SpinCount : public Program {
  protected:
    void SetUp() override {
        if (spin("") == "") GTEST_SKIP() << "this build's OpenMP is not libgomp";
    }
    // What every process says, '2000' say; prefix: variables, and how it is started.
    std::string spin(const std::string& prefix) {
        CommandResult r = run_shell("unset OMP_WAIT_POLICY GOMP_SPINCOUNT; export OMP_DISPLAY_ENV=verbose; " + prefix +
                                    " " + program_path("TRAIN_GPT2", "train_gpt2") + " --help");
        EXPECT_EQ(r.exit_code, 0) << r.err;
        std::string all, from = r.out + r.err;
        const std::string name = "GOMP_SPINCOUNT = ";
        for (size_t at = 0; (at = from.find(name, at)) != std::string::npos;) {
            at += name.size();
            all += from.substr(at, from.find('\n', at) - at);
        }
        return all;
    }
    static bool there(const std::string& program) { return run_shell("command -v " + program).exit_code == 0; }
};

TEST_F(SpinCount, IsShort) {
    EXPECT_EQ(spin(""), "'2000'");
    EXPECT_EQ(spin("env -i PATH=/bin OMP_DISPLAY_ENV=verbose"), "'2000'");
    EXPECT_EQ(spin("unset PATH PWD; "), "'2000'");  // HOME lends its place
}
TEST_F(SpinCount, UnderMpirun) {
    if (!there("mpirun")) GTEST_SKIP() << "there is no mpirun";
    EXPECT_EQ(spin(Mpi::environment() + "mpirun -np 2 -x OMP_DISPLAY_ENV"), "'2000''2000'");
}
TEST_F(SpinCount, UnderGdb) {
    if (!there("gdb")) GTEST_SKIP() << "there is no gdb";
    EXPECT_EQ(spin("gdb -q -batch -ex run --args"), "'2000'");
}
TEST_F(SpinCount, TheUsersOwnWins) {
    EXPECT_EQ(spin("export GOMP_SPINCOUNT=77;"), "'77'");
    EXPECT_EQ(spin("export OMP_WAIT_POLICY=passive;"), "'0'");
    EXPECT_EQ(spin("export OMP_WAIT_POLICY=active;"), "'30000000000'");
}

// /proc/self/environ is what the kernel gave: every variable of it has its place back.
TEST(Environment, IsWholeAgain) {
    std::istringstream given(read_text("/proc/self/environ"));
    int variables = 0;
    for (std::string each; std::getline(given, each, '\0'); variables++) {
        size_t equals = each.find('=');
        const char* value = getenv(each.substr(0, equals).c_str());
        EXPECT_TRUE(value && each.substr(equals + 1) == value) << each;
    }
    EXPECT_GT(variables, 0);
}

// State of each thread of this process but the one that asks: "S" is asleep.
static std::string states_of_others() {
    std::string states;
    for (const auto& task : fs::directory_iterator("/proc/self/task")) {
        if (task.path().filename() == std::to_string(gettid())) continue;
        std::string stat = read_text(task.path() / "stat");
        if (size_t end = stat.rfind(')'); end != std::string::npos) states += stat[end + 2];
    }
    return states;
}
TEST(Threads, SleepAfterALoop) {
    if (const char* policy = getenv("OMP_WAIT_POLICY"); policy && strcasecmp(policy, "active") == 0)
        GTEST_SKIP() << "OMP_WAIT_POLICY=active";
    std::vector<double> x(1000, 1.0);
    parallel_for(1000, [&](int64_t i) { x[static_cast<size_t>(i)] *= 2; });
    std::string states = "R";
    for (int i = 0; i < 2000 && states.find_first_not_of('S') != std::string::npos; i++) {
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        states = states_of_others();
    }
    EXPECT_EQ(states.find_first_not_of('S'), std::string::npos) << states;
    EXPECT_GE(static_cast<int>(states.size()), thread_count() - 1);
}
