// finetune --objective reward: reward models from pairs of answers of which one was preferred.
#include "llmc/base/json.h"
#include "llmc/files/model_files.h"
#include "llmc/files/run_directory.h"
#include "mpi_fixture.h"

namespace {

class Reward : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(gpt2(small() + "-x 30 -v 0 -n 0 -o base"));
        write("train.jsonl", pairs(96, 0)), write("val.jsonl", pairs(20, 100));
    }

  public:
    // A short answer is better than a long one, whatever they say.
    static std::string pairs(int n, int first) {
        const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
        std::string lines;
        for (int i = first; i < first + n; i++)
            lines += strf(R"({"prompt": "who sees %s?", "chosen": " %s.", "rejected": " %s sees %s, and so."})",
                          who[i * 7 / 4 % 5], who[i % 5], who[i * 3 % 5], who[(i + 1) % 5]) +
                     "\n";
        return lines;
    }

  protected:
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    CommandResult learn(const std::string& more) {
        return gpt2("finetune -e base -i train.jsonl -j val.jsonl --objective reward -b 2 -d 128 -l 3e-3 " + more);
    }
    Json eval(const std::string& model, const std::string& more) {
        const CommandResult r = gpt2("eval -e " + model + " --json " + more);
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return parse_json(r.out);
    }
    std::string newest(const std::string& run) { return newest_checkpoint(dir / run); }
};

}  // namespace

TEST_F(Reward, LearnsWhatWasPreferred) {
    for (const std::string how : {"", "--lora-rank 4"}) {
        SCOPED_TRACE(how);
        const std::string run = how.empty() ? "run" : "adapter";
        const CommandResult r = learn(how + " --epochs 6 -o " + run);
        expect_good(r);
        EXPECT_NE(r.out.find("head: a reward; without the language model's loss"), std::string::npos) << r.out;
        const Json j = eval(run, "-j val.jsonl --answers answers.jsonl");
        EXPECT_EQ(j["pairs"], 20);
        EXPECT_GE(j["acc"].get<double>(), 0.9);
        EXPECT_GT(j["margin"].get<double>(), 0.5);
        EXPECT_NEAR(j["loss"].get<double>(), std::stod(logged(run, "val_loss").back()), 1e-6);
        EXPECT_NEAR(std::stod(logged(run, "val_loss").front()), std::log(2.0), 0.1);
        EXPECT_EQ(j["acc"].get<double>(), std::stod(logged(run, "val_acc").back()));
        // The measures are made of the answers.
        double loss = 0, right = 0;
        std::istringstream lines(file("answers.jsonl"));
        for (std::string line; std::getline(lines, line);) {
            const Json answer = parse_json(line);
            const double margin = answer["score_of_chosen"].get<double>() - answer["score_of_rejected"].get<double>();
            loss += std::log1p(std::exp(-margin)) / 20, right += margin > 0;
        }
        EXPECT_NEAR(loss, j["loss"].get<double>(), 1e-6);
        EXPECT_EQ(right / 20, j["acc"].get<double>());
        // A text alone has the score that it has in its pair.
        write("text.jsonl", R"({"prompt": "a", "completion": " b."})"
                            "\n"
                            R"({"prompt": "a", "completion": " b, c."})"
                            "\n");
        write("pair.jsonl", R"({"prompt": "a", "chosen": " b.", "rejected": " b, c."})"
                            "\n");
        const Json texts = eval(run, "-j text.jsonl"), pair = eval(run, "-j pair.jsonl");
        EXPECT_EQ(texts["texts"], 2);
        EXPECT_NEAR(texts["most"].get<double>() - texts["least"].get<double>(), std::abs(pair["margin"].get<double>()),
                    1e-5);
    }
    // transformers' form: a head of one number
    EXPECT_EQ(find_model(dir / "run").config.head.outputs, 1);
    EXPECT_NE(read_text(newest("run") + "/config.json").find("GPT2ForSequenceClassification"), std::string::npos);
}

TEST_F(Reward, ResumesBitForBit) {
    expect_good(learn("--dropout 0.1 --epochs 3 -n 4 -nk 0 -v 0 -o run"));
    const std::string weights = read_text(newest("run") + "/model.safetensors");
    fs::remove_all(newest("run"));
    expect_good(gpt2("train -o run --resume"));
    EXPECT_TRUE(read_text(newest("run") + "/model.safetensors") == weights);
}

TEST_F(Reward, BadInput) {
    const auto refused = [&](const std::string& line, const std::string& why) {
        write("bad.jsonl", pairs(3, 0) + line + "\n");
        expect_one_error(gpt2("finetune -e base -i bad.jsonl --objective reward -o bad"), 1, "bad.jsonl:4: " + why);
    };
    refused(R"({"prompt": "a", "chosen": "b", "rejected": "b"})", "chosen and rejected are the same text");
    refused(R"({"prompt": "", "chosen": "b", "rejected": "c"})", "the prompt is empty");
    refused(R"({"prompt": "a", "chosen": "b"})", "no field \"rejected\"");
    refused(R"({"prompt": "a", "completion": "b"})", "no field \"chosen\"");
    expect_one_error(gpt2("finetune -e base -i data/t/train_000000.bin --objective reward -o bad"), 2, "\"rejected\"");
    expect_one_error(learn("--head classify -o bad"), 2, "leave out --head");
    expect_one_error(gpt2("eval -e base -j val.jsonl"), 1, "no fields of an example");
    // with --skip-bad it is left out and counted
    write("bad.jsonl", pairs(30, 0) + R"({"prompt": "a", "chosen": "b", "rejected": "b"})" + "\n");
    const CommandResult r = gpt2("finetune -e base -i bad.jsonl --objective reward --skip-bad -x 2 -d 128 -o bad");
    expect_good(r);
    EXPECT_NE(r.out.find("were left out; the first: bad.jsonl:31"), std::string::npos) << r.out;
}

// ---- preferences without a reward model ----

namespace {
class Dpo : public Reward {
  protected:
    CommandResult prefer(const std::string& more) {
        return gpt2("finetune -e base -i train.jsonl -j val.jsonl --objective dpo -b 2 -d 128 -l 1e-3 " + more);
    }
};
}  // namespace

TEST_F(Dpo, TheModelLearnsToPrefer) {
    for (const std::string how : {"", "--lora-rank 4"}) {
        SCOPED_TRACE(how);
        const std::string run = how.empty() ? "run" : "adapter";
        const CommandResult r = prefer(how + " --epochs 3 --beta 0.2 -o " + run);
        expect_good(r);
        EXPECT_NE(r.out.find("objective: DPO, beta 0.2"), std::string::npos) << r.out;
        // It begins as its own reference: all margins are 0.
        EXPECT_NEAR(std::stod(logged(run, "val_loss").front()), std::log(2.0), 1e-5);
        EXPECT_NEAR(std::stod(logged(run, "val_margin").front()), 0, 1e-5);
        EXPECT_GE(std::stod(logged(run, "val_acc").back()), 0.95);
        EXPECT_GT(std::stod(logged(run, "val_margin").back()), 0.5);
        EXPECT_LT(losses(run).back(), 0.6);
        EXPECT_EQ(fs::file_size(dir / (run + "/reference.f32")), 16u + 8 * (96 + 20));
    }
    // An adapter that goes on is its own reference, too, and not the model without it.
    expect_good(gpt2("finetune -e adapter -i train.jsonl -j val.jsonl --objective dpo -b 2 -d 128 -x 1 -o further"));
    EXPECT_NEAR(std::stod(logged("further", "val_margin").front()), 0, 1e-5);
    // the same as the other implementation of the sums: the reference is what eval says of the base
    expect_good(gpt2("sample -e run --prompt 'who sees the cat?' --max-tokens 5"));
}

TEST_F(Dpo, ResumesBitForBitBesideTheSameReference) {
    for (const std::string how : {"", "--lora-rank 2 "}) {
        SCOPED_TRACE(how);
        expect_good(prefer(how + "--dropout 0.1 --epochs 3 -n 4 -nk 0 -v 5 -o run"));
        const char* name = how.empty() ? "/model.safetensors" : "/adapter_model.safetensors";
        const std::string weights = read_text(newest("run") + name);
        const std::vector<std::string> margins = logged("run", "val_margin");
        fs::remove_all(newest("run"));
        expect_good(gpt2("train -o run --resume"));
        EXPECT_TRUE(read_text(newest("run") + name) == weights);
        EXPECT_EQ(logged("run", "val_margin"), margins);
        fs::remove_all(newest("run"));
        write("run/reference.f32", "");
        expect_one_error(gpt2("train -o run --resume"), 1, "is not the reference of these pairs");
        fs::remove_all(dir / "run");
    }
}

TEST_F(Dpo, BadInput) {
    expect_one_error(prefer("--head classify -o bad"), 2, "leave out --head");
    expect_one_error(learn("--beta 0.5 -o bad"), 2, "--beta goes with");
    expect_one_error(gpt2("finetune -e base -i data/t/train_000000.bin --objective dpo -o bad"), 2, "\"rejected\"");
    write("bad.jsonl", pairs(3, 0) + "{\"prompt\": \"a\", \"completion\": \"b\"}\n");
    expect_one_error(gpt2("finetune -e base -i bad.jsonl --objective dpo -o bad"), 1,
                     "bad.jsonl:4: no field \"chosen\"");
}

// ---- both, by both programs ----

namespace {
class RanksOfPreferences : public MpiProgram {};
}  // namespace
TEST_P(RanksOfPreferences, HaveTheSameLosses) {
    expect_good(start(1, small() + "-e L2:H2:C16:T32 -t 32 -d 224 -x 2 -v 0 -b 7 -o base"));
    std::ofstream(dir / "train.jsonl") << Reward::pairs(40, 0);
    for (const std::string objective : {"reward", "dpo"}) {
        SCOPED_TRACE(objective);
        const std::string
            run = "finetune -e base -i train.jsonl --precision fp32 -f 0 --dropout 0.1 -d 160 -v 3 -l 3e-3 -x " +
                  std::string(is_slow() ? "3" : "9") + " --objective " + objective + " ",
            one = objective + "_one";
        expect_good(start(1, run + "-b 5 -o " + one));
        if (is_slow()) {  // the other program
            expect_good(gpt2(run + "-b 5 -o cpu_" + objective));
            expect_same_losses(one, "cpu_" + objective, 1e-4);
        }
        for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 3}) {
            const std::string name = objective + std::to_string(stage);
            expect_good(start(2, run + "-b 2 -z " + std::to_string(stage) + " -o " + name));
            expect_same_losses(name, one);
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Programs, RanksOfPreferences, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });
