// finetune --objective distill: a small model learns from a large one.
#include "llmc/base/json.h"
#include "llmc/files/run_directory.h"
#include "mpi_fixture.h"

namespace {

const char kShards[] = "-i data/t/train_000000.bin -j data/t/val_000000.bin -m 2 ";

// Prompts do not count, and neither does what fills up a row.
std::string examples(int n) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    std::string lines;
    for (int i = 0; i < n; i++)
        lines += strf(R"({"prompt": "who sees %s?", "completion": " %s sees %s."})", who[i * 7 / 4 % 5], who[i % 5],
                      who[i * 3 % 5]) +
                 "\n";
    return lines;
}

class Distill : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(gpt2(std::string(kShards) + "-e L2:H2:C48:T32 -b 4 -d 256 -x 10 -l 1e-2 -v 0 -o big"));
        expect_good(gpt2(std::string(kShards) + "-e L1:H2:C32:T32 -b 4 -d 256 -x 1 -v 0 -o base"));
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    CommandResult learn(const std::string& more) {
        return gpt2("finetune -e base --objective distill -b 3 -d 128 -l 1e-2 " + more);
    }
    std::string newest(const std::string& run) { return newest_checkpoint(dir / run); }
    double last(const std::string& run, const char* what) { return std::stod(logged(run, what).back()); }
};

}  // namespace

TEST_F(Distill, TheStudentComesToWhatTheTeacherKnows) {
    expect_good(gpt2(std::string("finetune -e big ") + kShards + "-b 4 -d 256 -x 90 -l 1e-2 -v 0 -o able"));
    const CommandResult r = learn(std::string(kShards) + "--teacher able -x 120 -v 40 -o run");
    expect_good(r);
    EXPECT_NE(r.out.find("objective: distillation, temperature 2, the text's own words count 0.1"), std::string::npos)
        << r.out;
    const double teachers = number_after(r.out, "kB | val loss ");
    EXPECT_NEAR(teachers, number_after(gpt2("eval -e able -j data/t/val_000000.bin --limit 2").out, "loss "), 1e-5);
    EXPECT_GT(std::stod(logged("run", "val_loss").front()), teachers + 3);
    EXPECT_LT(last("run", "val_loss"), teachers + 0.3);
    EXPECT_LT(losses("run").back(), 0.2 * losses("run").front());
    // a model like any other
    expect_good(gpt2("sample -e run --prompt 'the cat' --max-tokens 5"));
}

TEST_F(Distill, NothingIsToBeLearnedFromOneself) {
    expect_good(gpt2(std::string("finetune -e big --objective distill --teacher big --hard-weight 0 ") + kShards +
                     "-b 3 -d 128 -x 1 -v 0 -o same"));
    EXPECT_EQ(losses("same"), std::vector<double>{0});
    EXPECT_EQ(last("same", "grad_norm"), 0);
}

// With the text's own words alone it is a finetuning like any other, masks and packing as ever.
TEST_F(Distill, WithoutTheTeachersPartItIsFinetuning) {
    write("train.jsonl", examples(60));
    for (const std::string data : {kShards, "-i train.jsonl "})
        for (const std::string how : {"", "--lora-rank 4 "}) {
            SCOPED_TRACE(data + how);
            const std::string options = data + how + "-b 3 -d 160 -x 8 -v 4 --dropout 0.1 -l 3e-3 ";
            expect_good(gpt2("finetune -e base " + options + "-o plain"));
            expect_good(
                gpt2("finetune -e base --objective distill --teacher big --hard-weight 1 " + options + "-o run"));
            expect_close(losses("run"), losses("plain"), 1e-5);
            fs::remove_all(dir / "plain"), fs::remove_all(dir / "run");
        }
}

// Examples; and what an adapter learns is what the teacher has learned of them beyond the base that both have.
TEST_F(Distill, AnAdapterLearnsFromATeacherThatWasFinetuned) {
    write("train.jsonl", examples(60));
    const std::string options = "-e big -i train.jsonl -b 3 -d 128 -l 1e-2 -v 0 ";
    expect_good(gpt2("finetune " + options + "-x 30 -o tuned"));
    expect_good(
        gpt2("finetune " + options + "--lora-rank 4 --objective distill --teacher tuned --hard-weight 0 -x 40 -o run"));
    EXPECT_LT(losses("run").back(), 0.75 * losses("run").front());
}

TEST_F(Distill, ResumesBitForBitBesideTheSameTeacher) {
    for (const std::string how : {"", "--lora-rank 2 "}) {
        SCOPED_TRACE(how);
        expect_good(learn(std::string(kShards) + how +
                          "--teacher big --teacher-temperature 3 --dropout 0.1 -x 9 -n 5 -nk 0 -v 3 -o run"));
        const std::string name = how.empty() ? "/model.safetensors" : "/adapter_model.safetensors";
        const std::string weights = read_text(newest("run") + name);
        const std::vector<std::string> all = logged("run", "loss"), validation = logged("run", "val_loss");
        fs::remove_all(newest("run"));
        // The teacher learns on meanwhile: its run has a newer checkpoint.
        expect_good(gpt2("train -o big --resume -v 0 -x " + std::string(how.empty() ? "14" : "18")));
        expect_good(gpt2("train -o run --resume -v 3 -m 2"));
        EXPECT_TRUE(read_text(newest("run") + name) == weights);
        EXPECT_EQ(logged("run", "loss"), all);
        EXPECT_EQ(logged("run", "val_loss"), validation);
        fs::remove_all(dir / "run");
    }
}

// A directory of transformers' form and an adapter over its base give the run's losses; a merged adapter its adapter's.
TEST_F(Distill, TheTeacherIsAnyModel) {
    const auto loss = [&](const std::string& teacher) {
        fs::remove_all(dir / "run");
        expect_good(learn(std::string(kShards) + "-x 2 -v 0 --teacher " + teacher + " -o run"));
        return losses("run").back();
    };
    const double want = loss("big");
    expect_good(gpt2("export -e big -o exported"));
    EXPECT_EQ(loss("exported"), want);
    expect_good(
        gpt2(std::string("finetune -e exported --lora-rank 3 -b 4 -d 128 -x 10 -l 1e-2 -v 0 -o adapter ") + kShards));
    const double adapted = loss("adapter");
    EXPECT_GT(std::abs(adapted - want), 1e-3);
    expect_good(gpt2("export -e adapter -o merged"));
    EXPECT_NEAR(loss("merged"), adapted, 1e-4);
}

TEST_F(Distill, BadInput) {
    const std::string data = kShards;
    const auto refused = [&](const std::string& more, int exit_code, const std::string& why) {
        expect_one_error(learn(data + more + " -o bad"), exit_code, why);
    };
    refused("", 2, "name it with --teacher");
    refused("--teacher nowhere", 2, "nowhere");
    refused("--teacher L1:H2:C16:T32:V300", 2, "--teacher L1:H2:C16:T32:V300 is a size without weights");
    refused("--teacher big --head classify", 2, "leave out --head");
    refused("--teacher big --hard-weight 1.5", 2, "--hard-weight must be 0 to 1");
    refused("--teacher big --teacher-temperature 0", 2, "--teacher-temperature must be above 0");
    expect_one_error(gpt2("finetune -e base --teacher big -o bad " + data), 2,
                     "--teacher goes with --objective distill");
    // too short a context
    expect_good(gpt2(data + "-e L1:H2:C16:T16 -b 4 -d 64 -x 1 -v 0 -o short"));
    refused("--teacher short", 2, "the longest context of --teacher short, 16");
    // trained prompts, which one of the two has and the other not
    write("train.jsonl", examples(60));
    expect_one_error(learn("-i train.jsonl --prompt-tokens 2 --teacher big -o bad"), 2, "--prompt-tokens");
    expect_good(gpt2("finetune -e big -i train.jsonl --prompt-tokens 2 -b 3 -d 128 -x 1 -v 0 -o prompts"));
    refused("--teacher prompts", 2, "--teacher prompts has trained prompts");
    // another vocabulary: of another size, and of the same with other words
    const std::string tokenize = program_path("TOKENIZE", "tokenize");
    write("other.txt", "zz top of the pops, zz top of the world, " + std::string(300, 'q') +
                           read_text(dir / "text.txt").substr(900));
    for (const char* words : {"300", "290"})
        expect_good(run_shell(tokenize + " train --vocab-size " + words + " -o data/" + words + " other.txt && " +
                                  tokenize + " encode --vocab data/" + words + " -o data/" + words + " other.txt",
                              dir.path));
    for (const std::string words : {"300", "290"})
        expect_good(
            gpt2("-i data/" + words + "/train_000000.bin -e L1:H2:C16:T32 -b 4 -d 128 -x 1 -v 0 -o of" + words));
    refused("--teacher of290", 1, "--teacher of290 has a vocabulary of 290 tokens, --model base one of 300");
    refused("--teacher of300", 1, "have other tokens");
    EXPECT_FALSE(fs::exists(dir / "bad"));
}

TEST_F(Distill, TheTeachersMemoryCounts) {
    std::string config = read_text(newest("big") + "/config.json");
    const auto set = [&](const std::string& key, const std::string& value) {
        const size_t at = config.find("\"" + key + "\":") + key.size() + 3;
        config.replace(at, config.find_first_of(",}\n", at) - at, " " + value);
    };
    set("n_embd", "12288"), set("n_layer", "96"), set("n_head", "96");
    expect_good(gpt2("export -e big -o giant"));
    write("giant/config.json", config);
    expect_one_error(learn(std::string(kShards) + "--teacher giant -o run"), 1, "not enough memory");
}

// ---- both programs, and ranks ----

namespace {
class RanksOfDistillation : public MpiProgram {};
}  // namespace
TEST_P(RanksOfDistillation, HaveTheSameLosses) {
    expect_good(start(1, small() + "-e L2:H2:C16:T32 -t 32 -d 224 -x 2 -v 0 -b 7 -o base"));
    expect_good(start(1, small() + "-e L1:H3:C24:T32 -t 32 -d 224 -x 3 -v 0 -b 7 -o big"));
    std::ofstream(dir / "train.jsonl") << examples(40);
    const std::string data[] = {"-i data/t/train_000000.bin -j data/t/val_000000.bin -m 2 ", "-i train.jsonl "};
    for (int k = 0; k < 2; k++) {
        SCOPED_TRACE(data[k]);
        const std::string run =
                              "finetune -e base --objective distill --teacher big --precision fp32 -f 0 --dropout 0.1 "
                              "-d 160 -v 3 -l 3e-3 -x " +
                              std::string(is_slow() ? "3 " : "6 ") + data[k],
                          one = strf("one%d", k);
        expect_good(start(1, run + "-b 5 -o " + one));
        if (is_slow()) {  // the other program
            expect_good(gpt2(run + strf("-b 5 -o cpu%d", k)));
            expect_same_losses(one, strf("cpu%d", k), 1e-4);
        }
        for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 3}) {
            const std::string name = strf("ranks%d_%d", k, stage);
            expect_good(start(2, run + strf("-b 2 -z %d -o %s", stage, name.c_str())));
            expect_same_losses(name, one);
        }
    }
}
INSTANTIATE_TEST_SUITE_P(Programs, RanksOfDistillation, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });
