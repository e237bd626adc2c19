// Who takes part in a run, and where they meet: from options and from launchers' variables.
#include "llmc/base/error.h"
#include "ranks_test.h"

namespace {

class FindRanks : public ::testing::Test {
  protected:
    void SetUp() override { clear(); }
    void TearDown() override { clear(); }
    static void clear() {
        for (const char* name : {"RANK",
                                 "WORLD_SIZE",
                                 "LOCAL_RANK",
                                 "LOCAL_WORLD_SIZE",
                                 "MASTER_ADDR",
                                 "MASTER_PORT",
                                 "PMIX_NAMESPACE",
                                 "OMPI_COMM_WORLD_RANK",
                                 "OMPI_COMM_WORLD_SIZE",
                                 "OMPI_COMM_WORLD_LOCAL_RANK",
                                 "OMPI_COMM_WORLD_LOCAL_SIZE",
                                 "SLURM_JOB_ID",
                                 "SLURM_STEP_ID",
                                 "SLURM_PROCID",
                                 "SLURM_STEP_NUM_TASKS",
                                 "SLURM_LOCALID",
                                 "SLURM_STEP_TASKS_PER_NODE",
                                 "SLURM_SUBMIT_DIR",
                                 "SLURM_RESTART_COUNT",
                                 "TRAIN_GPT2_SECRET"})
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
        o.num_processes = world, o.process_rank = rank, o.nccl_init_method = method,
        o.fs_path = method == "fs" ? "/shared" : o.fs_path;
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

// On one machine rank 0 listens on the loopback alone, and a file that nobody else can read carries the secret.
TEST_F(FindRanks, OneMachineMeetsOnItsLoopback) {
    Variables one = torchrun_;
    one["LOCAL_WORLD_SIZE"] = "8";
    Ranks r = ranks(one);
    EXPECT_EQ(r.meeting, Ranks::Meeting::file);
    EXPECT_EQ(r.address, "127.0.0.1");
    EXPECT_EQ(r.port, 29400);
    one["TRAIN_GPT2_SECRET"] = "known";  // where ranks share no directory
    r = ranks(one);
    expect(r, 5, 8, 1, 8, Ranks::Meeting::tcp);
    EXPECT_EQ(r.address, "127.0.0.1");
    EXPECT_EQ(r.secret, "known");

    one.erase("LOCAL_WORLD_SIZE"), one.erase("TRAIN_GPT2_SECRET");  // not said: by the address
    for (auto [given, used] :
         {std::pair{"localhost", "127.0.0.1"}, {"127.0.0.2", "127.0.0.2"}, {"::1", "::1"}, {"[::1]", "::1"}}) {
        one["MASTER_ADDR"] = given;
        EXPECT_TRUE(ranks(one).one_machine) << given;
        EXPECT_EQ(ranks(one).address, used);
    }
    for (const char* other : {"10.0.0.1", "node-7.cluster_2", "fd00::2", "fe80::1%eth0", "::ffff:10.0.0.1"}) {
        one["MASTER_ADDR"] = other;
        EXPECT_FALSE(ranks(one).one_machine) << other;
        EXPECT_EQ(ranks(one).meeting, Ranks::Meeting::tcp);
        EXPECT_EQ(ranks(one).address, other);
    }
    RankOptions shared;  // the secret in a directory that all machines see
    shared.fs_path = "/shared";
    EXPECT_EQ(ranks(one, shared).meeting, Ranks::Meeting::file);
    EXPECT_FALSE(ranks(one, shared).one_machine);
    EXPECT_EQ(ranks(one, shared).address, "::ffff:10.0.0.1");
    EXPECT_EQ(ranks(open_mpi_).address, "127.0.0.1");
    EXPECT_EQ(ranks(srun_).address, "");  // two machines: any of rank 0's addresses
    RankOptions o;
    o.server_ip = "10.1.2.3";
    EXPECT_EQ(ranks(srun_, o).address, "10.1.2.3");
    EXPECT_FALSE(ranks(srun_).one_machine);
}

TEST_F(FindRanks, AddressesThatCanNeverWorkAreRefused) {
    auto refused = [&](const std::string& address, const std::string& port, const std::string& words) {
        Variables v = torchrun_;
        v["MASTER_ADDR"] = address, v["MASTER_PORT"] = port;
        EXPECT_NE(error(v).find(words), std::string::npos) << address << ": " << error(v);
    };
    refused("10.0.0.1:29500", "29500", "MASTER_ADDR 10.0.0.1:29500 has a port in it; give that with MASTER_PORT");
    refused("node:29500", "29500", "has a port in it");
    refused("[::1]:29500", "29500", "has a port in it");
    for (const char* v6 : {"::1::2", "fd00::xyz", "1:2:3:4:5:6:7:8:9", "[::1", "::1]", "fd00:::2", ":", "[]"})
        refused(v6, "29500", "is no IPv6 address");
    for (const char* v4 : {"10.0.0", "256.1.1.1", "1.2.3.4.5", "10", "."}) refused(v4, "29500", "is no IPv4 address");
    for (const char* name : {"tcp//a", "a b", "a,b",
                             "n\xc3\xb6"
                             "de"})
        refused(name, "29500", "is no name of a machine");
    for (const char* any : {"0.0.0.0", "::", "[::]"}) refused(any, "29500", "names no machine");
    for (const char* port : {"0", "65536", "99999"})
        refused("node", port, std::string("MASTER_PORT ") + port + " is no port");
    refused("node", "x", "MASTER_PORT=x is no number");

    RankOptions tcp = by_hand(1, 2, "tcp");
    tcp.server_ip = "10.0.0.1:4000";
    EXPECT_NE(error({}, tcp).find("--server-ip (-ps) 10.0.0.1:4000 has a port in it; give that with --server-port"),
              std::string::npos);
    tcp.server_ip = "10.0.0.1", tcp.server_port = 70000;
    EXPECT_NE(error({}, tcp).find("--server-port 70000 is no port"), std::string::npos);
}

TEST_F(FindRanks, AJobHasAPlaceOfItsOwn) {
    RankOptions a = by_hand(0, 2, "fs"), b = by_hand(1, 2, "fs"), other = by_hand(0, 2, "fs");
    a.job = b.job = "runs/a", other.job = "runs/b";
    EXPECT_EQ(ranks({}, a).file, ranks({}, b).file);
    EXPECT_NE(ranks({}, a).file, ranks({}, other).file);
}

TEST_F(FindRanks, ARanksNumberIsKnownBeforeAnythingIsChecked) {
    auto number = [&](const Variables& v) {
        ranks({});
        for (const auto& [name, value] : v) setenv(name.c_str(), value.c_str(), 1);
        return rank_if_known();
    };
    EXPECT_EQ(number({}), 0);
    EXPECT_EQ(number(open_mpi_), 3);
    EXPECT_EQ(number(torchrun_), 5);
    EXPECT_EQ(number(srun_), 6);
    EXPECT_EQ(number({{"RANK", "3"}}), 0);                       // of nothing
    EXPECT_EQ(number({{"RANK", "3"}, {"WORLD_SIZE", "4"}}), 3);  // the address is missing, which rank 0 says
}

}  // namespace
