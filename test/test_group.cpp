// The processes of a run: how they meet, and how they notice each other's end.
#include "llmc/base/error.h"
#include "llmc/ranks/socket.h"
#include "ranks_test.h"

namespace {

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
    expect_mpirun_passes(3, {{"TEST_LOCAL_SIZE", "1"}});  // MPI carries address and secret
}
TEST(Group, MeetsByASharedFile) {
    if (is_rank()) return in_rank(exchange_texts);
    TemporaryDirectory directory;
    // an earlier run was killed: nobody listens there any more
    RankOptions o;
    o.nccl_init_method = "fs", o.fs_path = directory.path, o.num_processes = 3;
    std::ofstream(find_ranks(o).file) << free_port() << " secret host 127.0.0.1";
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {2, 1, 0}) {
        ranks.push_back(std::make_unique<RankProcess>(RankProcess::Variables{
            {"TEST_FS", directory.path}, {"TEST_WORLD", "3"}, {"TEST_RANK", std::to_string(r)}}));
        sleep_seconds(0.1);
    }
    for (auto& rank : ranks) EXPECT_EQ(rank->wait(60), 0) << rank->out() << rank->err();
    EXPECT_TRUE(std::filesystem::is_empty(directory.path));
}

TEST(Group, MeetsByIPv6) {
    if (is_rank()) return in_rank(exchange_texts);
    int port = 0;
    try {
        Socket probe(listen_on("::1", &port));
    } catch (const Error&) {
        GTEST_SKIP() << "there is no IPv6 here";
    }
    for (const char* address : {"::1", "[::1]"}) expect_ranks_pass(2, {{"MASTER_ADDR", address}});
    expect_ranks_pass(2, {{"MASTER_ADDR", "::1"}, {"TRAIN_GPT2_SECRET", "known"}});
}
TEST(Group, AnAddressThatMeansNothingIsRefusedAtOnce) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (int r : {0, 1}) {
        auto variables = rank_variables(r, 2, free_port());
        variables["MASTER_ADDR"] = "no-such-machine.invalid", variables["TEST_TIMEOUT_S"] = "600";
        ranks.push_back(std::make_unique<RankProcess>(variables));
    }
    for (auto& rank : ranks) {
        EXPECT_EQ(rank->wait(60), 2);
        EXPECT_NE(rank->err().find("there is no machine no-such-machine.invalid"), std::string::npos) << rank->err();
        EXPECT_NE(rank->err().find("MASTER_ADDR"), std::string::npos) << rank->err();
    }
}
// 203.0.113.0/24 is nobody's (RFC 5737).
TEST(Group, AnAddressOfAnotherMachineIsRefusedByRank0) {
    if (is_rank()) return in_rank([](Group&) { FAIL(); });
    auto variables = rank_variables(0, 2, free_port());
    variables["MASTER_ADDR"] = "203.0.113.77", variables["TEST_TIMEOUT_S"] = "600";
    RankProcess rank(variables);
    EXPECT_EQ(rank.wait(60), 1);
    EXPECT_NE(rank.err().find("cannot listen on 203.0.113.77: it is no address of this machine"), std::string::npos)
        << rank.err();
}
TEST(Group, TwoJobsInOneDirectoryKeepApart) {
    if (is_rank())
        return in_rank([](Group& group) {
            for (const std::string& job : group.exchange(test_argument("TEST_JOB")))
                EXPECT_EQ(job, test_argument("TEST_JOB"));
        });
    TemporaryDirectory directory;
    auto start = [&](const std::string& job, int rank, const char* timeout = "30") {
        return std::make_unique<RankProcess>(RankProcess::Variables{{"TEST_FS", directory.path},
                                                                    {"TEST_WORLD", "2"},
                                                                    {"TEST_RANK", std::to_string(rank)},
                                                                    {"TEST_JOB", job},
                                                                    {"TEST_TIMEOUT_S", timeout}});
    };
    std::vector<std::unique_ptr<RankProcess>> ranks;
    for (auto [job, rank] : {std::pair{"a", 1}, {"a", 0}, {"b", 0}}) {
        ranks.push_back(start(job, rank));
        if (rank == 0) sleep_seconds(0.05);
    }
    ranks.push_back(start("b", 1));
    for (auto& rank : ranks) EXPECT_EQ(rank->wait(60), 0) << rank->out() << rank->err();

    // The same job twice is two jobs that nobody can tell apart: the second rank 0 says so, and the first goes on.
    auto first = start("c", 0);
    while (std::filesystem::is_empty(directory.path)) sleep_seconds(0.01);
    sleep_seconds(0.1);
    auto twice = start("c", 0);
    EXPECT_EQ(twice->wait(30), 1);
    EXPECT_NE(twice->err().find("another job like this one waits for its ranks at " + directory.path),
              std::string::npos)
        << twice->err();
    auto second = start("c", 1);
    EXPECT_EQ(first->wait(60), 0) << first->err();
    EXPECT_EQ(second->wait(60), 0) << second->err();
    EXPECT_TRUE(std::filesystem::is_empty(directory.path));
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

// A failure never ends with exit code 0, and its text never reaches a terminal as it is.
TEST(Group, AnErrorOfAnotherRankIsAFailureAndText) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            if (group.rank() == 1) group.fail("\x1b[2Jgone\nerror: all is well", std::stoi(test_argument("TEST_CODE")));
            for (;;) group.barrier();
        });
    for (const char* code : {"0", "256", "-1"}) {
        auto ranks = start_ranks(3, {{"TEST_CODE", code}});
        expect_all_end(ranks, 20, {"\\x1b[2Jgone\\x0aerror: all is well; every rank ends"});
        EXPECT_EQ(ranks[0]->err().find('\x1b'), std::string::npos);
    }
}

// A job that is stopped as a whole, longer than the time for a rank that hangs, goes on.
TEST(Group, ASuspendedJobGoesOn) {
    if (is_rank())
        return in_rank([](Group& group) {
            say_ready(group);
            while (group.most(std::filesystem::exists(test_argument("TEST_END"))) == 0) sleep_seconds(0.005);
        });
    TemporaryDirectory directory;
    auto ranks = start_ranks(3, {{"TEST_TIMEOUT_S", "1.5"}, {"TEST_END", directory / "end"}});
    wait_until_ready(ranks);
    for (int times = 0; times < 2; times++) {
        for (auto& rank : ranks) rank->signal(SIGSTOP);
        sleep_seconds(2);
        for (auto& rank : ranks) rank->signal(SIGCONT);
        sleep_seconds(0.5);
    }
    std::ofstream(directory / "end") << "now";
    for (auto& rank : ranks) {
        EXPECT_EQ(rank->wait(20), 0);
        EXPECT_EQ(rank->err(), "");
    }
}
TEST(Group, AJobThatIsSuspendedWhileItMeetsGoesOn) {
    if (is_rank()) return in_rank(exchange_texts);
    int port = free_port();
    std::vector<std::unique_ptr<RankProcess>> ranks;
    auto start = [&](int rank) {
        auto variables = rank_variables(rank, 3, port);
        variables["TEST_TIMEOUT_S"] = "1.5";
        ranks.push_back(std::make_unique<RankProcess>(variables));
    };
    start(0), start(1);
    sleep_seconds(0.4);
    for (auto& rank : ranks) rank->signal(SIGSTOP);
    sleep_seconds(2);
    for (auto& rank : ranks) rank->signal(SIGCONT);
    start(2);
    for (auto& rank : ranks) EXPECT_EQ(rank->wait(60), 0) << rank->out() << rank->err();
}

}  // namespace
