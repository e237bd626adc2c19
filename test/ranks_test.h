// Tests of several processes. A test starts its own program again, once for each rank, with itself as the only test:
//
//   TEST(Communicator, AddsUp) {
//       if (is_rank()) return in_rank([](Group& group) { ... EXPECT_EQ(...) ... });
//       for (int n : {2, 3, 4}) expect_ranks_pass(mpirun_ranks(n));
//   }
//
// Every start has a time limit, after which it is killed and has failed.
#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <chrono>
#include <functional>
#include <map>
#include <thread>
#include <vector>
#include "llmc/ranks/group.h"
#include "llmc/ranks/ranks.h"
#include "test/command.h"

inline double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
inline void sleep_seconds(double s) { std::this_thread::sleep_for(std::chrono::duration<double>(s)); }

// ---- in the ranks ----

inline bool is_rank() { return getenv("TEST_IS_RANK") != nullptr; }
// What the test that started the ranks says to them: its own arguments, TEST_TIMEOUT_S (of the group), and, where they
// meet by a file, TEST_FS (directory), TEST_WORLD, TEST_RANK.
inline std::string test_argument(const char* name) {
    const char* value = getenv(name);
    return value ? value : "";
}
// The group that the environment describes; as the programs do, an Error goes to all ranks, then ends this one.
inline void in_rank(const std::function<void(Group&)>& body) {
    std::unique_ptr<Group> group;
    try {
        RankOptions options;
        if (std::string directory = test_argument("TEST_FS"); !directory.empty()) {  // -pi fs -pf DIR -pn N -pr R
            options.nccl_init_method = "fs", options.fs_path = directory;
            options.num_processes = std::stoi(test_argument("TEST_WORLD"));
            options.process_rank = std::stoi(test_argument("TEST_RANK")), options.job = test_argument("TEST_JOB");
        }
        if (std::string here = test_argument("TEST_LOCAL_SIZE"); !here.empty())  // as if the others were elsewhere
            setenv("OMPI_COMM_WORLD_LOCAL_SIZE", here.c_str(), 1);
        std::string timeout = test_argument("TEST_TIMEOUT_S");
        group = std::make_unique<Group>(find_ranks(options), timeout.empty() ? 30 : std::stod(timeout));
        body(*group);
    } catch (const Error& e) {
        if (group) group->fail(e.what());
        if (group) sleep_seconds(group->rank() > 0 ? 3 : 0.2);
        // of the other ranks rank 0 says it, and ends them
        if (!group || group->rank() == 0) fprintf(stderr, "error: %s\n", e.what());
        fflush(nullptr);
        _exit(e.exit_code);
    }
}

// ---- in the test that starts them ----

inline std::string own_program() { return std::filesystem::read_symlink("/proc/self/exe").string(); }
inline std::string own_filter() {
    const ::testing::TestInfo* test = ::testing::UnitTest::GetInstance()->current_test_info();
    return std::string("--gtest_filter=") + test->test_suite_name() + "." + test->name();
}

// A process of this test, ended at the latest with this object.
class RankProcess {
  public:
    using Variables = std::map<std::string, std::string>;
    RankProcess(const Variables& variables, std::vector<std::string> command = {own_program(), own_filter()}) {
        std::vector<char*> arguments;
        for (std::string& word : command) arguments.push_back(word.data());
        arguments.push_back(nullptr);
        std::string out = directory_ / "out", err = directory_ / "err";
        pid_ = fork();
        if (pid_ == 0) {
            setpgid(0, 0);
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            dup2(open("/dev/null", O_RDONLY), 0);
            dup2(open(out.c_str(), O_CREAT | O_WRONLY, 0600), 1);
            dup2(open(err.c_str(), O_CREAT | O_WRONLY, 0600), 2);
            // nothing of a launcher that may have started the tests themselves
            for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
                                     "MASTER_PORT", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_ID",
                                     "PMIX_NAMESPACE", "PMIX_RANK", "TRAIN_GPT2_SECRET"})
                unsetenv(name);
            setenv("TEST_IS_RANK", "1", 1);
            setenv("OMP_NUM_THREADS", "1", 1);
            setenv("TMPDIR", directory_.path.c_str(), 1);
            for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
            execvp(arguments[0], arguments.data());
            _exit(127);
        }
    }
    ~RankProcess() {
        if (pid_ > 0 && !ended_) wait(0);
    }
    RankProcess(const RankProcess&) = delete;

    pid_t id() const { return pid_; }
    void signal(int number) { ::kill(pid_, number); }
    bool running() {
        if (!ended_ && waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = true;
        return !ended_;
    }
    // Its exit code, 128 + signal, or -1: it had not ended after `limit` seconds, and was killed with all that it
    // started.
    int wait(double limit) {
        for (double end = seconds() + limit; running() && seconds() < end;) sleep_seconds(0.01);
        bool late = running();
        if (late) {
            kill(-pid_, SIGTERM);  // mpirun: its ranks too
            for (double end = seconds() + 2; running() && seconds() < end;) sleep_seconds(0.01);
            if (running()) kill(-pid_, SIGKILL), waitpid(pid_, &status_, 0), ended_ = true;
        }
        return late ? -1 : WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
    }
    std::string out() const { return read_text(directory_ / "out"); }
    std::string err() const { return read_text(directory_ / "err"); }

  private:
    TemporaryDirectory directory_;
    pid_t pid_ = -1;
    int status_ = 0;
    bool ended_ = false;
};

// A port that nobody uses at this moment.
inline int free_port() {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    bind(fd, reinterpret_cast<sockaddr*>(&address), size);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    close(fd);
    return ntohs(address.sin_port);
}

// torchrun's variables.
inline RankProcess::Variables rank_variables(int rank, int world, int port) {
    return {{"RANK", std::to_string(rank)},
            {"WORLD_SIZE", std::to_string(world)},
            {"MASTER_ADDR", "127.0.0.1"},
            {"MASTER_PORT", std::to_string(port)}};
}
// Plain processes with torchrun's variables, all `more` as well.
inline std::vector<std::unique_ptr<RankProcess>> start_ranks(int world, RankProcess::Variables more = {}) {
    std::vector<std::unique_ptr<RankProcess>> ranks;
    int port = free_port();
    for (int r = 0; r < world; r++) {
        RankProcess::Variables variables = rank_variables(r, world, port);
        variables["NCCL_HOSTID"] = "test-" + std::to_string(r);  // lets NCCL put several ranks on one GPU
        variables["NCCL_SOCKET_IFNAME"] = "lo";
        variables.insert(more.begin(), more.end());
        ranks.push_back(std::make_unique<RankProcess>(variables));
    }
    return ranks;
}

// The same under mpirun, with no options that one MPI knows and another does not; null: there is no mpirun.
inline std::unique_ptr<RankProcess> start_mpirun(int world, RankProcess::Variables variables = {}) {
    if (system("command -v mpirun >/dev/null 2>&1") != 0) return nullptr;
    for (const char* name :
         {"OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "OMPI_MCA_rmaps_base_oversubscribe"})
        variables[name] = "1";
    variables["OMPI_MCA_hwloc_base_binding_policy"] = "none";
    variables["OMPI_MCA_btl_vader_single_copy_mechanism"] = "none";  // containers forbid it
    const char* sanitizer = getenv("ASAN_OPTIONS");
    variables["ASAN_OPTIONS"] = std::string(sanitizer ? sanitizer : "") + ":detect_leaks=0";  // MPI leaves much behind
    variables["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe";
    return std::make_unique<RankProcess>(
        variables, std::vector<std::string>{"mpirun", "-np", std::to_string(world), own_program(), own_filter()});
}

// Why the ranks could not run here at all; "": they could.
inline std::string what_lacks(const std::string& err) {
    for (const char* lack : {"this build has no MPI", "this build has no NCCL", "NCCL is missing"})
        if (err.find(lack) != std::string::npos) return lack;
    return "";
}
// All pass within `limit` seconds.
inline void expect_mpirun_passes(int world, RankProcess::Variables variables = {}, double limit = 60) {
    SCOPED_TRACE(::testing::Message() << world << " ranks");
    auto ranks = start_mpirun(world, std::move(variables));
    if (!ranks) GTEST_SKIP() << "no mpirun (package openmpi-bin)";
    int code = ranks->wait(limit);
    std::string err = ranks->err();
    if (code != 0 && !what_lacks(err).empty()) GTEST_SKIP() << what_lacks(err);
    EXPECT_EQ(code, 0) << ranks->out() << err;
}
inline void expect_ranks_pass(int world, RankProcess::Variables variables = {}, double limit = 60) {
    SCOPED_TRACE(::testing::Message() << world << " ranks");
    auto ranks = start_ranks(world, std::move(variables));
    for (int r = 0; r < world; r++) {
        auto& rank = *ranks[static_cast<size_t>(r)];
        int code = rank.wait(limit);
        if (code != 0 && !what_lacks(rank.err()).empty()) GTEST_SKIP() << what_lacks(rank.err());
        EXPECT_EQ(code, 0) << "rank " << r << ":\n" << rank.out() << rank.err();
    }
}

// ---- what the test says of them ----

// Exit codes and messages of ranks that are to end within `limit` seconds. All run together: rank 0 says it for all,
// and `said` is what somebody said.
inline void expect_all_end(const std::vector<std::unique_ptr<RankProcess>>& ranks, double limit,
                           const std::vector<std::string>& parts, int without = -1) {
    double begin = seconds();
    std::string said;
    for (size_t r = 0; r < ranks.size(); r++) {
        if (static_cast<int>(r) == without) continue;
        EXPECT_EQ(ranks[r]->wait(limit - (seconds() - begin)), 1) << "rank " << r << " " << ranks[r]->err();
        said += ranks[r]->err();
    }
    for (const std::string& part : parts) EXPECT_NE(said.find(part), std::string::npos) << part << " not in: " << said;
}
inline void wait_until_ready(const std::vector<std::unique_ptr<RankProcess>>& ranks) {
    for (auto& rank : ranks)
        for (double end = seconds() + 30; rank->out().find("ready") == std::string::npos;) {
            ASSERT_TRUE(rank->running() && seconds() < end) << rank->out() << rank->err();
            sleep_seconds(0.02);
        }
}
inline void say_ready(Group& group) {
    group.barrier();
    printf("ready\n");
    fflush(stdout);
}
