// A program that is started with several ranks by mpirun; skipped where there is no mpirun or the build has no MPI.
#pragma once
#include <cstring>
#include <map>
#include <vector>

#include "llmc/base/error.h"
#include "program_fixture.h"

// The programs under test: the CPU program, and the CUDA program on a machine with GPUs or compiled for the CPU.
struct Which {
    const char *name, *variable, *path, *options;
    int steps, few_steps;  // of a run; where a few will do
};
inline std::vector<Which> programs_under_test() {
    std::vector<Which> all = {{"Cpu", "TRAIN_GPT2", "train_gpt2", "-e L2:H2:C32:T16 -d 112 -v 15 ", 30, 10}};
    // test_cuda_program.cpp says where it is missing
    if (getenv("TRAIN_GPT2CU"))
        all.push_back({"Cuda", "TRAIN_GPT2CU", "train_gpt2cu", "-e L2:H2:C16:T32 -d 224 -v 10 -f 0 ", 10, 6});
    return all;
}

class MpiProgram : public Program, public testing::WithParamInterface<Which> {
  protected:
    void SetUp() override {
        const Which& w = GetParam();
        std::string why = why_not(w);
        if (!why.empty()) GTEST_SKIP() << why;
        Program::SetUp();
    }

    // Why this program cannot run with two ranks; "" if it can. Tried once.
    static std::string why_not(const Which& w) {
        static std::map<std::string, std::string> known;
        auto [entry, is_new] = known.try_emplace(w.name);
        if (!is_new) return entry->second;
        std::string& why = entry->second;
        if (run_shell("command -v mpirun").exit_code != 0)
            why = "there is no mpirun (packages libopenmpi-dev and openmpi-bin; dev/setup.sh installs them)";
        if (!why.empty()) return why;
        CommandResult r = run_shell(before(2) + program(w) + small(w) + "-x 1 -o probe", workshop());
        std::error_code ignored;
        fs::remove_all(workshop() + "/probe", ignored);
        if (r.err.find("this build has no MPI") != std::string::npos) why = "this build has no MPI";
        return why;  // anything else is for the tests to find
    }

    // mpirun's own settings: as root, with more ranks than cores; what hangs is ended, though not what is merely slow.
    static std::string environment() {
        return "export TERM=dumb NCCL_SOCKET_IFNAME=lo OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 "
               "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
               "OMPI_MCA_rmaps_base_oversubscribe=1 ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}; "
               "timeout -k 60 500 ";
    }
    static std::string before(int ranks) {
        return environment() + (ranks > 1 ? "mpirun -np " + std::to_string(ranks) + " " : "");
    }
    // Ranks may share a GPU where each has an NCCL_HOSTID of its own.
    static std::string program(const Which& w) {
        return (strcmp(w.name, "Cuda") == 0 ? R"(sh -c 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$0" "$@"' )" : "") +
               program_path(w.variable, w.path) + " ";
    }
    // The CUDA program on the CPU does not do everything in all combinations.
    static bool is_slow() { return strcmp(GetParam().name, "Cuda") == 0; }
    static std::string program() { return program(GetParam()); }
    static std::string step_name(int step) { return strf("/step_%08d", step); }
    CommandResult start(int ranks, const std::string& arguments) {
        return run_shell(before(ranks) + program() + arguments, dir.path);
    }
    // Steps of 7 sequences, with dropout; validation over the whole validation set.
    static std::string small(const Which& w) {
        return std::string(w.options) + "-x " + std::to_string(w.steps) +
               " -i data/t/train_000000.bin -j data/t/val_000000.bin -m 1000 -l 3e-4 --dropout 0.1 --precision fp32 ";
    }
    static std::string small() { return small(GetParam()); }

    void expect_same_losses(const std::string& run, const std::string& reference, double tolerance = 1e-5) {
        for (const char* key : {"loss", "val_loss"}) {
            std::vector<std::string> got = logged(run, key), want = logged(reference, key);
            ASSERT_EQ(got.size(), want.size()) << run << " " << key;
            for (size_t i = 0; i < want.size(); i++)
                EXPECT_NEAR(std::stod(got[i]) / std::stod(want[i]), 1.0, tolerance)
                    << run << ", " << key << " " << i + 1 << ": " << got[i] << ", " << want[i];
        }
    }
};
