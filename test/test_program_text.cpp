// finetune --text: plain text beside what dpo, ppo and grpo learn from.
#include "llmc/files/run_directory.h"
#include "llmc/model/micro_step.h"
#include "mpi_fixture.h"

namespace {

std::string prompts(int n) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    std::string lines;
    for (int i = 0; i < n; i++)
        lines += strf(R"({"prompt": "who sees %s%s?"})", who[i % 5], i / 5 % 2 ? " now" : "") + "\n";
    return lines;
}
std::string pairs(int n) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    std::string lines;
    for (int i = 0; i < n; i++)
        lines += strf(R"({"prompt": "who sees %s?", "chosen": " %s.", "rejected": " %s sees %s, and so."})",
                      who[i * 7 / 4 % 5], who[i % 5], who[i * 3 % 5], who[(i + 1) % 5]) +
                 "\n";
    return lines;
}
constexpr const char* kText = " --text data/t/train_000000.bin ";

class TextBesidePrograms : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(gpt2(small() + "-x 30 -v 0 -n 0 -o base"));
        write("p.jsonl", prompts(40)), write("pairs.jsonl", pairs(64));
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    CommandResult learn(const std::string& more) {
        const bool dpo = more.find("--objective dpo") != std::string::npos;
        return gpt2("finetune -e base -k constant " +
                    std::string(dpo ? "-i pairs.jsonl -d 128 -b 3 "
                                    : "-i p.jsonl --max-tokens 10 --rollouts 8 -b 3 --reward match:a ") +
                    more);
    }
    std::string weights(const std::string& run) {
        const std::string newest = newest_checkpoint(dir / run), adapter = newest + "/adapter_model.safetensors";
        return read_text(fs::exists(adapter) ? adapter : newest + "/model.safetensors");
    }
};
const char* const kWays[] = {"--objective ppo --minibatches 2 --rollout-epochs 2", "--objective ppo --lora-rank 2",
                             "--objective grpo --group-size 4", "--objective dpo"};

}  // namespace

// Where text begins there are no two kinds in one micro-batch; other ranks' numbers lie between.
TEST(MicroSteps, TextComesBehind) {
    Batch batch;
    batch.sequences = 5, batch.T = 8;
    using Steps = std::vector<MicroStep>;
    EXPECT_EQ(micro_steps_of(batch, 3), (Steps{{3, 8, true, false, false, 0}, {2, 8, false, true, false, 0}}));
    batch.sequences = 8, batch.text = 3, batch.text_T = 16, batch.text_skip = 4;
    EXPECT_EQ(micro_steps_of(batch, 3),
              (Steps{{3, 8, true, false, false, 0}, {2, 8, false, false, false, 4}, {3, 16, false, true, true, 0}}));
    EXPECT_EQ(micro_steps_of(batch, 9), (Steps{{5, 8, true, false, false, 4}, {3, 16, false, true, true, 0}}));
}

TEST_F(TextBesidePrograms, TheLanguageModelStays) {
    for (const std::string way : {"--objective ppo -x 12 --kl 0", "--objective dpo -x 12"}) {
        SCOPED_TRACE(way);
        const auto loss_after = [&](const std::string& more) {
            const CommandResult r = learn(way + " -l 3e-3 -v 0 -o run " + more);
            EXPECT_EQ(r.exit_code, 0) << r.err;
            if (!more.empty()) EXPECT_EQ(logged("run", "text_loss").size(), 12u);
            else EXPECT_TRUE(logged("run", "text_loss").empty());
            EXPECT_EQ(r.out.find("text beside: ") != std::string::npos, !more.empty()) << r.out;
            const double loss = number_after(gpt2("eval -e run -j data/t/val_000000.bin --limit 2").out, "loss ");
            fs::remove_all(dir / "run");
            return loss;
        };
        const double before = number_after(gpt2("eval -e base -j data/t/val_000000.bin --limit 2").out, "loss "),
                     without = loss_after(""), with = loss_after(kText);
        EXPECT_GT(without, before + 0.1);
        EXPECT_LT(with, before);  // it has not learned all of it yet
    }
}

// The first update's text_loss is that of the rows; what it weighs decides how fast it falls. Of weight 0 it only looks.
TEST_F(TextBesidePrograms, WeightZeroChangesNothing) {
    for (const std::string way : {kWays[0], kWays[3]}) {
        SCOPED_TRACE(way);
        const auto run = [&](const std::string& more) { expect_good(learn(way + " -l 1e-3 -x 3 -v 0 " + more)); };
        run("-o without"), run(kText + std::string("--text-weight 0 -o zero")), run(kText + std::string("-o one"));
        for (const char* key : {"loss", "grad_norm"}) EXPECT_EQ(logged("zero", key), logged("without", key));
        EXPECT_TRUE(weights("zero") == weights("without"));
        EXPECT_FALSE(weights("one") == weights("without"));
        EXPECT_LT(std::stod(logged("one", "text_loss").back()), std::stod(logged("zero", "text_loss").back()));
        // the objective's own loss stays that, of one update
        const double near = way == kWays[3] ? 1e-6 : 0.1;
        EXPECT_NEAR(losses("one")[0], losses("without")[0], near);
        for (const char* name : {"without", "zero", "one"}) fs::remove_all(dir / name);
    }
}

TEST_F(TextBesidePrograms, ResumeBitForBit) {
    for (const std::string way : kWays) {
        SCOPED_TRACE(way);
        expect_good(learn(way + " -l 1e-3 -x 5 -n 3 -nk 0 -v 0 -o run" + kText + "--text-weight 0.5"));
        const std::string before = weights("run");
        const std::vector<std::string> text = logged("run", "text_loss");
        EXPECT_EQ(text.size(), 5u);
        fs::remove_all(newest_checkpoint(dir / "run"));
        expect_good(gpt2("train -o run --resume -v 0"));
        EXPECT_TRUE(weights("run") == before);
        EXPECT_EQ(logged("run", "text_loss"), text);
        // other text is another run
        fs::remove_all(newest_checkpoint(dir / "run"));
        expect_one_error(gpt2("train -o run --resume -v 0 --text data/t/val_000000.bin"), 2, "--text");
        fs::remove_all(dir / "run");
    }
}

TEST_F(TextBesidePrograms, BadInput) {
    const auto refused = [&](const std::string& options, int code, const std::string& why) {
        SCOPED_TRACE(options);
        expect_one_error(learn("-x 1 -v 0 " + options + " -o bad"), code, why);
        EXPECT_FALSE(fs::exists(dir / "bad/log.jsonl"));
        fs::remove_all(dir / "bad");
    };
    const std::string dpo = "--objective dpo";
    refused(dpo + " --text-weight 2", 2, "--text-weight weighs --text");
    refused(dpo + kText + "--text-weight -1", 2, "--text-weight");
    refused(dpo + kText + "--prompt-tokens 2", 2, "leave it out");
    refused(dpo + " --text nowhere", 2, "--text: no token shard matches nowhere");
    refused(dpo + " --text pairs.jsonl", 1, "pairs.jsonl");
    expect_one_error(gpt2("finetune -e base -i pairs.jsonl --objective reward -o bad" + std::string(kText)), 2,
                     "--text goes with --objective dpo, ppo or grpo");
    fs::remove_all(dir / "bad");
    expect_one_error(gpt2("finetune -e base -i data/t/train_000000.bin -o bad" + std::string(kText)), 2,
                     "--text goes with --objective dpo, ppo or grpo");
    fs::remove_all(dir / "bad");
    // too little of it, and of another vocabulary
    const std::string tokenize = program_path("TOKENIZE", "tokenize");
    write("few.txt", "the cat"), write("other.txt", std::string(400, 'a') + "b c d e");
    expect_good(run_shell(tokenize + " encode --vocab data/t -o data/few few.txt && " + tokenize +
                              " train --vocab-size 258 -o data/o other.txt && " + tokenize +
                              " encode --vocab data/o -o data/o other.txt",
                          dir.path));
    for (const std::string way : {"--objective ppo", "--objective dpo"}) {
        refused(way + " --text data/few", 1, "no shard holds the");
        refused(way + " --text data/o", 1, "has a vocabulary of 258 tokens");
    }
}

// ---- both programs, several ranks ----

namespace {
class RanksWithText : public MpiProgram {};
}  // namespace
TEST_P(RanksWithText, LearnTheSame) {
    expect_good(start(1, small() + "-e L2:H2:C16:T32 -t 32 -d 224 -x 2 -v 0 -b 7 -o base"));
    std::ofstream(dir / "p.jsonl") << prompts(20);
    std::ofstream(dir / "pairs.jsonl") << pairs(40);
    for (const std::string way :
         {"dpo -i pairs.jsonl -d 224", "ppo -i p.jsonl --max-tokens 8 --rollouts 5 --reward match:e"}) {
        SCOPED_TRACE(way);
        const std::string run = "finetune -e base --precision fp32 -f 0 -l 3e-3 -v 0 --dropout 0.1 -x " +
                                std::string(is_slow() ? "2 " : "4 ") + kText + "--objective " + way + " ",
                          name = way.substr(0, 3);
        expect_good(start(1, run + "-b 5 -o " + name));
        if (is_slow()) expect_good(gpt2(run + "-b 5 -o cpu_" + name));
        for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 2})
            expect_good(start(2, run + "-b 2 -z " + std::to_string(stage) + " -o " + name + std::to_string(stage)));
        for (const std::string other : {"0", "2", "cpu"}) {
            const std::string several = other == "cpu" ? "cpu_" + name : name + other;
            if (!fs::exists(dir / several)) continue;
            for (const char* key : {"text_loss", "grad_norm", "loss"}) {
                const std::vector<std::string> got = logged(several, key), want = logged(name, key);
                ASSERT_EQ(got.size(), want.size()) << several;
                for (size_t i = 0; i < got.size(); i++)
                    EXPECT_NEAR(std::stod(got[i]), std::stod(want[i]),
                                (key[0] == 'g' ? 2e-3 : 1e-4) * (1 + std::abs(std::stod(want[i]))))
                        << several << " " << key << " " << i;
            }
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Programs, RanksWithText, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });
