// finetune on examples: whole runs on prompts and their completions.
#include "mpi_fixture.h"

namespace {

// Questions about the text's words, whose answers can be learned: lines [first, first + n) of them.
std::string pairs(int n, int first = 0) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    const char* does[] = {"sees", "loves", "fears", "becomes"};
    std::string lines;
    for (int i = first; i < first + n; i++)
        lines +=
            strf(R"({"prompt": "who %s %s?", "completion": " %s."})", does[i % 4], who[i * 7 / 4 % 5], who[i % 5]) +
            "\n";
    return lines;
}

class Finetune : public Program {
  protected:
    static const std::string& base() {  // a model directory, trained once
        static TemporaryDirectory made;
        static bool done = [] {
            fs::copy(workshop(), made.path, fs::copy_options::recursive);
            CommandResult r =
                run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() + "-v 0 -n 0 -o base", made.path);
            if (r.exit_code != 0) throw std::runtime_error(r.err);
            return true;
        }();
        (void)done;
        static const std::string path = made / "base";
        return path;
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    void SetUp() override {
        Program::SetUp();
        write("train.jsonl", pairs(60));
        write("val.jsonl", pairs(12, 100));
    }
    CommandResult finetune(const std::string& more) { return gpt2("finetune -e " + base() + " -l 3e-3 " + more); }
    static std::string data() { return "-i train.jsonl -j val.jsonl -b 2 -d 128 "; }
    std::vector<double> val_losses(const std::string& run) const {
        std::vector<double> all;
        for (const std::string& loss : logged(run, "val_loss")) all.push_back(std::stod(loss));
        return all;
    }
    std::string newest(const std::string& run) {
        std::string name;
        for (const auto& entry : fs::directory_iterator(dir / run))
            if (entry.path().filename().string().starts_with("step_")) name = std::max(name, entry.path().string());
        return name;
    }
};

TEST_F(Finetune, LearnsAndRecordsItsTemplate) {
    CommandResult r = finetune(data() + "--epochs 6 -o run");
    expect_good(r);
    EXPECT_NE(r.out.find("data: 60 examples, "), std::string::npos) << r.out;
    EXPECT_NE(r.out.find("12 to validate on"), std::string::npos) << r.out;
    EXPECT_NE(r.out.find("note: the model has no template: --template plain"), std::string::npos) << r.out;
    EXPECT_LT(val_losses("run").back(), 0.7 * val_losses("run").front());
    EXPECT_NE(read_text(newest("run") + "/tokenizer_config.json").find("chat_template"), std::string::npos);
    // It is taken from there: no note, and the same loss as by name.
    const CommandResult own = gpt2("eval -e run -j val.jsonl"),
                        named = gpt2("eval -e run -j val.jsonl --template plain");
    expect_good(own);
    EXPECT_EQ(own.err.find("template"), std::string::npos) << own.err;
    EXPECT_EQ(own.out, named.out);
    EXPECT_NEAR(number_after(own.out, "loss "), val_losses("run").back(), 1e-4);
    EXPECT_NE(gpt2("eval -e run -j val.jsonl --template chatml").out, own.out);
}

// Examples a step, of how many steps: every example is seen in every epoch.
TEST_F(Finetune, EpochsAndSteps) {
    CommandResult one = finetune("-i train.jsonl -j val.jsonl -b 1 --no-packing --epochs 1 -o one");
    expect_good(one);
    EXPECT_NE(one.out.find("in 60 rows of 32 an epoch"), std::string::npos) << one.out;
    EXPECT_EQ(losses("one").size(), 60u);
    CommandResult chosen = finetune("-i train.jsonl -o chosen");  // three epochs, sixteen steps or more in each
    expect_good(chosen);
    EXPECT_NE(chosen.out.find("data: 54 examples, "), std::string::npos) << chosen.out;
    EXPECT_NE(chosen.out.find("6 to validate on"), std::string::npos) << chosen.out;
    EXPECT_GE(losses("chosen").size(), 48u);
    EXPECT_LT(losses("chosen").size(), 100u);
    expect_one_error(finetune(data() + "--epochs 2 -x 3 -o both"), 2, "--epochs");
}

TEST_F(Finetune, TheMicroBatchAndTheKindOfRowsDecideNothingThatIsCompared) {
    expect_good(finetune(data() + "--epochs 2 -o two"));
    expect_good(finetune("-i train.jsonl -j val.jsonl -b 3 -d 128 --epochs 2 -o three"));
    expect_close(losses("three"), losses("two"), 1e-5);
    expect_close(val_losses("three"), val_losses("two"), 1e-5);
    const double packed = number_after(gpt2("eval -e two -b 2 -j val.jsonl").out, "loss ");
    for (std::string how : {"-b 7", "-b 5 --no-packing", "-b 1 --no-packing"})
        EXPECT_NEAR(number_after(gpt2("eval -e two -j val.jsonl " + how).out, "loss "), packed, 2e-6) << how;
}

// The loss of a step over all of the data is what a validation on it says: both are means over what counts.
TEST_F(Finetune, TheLossIsTheMeanOverWhatCounts) {
    expect_good(finetune("-i val.jsonl -j val.jsonl --no-packing -b 5 -d 384 -x 1 -o run"));  // its twelve rows
    EXPECT_NEAR(losses("run")[0] / val_losses("run")[0], 1, 1e-5);
}

TEST_F(Finetune, AResumeWithinAnEpochIsBitIdentical) {
    for (std::string more : {"", "--no-packing "}) {
        SCOPED_TRACE(more);
        expect_good(finetune(data() + more + "-x 9 --dropout 0.1 -v 0 -n 4 -nk 0 -o whole"));
        fs::copy(dir / "whole", dir / "cut", fs::copy_options::recursive);
        int removed = 0;
        for (const auto& entry : fs::directory_iterator(dir / "cut"))
            if (entry.path().filename().string().starts_with("step_") && entry.path().filename() != "step_00000004")
                removed += fs::remove_all(entry.path()) > 0;
        EXPECT_GT(removed, 1);
        CommandResult r = gpt2("finetune -e " + base() + " -o cut --resume");
        expect_good(r);
        EXPECT_EQ(r.out.find("no template"), std::string::npos) << r.out;
        EXPECT_EQ(losses("cut"), losses("whole"));
        EXPECT_TRUE(read_text(newest("cut") + "/model.safetensors") ==
                    read_text(newest("whole") + "/model.safetensors"));
        expect_one_error(gpt2("finetune -e " + base() + " -o cut --resume --template chatml"), 2, "--template chatml");
        fs::remove_all(dir / "whole"), fs::remove_all(dir / "cut");
    }
}

TEST_F(Finetune, FromAPipe) {
    expect_good(finetune(data() + "--epochs 1 -o file"));
    CommandResult piped = gpt2("finetune -e " + base() + " -l 3e-3 -j val.jsonl -b 2 -d 128 --epochs 1 -o pipe -i -",
                               "gzip -c train.jsonl | zcat | ");
    expect_good(piped);
    EXPECT_EQ(losses("pipe"), losses("file"));
    run_shell("gzip -k train.jsonl", dir.path);
    expect_one_error(finetune("-i train.jsonl.gz -o packed"), 1,
                     "train.jsonl.gz: is compressed; use `zcat train.jsonl.gz | ... -i -`");
}

TEST_F(Finetune, EncodedOnce) {
    const auto tokenize = [&](const std::string& more) {
        return run_shell(program_path("TOKENIZE", "tokenize") + " examples -o data/enc " + more, dir.path);
    };
    const std::string newest_base = base() + "/step_00000020";
    CommandResult r = tokenize("-i train.jsonl -j val.jsonl --template chatml -e " + newest_base);
    expect_good(r);
    EXPECT_NE(r.out.find("data/enc/train.examples: 60 examples, "), std::string::npos) << r.out;
    EXPECT_NE(r.out.find("data/enc/val.examples: 12 examples, "), std::string::npos) << r.out;
    const std::string rest = " -t 32 -b 2 -d 128 -x 4 ";
    expect_good(finetune("-i train.jsonl -j val.jsonl --template chatml -o lines" + rest));
    expect_good(finetune("-i data/enc -o dir" + rest));
    expect_good(finetune("-i data/enc/train.examples -j data/enc/val.examples -o files" + rest));
    for (std::string run : {"dir", "files"}) {
        EXPECT_EQ(losses(run), losses("lines"));
        EXPECT_EQ(val_losses(run), val_losses("lines"));
        EXPECT_EQ(read_text(newest(run) + "/tokenizer_config.json"),
                  read_text(newest("lines") + "/tokenizer_config.json"));
    }
    expect_one_error(finetune("-i data/enc --template plain -o other"), 2, "--template");
    expect_one_error(finetune("-i data/enc/train.examples -i train.jsonl -o other"), 2, "not both");
    expect_one_error(tokenize("-i val.jsonl -e " + newest_base), 1, "data/enc/train.examples is there already");
    expect_one_error(tokenize("--force --template plain -i text.txt -e " + newest_base), 1,
                     "text.txt:1: not valid JSON");
    expect_good(tokenize("--force -i - --template plain -e " + newest_base + " <val.jsonl"));
    EXPECT_NE(finetune("-i data/enc -x 1 -v 0 -o other").out.find("data: 12 examples"), std::string::npos);
}

TEST_F(Finetune, BadInputIsOneLine) {
    const auto refused = [&](const std::string& text, const std::string& names, const std::string& more = "") {
        write("bad.jsonl", text);
        expect_one_error(finetune("-i bad.jsonl -o run " + more), 1, names);
        EXPECT_FALSE(fs::exists(dir / "run"));
    };
    refused(pairs(3) + "{\"prompt\": \"x\"\n", "bad.jsonl:4: not valid JSON");
    refused(pairs(3) + "{\"prompt\": \"x\", \"completion\": \"\"}\n", "bad.jsonl:4: the completion is empty");
    refused("{\"messages\": [{\"role\": \"robot\", \"content\": \"x\"}]}\n", "no role \"robot\"");
    refused("{\"no\": 1}\n", "no example in it that is whole", "--skip-bad");
    refused("{\n", "no example in it", "--skip-bad");
    write("mine", "user {content}\nassistant\n");
    refused(pairs(3), "mine:2: assistant has no {content}", "--template mine");
    refused(pairs(3), "--template: ", "--template nowhere");
    expect_one_error(finetune("-i data/t/train_000000.bin -j val.jsonl -o run"), 2, "--val-data (-j) val.jsonl");
    write("bad.jsonl", pairs(20) + "{}\n");
    CommandResult skipped = finetune("-i bad.jsonl --skip-bad -x 1 -o run");
    expect_good(skipped);
    EXPECT_NE(skipped.out.find(
                  "1 piece(s) of JSON that are broken, or lack what is read, were left out; the first: bad.jsonl:21"),
              std::string::npos)
        << skipped.out;
}

// A dozen examples, learned by heart: what is validated on gets worse, and the run ends with its best model kept.
TEST_F(Finetune, StopsEarlyAndKeepsTheBest) {
    write("few.jsonl", pairs(8));
    const std::string run = "-i few.jsonl -j val.jsonl -b 2 -d 64 -l 3e-2 --epochs 60 --patience 3 -v 4 -nk 1 -o run";
    CommandResult r = finetune(run);
    expect_good(r);
    const std::vector<double> val = val_losses("run");
    const size_t best = static_cast<size_t>(std::min_element(val.begin(), val.end()) - val.begin());
    ASSERT_EQ(val.size(), best + 4) << r.out;  // three without a lower one
    EXPECT_GT(best, 0u);
    const std::string name = strf("run/step_%08zu", 4 * best);
    EXPECT_NE(r.out.find("stopped early: 3 validations in a row"), std::string::npos) << r.out;
    EXPECT_NE(r.out.find(strf("best: step %zu, val loss %.6f: %s", 4 * best, val[best], name.c_str())),
              std::string::npos)
        << r.out;
    EXPECT_EQ(logged("run", "best_step").back(), std::to_string(4 * best));
    EXPECT_NEAR(number_after(gpt2("eval -j val.jsonl -e " + name).out, "loss "), val[best], 1e-5);
    EXPECT_FALSE(fs::exists(dir / strf("run/step_%08zu", 4 * best - 4)));  // -nk 1: the best, and the last
    EXPECT_EQ(newest("run"), dir / strf("run/step_%08zu", 4 * best + 12));
    // A resume has nothing to do; with more patience it goes on, and still knows the best.
    CommandResult again = gpt2("finetune -e " + base() + " -o run --resume -v 4");
    expect_good(again);
    EXPECT_NE(again.out.find(strf("best: step %zu", 4 * best)), std::string::npos) << again.out;
    expect_good(gpt2("finetune -e " + base() + " -o run --resume -v 4 --patience 4"));
    EXPECT_EQ(val_losses("run").size(), best + 5);
    EXPECT_EQ(logged("run", "best_step").back(), std::to_string(4 * best));
    EXPECT_TRUE(fs::exists(dir / name));
}

TEST_F(Finetune, PatienceNeedsValidations) {
    expect_one_error(finetune(data() + "--patience 2 -v 0 -o run"), 2, "--val-every");
    write("few.jsonl", pairs(8));
    expect_one_error(finetune("-i few.jsonl --patience 2 -o run"), 2, "--val-data");
}

TEST_F(Finetune, LongExamplesAreCutAndCounted) {
    std::string words;
    for (int i = 0; i < 60; i++) words += " the cat sees";
    write("long.jsonl", pairs(9) + R"({"prompt": ")" + words + R"(", "completion": " yes"})" + "\n");
    CommandResult r = finetune("-i long.jsonl -v 0 -x 1 -o run");
    expect_good(r);
    EXPECT_NE(r.out.find("note: 1 of 10 examples are longer than 32 tokens and were cut"), std::string::npos) << r.out;
}

// ---- several ranks -------------------------------------------------------------------------------------------------

class RanksOnExamples : public MpiProgram {};

TEST_P(RanksOnExamples, TwoHaveTheLossesOfOne) {
    std::ofstream(dir / "train.jsonl") << pairs(40);
    std::ofstream(dir / "val.jsonl") << pairs(9, 100);
    std::string model = GetParam().options;
    model.resize(model.find(" -d"));  // -e SIZE
    const bool slow = is_slow();
    expect_good(start(1, small() + "-x 2 -v 0 -b 7 -o base"));
    const std::string run = "finetune -e base -i train.jsonl -j val.jsonl -m 1000 --precision fp32 -v 5 -l 1e-3 " +
                            std::string(slow ? "-f 0 -t 32 -d 160 -x 4 " : "-t 16 -d 80 -x 12 ");  // five rows a step
    expect_good(start(1, run + "-b 5 -o one"));
    for (int stage : {0, 2}) {
        const std::string name = "stage" + std::to_string(stage);
        expect_good(start(2, run + "-b 2 -z " + std::to_string(stage) + " -o " + name));
        expect_same_losses(name, "one");
    }
}

INSTANTIATE_TEST_SUITE_P(Programs, RanksOnExamples, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
