// --offload: runs with it and without are one run; and where it cannot be.
#include "llmc/base/error.h"
#include "program_fixture.h"

namespace {

class OffloadProgram : public Program {
  protected:
    void SetUp() override {
        const char* path = getenv("TRAIN_GPT2CU");
        if (!path || !fs::exists(path)) GTEST_SKIP() << "the CUDA program is not built (TRAIN_GPT2CU)";
        Program::SetUp();
    }
    CommandResult cuda(const std::string& arguments) {
        return run_shell(program_path("TRAIN_GPT2CU", "train_gpt2cu") + " " + arguments, dir.path);
    }
    static std::string options() {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L3:H2:C36:T33 -t 31 -b 2 -d 155 -r 3 -v 2 -m 1 ";
    }
    static constexpr char all[] = "--offload optimizer,masters,gradients,activations,weights ";
};

TEST_F(OffloadProgram, RunsGoOnWithItAndWithout) {
    expect_good(cuda(options() + "-x 4 -n 2 -o here"));
    const CommandResult r = cuda(options() + all + "-x 4 -n 2 -o away");
    expect_good(r);
    EXPECT_NE(r.out.find("; in the host's memory 1.1"), std::string::npos) << r.out;
    for (const char* run : {"here", "away"})
        fs::copy(dir / run, dir / (std::string(run) + "2"), fs::copy_options::recursive);
    fs::remove_all(dir / "here2/step_00000004"), fs::remove_all(dir / "away2/step_00000004");
    expect_good(
        cuda(std::string("-i data/t/train_000000.bin -j data/t/val_000000.bin -v 2 -m 1 -y 1 -o here2 ") + all));
    expect_good(cuda("-i data/t/train_000000.bin -j data/t/val_000000.bin -v 2 -m 1 -y 1 -o away2"));
    for (const std::string run : {"away", "here2", "away2"}) {
        SCOPED_TRACE(run);
        EXPECT_EQ(logged(run, "loss"), logged("here", "loss"));
        EXPECT_EQ(logged(run, "grad_norm"), logged("here", "grad_norm"));
        EXPECT_EQ(logged(run, "val_loss"), logged("here", "val_loss"));
        for (const auto& entry : fs::directory_iterator(dir / "here/step_00000004")) {
            const std::string name = entry.path().filename();
            if (name == "trainer_state.json") continue;  // with times
            EXPECT_TRUE(file("here/step_00000004/" + name) == file(run + "/step_00000004/" + name)) << name;
        }
    }
}

TEST_F(OffloadProgram, AMemoryLimitChoosesIt) {
    const std::string run =
        "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L6:H4:C128:T64 -b 1 -d 64 -x 1 -v 0 ";
    expect_good(cuda(run + "-o whole"));
    const CommandResult r = cuda(run + "-o limited --memory-limit 52MB");  // of 59.78
    expect_good(r);
    EXPECT_NE(r.out.find("memory limit: 52.00 MB; --offload optimizer,masters saves 11.22 MB for "), std::string::npos)
        << r.out;
    EXPECT_EQ(r.out.find("inf"), std::string::npos) << r.out;
    EXPECT_LE(number_after(r.out, "memory: ", true), 52);
    EXPECT_EQ(logged("limited", "grad_norm"), logged("whole", "grad_norm"));
    expect_one_error(cuda(run + "-o none --memory-limit 36MB"), 1, "it needs 40.46 MB at the least");
}

TEST_F(OffloadProgram, WhatCannotBe) {
    const struct {
        const char *more, *names;
    } cases[] = {{"--offload optimizer,disks", "there is no 'disks'"},
                 {"--offload optimizer,,masters", "there is no ''"},
                 {"--offload masters --precision fp32", "--precision fp32"},
                 {"--offload masters -w 0", "--no-master-weights"},
                 {"--offload activations -r 2", "--recompute"},
                 {"--offload gradients --optimizer muon", "--optimizer muon"}};
    for (auto& c : cases) {
        SCOPED_TRACE(c.more);
        expect_one_error(cuda(options() + "-o none " + c.more), 2, c.names);
        EXPECT_FALSE(fs::exists(dir / "none/log.jsonl"));
    }
    expect_one_error(gpt2(options() + "-o none --offload optimizer"), 2, "has everything in the host's memory already");
    // more than any host has: the device would have room
    expect_one_error(cuda("-i data/t/train_000000.bin -j data/t/val_000000.bin -o none -b 1 -d 16 -t 16 -r 3 -e "
                          "L4000:H16:C4096:T16:V300 --offload optimizer,masters,gradients,activations,weights"),
                     1, "of this machine's memory");
}

}  // namespace
