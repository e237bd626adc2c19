// finetune --head: whole runs on labelled texts.
#include "llmc/base/json.h"
#include "llmc/files/model_files.h"
#include "llmc/files/run_directory.h"
#include "mpi_fixture.h"

namespace {

// Texts whose verb decides: lines [first, first + n).
std::string labelled(int n, int first, const char* labels[4], bool pairs = false) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    const char* does[] = {"sees", "loves", "fears", "becomes"};
    std::string lines;
    for (int i = first; i < first + n; i++) {
        const int k = i * 7 % 4;
        lines += strf(R"({"text": "%s %s.", )", who[i % 5], does[k]);
        if (pairs) lines += strf(R"("text_pair": "%s %s.", )", who[i * 3 % 5], does[i % 3]);
        lines += strf(R"("label": %s})", labels[pairs ? (k == i % 3) : k]) + "\n";
    }
    return lines;
}
const char* kClasses[4] = {"\"neutral\"", "\"good\"", "\"bad\"", "\"neutral\""};
const char* kNumbers[4] = {"0.5", "3", "-2", "1"};

class Heads : public Program {
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
        write("train.jsonl", labelled(96, 0, kClasses));
        write("val.jsonl", labelled(20, 100, kClasses));
        write("numbers.jsonl", labelled(96, 0, kNumbers));
        write("val_numbers.jsonl", labelled(20, 100, kNumbers));
    }
    CommandResult learn(const std::string& more) {
        return gpt2("finetune -e " + base() + " -b 2 -d 128 -l 1e-2 -k constant " + more);
    }
    static std::string classes() { return "-i train.jsonl -j val.jsonl --head classify "; }
    static std::string numbers() { return "-i numbers.jsonl -j val_numbers.jsonl --head regress "; }
    std::string newest(const std::string& run) { return newest_checkpoint(dir / run); }
    std::string weights(const std::string& run, const char* name = "model") {
        return read_text(newest(run) + "/" + name + ".safetensors");
    }
};

TEST_F(Heads, LearnClasses) {
    const CommandResult r = learn(classes() + "--epochs 12 -o run");
    expect_good(r);
    EXPECT_NE(r.out.find("head: 3 classes: bad, good, neutral; the language model's loss counts 0.5"),
              std::string::npos)
        << r.out;
    EXPECT_NE(r.out.find(" | accuracy "), std::string::npos) << r.out;
    EXPECT_EQ(logged("run", "val_acc").size(), logged("run", "val_loss").size());
    const HeadConfig head = find_model(dir / "run").config.head;
    EXPECT_EQ(head.labels, (std::vector<std::string>{"bad", "good", "neutral"}));
    const CommandResult eval = gpt2("eval -e run -j val.jsonl --json --answers answers.jsonl");
    expect_good(eval);
    const Json j = parse_json(eval.out);
    EXPECT_EQ(j["texts"], 20);
    EXPECT_GE(j["acc"].get<double>(), 0.9) << eval.out;
    EXPECT_NEAR(j["loss"].get<double>(), std::stod(logged("run", "val_loss").back()), 1e-6);
    // the answers, in the order of the data, are what the measures are made of
    const std::string answers = file("answers.jsonl");
    std::istringstream lines(answers);
    int right = 0, n = 0;
    double loss = 0;
    for (std::string line; std::getline(lines, line); n++) {
        const Json a = parse_json(line);
        right += a["label"] == a["prediction"];
        loss -= std::log(a["probabilities"][a["label"].get<std::string>()].get<double>());
    }
    EXPECT_EQ(n, 20);
    EXPECT_NEAR(right / 20.0, j["acc"].get<double>(), 1e-9);
    EXPECT_NEAR(loss / 20, j["loss"].get<double>(), 1e-6);
    EXPECT_NE(answers.find("the cat becomes."), std::string::npos) << answers;
    EXPECT_EQ(answers.find("no man fears."), answers.rfind("no man fears."));
    EXPECT_NE(gpt2("eval -e run -j val.jsonl").out.find("answered as:"), std::string::npos);
    // Texts without labels are the language model's.
    write("plain.jsonl", "{\"text\": \"the cat sees a dog.\"}\n");
    EXPECT_NE(gpt2("eval -e run -j plain.jsonl").out.find("perplexity"), std::string::npos);
    // It is still a language model; a new run without --head says what becomes of the head.
    expect_good(gpt2("sample -e run --prompt 'the cat' --max-tokens 4"));
    const CommandResult plain = gpt2("finetune -e run -i plain.jsonl -j plain.jsonl -x 1 -o plain");
    expect_good(plain);
    EXPECT_NE(plain.out.find("note: the model's head is left out"), std::string::npos) << plain.out;
    EXPECT_EQ(find_model(dir / "plain").config.head.outputs, 0);
    // and with it the head goes on: its classes are known
    expect_good(gpt2("finetune -e run -b 2 -d 128 -l 1e-4 --head classify -i val.jsonl -j val.jsonl -x 1 -o on"));
    EXPECT_GT(std::stod(logged("on", "val_acc").front()), 0.85);
}

TEST_F(Heads, LearnNumbersAlone) {
    expect_good(learn(numbers() + "--lm-weight 0 --epochs 16 -o run"));
    const Json j = parse_json(gpt2("eval -e run -j val_numbers.jsonl --json").out);
    EXPECT_LT(j["mse"].get<double>(), 1);
    EXPECT_GT(j["pearson"].get<double>(), 0.8);
    EXPECT_GT(j["spearman"].get<double>(), 0.7);
    EXPECT_NEAR(j["mse"].get<double>(), std::stod(logged("run", "val_loss").back()), 1e-6);
}

// A pair has no order: exchanged texts get the same answers.
TEST_F(Heads, BothOrdersOfAPair) {
    write("train.jsonl", labelled(96, 0, kClasses, true));
    write("val.jsonl", labelled(20, 100, kClasses, true));
    std::string swapped = file("val.jsonl");
    for (size_t at = 0; (at = swapped.find("\"text\"", at)) != std::string::npos; at += 6)
        swapped.replace(at, 6, "\"text0\"");
    for (const auto& [from, to] : {std::pair("text_pair", "text"), {"text0", "text_pair"}})
        for (size_t at = 0; (at = swapped.find(from, at)) != std::string::npos; at += 9)
            swapped.replace(at, std::string(from).size(), to);
    write("swapped.jsonl", swapped);
    const auto loss = [&](const std::string& run, const std::string& data) {
        const CommandResult r = gpt2("eval -e " + run + " -j " + data + " --json");
        EXPECT_EQ(r.exit_code, 0) << r.err;
        return parse_json(r.out).value("loss", 0.0);
    };
    const CommandResult both = learn(classes() + "--both-orders --epochs 2 -o both");
    expect_good(both);
    EXPECT_NE(both.out.find("from both orders of a pair"), std::string::npos) << both.out;
    EXPECT_NEAR(loss("both", "swapped.jsonl"), loss("both", "val.jsonl"), 1e-6);
    expect_good(learn(classes() + "--epochs 2 -o one"));
    EXPECT_GT(std::abs(loss("one", "swapped.jsonl") - loss("one", "val.jsonl")), 1e-4);
    write("single.jsonl", "{\"text\": \"the cat sees.\", \"label\": \"good\"}\n");
    expect_one_error(gpt2("eval -e both -j single.jsonl"), 1, "single.jsonl:1: no field \"text_pair\"");
}

TEST_F(Heads, ResumeBitForBit) {
    const std::string more = " --dropout 0.1 --epochs 3 -n 4 -nk 0 -v 0 ";
    for (const std::string& kind : {classes(), numbers() + "--lm-weight 0 --precision bf16 ",
                                    classes() + "--lora-rank 2 ", classes() + "--prompt-tokens 3 "}) {
        SCOPED_TRACE(kind);
        const bool adapter = kind.find("lora") != std::string::npos || kind.find("prompt") != std::string::npos;
        const char* name = adapter ? "adapter_model" : "model";
        expect_good(learn(kind + more + "-o run"));
        const std::string whole = weights("run", name), optimizer = weights("run", "optimizer");
        fs::remove_all(newest("run"));
        expect_good(gpt2("train -o run --resume"));
        EXPECT_TRUE(weights("run", name) == whole);
        EXPECT_TRUE(weights("run", "optimizer") == optimizer);
        if (!adapter && kind.find("classify") != std::string::npos) {
            fs::remove_all(newest("run"));
            expect_one_error(learn(classes() + "--labels a,b --resume -o run"), 2, "trains another head");
        }
        fs::remove_all(dir / "run");
    }
}

TEST_F(Heads, OverAFrozenModelWithAnAdapter) {
    expect_good(learn(classes() + "--lora-rank 4 --epochs 8 -o run"));
    const std::string config = file("run/" + fs::path(newest("run")).filename().string() + "/adapter_config.json");
    EXPECT_NE(config.find("\"SEQ_CLS\""), std::string::npos) << config;
    EXPECT_NE(config.find("\"score\""), std::string::npos) << config;
    const Json j = parse_json(gpt2("eval -e run -j val.jsonl --json").out);
    EXPECT_GE(j["acc"].get<double>(), 0.8);
    EXPECT_NEAR(j["loss"].get<double>(), std::stod(logged("run", "val_loss").back()), 1e-6);
    // by name over its model; with another head beside it: which one is meant?
    EXPECT_EQ(parse_json(gpt2("eval -e " + base() + " --adapter run -j val.jsonl --json").out), j);
    expect_one_error(gpt2("eval -e " + base() + " --adapter run none -j val.jsonl --json"), 2, "not the same head");
    expect_one_error(gpt2("finetune -e run -i train.jsonl -o more"), 2, "an adapter with a head");
    expect_good(gpt2("export -e run -o merged"));
    EXPECT_EQ(find_model(dir / "merged").config.head, find_model(dir / "run").adapter->config.head);
    const Json merged = parse_json(gpt2("eval -e merged -j val.jsonl --json").out);
    EXPECT_NEAR(merged["loss"].get<double>(), j["loss"].get<double>(), 1e-5);
    const CommandResult gguf = gpt2("export -e run --format gguf -o model.gguf");
    expect_good(gguf);
    EXPECT_NE(gguf.err.find("the language model alone is written"), std::string::npos) << gguf.err;
}

// Trained prompts in front of each text, and of each order of a pair, and a head.
TEST_F(Heads, WithTrainedPrompts) {
    for (const std::string pair : {"", "pairs"}) {
        SCOPED_TRACE(pair);
        const std::string run = "run" + pair;
        if (!pair.empty())
            write("train.jsonl", labelled(96, 0, kNumbers, true)),
                write("val.jsonl", labelled(20, 100, kNumbers, true));
        expect_good(learn("-i train.jsonl -j val.jsonl " +
                          std::string(pair.empty() ? "--head classify" : "--head classify --both-orders") +
                          " --prompt-tokens 3 --lm-weight 0 --epochs 8 -o " + run));
        const Json j = parse_json(gpt2("eval -e " + run + " -j val.jsonl --json").out);
        EXPECT_NEAR(j["loss"].get<double>(), std::stod(logged(run, "val_loss").back()), 1e-6);
        EXPECT_LT(j["loss"].get<double>(), 0.9 * std::stod(logged(run, "val_loss").front()));
    }
}

// What is longer than a row loses the end of its texts, and keeps the token that is read.
TEST_F(Heads, LongTextsAreCut) {
    std::string words;
    for (int i = 0; i < 40; i++) words += "the cat sees no man. ";
    write("long.jsonl", "{\"text\": \"" + words + "\", \"label\": \"good\"}\n{\"text\": \"a dog.\", \"text_pair\": \"" +
                            words + "\", \"label\": \"bad\"}\n{\"text\": \"a dog.\", \"label\": \"bad\"}\n");
    const CommandResult r = learn("-i long.jsonl -j long.jsonl --head classify -x 1 -o run");
    expect_good(r);
    EXPECT_NE(r.out.find("note: 2 of 3 examples are longer than 32 tokens and were cut: of the texts the end"),
              std::string::npos)
        << r.out;
    expect_good(gpt2("eval -e run -j long.jsonl --answers a.jsonl"));
    std::istringstream lines(file("a.jsonl"));
    std::string one, pair;
    std::getline(lines, one), std::getline(lines, pair);
    EXPECT_TRUE(parse_json(one)["text"].get<std::string>().ends_with("<|endoftext|>")) << one;
    EXPECT_NE(pair.find("<|endoftext|>a dog.<|endoftext|>the cat"), std::string::npos) << pair;
    EXPECT_TRUE(parse_json(pair)["text"].get<std::string>().ends_with("<|endoftext|>")) << pair;
}

TEST_F(Heads, BadInput) {
    const auto refused = [&](const std::string& line, const std::string& how, const std::string& why) {
        write("bad.jsonl", labelled(4, 0, kClasses) + line + "\n");
        expect_one_error(learn("-i bad.jsonl -x 1 -o bad " + how), 1, why);
    };
    refused(R"({"text": "the cat."})", "--head classify", "bad.jsonl:5: no field \"label\"");
    refused(R"({"text": "the cat.", "label": null})", "--head classify", "bad.jsonl:5: the label is neither");
    refused(R"({"text": "", "label": "good"})", "--head classify", "bad.jsonl:5: the text is empty");
    refused(R"({"text": "the cat.", "label": "best"})", "--head classify --labels bad,good,neutral",
            "bad.jsonl:5: the label 'best' is none of the 3 classes: bad, good, neutral");
    expect_one_error(learn("-i train.jsonl -x 1 -o bad --head regress"), 1,
                     "train.jsonl:1: the label 'neutral' is no number");
    write("one.jsonl", "{\"text\": \"the cat.\", \"label\": \"good\"}\n");
    expect_one_error(learn("-i one.jsonl -x 1 -o bad --head classify"), 1, "all examples have the label 'good'");
    expect_one_error(learn(classes() + "--both-orders -x 1 -o bad"), 1, "train.jsonl:1: no field \"text_pair\"");
    expect_one_error(learn("-i data/t/train_000000.bin -x 1 -o bad --head classify"), 2,
                     "--head learns from JSON lines");
    expect_one_error(learn("-i train.jsonl -x 1 -o bad --labels a,b"), 2, "--labels goes with --head");
    expect_one_error(learn(classes() + "--labels a -x 1 -o bad"), 2, "two classes at least");
    expect_one_error(learn(classes() + "--labels a,b,a -x 1 -o bad"), 2, "'a' twice");
    expect_one_error(gpt2("eval -e " + base() + " -j val.jsonl --answers a.jsonl"), 2, "a model that has a head");
    // not an error, but said: labels that nobody reads
    CommandResult r = learn("-i train.jsonl -j val.jsonl -x 1 -o plain");
    expect_good(r);
    EXPECT_NE(r.out.find("note: the labels of 116 examples are not used"), std::string::npos) << r.out;
    r = gpt2("eval -e " + base() + " -j val.jsonl");
    expect_good(r);
    EXPECT_NE(r.err.find("note: the labels of 20 examples are not used: the model has no head"), std::string::npos)
        << r.err;
    const std::string tokenize = program_path("TOKENIZE", "tokenize");
    r = run_shell(tokenize + " examples --vocab " + base() + "/step_00000020 -o ex train.jsonl", dir.path);
    expect_good(r);
    EXPECT_NE(r.err.find("note: the labels of 96 examples are left out"), std::string::npos) << r.err;
    expect_one_error(learn("-i ex -x 1 -o bad --head classify"), 2, "has no labels");
    // a model's own head does not know a label of the data
    expect_good(learn(classes() + "-x 1 -o run"));
    write("other.jsonl", "{\"text\": \"the cat.\", \"label\": \"best\"}\n");
    expect_one_error(gpt2("eval -e run -j other.jsonl"), 1, "other.jsonl:1: the label 'best' is none of the 3 classes");
}

// test/fixtures/heads: written by dev/interop/check_heads.py with transformers 4.48.3, PEFT 0.10.0, torch 2.15.0
TEST_F(Heads, OfTransformersHaveItsLosses) {
    const std::string fixture = fs::absolute("test/fixtures/heads").string();
    const Json losses = parse_json(read_text(fixture + "/losses.json"));
    for (const auto& [name, model, data] : {std::array{"classes", "classes", "classes"},
                                            {"pairs", "classes", "pairs"},
                                            {"number", "number", "numbers"},
                                            {"adapter", "adapter", "classes"}}) {
        const CommandResult r = gpt2("eval -e " + fixture + "/" + model + " -j " + fixture + "/" + data +
                                     ".jsonl --json --template plain --precision fp32");
        expect_good(r);
        const Json j = parse_json(r.out);
        EXPECT_NEAR(j.value("loss", j.value("mse", 0.0)), losses[name].get<double>(), 3e-6) << name;
    }
    const HeadConfig head = find_model(fixture + "/classes").config.head;
    EXPECT_EQ(head.labels, (std::vector<std::string>{"bad", "good", "neutral"}));
    write("bad.jsonl", "{\"text\": \"the cat\", \"label\": \"bad\"}\n");
    fs::copy(fixture + "/classes", dir / "c", fs::copy_options::recursive);
    const std::string good = read_text(fixture + "/classes/config.json");
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string text = good;
        text.replace(text.find(from), from.size(), to);
        write("c/config.json", text);
        return gpt2("eval -e c -j bad.jsonl --template plain");
    };
    expect_one_error(with("\"2\": \"neutral\"", "\"3\": \"neutral\""), 1, "id2label");
    expect_one_error(with("\"n_embd\"", "\"problem_type\": \"multi_label_classification\", \"n_embd\""), 1,
                     "problem_type");
    expect_one_error(with(",\n    \"2\": \"neutral\"", ""), 1, "score.weight");
}

// ---- several ranks, and the CUDA program -----------------------------------------------------------------------------

class RanksOfHeads : public MpiProgram {};

TEST_P(RanksOfHeads, TwoHaveTheLossesOfOne) {
    std::ofstream(dir / "train.jsonl") << labelled(40, 0, kClasses, true);
    std::ofstream(dir / "val.jsonl") << labelled(9, 100, kClasses, true);
    expect_good(start(1, small() + "-e L2:H2:C16:T32 -t 32 -d 224 -x 2 -v 0 -b 7 -o base"));
    const std::string run =
        "finetune -e base -i train.jsonl -j val.jsonl -m 1000 --precision fp32 --head classify --both-orders -f 0 -d "
        "160 "
        "-v 3 -l 1e-3 -x " +
        std::string(is_slow() ? "3 " : "9 ");
    expect_good(start(1, run + "-b 5 -o one"));
    if (is_slow()) {  // the other program
        expect_good(gpt2(run + "-b 5 -o cpu"));
        expect_same_losses("one", "cpu", 1e-4);
    }
    for (int stage : {0, 2, 3}) {
        const std::string name = "stage" + std::to_string(stage);
        expect_good(start(2, run + "-b 2 -z " + std::to_string(stage) + " -o " + name));
        expect_same_losses(name, "one");
        EXPECT_EQ(logged(name, "val_acc"), logged("one", "val_acc"));
    }
    expect_good(start(1, run + "-b 5 --lora-rank 2 --lm-weight 0 -o adapter"));
    expect_good(start(2, run + "-b 2 -z 2 --lora-rank 2 --lm-weight 0 -o adapters"));
    expect_same_losses("adapters", "adapter");
    const std::string eval = "eval -e one -j val.jsonl --json --precision fp32 -f 0 -b 1 ";
    EXPECT_EQ(start(2, eval + "--answers two.jsonl").exit_code, 0);
    EXPECT_EQ(start(1, eval + "--answers one.jsonl").exit_code, 0);
    EXPECT_EQ(file("two.jsonl"), file("one.jsonl"));
}

INSTANTIATE_TEST_SUITE_P(Programs, RanksOfHeads, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
