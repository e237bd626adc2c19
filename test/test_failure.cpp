// Ranks that are killed or stopped under dev/run.sh: the run ends well all the same, with the losses of a run that
// nobody disturbed.
//
// `make test` kills a few; TEST_FAILURE=1 (`make test_failure`) kills twenty.
#include <gtest/gtest.h>
#include <signal.h>
#include <algorithm>
#include <chrono>
#include <random>
#include <regex>
#include <thread>

#include "mpi_fixture.h"

namespace {

using Seconds = std::chrono::duration<double>;

class Failure : public MpiProgram {
  protected:
    void SetUp() override {
#ifdef __SANITIZE_ADDRESS__
        GTEST_SKIP() << "a kill leaves nothing for a sanitizer to see";
#endif
        MpiProgram::SetUp();
    }
    std::mt19937 random{std::random_device{}()};  // the moments are random anyway
    double between(double low, double high) { return std::uniform_real_distribution<double>(low, high)(random); }
    static void sleep(double seconds) { std::this_thread::sleep_for(Seconds(seconds)); }

    // Ids of this test's processes of that name: those that work in its directory.
    std::vector<pid_t> processes(const std::string& name) const {
        std::vector<pid_t> found;
        std::error_code gone;
        for (auto& entry : fs::directory_iterator("/proc")) {
            std::string id = entry.path().filename();
            if (!isdigit(id[0]) || fs::read_symlink(entry.path() / "cwd", gone) != fs::path(dir.path)) continue;
            if (read_text(entry.path() / "comm").starts_with(name)) found.push_back(std::stoi(id));
        }
        return found;
    }
    static int rank_of(pid_t process) {
        std::string variables = read_text("/proc/" + std::to_string(process) + "/environ");
        size_t at = variables.find("OMPI_COMM_WORLD_RANK=");
        return at == std::string::npos ? -1 : std::atoi(&variables[at + 21]);
    }
    int newest_step(const std::string& run) const {
        int step = -1;
        std::error_code none;
        for (auto& entry : fs::directory_iterator(dir / run, none))
            if (std::string name = entry.path().filename(); name.starts_with("step_") && name.size() == 13)
                step = std::max(step, std::stoi(name.substr(5)));
        return step;
    }
    // Longer than a busy machine needs for anything, shorter than what never comes.
    static constexpr double kPatience = 200;
    // Waits until condition(), or until patience ends.
    template <typename Condition>
    static bool wait_for(Condition condition) {
        auto end = std::chrono::steady_clock::now() + Seconds(kPatience);
        while (!condition()) {
            if (std::chrono::steady_clock::now() > end) return false;
            sleep(0.005);
        }
        return true;
    }

    struct Disturbed {
        CommandResult result;
        std::vector<std::string> hit;  // "rank 2"
        double longest = 0;            // seconds from a signal to the next start
    };
    // A run of 4 ranks under dev/run.sh; a rank of it gets `signal` `times` times.
    Disturbed disturb(const std::string& run, int times, int signal, const std::string& run_options,
                      const std::string& options) {
        Disturbed d;
        std::string name = fs::path(program_path(GetParam().variable, GetParam().path)).filename();
        name.resize(std::min<size_t>(name.size(), 15));  // as /proc has it
        std::string command = environment() + "bash " + run_script() + " -np 4 --restarts " + std::to_string(times) +
                              " " + run_options + " -- " + program() + options + " -o " + run;
        std::thread job([&] { d.result = run_shell(command, dir.path); });
        size_t ranks = 4;
        bool keep = run_options.find("--keep-ranks") != std::string::npos;
        auto starts = [&] { return count(file(run + "/restarts.log"), "run.sh: start "); };
        for (int i = 0; i < times; i++) {
            std::vector<pid_t> alive;
            int step = newest_step(run);
            if (!wait_for([&] { return starts() == i + 1 && (alive = processes(name)).size() == ranks; })) {
                ADD_FAILURE() << "start " << i + 1 << " had " << alive.size() << " processes instead of " << ranks;
                break;
            }
            // Every other one dies at any moment, the start included, the others when the run has come further.
            if (i % 2 == 1 || signal == SIGSTOP) wait_for([&] { return newest_step(run) > step; });
            sleep(between(0, i % 2 == 1 || signal == SIGSTOP ? 0.2 : 0.8));
            pid_t victim = alive[random() % alive.size()];
            d.hit.push_back("rank " + std::to_string(rank_of(victim)));
            auto begin = std::chrono::steady_clock::now();
            kill(victim, signal);
            wait_for([&] { return starts() > i + 1; });
            d.longest = std::max(d.longest, Seconds(std::chrono::steady_clock::now() - begin).count());
            if (!keep && ranks > 1) ranks--;
        }
        job.join();
        EXPECT_TRUE(wait_for([&] { return processes(name).empty() && processes("mpirun").empty(); }));
        return d;
    }
    static std::string run_script() { return fs::absolute("dev/run.sh").string(); }
    static std::string steps(int n) {
        return small() + "-b 2 -x " + std::to_string(n) + " -v " + std::to_string(n / 2) + " -n 20 ";
    }

    void expect_restarted(const Disturbed& d, const std::string& run) {
        std::string log = file(run + "/restarts.log");
        ASSERT_EQ(d.result.exit_code, 0) << log;
        EXPECT_NE(log.find("run.sh: done, after " + std::to_string(d.hit.size()) + " restarts"), std::string::npos)
            << log;
        std::vector<std::string> named;
        std::regex line("run\\.sh: (rank \\d).* (died|exited on signal 9|hangs|stalls), exit code \\d+");
        for (std::sregex_iterator i(log.begin(), log.end(), line), end; i != end; i++) named.push_back((*i)[1]);
        EXPECT_EQ(named, d.hit) << log;
        EXPECT_EQ(log.find("damaged"), std::string::npos) << log;
        for (auto& entry : fs::directory_iterator(dir / run)) {
            std::string name = entry.path().filename();
            EXPECT_TRUE(name.starts_with("step_") || name == "log.jsonl" || name.starts_with("log.aside.") ||
                        name == "loss.svg" || name == "restarts.log" || name == ".lock")
                << name << " is left behind";
        }
    }
    static bool all() { return getenv("TEST_FAILURE") != nullptr; }
};

TEST_P(Failure, KilledRanksAreStartedAgain) {
    int n = all() ? 2000 : 600;
    for (int stage : all() ? std::vector<int>{0, 1, 2, 3} : std::vector<int>{2}) {
        std::string run = "stage" + std::to_string(stage), z = "-z " + std::to_string(stage);
        expect_good(start(4, steps(n) + z + " -o undisturbed_" + run));
        Disturbed d = disturb(run, all() ? 4 : 2, SIGKILL, "--keep-ranks", steps(n) + z);
        expect_restarted(d, run);
        EXPECT_EQ(logged(run, "loss"), logged("undisturbed_" + run, "loss")) << "not bit-identical";
        EXPECT_EQ(logged(run, "val_loss"), logged("undisturbed_" + run, "val_loss"));
    }
}

TEST_P(Failure, TheRanksThatAreLeftGoOn) {
    int n = all() ? 2000 : 600;
    expect_good(start(1, steps(n) + "-o undisturbed"));
    Disturbed d = disturb("run", all() ? 4 : 2, SIGKILL, "", steps(n) + "-z 3");
    expect_restarted(d, "run");
    expect_same_losses("run", "undisturbed");
}

TEST_P(Failure, ARankThatHangsIsLeftOut) {
    expect_good(start(1, steps(1000) + "-o undisturbed"));
    Disturbed d = disturb("run", 1, SIGSTOP, "", steps(1000) + "-z 1 --comm-timeout 2");
    expect_restarted(d, "run");
    EXPECT_LT(d.longest, kPatience) << "--comm-timeout was not obeyed: without it they wait for 600 s";
    expect_same_losses("run", "undisturbed");
}

TEST_P(Failure, ASignalToTheScriptSavesACheckpoint) {
    std::string begin = environment() + "bash " + run_script() + " -np 2 -- " + program() + steps(100000) + "-o run ";
    CommandResult r;
    std::thread job([&] { r = run_shell(begin + "& echo $! >id; wait $!", dir.path); });
    EXPECT_TRUE(wait_for([&] { return newest_step("run") >= 0; }));
    kill(std::stoi(file("id")), SIGTERM);  // timeout passes it on, to the script and then to the script's group
    usleep(5'000);
    kill(std::stoi(file("id")), SIGTERM);  // as if the two came apart: still one wish to stop
    job.join();
    std::string log = file("run/restarts.log");
    EXPECT_NE(log.find("run.sh: stopped at step " + std::to_string(newest_step("run")) + "; go on with"),
              std::string::npos)
        << log << r.err;
    EXPECT_EQ(count(log, "run.sh: start "), 1) << log;
    EXPECT_NE(r.out.find("stopped by signal 10 after step " + std::to_string(newest_step("run"))), std::string::npos)
        << r.out.substr(r.out.size() - std::min<size_t>(r.out.size(), 500));
}

TEST_P(Failure, CommandLinesThatCannotWorkAreRefused) {
    auto refused = [&](const std::string& arguments, const std::string& names) {
        CommandResult r = run_shell(environment() + "bash " + run_script() + " " + arguments, dir.path);
        EXPECT_EQ(r.exit_code, 2) << r.err;
        EXPECT_NE(r.err.find(names), std::string::npos) << r.err;
        EXPECT_EQ(count(r.err, "run.sh: error: "), 1) << r.err;
        EXPECT_EQ(count(r.err, "restart 1 of"), 0) << r.err;
    };
    std::string train = " -- " + program() + steps(20) + "-o run ";
    refused("-np 2", "no program");
    refused("-np two" + train, "-np needs a number");
    refused("-np 2 -- " + program() + small() + "-n 10", "no -o");
    refused("-np 2 -- " + program() + small() + "-o run", "no -n (--checkpoint-every)");
    refused("-np 2" + train + "--nonsense", "the command line is wrong");
    expect_good(run_shell(environment() + "bash " + run_script() + " -np 2" + train, dir.path));
    refused("-np 2" + train, "run has a run already");
}

INSTANTIATE_TEST_SUITE_P(Programs, Failure, testing::Values(programs_under_test()[0]),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
