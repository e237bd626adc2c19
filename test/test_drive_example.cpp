// dev/examples/drive: its own checks, and its stages on a few scenes.
#include "program_fixture.h"

namespace {

class DriveExample : public Program {
  protected:
    const std::string scripts = fs::current_path() / "dev/examples/drive";
    void SetUp() override {
        if (run_shell("python3 --version").exit_code != 0) GTEST_SKIP() << "there is no python3";
    }
    std::string python(const std::string& script) { return "python3 " + scripts + "/" + script + " "; }
};

TEST_F(DriveExample, ItsOwnChecks) { expect_good(run_shell(python("check.py"), dir.path)); }

TEST_F(DriveExample, StagesOnAFewScenes) {
    const std::string tokenize = program_path("TOKENIZE", "tokenize"), stages = python("stages.py");
    expect_good(run_shell(
        "export TRAIN_GPT2=" + program_path("TRAIN_GPT2", "train_gpt2") + "; " + python("logs.py") +
            "--drives 20 --vocab-size 500000 -o data/drive && " + tokenize +
            " examples -i data/drive/logs.jsonl -j data/drive/held_out.jsonl -e data/drive -o data/drive/examples",
        dir.path));
    const std::string logs = file("data/drive/logs.jsonl");
    const int words = count(file("data/drive/tokenizer.json"), "\"special\"");
    expect_good(gpt2("train -e L1:H1:C8:T48:V" + std::to_string(words + 1000) + ":U" + std::to_string(words) +
                     " -i data/drive/examples -j data/drive/examples -b 8 -d 384 -x 2 -v 0 -o run"));
    const std::string with = "export TRAIN_GPT2=" + program_path("TRAIN_GPT2", "train_gpt2") + "; " + stages;
    const CommandResult table = run_shell(with + "evaluate careful run --scenes 2 -o table.jsonl", dir.path);
    expect_good(table);
    EXPECT_NE(table.out.find("100.0%"), std::string::npos) << table.out;  // the careful driver obeys
    expect_good(run_shell(with + "takeovers run --scenes 2", dir.path));
    const int corrected = count(file("data/drive/corrected.jsonl"), "\n");
    expect_good(run_shell(with + "watch run --scenes 3", dir.path));
    expect_good(run_shell(with + "futures run --of 4", dir.path));
    expect_good(run_shell(with + "picture run --of 4", dir.path));
    EXPECT_NE(file("data/drive/scenes.svg").find("</svg>"), std::string::npos);
    const int prompts = count(file("data/drive/prompts.jsonl"), "\n");
    EXPECT_GT(prompts, 10);
    EXPECT_EQ(count(file("data/drive/corrected.jsonl"), "\n"), corrected + prompts);
}

}  // namespace
