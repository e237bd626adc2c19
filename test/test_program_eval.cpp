// eval as a whole: losses, tasks against lm-evaluation-harness's numbers, several ranks, what cannot be evaluated.
#include "llmc/base/json.h"
#include "mpi_fixture.h"

namespace {

// A small model that knows some English, questions, and what lm-eval 0.4.8 says of them (dev/interop/check_lm_eval.py --write).
class EvalProgram : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        fs::copy("test/fixtures/tasks", dir / "m", fs::copy_options::recursive);
    }
    CommandResult eval(const std::string& arguments) { return gpt2("eval -e m --precision fp32 " + arguments); }
    Json json(const std::string& arguments) {
        const CommandResult r = eval(arguments + " --json");
        EXPECT_EQ(r.exit_code, 0) << r.err;
        EXPECT_EQ(count(r.out, "\n"), 1) << r.out;
        return parse_json(r.out);
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    Json answer_line(size_t number) {
        std::istringstream lines(file("answers"));
        std::string line;
        for (size_t i = 0; i <= number; i++) std::getline(lines, line);
        return parse_json(line);
    }
};

TEST_F(EvalProgram, TasksAsLmEval) {
    const Json all = parse_json(read_text("test/fixtures/tasks/expected.json"));
    ASSERT_EQ(all.size(), 10u);
    for (const Json& want : all) {
        const std::string name = want["task"];
        const int shots = want["shots"];
        std::string options = "--task " + name + " -j m/" + name + ".jsonl --answers answers";
        if (shots > 0) options += strf(" --shots %d --shots-data m/%s_shots.jsonl", shots, name.c_str());
        const Json got = json(options);
        for (const auto& [measure, value] : want["measures"].items())
            EXPECT_NEAR(got.at(measure).get<double>(), value.get<double>(), 1e-4 * std::max(1.0, value.get<double>()))
                << name << " " << measure;
        for (size_t i = 0; i < want["log_likelihoods"].size(); i++) {
            const Json line = answer_line(i);
            ASSERT_EQ(line["log_likelihoods"].size(), want["log_likelihoods"][i].size());
            for (size_t k = 0; k < line["log_likelihoods"].size(); k++)
                EXPECT_NEAR(line["log_likelihoods"][k].get<double>(), want["log_likelihoods"][i][k].get<double>(), 2e-3)
                    << name << " " << i;
        }
    }
    const CommandResult table = eval("--task hellaswag -j m/hellaswag.jsonl");
    EXPECT_NE(table.out.find("hellaswag: 12 questions\n"), std::string::npos) << table.out;
    EXPECT_NE(table.out.find("accuracy by tokens, text as in llm.c"), std::string::npos) << table.out;
}

TEST_F(EvalProgram, LossAndBitsPerByte) {
    ASSERT_EQ(run_shell(program_path("TOKENIZE", "tokenize") + " encode --vocab m -o d text.txt", dir.path).exit_code,
              0);
    const Json j = json("-j d/val_000000.bin -b 2"), other = json("-j d/val_000000.bin -b 5");
    const double loss = j["loss"], bytes = j["bytes"], tokens = j["tokens"];
    EXPECT_NEAR(j["perplexity"].get<double>(), std::exp(loss), 1e-9);
    EXPECT_NEAR(j["bits_per_byte"].get<double>(), loss * tokens / bytes / std::log(2), 1e-9);
    EXPECT_NEAR(other["loss"].get<double>(), loss, 1e-5);
    EXPECT_EQ(other["bytes"], j["bytes"]);
    // of examples the bytes are those of what counts: the end of a text stands for none
    write("e.jsonl", "{\"prompt\":\"the cat\",\"completion\":\" sees 你.\"}\n");
    EXPECT_EQ(json("-j e.jsonl")["bytes"], 10);
    const CommandResult table = eval("-j d/val_000000.bin");
    EXPECT_NEAR(number_after(table.out, "loss "), loss, 1e-5);
    EXPECT_NEAR(number_after(table.out, "bits per byte "), j["bits_per_byte"].get<double>(), 1e-5);
    EXPECT_NE(table.out.find(" bytes, in windows of 96"), std::string::npos) << table.out;
}

TEST_F(EvalProgram, FactsClassesAndTexts) {
    write("facts.jsonl", R"({"masked_sentence":"the cat sees a [MASK] .","obj_label":"dog"}
{"masked_sentence":"the [MASK] sees a dog.","obj_label":"cat"}
)");
    CommandResult r = eval("--task facts.jsonl --json");
    EXPECT_NE(r.err.find("note: 1 facts were left out, such as 'the [MASK] sees a dog.'"), std::string::npos) << r.err;
    EXPECT_EQ(parse_json(r.out)["precision_at_1"], 1);
    EXPECT_EQ(json("--task facts.jsonl --labels cat,dog")["precision_at_1"], 1);

    write("texts.jsonl", R"({"text":"the","label":"cat"}
{"text":"a","label":"dog"}
{"text":"the","label":"dog"}
{"text":"a","label":"dog"}
)");
    const Json classes = json("--task texts.jsonl");
    EXPECT_EQ(classes["acc"], 0.75);
    EXPECT_EQ(classes["confusion"], parse_json("[[1,0],[1,2]]"));

    // what it writes: the likeliest words, to the end of the line
    r = gpt2("sample -e m --prompt 'the cat sees' --temperature 0 --max-tokens 40");
    const std::string line = r.out.substr(13, r.out.find('\n') - 13);
    write("match.jsonl", Json{{"prompt", "the cat sees"}, {"completion", " The " + line + "!"}}.dump() + "\n" +
                             Json{{"prompt", "the cat sees"}, {"completion", " nothing"}}.dump() + "\n");
    const Json match = json("--task match.jsonl --answer-tokens 40 --answers answers");
    EXPECT_EQ(match["exact_match"], 0);
    EXPECT_EQ(match["exact_match_squad"], 0.5) << file("answers");
    EXPECT_EQ(answer_line(1)["written"], line);
}

// The answers follow from the text in one prompt alone.
TEST_F(EvalProgram, SearchesPrompts) {
    std::string lines;
    for (int i = 0; i < 8; i++)
        lines += strf("{\"text\":\"%s\",\"label\":\"%s\"}\n", i % 2 ? "the" : "a", i % 2 ? "cat" : "dog");
    write("texts.jsonl", lines);
    write("prompts", "{text} cat sees the\n{text}\n{text} \n");
    const Json j = json("--task texts.jsonl --prompts prompts");
    ASSERT_EQ(j["prompts"].size(), 3u);
    EXPECT_EQ(j["questions"], 4);  // the other half
    EXPECT_LT(j["prompts"][0]["first_half"], 1);
    EXPECT_EQ(j["best_prompt"], "{text}") << j.dump();
    EXPECT_EQ(j["prompts"][1]["first_half"], 1);
    EXPECT_EQ(j["acc"], 1);
    EXPECT_NE(eval("--task texts.jsonl --prompts prompts").out.find("the best, on the other half: {text}\n"),
              std::string::npos);
}

TEST_F(EvalProgram, HellaSwagWhileTraining) {
    const CommandResult r = train("-o run -h 1 --hellaswag-data m/hellaswag.jsonl --precision fp32");
    expect_good(r);
    const Json j = parse_json(gpt2("eval -e run --task hellaswag -j m/hellaswag.jsonl --json --precision fp32").out);
    EXPECT_NEAR(number_after(file("run/log.jsonl"), "\"hellaswag\":", true), j["acc_tokens_llmc"].get<double>(), 1e-6);
    expect_one_error(train("-o b -h 1 --hellaswag-data m/arc.jsonl"), 1, "m/arc.jsonl:1");
}

TEST_F(EvalProgram, WhatCannotBeEvaluated) {
    expect_one_error(eval("--task nothing"), 2, "--task nothing is neither a task (hellaswag");
    expect_one_error(eval("--task arc"), 2, "--val-data");
    expect_one_error(eval("--task m/arc.jsonl -j m/arc.jsonl"), 2, "give one of them");
    expect_one_error(eval("--task hellaswag"), 1, "make hellaswag");
    expect_one_error(eval("--task mmlu -j m/arc.jsonl"), 1, "m/arc.jsonl:1");
    expect_one_error(eval("--task arc -j none.jsonl"), 1, "none.jsonl");
    expect_one_error(eval("--task arc -j m/arc.jsonl --shots 12"), 1, "--shots 12");
    write("empty.jsonl", "");
    expect_one_error(eval("--task empty.jsonl"), 1, "empty.jsonl has no questions");
    write("bad.jsonl",
          "{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"answer\":1}\n{\"context\":\"a\",\"choices\":[\"b\"],"
          "\"answer\":1}\n");
    expect_one_error(eval("--task bad.jsonl"), 1, "bad.jsonl:2: no right answer");
    expect_one_error(gpt2("eval -e m --task hellaswag -j -", "cat m/hellaswag.jsonl | "), 2,
                     "-: the questions are read");
    EXPECT_EQ(gpt2("eval -e m --precision fp32 --task arc -j -", "cat m/arc.jsonl | ").out,
              eval("--task arc -j m/arc.jsonl").out);
    const CommandResult r = eval("--task bad.jsonl --skip-bad");
    EXPECT_NE(r.out.find(": 1 question\n"), std::string::npos) << r.out;
    EXPECT_NE(r.err.find("bad.jsonl:2"), std::string::npos) << r.err;
    write("alike.jsonl", "{\"text\":\"a\",\"label\":\"good\"}\n{\"text\":\"b\",\"label\":\"goods\"}\n");
    expect_one_error(eval("--task alike.jsonl"), 1, "the labels 'good' and 'goods' tokenise alike");
}

class EvalRanks : public MpiProgram {};
INSTANTIATE_TEST_SUITE_P(All, EvalRanks, testing::ValuesIn(programs_under_test()),
                         [](const auto& which) { return which.param.name; });

// Several ranks, and both programs: the same numbers.
TEST_P(EvalRanks, SameNumbers) {
    fs::copy("test/fixtures/tasks", dir / "m", fs::copy_options::recursive);
    std::ofstream(dir / "match.jsonl") << R"({"prompt":"the cat","completion":"x"}
{"prompt":"a dog sees","completion":"y"}
{"prompt":"no","completion":"z"}
)";
    for (const char* task :
         {"--task arc -j m/arc.jsonl", "--task lambada -j m/lambada.jsonl", "--task match.jsonl --answer-tokens 5"}) {
        const std::string options =
            std::string("eval -e m --precision fp32 --json -b 1 --limit 5 ") + task + " --answers ";
        const CommandResult one = gpt2(options + "one"), two = start(2, options + "two");
        ASSERT_EQ(two.exit_code, 0) << two.err;
        const Json a = parse_json(one.out), b = parse_json(two.out);
        for (const auto& [key, value] : a.items())
            if (value.is_number()) {
                EXPECT_NEAR(value.get<double>(), b[key].get<double>(), 1e-4) << key;
            }
        if (!is_slow()) {
            EXPECT_EQ(file("one"), file("two"));
        }
    }
}

}  // namespace
