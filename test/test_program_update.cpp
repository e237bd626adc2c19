// --fuse-update: runs with it and without are one run, a run goes on as it was, and where it cannot be.
#include "llmc/base/error.h"
#include "llmc/files/run_directory.h"
#include "program_fixture.h"

namespace {

class UpdateProgram : public Program, public testing::WithParamInterface<const char*> {
  protected:
    void SetUp() override {
        const char* path = getenv("TRAIN_GPT2CU");
        if (is_cuda() && (!path || !fs::exists(path))) GTEST_SKIP() << "the CUDA program is not built (TRAIN_GPT2CU)";
        Program::SetUp();
    }
    CommandResult run(const std::string& arguments) {
        return run_shell(program_path(GetParam(), is_cuda() ? "train_gpt2cu" : "train_gpt2") + " " + arguments,
                         dir.path);
    }
    static bool is_cuda() { return std::string(GetParam()) == "TRAIN_GPT2CU"; }
    static std::string options() {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L3:H2:C36:T33 -t 31 -d 93 -l 1e-2 --grad-clip "
               "0.5 "
               "--dropout 0.1 -v 0 -x 4 ";
    }
    void expect_same_run(const std::string& got, const std::string& want) {
        EXPECT_EQ(logged(got, "loss"), logged(want, "loss"));
        EXPECT_EQ(logged(got, "grad_norm"), logged(want, "grad_norm"));
        for (const char* name : {"model.safetensors", "optimizer.safetensors"})
            EXPECT_TRUE(file(got + "/step_00000004/" + name) == file(want + "/step_00000004/" + name)) << name;
    }
};

TEST_P(UpdateProgram, RunsAreAsUnfusedAndGoOn) {
    expect_good(run(options() + "-o unfused"));
    const CommandResult r = run(options() + "-n 2 -o two --fuse-update two-passes");
    expect_good(r);
    EXPECT_NE(r.out.find("; gradients of one block at a time (two-passes)"), std::string::npos) << r.out;
    expect_same_run("two", "unfused");
    expect_good(run(options() + "-n 2 -o last --fuse-update last-norm"));
    EXPECT_NE(logged("last", "loss"), logged("unfused", "loss"));
    EXPECT_EQ(logged("last", "loss")[1], logged("unfused", "loss")[1]);  // two passes, at first
    // The norm of the step before, and the way of the update, are the checkpoint's.
    fs::copy(dir / "last", dir / "on", fs::copy_options::recursive), fs::remove_all(dir / "on/step_00000004");
    expect_good(run("-i data/t/train_000000.bin -j data/t/val_000000.bin -v 0 -y 1 -o on"));
    expect_same_run("on", "last");
}
INSTANTIATE_TEST_SUITE_P(, UpdateProgram, testing::Values("TRAIN_GPT2", "TRAIN_GPT2CU"),
                         [](const auto& which) { return which.index == 0 ? "Cpu" : "Cuda"; });

class FuseUpdateOption : public Program {};

TEST_F(FuseUpdateOption, AMemoryLimitChoosesTwoPassesButNoOtherNorm) {
    const std::string options =
        "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L6:H4:C128:T32 -b 2 -d 64 -r 3 -v 0 -x 2 ";
    const std::string all = gpt2(options + "-o whole").out;
    const size_t at = all.find("memory of the host: ");
    ASSERT_NE(at, std::string::npos) << all;
    const double stated = number_after(all.substr(at), "memory of the host: ");
    const std::string limit = strf("--memory-limit %.2fMB ", stated - 3);  // of 4 that five blocks' gradients take
    const CommandResult r = gpt2(options + "-o limited " + limit);
    expect_good(r);
    EXPECT_NE(r.out.find("--fuse-update two-passes saves 3.9"), std::string::npos) << r.out;
    EXPECT_EQ(logged("limited", "loss"), logged("whole", "loss"));
    EXPECT_NE(file(newest_checkpoint(dir / "limited").substr(dir.path.size() + 1) + "/trainer_state.json")
                  .find("\"fuse-update\": \"two-passes\""),
              std::string::npos);
    expect_one_error(gpt2(options + "-o none --fuse-update off --state-type fp32 " + limit), 1,
                     "it fits with --fuse-update two-passes");
}

TEST_F(FuseUpdateOption, WhatCannotBe) {
    const std::string options = "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T32 -d 128 -x 2 ";
    const struct {
        const char *more, *names;
    } cases[] = {{"--fuse-update sometimes", "must be off, last-norm or two-passes"},
                 {"--fuse-update two-passes -b 3", "one micro-batch a step"},
                 {"--fuse-update last-norm --on-nan skip", "does not go with --on-nan skip"},
                 {"--fuse-update last-norm -sg 3", "does not go with --skip-grad-z"}};
    for (auto& c : cases) {
        SCOPED_TRACE(c.more);
        expect_one_error(gpt2(options + "-o none " + c.more), 2, c.names);
        EXPECT_FALSE(fs::exists(dir / "none/log.jsonl"));
    }
    expect_one_error(gpt2(options + "-o none --fuse-update two-passes --memory-limit 1MB"), 1,
                     "give it so much, or a smaller --model or --total-batch-size");
    expect_one_error(gpt2("plan -e d12 --fuse-update two-passes --offload gradients"), 2,
                     "does not go with --offload gradients");
    const CommandResult plan = gpt2("plan -e d12 -b 8 --fuse-update last-norm");
    expect_good(plan);
    EXPECT_NE(plan.out.find("; gradients of one block at a time (last-norm)"), std::string::npos) << plan.out;
}

}  // namespace
