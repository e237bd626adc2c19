// The CPU program against the same program made of the plain layers (dev/train_gpt2_plain.cpp).
#include "program_fixture.h"

namespace {

class PlainProgram : public Program {
  protected:
    CommandResult plain(const std::string& arguments) {
        return run_shell(program_path("TRAIN_GPT2_PLAIN", "train_gpt2_plain") + " " + arguments, dir.path);
    }
    // Odd sizes, dropout, 7 sequences in micro-batches of 3, 3 and 1.
    static std::string options(const std::string& more) {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H3:C42:T37 -b 3 -d 259 -x 10 -v 5 -m 2 "
               "-l 3e-3 --dropout 0.1 " +
               more;
    }
    void expect_same_run(const std::string& more, double tolerance) {
        SCOPED_TRACE(more);
        expect_good(gpt2(options(more) + "-o cpu"));
        expect_good(plain(options(more) + "-o plain"));
        EXPECT_EQ(losses("plain").size(), 10u);
        EXPECT_LT(losses("plain").back(), 0.9 * losses("plain").front()) << "nothing was learned";
        expect_close(losses("plain"), losses("cpu"), tolerance);
        fs::remove_all(dir / "cpu"), fs::remove_all(dir / "plain");
    }
};

TEST_F(PlainProgram, HasTheLossesOfTheCpuProgram) {
    expect_same_run("--precision fp32 ", 1e-5);
    expect_same_run("--precision fp32 -r 3 ", 1e-5);
    expect_same_run("--precision bf16 ", 1e-3);
    expect_same_run("--precision bf16 --stochastic-rounding -w 0 ", 1e-3);
}

TEST_F(PlainProgram, SamplesTheSameText) {
    expect_good(gpt2(options("-o run")));
    std::string sample = "sample -e run --prompt 'the cat' --temperature 0 --max-tokens 60";
    CommandResult a = gpt2(sample), b = plain(sample);
    expect_good(a), expect_good(b);
    EXPECT_GT(a.out.size(), 40u);
    EXPECT_EQ(a.out, b.out);
}

}  // namespace
