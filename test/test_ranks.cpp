// Several ranks of a program, for real: started by mpirun, they give what one rank gives, or one line of error.
//
// Every command has a time limit: a run that hangs is a failure.
#include <gtest/gtest.h>
#include <chrono>
#include <cstring>

#include "mpi_fixture.h"

namespace {

class Ranks : public MpiProgram {
  protected:
    // mpirun adds lines of its own to what the program says. exit_code 0: 1 or 2.
    void expect_error(const CommandResult& r, int exit_code, const std::string& names, int lines = 1) {
        if (exit_code != 0) {
            EXPECT_EQ(r.exit_code, exit_code) << r.err;
        }
        EXPECT_TRUE(r.exit_code == 1 || r.exit_code == 2) << r.exit_code << r.err;
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
        ASSERT_EQ(logged("one", "loss").size(), size_t(GetParam().steps));
        ASSERT_GE(logged("one", "val_loss").size(), 2u);
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

// The final layernorm's bucket has the LM head's weights, and the blocks are narrower.
TEST_P(Ranks, AnLmHeadOfItsOwn) {
    std::string options = small() + strf("-x %d ", GetParam().few_steps);
    options.insert(options.find(' ', options.find("-e ") + 3), ":F20:gelu:by_layer:untied");
    expect_good(start(1, options + "-b 7 -o one"));
    for (int stage : is_slow() ? std::vector<int>{3} : std::vector<int>{0, 1, 2, 3}) {
        SCOPED_TRACE(stage);
        std::string run = "stage" + std::to_string(stage);
        expect_good(start(2, options + "-b 2 -z " + std::to_string(stage) + " -o " + run));
        expect_same_losses(run, "one");
    }
}

// What is offloaded is a rank's own part.
TEST_P(Ranks, OffloadedParts) {
    const bool cuda = strcmp(GetParam().name, "Cuda") == 0;
    const std::string options = small() + "-x 2 -v 0 -r 3 -b 2 --precision bf16 ";
    const CommandResult r = start(2, options + "-o none --offload gradients");
    EXPECT_NE(r.err.find(cuda ? "--zero-stage (-z) 2 or 3 divides them" : "leave it out"), std::string::npos) << r.err;
    if (!cuda) return;
    for (const auto& [stage, what] : {std::pair("-z 1", "optimizer,masters,activations"),
                                      {"-z 3 --optimizer muon", "optimizer,masters,activations,weights"}}) {
        SCOPED_TRACE(stage);
        const std::string all = options + stage + " -o ", name = std::to_string(strlen(stage));
        expect_good(start(3, all + "here" + name));
        expect_good(start(3, all + "away" + name + " --offload " + what));
        EXPECT_EQ(logged("away" + name, "loss"), logged("here" + name, "loss"));
    }
}

// A block's gradients are added up and its parts updated before the next block's.
TEST_P(Ranks, FusedUpdates) {
    for (const char* what : {"-z 0 ", "-z 2 --optimizer muon ", "-z 3 "}) {
        if (is_slow() && what[3] != '2') continue;
        SCOPED_TRACE(what);
        const std::string options = small() + strf("-x %d -v 0 --grad-clip 0.5 ", GetParam().few_steps) + what,
                          stage(what + 3, 1);
        expect_good(start(1, options + "-b 7 -o one" + stage));
        expect_good(start(3, options + "-b 3 -o two" + stage + " --fuse-update two-passes"));
        expect_same_losses("two" + stage, "one" + stage);
        for (int ranks : {1, 3})
            expect_good(start(ranks, options + strf("-b 7 -o last%d", ranks) + stage + " --fuse-update last-norm"));
        expect_same_losses("last3" + stage, "last1" + stage);
    }
}

// Whole matrices are divided in turn; what int8 keeps does not depend on who keeps it.
TEST_P(Ranks, OtherOptimizers) {
    for (std::string which :
         {"--optimizer muon ", "--optimizer muon --state-type int8 ", "--optimizer adagrad --state-type int8 "}) {
        const std::string options = small() + which + strf("-x %d ", GetParam().few_steps);
        const std::string name = std::to_string(which.size());
        expect_good(start(1, options + "-b 7 -o one" + name));
        for (int stage : is_slow() ? std::vector<int>{3} : std::vector<int>{0, 1, 2, 3}) {
            SCOPED_TRACE(which + std::to_string(stage));
            const std::string run = name + "stage" + std::to_string(stage);
            expect_good(start(stage == 1 ? 3 : 2, options + "-b 2 -z " + std::to_string(stage) + " -o " + run));
            expect_same_losses(run, "one" + name);
            EXPECT_EQ(layout(run + step_name(GetParam().few_steps)),
                      layout("one" + name + step_name(GetParam().few_steps)));
        }
    }
}

// An adapter is divided like a model; at stage 3 so are the weights that are frozen.
TEST_P(Ranks, AnAdapter) {
    expect_good(start(1, small() + strf("-b 7 -x %d -o base", GetParam().few_steps)));
    std::string options =
        "finetune " + small() +
        strf("-x %d --lora-rank 4 --lora-layers c_attn,mlp.c_proj --lora-dropout 0.1 -e base ", GetParam().few_steps);
    expect_good(start(1, options + "-b 7 -o one"));
    for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 1, 2, 3}) {
        SCOPED_TRACE(stage);
        std::string run = "stage" + std::to_string(stage);
        expect_good(start(2, options + "-b 2 -z " + std::to_string(stage) + " -o " + run));
        expect_same_losses(run, "one");
        EXPECT_EQ(layout(run + step_name(GetParam().few_steps)), layout("one" + step_name(GetParam().few_steps)));
    }
}

// Prompts lie in the first bucket alone; each rank runs their encoder.
TEST_P(Ranks, Prompts) {
    expect_good(start(1, small() + strf("-b 7 -x %d -o base", GetParam().few_steps)));
    std::ofstream lines(dir / "train.jsonl");
    for (int i = 0; i < 40; i++)
        lines << strf(R"({"prompt": "who sees %d?", "completion": " the cat sees %d."})", i, i) << "\n";
    lines.close();
    const std::string options =
        strf("finetune -e base -i train.jsonl -d 224 -l 1e-2 -v 0 -x %d --prompt-tokens 3 --dropout 0.1 ",
             GetParam().few_steps);
    expect_good(start(1, options + "-b 7 -o one"));
    for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 1, 2, 3}) {
        SCOPED_TRACE(stage);
        std::string run = "stage" + std::to_string(stage);
        expect_good(start(2, options + "-b 2 -z " + std::to_string(stage) + " -o " + run));
        expect_same_losses(run, "one");
        EXPECT_EQ(layout(run + step_name(GetParam().few_steps)), layout("one" + step_name(GetParam().few_steps)));
    }
}

TEST_P(Ranks, SameBitsFromRunToRun) {
    int few = GetParam().few_steps;
    for (int stage : is_slow() ? std::vector<int>{1, 3} : std::vector<int>{0, 1, 2, 3}) {
        SCOPED_TRACE(stage);
        std::string a = "a" + std::to_string(stage), b = "b" + std::to_string(stage);
        std::string options = small() + strf("-b 2 -x %d -z %d -o ", few, stage);
        expect_good(start(3, options + a));
        expect_good(start(3, options + b));
        EXPECT_EQ(logged(a, "loss"), logged(b, "loss"));
        EXPECT_EQ(logged(a, "grad_norm"), logged(b, "grad_norm"));
        for (const char* name : {"/model.safetensors", "/optimizer.safetensors"}) {
            std::string end = step_name(few) + name;
            EXPECT_FALSE(file(a + end).empty());
            EXPECT_TRUE(file(a + end) == file(b + end)) << end;
        }
    }
}

TEST_P(Ranks, SameBitsAcrossAResume) {
    int few = GetParam().few_steps;
    std::string options = small() + strf("-b 2 -x %d -n %d -z 3 --precision bf16 -o run ", few, few / 2);
    std::string model = "run" + step_name(few) + "/";
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
    std::string half = step_name(GetParam().steps / 2), end = step_name(GetParam().steps);
    std::string saves = strf("-n %d -nk 0 ", GetParam().steps / 2);
    expect_good(start(1, small() + "-b 7 " + saves + "-o fp32"));
    expect_good(start(1, small() + "-b 7 " + saves + "-o bf16 --precision bf16"));
    for (const Case& c : cases) {
        if (is_slow() && (&c - cases) % 3 != 1) continue;
        std::string run = std::to_string(c.ranks) + std::to_string(c.stage) + "to" + std::to_string(c.ranks_after) +
                          std::to_string(c.stage_after) + c.precision;
        SCOPED_TRACE(run);
        std::string options = small() + "-b 2 " + saves + "--precision " + c.precision + " -o " + run;
        expect_good(start(c.ranks, options + " -z " + std::to_string(c.stage)));
        EXPECT_EQ(layout(run + half), layout(c.precision + half));
        // back to the middle: the steps after it are done once more, by the others
        fs::remove_all(dir / (run + end));
        expect_good(start(c.ranks_after, options + " -y 1 -z " + std::to_string(c.stage_after)));
        EXPECT_EQ(layout(run + end), layout(c.precision + end));
        // Weights of bf16 turn what differs in the last bit of a sum into 2^-9 of a weight.
        expect_same_losses(run, c.precision, strcmp(c.precision, "fp32") == 0 ? 1e-5 : 1e-4);
    }
}

TEST_P(Ranks, RecomputationChangesNothing) {
    for (int recompute = 0; recompute <= 3; recompute += is_slow() ? 3 : 1) {
        std::string level = std::to_string(recompute);
        expect_good(start(2, small() + strf("-b 2 -x %d -z 3 -r ", GetParam().few_steps) + level + " -o r" + level));
        EXPECT_EQ(logged("r" + level, "loss"), logged("r0", "loss")) << level;
    }
}

TEST_P(Ranks, StartsThatCannotWorkEndWithOneLine) {
    std::string one = small() + "-o run ";
    expect_error(start(3, one + "-d 32"), 2, "a step, fewer than the 3 ranks");
    // Before they meet the first says what is wrong in all of them.
    expect_error(start(2, one + "-pn 3"), 2, "--num-processes (-pn) says 3, mpirun says 2");
    expect_error(start(3, one + "--nonsense"), 2, "unknown option --nonsense");
    expect_error(start(2, one + " : -np 1 " + program() + one + "-l 1e-3"), 1,
                 "rank 2 differs from rank 0 in learning-rate");
    fs::copy(dir / "data/t", dir / "other");
    fs::rename(dir / "other/train_000000.bin", dir / "other/train_000001.bin");
    std::string other = one;
    other.replace(other.find("data/t/train_000000.bin"), strlen("data/t/train_000000.bin"), "other/train_000001.bin");
    expect_error(start(2, one + " : -np 1 " + program() + other), 1, "rank 2 differs from rank 0 in training data");
    fs::remove_all(dir / "other");
    expect_error(start(2, one + " : -np 1 " + program() + other), 0,
                 "rank 2: --train-data (-i): no token shard matches");
    expect_error(start(2, other + " : -np 1 " + program() + one), 2, "no token shard matches");
    EXPECT_FALSE(fs::exists(dir / "run/log.jsonl"));
}

// What one process does, the first of several does alone.
TEST_P(Ranks, SamplesAndHelpAreWrittenOnce) {
    expect_good(start(1, small() + "-x 1 -o run"));
    std::string sample = "sample -e run --prompt 'the king' --max-tokens 5";
    CommandResult alone = start(1, sample), several = start(3, sample);
    expect_good(alone), expect_good(several);
    EXPECT_EQ(several.out, alone.out);
    EXPECT_EQ(start(3, "--help").out, start(1, "--help").out);
    EXPECT_EQ(start(2, "plan -e d12").out, start(1, "plan -e d12").out);
    expect_error(start(3, "sample -e nowhere"), 2, "nowhere");
}

TEST_P(Ranks, EvaluationHasTheLossOfOneRank) {
    expect_good(start(1, small() + "-x 1 -o run"));
    auto loss = [&](int ranks) {
        CommandResult r = start(ranks, "eval -e run -j data/t/val_000000.bin -b 2");
        EXPECT_EQ(count(r.out, "loss "), 1) << r.out << r.err;
        return number_after(r.out, "loss ");
    };
    double one = loss(1);
    EXPECT_GT(one, 1);
    for (int ranks : {2, 3}) EXPECT_NEAR(loss(ranks), one, 1e-5 * one);
}

TEST_P(Ranks, ARankThatDoesNotComeIsNamedAfterOneTimeLimit) {
    for (const char* rank : {"0", "1"}) {
        auto begin = std::chrono::steady_clock::now();
        CommandResult r = run_shell(
            std::string("export RANK=") + rank +
                " WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=" + std::to_string(20000 + getpid() % 10000) + "; " +
                environment() + program() + small() + "-o run --comm-timeout 4",
            dir.path);
        expect_error(r, 1, "within 4 s (--comm-timeout)");
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(7800));
    }
}

INSTANTIATE_TEST_SUITE_P(Programs, Ranks, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
