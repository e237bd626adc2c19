// The CUDA program against the CPU program: same commands, same losses, each other's checkpoints.
//
// TRAIN_GPT2CU is the program under test: ./train_gpt2cu on a machine with a GPU, else train_gpt2.cu compiled for the
// CPU (test/cudahost).
#include <gtest/gtest.h>
#include <cmath>
#include <vector>

#include "llmc/base/error.h"
#include "program_fixture.h"

namespace {

class CudaProgram : public Program {
  protected:
    void SetUp() override {
        const char* path = getenv("TRAIN_GPT2CU");
        if (!path || !fs::exists(path)) GTEST_SKIP() << "the CUDA program is not built (TRAIN_GPT2CU)";
        Program::SetUp();
    }
    CommandResult cuda(const std::string& arguments, const std::string& before = "") {
        return run_shell(before + program_path("TRAIN_GPT2CU", "train_gpt2cu") + " " + arguments, dir.path);
    }
    // 20 steps of 4 sequences in micro-batches of 3 and 1; fp32 without TF32, or bf16.
    static std::string options(const std::string& precision) {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T32 -b 3 -d 128 -x 20 -v 20 -m 1 -l "
               "3e-3 "
               "-f 0 --precision " +
               precision + " ";
    }
};

struct Precision {
    const char* name;
    double tolerance;
};
const Precision kPrecisions[] = {{"fp32", 1e-4}, {"bf16", 2e-2}};

// The mark of the design: 20 steps, dropout and a smaller last micro-batch included.
TEST_F(CudaProgram, TwentyStepsHaveTheLossesOfTheCpuProgram) {
    for (const Precision& p : kPrecisions) {
        SCOPED_TRACE(p.name);
        std::string name = p.name, dropout = "--dropout 0.1 -o ";
        expect_good(gpt2(options(name) + dropout + "cpu_" + name));
        for (std::string how : {"cublaslt", "own"}) {
            SCOPED_TRACE(how);
            std::string run = "gpu_" + name + how;
            expect_good(cuda(options(name) + "--matmul " + how + " " + dropout + run));
            EXPECT_EQ(losses(run).size(), 20u);
            expect_close(losses(run), losses("cpu_" + name), p.tolerance);
            EXPECT_LT(losses(run).back(), 5.0);  // it did learn
        }
    }
}

TEST_F(CudaProgram, OptimizersHaveTheLossesOfTheCpuProgram) {
    for (std::string which : {"muon", "muon --state-type int8", "adamw --state-type bf16",
                              "adamw --state-type int8 --l1 0.01", "sgd -l 0.3", "adagrad", "adadelta -l 1"})
        for (const Precision& p : kPrecisions) {
            SCOPED_TRACE(which + " " + p.name);
            const std::string all = options(p.name) + "-x 10 --optimizer " + which + " -o ",
                              run = std::to_string(which.size()) + p.name;
            expect_good(gpt2(all + "cpu" + run)), expect_good(cuda(all + "gpu" + run));
            expect_close(losses("gpu" + run), losses("cpu" + run), p.tolerance);
        }
    // what one program kept the other goes on with
    const std::string all = options("fp32") + "--optimizer muon --state-type int8 -n 5 -x 10 -o run";
    expect_good(gpt2(all));
    const std::vector<double> whole = losses("run");
    fs::remove_all(dir / "run/step_00000010");
    expect_good(cuda("-y 1 -o run"));
    expect_close(losses("run"), whole, 1e-3);
}

TEST_F(CudaProgram, GPT2WithSettingsChanged) {
    const std::string size = " -e L2:H2:C32:T32:F40:gelu:E0.001:unscaled:by_layer:untied -o ";
    expect_good(gpt2(options("fp32") + size + "cpu"));
    expect_good(cuda(options("fp32") + size + "gpu"));
    expect_close(losses("gpu"), losses("cpu"), 1e-4);
    const std::string say = "sample --prompt 'the cat' --max-tokens 40 --temperature 0 --precision fp32 -e ";
    const CommandResult a = cuda(say + "cpu"), b = gpt2(say + "cpu");
    expect_good(a);
    EXPECT_EQ(a.out, b.out);
}

TEST_F(CudaProgram, CheckpointsCrossFromProgramToProgram) {
    for (const Precision& p : kPrecisions) {
        SCOPED_TRACE(p.name);
        std::string name = p.name, half = options(name) + "-n 10 -o ";
        expect_good(gpt2(half + "whole"));
        fs::copy(dir / "whole", dir / "other", fs::copy_options::recursive);
        fs::remove_all(dir / "other/step_00000020");
        expect_good(cuda("-i data/t/train_000000.bin -j data/t/val_000000.bin -o other -y 1"));  // steps 11 to 20
        expect_close(losses("other"), losses("whole"), p.tolerance);
        // and back: the CPU program goes on from a checkpoint of the CUDA program
        fs::remove_all(dir / "other/step_00000010");
        expect_good(gpt2("-i data/t/train_000000.bin -j data/t/val_000000.bin -o whole -y 1 -x 24"));
        expect_good(gpt2("-i data/t/train_000000.bin -j data/t/val_000000.bin -o other -y 1 -x 24"));
        expect_close(losses("other"), losses("whole"), p.tolerance);
        fs::remove_all(dir / "whole"), fs::remove_all(dir / "other");
    }
}

TEST_F(CudaProgram, AdaptersHaveTheLossesOfTheCpuProgram) {
    expect_good(gpt2(options("fp32") + "-o base"));
    const std::string tail =
        "-i data/t/train_000000.bin -j data/t/val_000000.bin -b 3 -d 128 -v 10 -m 1 -n 10 -l 1e-2 -f 0 ";
    for (const Precision& p : kPrecisions) {
        SCOPED_TRACE(p.name);
        const std::string name = p.name, adapt = "finetune -e base " + tail +
                                                 "-x 20 --dropout 0.1 --lora-rank 4 --lora-dropout " +
                                                 "0.1 --precision " + name + " -o ";
        expect_good(gpt2(adapt + "cpu_" + name));
        expect_good(cuda(adapt + "gpu_" + name));
        EXPECT_EQ(losses("gpu_" + name).size(), 20u);
        expect_close(losses("gpu_" + name), losses("cpu_" + name), p.tolerance);
        // the other program's adapter, resumed
        const std::vector<double> whole = losses("cpu_" + name);
        fs::remove_all(dir / ("cpu_" + name + "/step_00000020"));
        expect_good(cuda("finetune -e base " + tail + "-o cpu_" + name + " --resume"));
        expect_close(losses("cpu_" + name), whole, p.tolerance);
    }
    const std::string say =
        "sample -e cpu_fp32 --precision fp32 -f 0 --temperature 0 --max-tokens 20 --prompt 'the cat'";
    EXPECT_EQ(cuda(say).out, gpt2(say).out);
}

TEST_F(CudaProgram, ResumedIsBitIdentical) {
    for (const Precision& p : kPrecisions) {
        SCOPED_TRACE(p.name);
        std::string all = options(p.name) + "--dropout 0.1 -x 10 -n 5 -o whole",
                    model = "/step_00000010/model.safetensors";
        expect_good(cuda(all));
        fs::copy(dir / "whole", dir / "cut", fs::copy_options::recursive);
        fs::remove_all(dir / "cut/step_00000010");
        expect_good(cuda("-i data/t/train_000000.bin -j data/t/val_000000.bin -o cut -y 1"));
        EXPECT_TRUE(file("whole" + model) == file("cut" + model));
        EXPECT_EQ(losses("whole"), losses("cut"));
        fs::remove_all(dir / "whole"), fs::remove_all(dir / "cut");
    }
}

// Compiled for the CPU, the program's threads, streams and copies run in an order drawn from a seed: none of it may
// show.
TEST_F(CudaProgram, NoScheduleChangesABit) {
    for (const Precision& p : kPrecisions) {
        std::vector<double> want;
        for (int seed = 1; seed <= 8; seed++) {
            SCOPED_TRACE(testing::Message() << p.name << ", CUDAHOST_SEED=" << seed);
            std::string run = std::string("run") + p.name + std::to_string(seed);
            expect_good(cuda(options(p.name) + "-x 3 -v 3 -o " + run, strf("CUDAHOST_SEED=%d ", seed)));
            if (seed == 1) want = losses(run);
            EXPECT_EQ(losses(run), want);
        }
        EXPECT_EQ(want.size(), 3u);
    }
}

// Where GELU is a kernel of its own, or in the program's own product: both take it of the rounded value, which is also
// what recomputation finds. (cuBLASLt's fused GELU takes it of the value before rounding.)
TEST_F(CudaProgram, RecomputationChangesNoBit) {
    for (std::string how : {"--matmul cublaslt -ge 0", "--matmul own"}) {
        SCOPED_TRACE(how);
        std::string all = options("bf16") + how + " --dropout 0.1 -x 3 -v 0 -o ";
        expect_good(cuda(all + "level0"));
        for (std::string level : {"1", "2", "3"}) {
            expect_good(cuda(all + "level" + level + " -r " + level));
            EXPECT_EQ(losses("level" + level), losses("level0")) << level;
        }
        for (std::string level : {"0", "1", "2", "3"}) fs::remove_all(dir / ("level" + level));
    }
}

TEST_F(CudaProgram, SamplesAndEvaluatesAsTheCpuProgramDoes) {
    expect_good(gpt2(options("fp32") + "-o run"));
    for (std::string prompt : {"the cat", "my king loves the queen, and a dog fears no man. the"}) {
        std::string sample =
            "sample -e run --precision fp32 -f 0 --temperature 0 --max-tokens 20 --prompt '" + prompt + "'";
        CommandResult want = gpt2(sample), got = cuda(sample);
        expect_good(got);
        EXPECT_EQ(got.out, want.out);
        EXPECT_GT(got.out.size(), prompt.size() + 10);
    }
    // Texts of different lengths together, two at a time: places are taken again.
    std::ofstream(dir / "p.jsonl") << "{\"prompt\": \"the cat\"}\n{\"prompt\": \"my king loves the queen\"}\n";
    const std::string many =
        "sample -e run --precision fp32 -f 0 --temperature 0.5 --max-tokens 12 --prompt-file p.jsonl --num-samples 2 "
        "-b 3";
    const CommandResult all = cuda(many);
    expect_good(all);
    EXPECT_EQ(all.out, gpt2(many).out);
    std::string eval = "eval -e run -j data/t/val_000000.bin --limit 2 --precision ";
    for (const Precision& p : kPrecisions) {
        CommandResult want = gpt2(eval + p.name), got = cuda(eval + p.name);
        expect_good(got);
        EXPECT_NEAR(number_after(got.out, "loss ") / number_after(want.out, "loss "), 1, p.tolerance);
    }
}

TEST_F(CudaProgram, PromptsHaveTheLossesOfTheCpuProgram) {
    expect_good(gpt2(options("fp32") + "-v 0 -o base"));
    std::ofstream lines(dir / "train.jsonl");
    for (int i = 0; i < 30; i++)
        lines << strf(R"({"prompt": "who sees %d?", "completion": " the cat sees %d."})", i, i) << "\n";
    lines.close();
    const std::string run =
        "finetune -e base -i train.jsonl -b 2 -d 96 -l 3e-2 -f 0 -x 6 -v 3 -n 3 --dropout 0.1 --prompt-tokens 5 ";
    for (const Precision& p : kPrecisions)
        for (const std::string encoder : {"lstm", "none"}) {
            SCOPED_TRACE(p.name + encoder);
            const std::string name = p.name + encoder,
                              how = run + "--prompt-encoder " + encoder + " --precision " + p.name + " -o ";
            expect_good(gpt2(how + "cpu_" + name));
            expect_good(cuda(how + "gpu_" + name));
            expect_close(losses("gpu_" + name), losses("cpu_" + name), p.tolerance);
            const auto whole = losses("gpu_" + name);
            const std::string end = "gpu_" + name + "/step_00000006",
                              weights = file(end + "/adapter_model.safetensors");
            fs::remove_all(dir / end);
            expect_good(cuda("finetune -e base --resume -o gpu_" + name));
            EXPECT_EQ(losses("gpu_" + name), whole);
            EXPECT_TRUE(file(end + "/adapter_model.safetensors") == weights);
            // the other program's, resumed
            fs::remove_all(dir / ("cpu_" + name + "/step_00000006"));
            expect_good(cuda("finetune -e base --resume -o cpu_" + name));
            expect_close(losses("cpu_" + name), whole, p.tolerance);
        }
    const std::string say =
        "sample -e cpu_fp32lstm --precision fp32 -f 0 --temperature 0 --max-tokens 20 --prompt 'the cat'";
    EXPECT_EQ(cuda(say).out, gpt2(say).out);
}

TEST_F(CudaProgram, ExamplesHaveTheLossesOfTheCpuProgram) {
    expect_good(gpt2(options("fp32") + "-x 4 -v 0 -o base"));
    std::ofstream lines(dir / "train.jsonl");
    for (int i = 0; i < 30; i++)
        lines << strf(R"({"prompt": "who sees %d?", "completion": " the cat sees %d, and %d sees no man."})", i, i,
                      i * i)
              << "\n";
    lines.close();
    const std::string run =
        "finetune -e base -i train.jsonl -b 2 -d 96 -l 3e-3 -f 0 -x 6 -v 3 -n 3 --dropout 0.1 --precision ";
    for (const Precision& p : kPrecisions) {
        SCOPED_TRACE(p.name);
        const std::string name = p.name;
        expect_good(gpt2(run + name + " -o cpu_" + name));
        expect_good(cuda(run + name + " -o gpu_" + name));
        expect_close(losses("gpu_" + name), losses("cpu_" + name), p.tolerance);
        EXPECT_EQ(losses("gpu_" + name).size(), 6u);
        const std::vector<std::string> got = logged("gpu_" + name, "val_loss"),
                                       want = logged("cpu_" + name, "val_loss");
        ASSERT_EQ(got.size(), want.size());
        for (size_t i = 0; i < want.size(); i++) EXPECT_NEAR(std::stod(got[i]) / std::stod(want[i]), 1, p.tolerance);
        const auto before = losses("gpu_" + name);
        fs::remove_all(dir / ("gpu_" + name + "/step_00000006"));
        expect_good(cuda("finetune -e base --resume -o gpu_" + name));
        EXPECT_EQ(losses("gpu_" + name), before);
    }
}

TEST_F(CudaProgram, ValuesThatAreNotFiniteEndTheRunWithTheTensorsName) {
    CommandResult r = cuda(options("fp32") + "-l 1e30 -o run");
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find("the first tensor that is not finite"), std::string::npos) << r.err;
    EXPECT_EQ(r.error_lines(), 1) << r.err;
}

}  // namespace
