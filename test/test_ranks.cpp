// Several ranks of a program, for real: started by mpirun, they give what one rank gives, or one line of error.
//
// Every command has a time limit: a run that hangs is a failure. Skipped where there is no mpirun or the build has no
// MPI.
#include <gtest/gtest.h>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <vector>

#include "program_fixture.h"

namespace {

// The programs under test: the CPU program, and the CUDA program on a machine with GPUs or compiled for the CPU.
struct Which {
    const char *name, *variable, *path, *options;
};
std::vector<Which> programs() {
    std::vector<Which> all = {{"Cpu", "TRAIN_GPT2", "train_gpt2", ""}};
    // test_cuda_program.cpp says where it is missing
    if (getenv("TRAIN_GPT2CU")) all.push_back({"Cuda", "TRAIN_GPT2CU", "train_gpt2cu", "-f 0 "});
    return all;
}

class Ranks : public Program, public testing::WithParamInterface<Which> {
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
        CommandResult r =
            run_shell(before(2) + program_path(w.variable, w.path) + " " + small(w) + "-x 1 -o probe", workshop());
        std::error_code ignored;
        fs::remove_all(workshop() + "/probe", ignored);
        if (r.err.find("this build has no MPI") != std::string::npos) why = "this build has no MPI";
        return why;  // anything else is for the tests to find
    }

    // mpirun's own settings: as root, with more ranks than cores; nothing runs longer than `limit` seconds.
    static std::string environment(int limit = 100) {
        return "export TERM=dumb OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
               "OMPI_MCA_rmaps_base_oversubscribe=1 ASAN_OPTIONS=detect_leaks=0${ASAN_OPTIONS:+:$ASAN_OPTIONS}; "
               "timeout -k 5 " +
               std::to_string(limit) + " ";
    }
    static std::string before(int ranks) {
        return environment() + (ranks > 1 ? "mpirun -np " + std::to_string(ranks) + " " : "");
    }
    std::string program() const { return program_path(GetParam().variable, GetParam().path) + " "; }
    CommandResult start(int ranks, const std::string& arguments) {
        return run_shell(before(ranks) + program() + arguments, dir.path);
    }
    // 30 steps of 7 sequences, with dropout; validation over the whole validation set.
    static std::string small(const Which& w) {
        return w.options + std::string(
                               "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T16 -d 112 "
                               "-x 30 -v 15 -m 1000 -l 3e-4 --dropout 0.1 --precision fp32 ");
    }
    static std::string small() { return small(GetParam()); }

    // What log.jsonl says of `key`, as text: equal text is equal bits.
    std::vector<std::string> logged(const std::string& run, const std::string& key) const {
        std::string log = file(run + "/log.jsonl"), quoted = "\"" + key + "\":";
        std::vector<std::string> all;
        for (size_t at = log.find(quoted); at != std::string::npos; at = log.find(quoted, at + 1)) {
            size_t begin = at + quoted.size();
            all.push_back(log.substr(begin, log.find_first_of(",}", begin) - begin));
        }
        return all;
    }
    void expect_same_losses(const std::string& run, const std::string& reference, double tolerance = 1e-5) {
        for (const char* key : {"loss", "val_loss"}) {
            std::vector<std::string> got = logged(run, key), want = logged(reference, key);
            ASSERT_EQ(got.size(), want.size()) << run << " " << key;
            for (size_t i = 0; i < want.size(); i++)
                EXPECT_NEAR(std::stod(got[i]) / std::stod(want[i]), 1.0, tolerance)
                    << run << ", " << key << " " << i + 1 << ": " << got[i] << ", " << want[i];
        }
    }
    void expect_good(const CommandResult& r) { ASSERT_EQ(r.exit_code, 0) << r.out << r.err; }
    // mpirun adds lines of its own to what the program says.
    void expect_error(const CommandResult& r, int exit_code, const std::string& names, int lines = 1) {
        EXPECT_EQ(r.exit_code, exit_code) << r.err;
        EXPECT_EQ(count(r.err, "error: "), lines) << r.err;
        EXPECT_NE(r.err.find(names), std::string::npos) << r.err;
    }

    // The files of a checkpoint and the shapes, types and places in them: everything but the numbers.
    std::map<std::string, std::string> layout(const std::string& checkpoint) const {
        std::map<std::string, std::string> files;
        for (auto& entry : fs::directory_iterator(dir / checkpoint)) {
            std::string name = entry.path().filename(), text = read_text(entry.path());
            bool safetensors = name.ends_with(".safetensors");
            uint64_t header = 0;
            if (safetensors) memcpy(&header, text.data(), 8);
            files[name] = strf_size(text.size()) + (safetensors ? text.substr(0, 8 + header) : "");
            if (name == "trainer_state.json") files[name] = "";  // numbers
        }
        return files;
    }
    static std::string strf_size(size_t n) { return std::to_string(n) + " bytes "; }

    void expect_losses_of_one_rank(int ranks) {
        expect_good(start(1, small() + "-b 7 -o one"));
        ASSERT_EQ(logged("one", "loss").size(), 30u);
        ASSERT_EQ(logged("one", "val_loss").size(), 3u);
        for (int stage = 0; stage <= 3; stage++) {
            std::string run = "stage" + std::to_string(stage), micro_batch = std::to_string(1 + (ranks + stage) % 3);
            SCOPED_TRACE(run + ", micro-batch " + micro_batch);
            expect_good(start(ranks, small() + "-b " + micro_batch + " -z " + std::to_string(stage) + " -o " + run));
            expect_same_losses(run, "one");
        }
    }
};

TEST_P(Ranks, TwoHaveTheLossesOfOne) { expect_losses_of_one_rank(2); }
TEST_P(Ranks, ThreeHaveTheLossesOfOne) { expect_losses_of_one_rank(3); }
TEST_P(Ranks, FourHaveTheLossesOfOne) { expect_losses_of_one_rank(4); }

TEST_P(Ranks, SameBitsFromRunToRun) {
    for (int stage = 0; stage <= 3; stage++) {
        SCOPED_TRACE(stage);
        std::string a = "a" + std::to_string(stage), b = "b" + std::to_string(stage);
        std::string options = small() + "-b 2 -x 10 -z " + std::to_string(stage) + " -o ";
        expect_good(start(3, options + a));
        expect_good(start(3, options + b));
        EXPECT_EQ(logged(a, "loss"), logged(b, "loss"));
        EXPECT_EQ(logged(a, "grad_norm"), logged(b, "grad_norm"));
        for (const char* name : {"/step_00000010/model.safetensors", "/step_00000010/optimizer.safetensors"}) {
            EXPECT_FALSE(file(a + name).empty());
            EXPECT_TRUE(file(a + name) == file(b + name)) << name;
        }
    }
}

TEST_P(Ranks, SameBitsAcrossAResume) {
    std::string options = small() + "-b 2 -x 10 -n 5 -z 3 --precision bf16 -o run ", model = "run/step_00000010/";
    expect_good(start(3, options));
    std::vector<std::string> losses = logged("run", "loss");
    std::string weights = file(model + "model.safetensors"), optimizer = file(model + "optimizer.safetensors");
    fs::remove_all(dir / model);
    expect_good(start(3, options + "-y 1"));
    EXPECT_EQ(logged("run", "loss"), losses);
    EXPECT_TRUE(file(model + "model.safetensors") == weights && file(model + "optimizer.safetensors") == optimizer);
}

// A checkpoint does not depend on the number of ranks and the stage that wrote it.
TEST_P(Ranks, CheckpointsResumeOnOtherRanksAndStages) {
    struct Case {
        int ranks, stage, ranks_after, stage_after;
        const char* precision;
    };
    const Case cases[] = {{1, 0, 3, 3, "fp32"}, {4, 3, 1, 0, "fp32"}, {3, 2, 2, 1, "fp32"},
                          {2, 0, 4, 2, "fp32"}, {4, 3, 2, 2, "bf16"}, {3, 1, 1, 0, "bf16"}};
    expect_good(start(1, small() + "-b 7 -n 15 -nk 0 -o fp32"));
    expect_good(start(1, small() + "-b 7 -n 15 -nk 0 -o bf16 --precision bf16"));
    for (const Case& c : cases) {
        std::string run = std::to_string(c.ranks) + std::to_string(c.stage) + "to" + std::to_string(c.ranks_after) +
                          std::to_string(c.stage_after) + c.precision;
        SCOPED_TRACE(run);
        std::string options = small() + "-b 2 -n 15 -nk 0 --precision " + c.precision + " -o " + run;
        expect_good(start(c.ranks, options + " -z " + std::to_string(c.stage)));
        EXPECT_EQ(layout(run + "/step_00000015"), layout(std::string(c.precision) + "/step_00000015"));
        // back to step 15: the steps after it are done once more, by the others
        fs::remove_all(dir / (run + "/step_00000030"));
        expect_good(start(c.ranks_after, options + " -y 1 -z " + std::to_string(c.stage_after)));
        EXPECT_EQ(layout(run + "/step_00000030"), layout(std::string(c.precision) + "/step_00000030"));
        // Weights of bf16 turn what differs in the last bit of a sum into 2^-9 of a weight.
        expect_same_losses(run, c.precision, strcmp(c.precision, "fp32") == 0 ? 1e-5 : 1e-4);
    }
}

TEST_P(Ranks, RecomputationChangesNothing) {
    for (int recompute = 0; recompute <= 3; recompute++) {
        std::string level = std::to_string(recompute);
        expect_good(start(2, small() + "-b 2 -x 10 -z 3 -r " + level + " -o r" + level));
        EXPECT_EQ(logged("r" + level, "loss"), logged("r0", "loss")) << level;
    }
}

TEST_P(Ranks, StartsThatCannotWorkEndWithOneLine) {
    std::string one = small() + "-o run ";
    expect_error(start(3, one + "-d 32"), 2, "2 sequences a step, fewer than the 3 ranks");
    // Each rank says this one: it knows of no other.
    expect_error(start(2, one + "-pn 3"), 2, "--num-processes (-pn) says 3, mpirun says 2", 2);
    expect_error(start(2, one + " : -np 1 " + program() + one + "-l 1e-3"), 1,
                 "rank 2 differs from rank 0 in learning-rate");
    fs::copy(dir / "data/t", dir / "other");
    fs::rename(dir / "other/train_000000.bin", dir / "other/train_000001.bin");
    std::string other = GetParam().options + std::string("-i other/train_000001.bin ") + one.substr(one.find("-j "));
    expect_error(start(2, one + " : -np 1 " + program() + other), 1, "rank 2 differs from rank 0 in training data");
    fs::remove_all(dir / "other");
    expect_error(start(2, one + " : -np 1 " + program() + other), 1,
                 "rank 2: --train-data (-i): no token shard matches");
    expect_error(start(2, other + " : -np 1 " + program() + one), 2, "no token shard matches");
    EXPECT_FALSE(fs::exists(dir / "run/log.jsonl"));
}

INSTANTIATE_TEST_SUITE_P(Programs, Ranks, testing::ValuesIn(programs()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
