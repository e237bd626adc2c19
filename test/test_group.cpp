// The processes of a run: who they are, how they meet, and how they notice each other's end.
#include "llmc/base/error.h"
#include "ranks_test.h"

namespace {

// ---- who they are ----

class FindRanks : public ::testing::Test {
  protected:
    void SetUp() override { clear(); }
    void TearDown() override { clear(); }
    static void clear() {
        for (const char* name :
             {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PMIX_NAMESPACE",
              "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
              "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS",
              "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_SUBMIT_DIR", "SLURM_RESTART_COUNT"})
            unsetenv(name);
    }
    using Variables = std::map<std::string, std::string>;
    static Ranks ranks(const Variables& variables, const RankOptions& options = {}) {
        clear();
        for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
        return find_ranks(options);
    }
    static std::string error(const Variables& variables, const RankOptions& options = {}) {
        try {
            ranks(variables, options);
            return "none";
        } catch (const UsageError& e) {
            return e.what();
        }
    }
    static RankOptions by_hand(int rank, int world, const std::string& method) {
        RankOptions o;
        o.num_processes = world, o.process_rank = rank, o.nccl_init_method = method, o.fs_path = "/shared";
        return o;
    }
    void expect(const Ranks& r, int rank, int world, int local_rank, int local_world, Ranks::Meeting meeting) {
        EXPECT_EQ(r.rank, rank);
        EXPECT_EQ(r.world, world);
        EXPECT_EQ(r.local_rank, local_rank);
        EXPECT_EQ(r.local_world, local_world);
        EXPECT_EQ(r.meeting, meeting);
    }
    const Variables torchrun_{{"RANK", "5"},        {"WORLD_SIZE", "8"},       {"LOCAL_RANK", "1"},
                              {"MASTER_ADDR", "a"}, {"LOCAL_WORLD_SIZE", "4"}, {"MASTER_PORT", "29400"}};
    const Variables open_mpi_{{"OMPI_COMM_WORLD_RANK", "3"},
                              {"OMPI_COMM_WORLD_SIZE", "4"},
                              {"OMPI_COMM_WORLD_LOCAL_RANK", "3"},
                              {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"},
                              {"PMIX_NAMESPACE", "prterun-a@1"}};
    const Variables srun_{{"SLURM_JOB_ID", "77"},          {"SLURM_STEP_ID", "0"},
                          {"SLURM_PROCID", "6"},           {"SLURM_STEP_NUM_TASKS", "8"},
                          {"SLURM_LOCALID", "2"},          {"SLURM_STEP_TASKS_PER_NODE", "4(x2)"},
                          {"SLURM_SUBMIT_DIR", "/home/me"}};
};

TEST_F(FindRanks, OneProcessWaitsForNobody) {
    expect(ranks({}), 0, 1, 0, 1, Ranks::Meeting::none);
    // in an allocation's shell (salloc, sbatch) SLURM counts tasks that nobody started
    Variables shell = srun_;
    shell.erase("SLURM_STEP_ID");
    expect(ranks(shell), 0, 1, 0, 1, Ranks::Meeting::none);
    for (const char* reserved : {"4294967290", "4294967291", "4294967292"}) {
        shell["SLURM_STEP_ID"] = reserved;
        expect(ranks(shell), 0, 1, 0, 1, Ranks::Meeting::none);
    }
    expect(ranks({{"RANK", "0"}, {"WORLD_SIZE", "1"}}), 0, 1, 0, 1, Ranks::Meeting::none);
    expect(ranks({{"WORLD_SIZE", "4"}}), 0, 1, 0, 1, Ranks::Meeting::none);  // half of it is nothing
}

TEST_F(FindRanks, FromTorchrunsVariables) {
    Ranks r = ranks(torchrun_);
    expect(r, 5, 8, 1, 4, Ranks::Meeting::tcp);
    EXPECT_EQ(r.address, "a");
    EXPECT_EQ(r.port, 29400);
    Variables all = torchrun_;  // they come first
    all.insert(open_mpi_.begin(), open_mpi_.end());
    all.insert(srun_.begin(), srun_.end());
    expect(ranks(all), 5, 8, 1, 4, Ranks::Meeting::tcp);
    Variables without = torchrun_;
    without.erase("MASTER_PORT");
    EXPECT_NE(error(without).find("MASTER_PORT"), std::string::npos);
}

TEST_F(FindRanks, FromOpenMpis) {
    Ranks r = ranks(open_mpi_);
    expect(r, 3, 4, 3, 4, Ranks::Meeting::file);
    EXPECT_EQ(r.file.find_first_of("@ "), std::string::npos) << r.file;
    Variables two_machines = open_mpi_;
    two_machines["OMPI_COMM_WORLD_LOCAL_RANK"] = "1", two_machines["OMPI_COMM_WORLD_LOCAL_SIZE"] = "2";
    expect(ranks(two_machines), 3, 4, 1, 2, Ranks::Meeting::mpi);
    Variables all = open_mpi_;
    all.insert(srun_.begin(), srun_.end());  // mpirun in an allocation
    expect(ranks(all), 3, 4, 3, 4, Ranks::Meeting::file);
}

TEST_F(FindRanks, FromSlurms) {
    Ranks r = ranks(srun_);
    expect(r, 6, 8, 2, 4, Ranks::Meeting::file);
    EXPECT_EQ(r.file.rfind("/home/me/", 0), 0u) << r.file;
    Variables again = srun_;
    again["SLURM_RESTART_COUNT"] = "1";  // after --requeue what the first start left behind means nothing
    EXPECT_NE(ranks(again).file, r.file);
}

TEST_F(FindRanks, FromOptions) {
    RankOptions tcp = by_hand(9, 16, "tcp");
    EXPECT_NE(error({}, tcp).find("--server-ip"), std::string::npos);
    tcp.server_ip = "10.0.0.1", tcp.server_port = 4000;
    Ranks r = ranks(torchrun_, tcp);  // before all variables
    expect(r, 9, 16, 1, 8, Ranks::Meeting::tcp);
    EXPECT_EQ(r.address, "10.0.0.1");
    EXPECT_EQ(r.port, 4000);
    r = ranks({}, by_hand(1, 2, "fs"));
    expect(r, 1, 2, 1, 2, Ranks::Meeting::file);
    EXPECT_EQ(r.file.rfind("/shared/", 0), 0u) << r.file;
    expect(ranks(open_mpi_, by_hand(0, 4, "mpi")), 3, 4, 3, 4, Ranks::Meeting::file);  // llm.c's: mpirun numbers them
}

TEST_F(FindRanks, ContradictionsAreRefused) {
    EXPECT_NE(error({{"RANK", "x"}, {"WORLD_SIZE", "4"}}).find("RANK=x"), std::string::npos);
    EXPECT_NE(
        error({{"RANK", "4"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "1"}}).find("rank 4 of 4"),
        std::string::npos);
    EXPECT_NE(error({}, by_hand(2, 2, "fs")).find("rank 2 of 2"), std::string::npos);
    EXPECT_NE(error({}, by_hand(0, 8, "mpi")).find("mpirun -np 8"), std::string::npos);
    EXPECT_NE(error(open_mpi_, by_hand(0, 8, "mpi")).find("mpirun says 4"), std::string::npos);
}

// ---- how they meet ----

std::string text_of(int rank, int round) {
    size_t sizes[] = {0, 1, 1000, 3 << 20};
    std::string text(sizes[(rank + round) % 4], static_cast<char>('a' + rank));
    if (!text.empty()) text.back() = '\0';
    return text;
}
void exchange_texts(Group& group) {
    for (int round = 0; round < 12; round++) {
        std::vector<std::string> all = group.exchange(text_of(group.rank(), round));
        ASSERT_EQ(all.size(), static_cast<size_t>(group.world()));
        for (int r = 0; r < group.world(); r++) EXPECT_TRUE(all[static_cast<size_t>(r)] == text_of(r, round));
    }
    for (int i = 0; i < 200; i++) group.barrier();
    double sum = 0;
    for (int r = 0; r < group.world(); r++) sum += 0.1 * r;
    EXPECT_EQ(group.sum(0.1 * group.rank()), sum);
    EXPECT_EQ(group.most(-1.5 * group.rank()), 0);
}

TEST(Group, OneRankIsAlone) {
    Group group(Ranks{}, 1);
    exchange_texts(group);
    group.fail("nobody hears it");
}
TEST(Group, MeetsByTorchrunsVariables) {
    if (is_rank()) return in_rank(exchange_texts);
    for (int world : {2, 3, 4}) expect_ranks_pass(world);
}
TEST(Group, MeetsUnderMpirun) {
    if (is_rank()) return in_rank(exchange_texts);
    TemporaryDirectory directory;
    for (int world : {2, 4}) expect_mpirun_passes(world);
}
TEST(Group, MeetsByASharedFile) {
    if (is_rank()) return in_rank(exchange_texts);
    TemporaryDirectory directory;
    // an earlier run was killed: nobody listens there any more
    std::ofstream(directory / ".train_gpt2_ranks_3") << free_port() << " 127.0.0.1";
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {2, 1, 0}) {
        ranks.push_back(std::make_unique<RankProcess>(RankProcess::Variables{
            {"TEST_FS", directory.path}, {"TEST_WORLD", "3"}, {"TEST_RANK", std::to_string(r)}}));
        sleep_seconds(0.1);
    }
    for (auto& rank : ranks) EXPECT_EQ(rank->wait(60), 0) << rank->out() << rank->err();
    EXPECT_TRUE(std::filesystem::is_empty(directory.path));
}

// Exit codes and messages of ranks that are to end within `limit` seconds. All run together: rank 0 says it for all,
// and `said` is what somebody said.
void expect_all_end(const std::vector<std::unique_ptr<RankProcess>>& ranks, double limit,
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
void wait_until_ready(const std::vector<std::unique_ptr<RankProcess>>& ranks) {
    for (auto& rank : ranks)
        for (double end = seconds() + 30; rank->out().find("ready") == std::string::npos;) {
            ASSERT_TRUE(rank->running() && seconds() < end) << rank->out() << rank->err();
            sleep_seconds(0.02);
        }
}
void say_ready(Group& group) {
    group.barrier();
    printf("ready\n");
    fflush(stdout);
}

TEST(Group, AWorldThatDiffersIsNamed) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    int port = free_port();
    std::vector<std::unique_ptr<RankProcess>> ranks;
    ranks.push_back(std::make_unique<RankProcess>(rank_variables(0, 2, port)));
    ranks.push_back(std::make_unique<RankProcess>(rank_variables(1, 3, port)));
    expect_all_end(ranks, 20, {"rank 1 (on ", "one of 3 ranks, rank 0 as one of 2"});
    EXPECT_NE(ranks[1]->err().find("one of 3 ranks"), std::string::npos) << ranks[1]->err();
}
TEST(Group, ARankThatIsThereTwiceIsNamed) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    int port = free_port();
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {0, 1, 1}) ranks.push_back(std::make_unique<RankProcess>(rank_variables(r, 3, port)));
    expect_all_end(ranks, 20, {"two processes say that they are rank 1"});
}
TEST(Group, APortInUseIsNamed) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    int fd = socket(AF_INET, SOCK_STREAM, 0);  // somebody else, who accepts connections and says nothing
    sockaddr_in address{};
    address.sin_family = AF_INET;
    socklen_t size = sizeof address;
    ASSERT_EQ(bind(fd, reinterpret_cast<sockaddr*>(&address), size), 0);
    ASSERT_EQ(listen(fd, 10), 0);
    getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {0, 1}) {
        auto variables = rank_variables(r, 2, ntohs(address.sin_port));
        variables["TEST_TIMEOUT_S"] = "2";
        ranks.push_back(std::make_unique<RankProcess>(variables));
    }
    std::string port = std::to_string(ntohs(address.sin_port));
    expect_all_end(ranks, 20,
                   {"rank 0 cannot listen on port " + port + ": Address already in use", "MASTER_PORT",
                    "rank 1 found no rank 0 at 127.0.0.1:" + port + " within 2 s"});
    close(fd);
}
TEST(Group, ARankThatNeverComesIsNamed) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    TemporaryDirectory directory;
    for (std::vector<int> there : {std::vector<int>{0, 2}, std::vector<int>{1, 3}}) {
        std::vector<std::unique_ptr<RankProcess>> ranks;
        for (int r : there)
            ranks.push_back(std::make_unique<RankProcess>(RankProcess::Variables{{"TEST_TIMEOUT_S", "1.5"},
                                                                                 {"TEST_FS", directory.path},
                                                                                 {"TEST_WORLD", "4"},
                                                                                 {"TEST_RANK", std::to_string(r)}}));
        if (there[0] == 0) expect_all_end(ranks, 10, {"rank 1, 3 of 4 did not come within 1.5 s (--comm-timeout)"});
        else expect_all_end(ranks, 10, {"rank 1 found no rank 0 at the address in ", "rank 3 found no rank 0"});
        EXPECT_TRUE(std::filesystem::is_empty(directory.path));
    }
}

// ---- how they end ----

TEST(Group, AnOrderlyEndIsNoDeath) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            int last = std::stoi(test_argument("TEST_LAST"));
            sleep_seconds(group.rank() == last ? 2.6 : 0.2 * group.rank());
        });
    for (const char* last : {"0", "2"}) {
        auto ranks = start_ranks(3, {{"TEST_LAST", last}, {"TEST_TIMEOUT_S", "2"}});
        for (auto& rank : ranks) {
            EXPECT_EQ(rank->wait(30), 0);
            EXPECT_EQ(rank->err(), "");
        }
    }
}
TEST(Group, AnEndBeforeTheOthersIsAnError) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            if (group.rank() != 1) group.barrier();
        });
    auto ranks = start_ranks(3);
    EXPECT_EQ(ranks[1]->wait(30), 0);
    expect_all_end(ranks, 20, {"rank 1 (on ", "has ended before the others"}, 1);
}

void work_on(Group& group) {
    say_ready(group);
    for (;;) group.barrier(), sleep_seconds(0.005);
}
TEST(Group, ARankThatIsKilledIsNamedAtOnce) {
    if (is_rank()) return in_rank(work_on);
    for (int victim : {0, 2}) {
        auto ranks = start_ranks(4);
        wait_until_ready(ranks);
        ranks[static_cast<size_t>(victim)]->signal(SIGKILL);
        expect_all_end(ranks, 5, {"rank " + std::to_string(victim) + " (on ", " died", "--resume"}, victim);
        EXPECT_EQ(ranks[static_cast<size_t>(victim)]->wait(1), 128 + SIGKILL);
    }
}
TEST(Group, ARankThatHangsIsNamedInTime) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            std::string text(std::stoul(test_argument("TEST_BYTES")), 'x');
            for (;;) group.exchange(text), sleep_seconds(0.005);
        });
    for (auto [victim, bytes] : {std::pair{0, "3"}, std::pair{1, "3"}, std::pair{1, "20000000"}}) {
        SCOPED_TRACE(bytes);
        auto ranks = start_ranks(3, {{"TEST_TIMEOUT_S", "3"}, {"TEST_BYTES", bytes}});
        wait_until_ready(ranks);
        sleep_seconds(0.3);
        ranks[static_cast<size_t>(victim)]->signal(SIGSTOP);
        expect_all_end(ranks, 12, {"rank " + std::to_string(victim) + " (on ", "nothing was heard of it for 3 s"},
                       victim);
        ranks[static_cast<size_t>(victim)]->signal(SIGCONT);  // it finds that it is alone
        EXPECT_EQ(ranks[static_cast<size_t>(victim)]->wait(8), 1);
    }
}
TEST(Group, ARankThatStallsIsNamedInTime) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            for (int i = 0;; i++) {
                if (i == 20 && std::to_string(group.rank()) == test_argument("TEST_VICTIM")) sleep_seconds(60);
                group.barrier();
            }
        });
    for (int victim : {0, 2}) {
        auto ranks = start_ranks(4, {{"TEST_TIMEOUT_S", "2"}, {"TEST_VICTIM", std::to_string(victim)}});
        expect_all_end(ranks, 10, {"rank " + std::to_string(victim) + " (on ", "stalls", "more than 2 s"});
    }
}
// As at the end of the programs: the error of one rank ends all, and is said once.
TEST(Group, AnErrorInOneRankEndsAll) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            for (int i = 0;; i++) {
                if (i == 20 && std::to_string(group.rank()) == test_argument("TEST_VICTIM"))
                    throw Error("the disk is full");
                group.barrier();
            }
        });
    for (int victim : {0, 2}) {
        auto ranks = start_ranks(4, {{"TEST_VICTIM", std::to_string(victim)}});
        std::string who = victim == 0 ? "error: the disk is full" : "rank 2 (on ";
        expect_all_end(ranks, 4, {who, "the disk is full"});
        for (auto& rank : ranks) EXPECT_EQ(rank->err().find("died"), std::string::npos) << rank->err();
        std::string said = ranks[0]->err();
        EXPECT_EQ(std::count(said.begin(), said.end(), '\n'), 1) << said;
        for (int r : {1, 2, 3}) EXPECT_EQ(ranks[static_cast<size_t>(r)]->err(), "");
    }
}

}  // namespace
