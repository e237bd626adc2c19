// The memory that a run states beside what it takes, and what it does under --memory-limit.
#include <sys/resource.h>

#include "llmc/run/memory_limit.h"
#include "llmc/run/options.h"
#include "program_fixture.h"

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool kSanitized = true;  // which takes memory of its own
#else
constexpr bool kSanitized = false;
#endif

// "12.34 MB" after `what`.
double bytes_after(const std::string& out, const std::string& what) {
    const size_t at = out.rfind(what);
    if (at == std::string::npos) return NAN;
    char unit[3] = "";
    double value = 0;
    sscanf(out.c_str() + at + what.size(), "%lf %2s", &value, unit);
    return value * (*unit == 'k' ? 1e3 : *unit == 'M' ? 1e6 : *unit == 'G' ? 1e9 : 1);
}

class RunMemory : public Program {
  protected:
    const std::string data = "-i data/t/train_000000.bin -j data/t/val_000000.bin -v 0 -o run ";
    CommandResult run(const std::string& options) {
        fs::remove_all(dir / "run");
        return gpt2(data + options);
    }
    // Stated is at most 2% too little, and not much too much.
    void expect_as_stated(const CommandResult& r, double most_too_much = 1.06) {
        ASSERT_EQ(r.exit_code, 0) << r.out << r.err;
        const size_t line = r.out.rfind("memory: ");
        ASSERT_NE(line, std::string::npos) << r.out;
        const double measured = bytes_after(r.out.substr(line), "memory: "),
                     stated = bytes_after(r.out, "at the peak, ");
        EXPECT_LE(measured, 1.02 * stated) << r.out;
        EXPECT_GE(measured * most_too_much, stated) << r.out;
    }
};

// Few steps at sizes where 2% are a few megabytes; dev/bench/memory_table.sh is the long table.
TEST_F(RunMemory, IsWhatWasStated) {
    if (kSanitized) GTEST_SKIP() << "the sanitizer takes memory of its own";
    for (const char* options :
         {"-e L2:H3:C192:T64:V9001 -b 3 -d 448 -x 2 -n 1",                         // with a copy for checkpoints
          "-e L2:H3:C192:T64:V9001 -b 7 -d 448 -x 1 --precision bf16 -r 2",        //
          "-e L2:H3:C228:T50:V9001 -b 9 -d 450 -x 1 -r 3 --state-type int8",       // odd widths
          "-e L3:H2:C128:T300:V300 -b 8 -d 2400 -x 1 --optimizer muon -s 1 -g 3",  // activations more than weights
          "-e L6:H4:C256:T64:V300 -d 128 -x 2 --fuse-update last-norm"}) {
        SCOPED_TRACE(options);
        expect_as_stated(run(options));
    }
}

TEST_F(RunMemory, OfTheCudaProgramIsWhatWasStated) {
    const char* path = getenv("TRAIN_GPT2CU");
    if (!path || !fs::exists(path)) GTEST_SKIP() << "the CUDA program is not built (TRAIN_GPT2CU)";
    if (!fs::path(path).string().ends_with("_cpu")) GTEST_SKIP() << "what else runs on this GPU is not known here";
    for (const char* options : {"-e L2:H2:C32:T32:V300 -b 2 -d 96 -x 1",
                                "-e L1:H3:C48:T24:V300 -b 2 -d 48 -x 1 -r 2 --precision fp32 --matmul own -s 1 -g 2"}) {
        SCOPED_TRACE(options);
        fs::remove_all(dir / "run");
        expect_as_stated(run_shell(std::string(path) + " " + data + options, dir.path));
    }
}

// A model in memory is there once: no copy of its file, no packed weights. 8 MB of weights beside what the program itself
// has, which a model of a few kilobytes shows.
TEST_F(RunMemory, SamplingKeepsTheWeightsOnce) {
    if (kSanitized) GTEST_SKIP() << "the sanitizer takes memory of its own";
    if (run_shell("command -v python3").exit_code != 0) GTEST_SKIP() << "there is no python3 to ask for the peak";
    expect_good(run("-e L1:H2:C16:T16:V300 -b 1 -d 16 -x 1"));
    fs::rename(dir / "run", dir / "small");
    expect_good(run("-e L4:H4:C512:T16:V300 -b 1 -d 16 -x 1"));
    const auto peak = [&](const std::string& model, const std::string& precision) {
        const std::string command =
            "python3 -c 'import os, sys; pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); "
            "print(\"peak\", os.wait4(pid, 0)[2].ru_maxrss, \"kB\")' " +
            program_path("TRAIN_GPT2", "train_gpt2") + " sample -e " + model +
            " --prompt the --max-tokens 5 --precision " + precision;
        return bytes_after(run_shell(command, dir.path).out, "peak ");
    };
    for (const std::string precision : {"fp32", "bf16"}) {
        const double weights = (precision == "fp32" ? 4 : 2) * 12.0 * 4 * 512 * 512;
        EXPECT_LE(peak("run", precision) - peak("small", precision), 1.25 * weights + 2e6) << precision;
    }
}

// ---- --memory-limit --------------------------------------------------------------------------------------------------

TEST(MemoryLimit, Sizes) {
    const std::pair<const char*, double> good[] = {{"16GB", 16e9}, {"512mb", 512e6}, {"7.5GiB", 7.5 * (1 << 30)},
                                                   {"2T", 2e12},   {"1000000", 1e6}, {"3k", 3e3},
                                                   {"12B", 12}};
    for (const auto& [text, bytes] : good) EXPECT_DOUBLE_EQ(parse_memory_limit(text), bytes) << text;
    for (const char* text : {"", "GB", "-1GB", "0", "1XB", "1 GB", "nan", "inf", "1iB", "1GBs", "1e30"})
        EXPECT_THROW(parse_memory_limit(text), UsageError) << text;
}

// A demand that is easy to reckon: of each sequence 100 bytes, less by 20 a level; state 120 and less; a copy 50.
double demand(const PlanSetup& s) {
    return s.B * (100 - 20.0 * s.recompute) + 120 / (1 << static_cast<int>(s.state_type)) +
           (s.checkpoint_every > 0 && s.copy_checkpoints ? 50 : 0);
}
PlanSetup reckoned() {
    PlanSetup s;
    s.model.L = 4, s.model.NH = 4, s.model.C = 128, s.model.T = s.T = 64, s.model.V = 1000;
    s.sequences = 8, s.rates = {2e10, 2e11, 1e11};
    return s;
}

TEST(MemoryLimit, TheCheapestComesFirst) {
    const PlanSetup s = reckoned();
    const auto all = cheapest_fit(s, {}, 920, demand);
    ASSERT_TRUE(all);
    EXPECT_EQ(all->B, 8);
    EXPECT_EQ(all->recompute, 0);
    // One more micro-batch costs less than anything that is computed twice.
    const auto split = cheapest_fit(s, {}, 919, demand);
    ASSERT_TRUE(split);
    EXPECT_EQ(split->B, 4);
    EXPECT_EQ(split->recompute, 0);
    EXPECT_NE(chosen_text(*split, s, demand).find("--micro-batch-size 4 saves 400 B for "), std::string::npos);
    // What changes the loss comes last: at 200 bytes there is a way without, at 150 there is none.
    for (const auto& [limit, type] : {std::pair(200, StateType::fp32), {150, StateType::bf16}, {90, StateType::int8}}) {
        const auto fit = cheapest_fit(s, {}, limit, demand);
        ASSERT_TRUE(fit) << limit;
        EXPECT_EQ(fit->state_type, type) << limit;
        EXPECT_LE(demand(*fit), limit);
    }
    EXPECT_FALSE(cheapest_fit(s, {}, 69, demand));
}

TEST(MemoryLimit, WhatIsNamedStays) {
    PlanSetup s = reckoned();
    s.B = 2;
    const auto fit = cheapest_fit(s, {"micro-batch-size", "state-type"}, 250, demand);
    ASSERT_TRUE(fit);
    EXPECT_EQ(fit->B, 2);
    EXPECT_EQ(fit->recompute, 2);
    EXPECT_EQ(fit->state_type, StateType::fp32);
    EXPECT_FALSE(cheapest_fit(s, {"micro-batch-size", "state-type", "recompute"}, 250, demand));
    EXPECT_EQ(change_text(s, {"micro-batch-size", "state-type", "recompute"}, 250, demand),
              "it fits with --micro-batch-size 1");
    EXPECT_EQ(change_text(s, {"recompute"}, 50, demand),
              "it needs 70 B at the least; give it so much, or a smaller --model");
}

TEST(MemoryLimit, ACopyForCheckpointsCostsWaiting) {
    PlanSetup s = reckoned();
    s.checkpoint_every = 1, s.B = 8;
    const Names fixed = {"micro-batch-size", "state-type"};
    const auto often = cheapest_fit(s, fixed, 930, demand);
    s.checkpoint_every = 1'000'000;
    const auto seldom = cheapest_fit(s, fixed, 930, demand);
    ASSERT_TRUE(often && seldom);
    EXPECT_TRUE(often->copy_checkpoints);
    EXPECT_EQ(often->recompute, 1);
    EXPECT_FALSE(seldom->copy_checkpoints);
    EXPECT_EQ(seldom->recompute, 0);
}

TEST_F(RunMemory, ALimitIsKeptAndAResumeGoesOnAsItBegan) {
    if (kSanitized) GTEST_SKIP() << "the sanitizer takes memory of its own";
    const std::string model = "-e L4:H2:C128:T64:V300 -d 512 --lr-schedule constant ";
    const CommandResult free = run(model + "-x 2");
    expect_good(free);
    const std::vector<double> want = losses("run");
    // a little more than the least that it needs
    const CommandResult refused = run(model + "--memory-limit 1MB");
    expect_one_error(refused, 1, "and the limit is 1.00 MB; it needs ");
    const double least = bytes_after(refused.err, "it needs ");
    const std::string limit = "--memory-limit " + std::to_string(static_cast<int64_t>(least + 5e5)) + " ";
    const CommandResult tight = run(model + limit + "-x 1");
    expect_good(tight);
    EXPECT_NE(tight.out.find("--micro-batch-size 1 saves "), std::string::npos) << tight.out;
    EXPECT_NE(tight.out.find("--recompute 3 saves "), std::string::npos) << tight.out;
    EXPECT_NE(tight.out.find("--state-type int8 saves "), std::string::npos) << tight.out;
    const CommandResult on = gpt2(data + model + "-x 2 --resume");
    expect_good(on);
    EXPECT_NE(on.out.find("micro-batches of 1\n"), std::string::npos) << on.out;
    EXPECT_NE(file("run/step_00000002/trainer_state.json").find("\"state-type\": \"int8\""), std::string::npos);
    EXPECT_NE(file("run/step_00000002/trainer_state.json").find("\"recompute\": 3"), std::string::npos);
    expect_close(losses("run"), want, 1e-3);
}

TEST_F(RunMemory, LimitsThatCannotBe) {
    const std::string model = "-e L2:H2:C32:T32:V300 -d 128 -x 1 ";
    expect_one_error(run(model + "--memory-limit 3GX"), 2, "--memory-limit takes a size such as 16GB");
    expect_one_error(run(model + "--memory-limit 900TB"), 1, "--memory-limit 900TB is more than there is");
    const std::string limit = kSanitized ? "120MB" : "60MB";
    expect_one_error(run("-e L2:H2:C32:T1024:V300 -d 65536 -x 1 -r 0 -b 64 --memory-limit " + limit), 1,
                     "it fits with --micro-batch-size ");
    expect_one_error(gpt2("plan --gpu h100 -e d12 --memory-limit 81GB"), 2, "is more than there is: 80.00 GB");
    EXPECT_FALSE(fs::exists(dir / "run/log.jsonl"));
    const CommandResult plan = gpt2("plan --gpu h100 -e d12 --memory-limit 6GB");
    expect_good(plan);
    EXPECT_NE(plan.out.find("to fit: --micro-batch-size "), std::string::npos) << plan.out;
    // what is named stays
    const CommandResult named = gpt2("plan --gpu rtx4090 -e d12 --offload optimizer --memory-limit 1.7GB");
    expect_good(named);
    EXPECT_NE(named.out.find("; offloaded: optimizer, "), std::string::npos) << named.out;
}

}  // namespace
