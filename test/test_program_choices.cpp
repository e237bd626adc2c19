// What the CUDA program chooses by the GPU and its libraries, and what it records of that: cuBLASLt's algorithms, whose
// attention. On the CPU both libraries are stand-ins, which the environment tells what they have (test/cudahost/cublaslt.cpp,
// cudnn.cpp).
#include <gtest/gtest.h>
#include <fstream>

#include "program_fixture.h"

namespace {

class ProgramChoices : public Program {
  protected:
    void SetUp() override {
        const char* path = getenv("TRAIN_GPT2CU");
        if (!path || !fs::exists(path)) GTEST_SKIP() << "the CUDA program is not built (TRAIN_GPT2CU)";
        if (std::string(path).find("_cpu") == std::string::npos) GTEST_SKIP() << "the libraries are no stand-ins";
        Program::SetUp();
    }
    CommandResult cuda(const std::string& arguments, const std::string& environment, const std::string& ranks = "") {
        return run_shell(
            "env " + environment + " " + ranks + program_path("TRAIN_GPT2CU", "train_gpt2cu") + " " + arguments,
            dir.path);
    }
    std::string recorded(const std::string& run, const std::string& option) {
        const std::string all = file(run + "/step_00000004/trainer_state.json"), key = "\"" + option + "\": \"";
        const size_t at = all.find(key);
        return at == std::string::npos ? ""
                                       : all.substr(at + key.size(), all.find('"', at + key.size()) - at - key.size());
    }
    static std::string small(const std::string& run) {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L1:H2:C32:T16 -b 2 -d 48 -x 4 -n 2 -v 0 -l 1e-2 "
               "--precision bf16 -ge 0 -o " +
               run;
    }
    // Takes away the end of a run and goes on from its middle.
    CommandResult go_on(const std::string& run, const std::string& more, const std::string& environment) {
        fs::remove_all(dir / (run + "/step_00000004"));
        return cuda("--resume -i data/t/train_000000.bin -j data/t/val_000000.bin -o " + run + " " + more, environment);
    }
};

const char* const kThird = "CUDAHOST_CUBLASLT='5 4.9 3 1i 2h 3.1'";  // seconds: the third is the fastest of its kind

TEST_F(ProgramChoices, AlgorithmsAreTimedOnceAndObeyed) {
    const CommandResult first = cuda(small("timed"), kThird);
    expect_good(first);
    EXPECT_NE(first.out.find("products: the first step times cuBLASLt's algorithms"), std::string::npos) << first.out;
    const std::string choice = recorded("timed", "timed-algorithms"), weights = "/step_00000004/optimizer.safetensors";
    // a190 is the stand-in's first: each product that is recorded takes the third, in its own order of sums
    EXPECT_NE(choice.find("cuBLASLt 130000; "), std::string::npos) << choice;
    EXPECT_GT(count(choice, " = a192"), 8) << choice;
    EXPECT_EQ(count(choice, " = "), count(choice, " = a192")) << choice;
    expect_good(cuda(small("first") + " --algorithms first", kThird));
    EXPECT_EQ(recorded("first", "timed-algorithms"), "");
    const std::vector<double> timed = losses("timed");
    EXPECT_EQ(timed[0], losses("first")[0]);     // the step in which they are timed goes by the heuristic's first
    expect_close(timed, losses("first"), 1e-3);  // which timing has left as it was, sums of gradients too
    EXPECT_FALSE(file("timed" + weights) == file("first" + weights));
    expect_good(cuda(small("one"), "CUDAHOST_CUBLASLT=5"));
    EXPECT_TRUE(file("one" + weights) == file("first" + weights));

    // A resume obeys: now that another one is fastest, too, and without timing anything.
    const std::string whole = file("timed" + weights);
    const CommandResult again = go_on("timed", "", "CUDAHOST_CUBLASLT='5 1 3'");
    expect_good(again);
    EXPECT_EQ(again.out.find("times cuBLASLt's algorithms"), std::string::npos) << again.out;
    EXPECT_EQ(losses("timed"), timed);
    EXPECT_TRUE(file("timed" + weights) == whole);
    EXPECT_EQ(recorded("timed", "timed-algorithms"), choice);

    // Not what another version of the library means by them.
    const CommandResult other = go_on("timed", "", "CUDAHOST_CUBLASLT_VERSION=130100 CUDAHOST_CUBLASLT='5 1 3'");
    expect_good(other);
    EXPECT_NE(other.out.find("note: the checkpoint's algorithms were timed on another GPU or version of cuBLASLt ("),
              std::string::npos)
        << other.out;
    EXPECT_NE(recorded("timed", "timed-algorithms").find("cuBLASLt 130100; "), std::string::npos);
    EXPECT_GT(count(recorded("timed", "timed-algorithms"), " = a191"), 8);
}

// 3 sequences: rank 1 has one, and shapes that rank 0 does not meet.
TEST_F(ProgramChoices, RanksTakeTheSameAlgorithms) {
    const std::string launch =
        "bash -c 'if [ $OMPI_COMM_WORLD_RANK = 0 ]; then export CUDAHOST_CUBLASLT=\"5 4 3\"; else export "
        "CUDAHOST_CUBLASLT=\"5 3 4\"; fi; exec \"$@\"' ranks ";
    const CommandResult r =
        cuda(small("two") + " --optimizer muon", "TWO=1", "mpirun --allow-run-as-root --oversubscribe -np 2 " + launch);
    if (r.exit_code == 127) GTEST_SKIP() << "mpirun is missing";
    expect_good(r);
    const std::string choice = recorded("two", "timed-algorithms");
    EXPECT_GT(count(choice, " = a192"), 8) << choice;  // rank 0's, and of rank 1's only what rank 0 has not timed
    EXPECT_LT(count(choice, " = a191"), count(choice, " = a192")) << choice;
}

TEST_F(ProgramChoices, AttentionByCudnn) {
    const std::string by_cudnn = "CUDAHOST_CUDNN=1", without = "CUDAHOST_CUDNN=";
    const CommandResult library = cuda(small("library"), by_cudnn);
    expect_good(library);
    EXPECT_NE(library.out.find("attention: by cuDNN 9.13.0, in a fixed order (--attention own"), std::string::npos)
        << library.out;
    EXPECT_EQ(recorded("library", "attention"), "cudnn");
    const CommandResult own = cuda(small("own") + " --attention own", by_cudnn),
                        missing = cuda(small("missing"), without);
    expect_good(own), expect_good(missing);
    EXPECT_EQ(recorded("own", "attention"), "own");
    EXPECT_NE(missing.out.find("own kernels; cuDNN's would be faster on this GPU: cuDNN is missing"),
              std::string::npos);
    EXPECT_EQ(losses("own"), losses("missing"));
    expect_close(losses("own"), losses("library"), 2e-2);
    // Another GPU keeps its own kernels, but goes on with what was begun, as does a machine with cuDNN with what was not.
    expect_good(cuda(small("ampere"), by_cudnn + " CUDAHOST_DEVICE=80"));
    EXPECT_EQ(recorded("ampere", "attention"), "own");
    const std::vector<double> by_library = losses("library"), by_own = losses("own");
    expect_good(go_on("library", "", by_cudnn)), expect_good(go_on("own", "", by_cudnn));
    EXPECT_EQ(losses("library"), by_library);
    EXPECT_EQ(losses("own"), by_own);
    expect_one_error(go_on("library", "", without), 1, "--attention cudnn: cuDNN is missing");
    const CommandResult replaced = go_on("library", "--attention own", without);
    expect_good(replaced);
    EXPECT_NE(replaced.out.find("--attention own, as given, replaces cudnn"), std::string::npos) << replaced.out;
}

}  // namespace
