// finetune --vocab: a model gets the words of an extended vocabulary.
#include "llmc/files/safetensors.h"
#include "llmc/text/tokenizer.h"
#include "mpi_fixture.h"

namespace {

class Vocabulary : public MpiProgram {
  protected:
    // English in data/t (of some 270 words), a model of it in base/, and in data/w another language: the same vocabulary up to
    // 320, and shards. Made once for each program.
    const std::string& made() {
        static std::map<std::string, std::unique_ptr<TemporaryDirectory>> all;
        auto& place = all[GetParam().name];
        if (place) return place->path;
        place = std::make_unique<TemporaryDirectory>();
        fs::copy(workshop(), place->path, fs::copy_options::recursive);
        const char *who[] = {"die Katze", "ein Hund", "mein K\u00f6nig"}, *does[] = {" sieht ", " liebt ", " wird "};
        std::ofstream text(*place / "w.txt");
        for (uint32_t i = 0; i < 1500; i++) {
            const Philox4 r = philox(8, i, 0, 0, 0);
            text << who[r.v[0] % 3] << does[r.v[1] % 3] << who[r.v[2] % 3] << ".\n";
        }
        text.close();
        const std::string tokenize = program_path("TOKENIZE", "tokenize");
        const CommandResult r = run_shell(tokenize + " train --extend data/t --vocab-size 320 -o data/w w.txt && " +
                                              tokenize + " encode -o data/w w.txt && " + program(GetParam()) +
                                              "train -i data/t/train_000000.bin -j data/t/val_000000.bin " +
                                              small_model() + "-x 4 -v 0 -o base",
                                          place->path);
        if (r.exit_code != 0) throw std::runtime_error(r.err);
        return place->path;
    }
    std::string small_model() const {
        return std::string(GetParam().name == std::string("Cuda") ? "-e L2:H2:C16:T32 -f 0 -d 224 "
                                                                  : "-e L2:H2:C32:T16 -d 112 ") +
               "-b 2 -l 1e-3 --precision fp32 ";
    }
    void SetUp() override {
        MpiProgram::SetUp();
        if (IsSkipped()) return;
        for (const char* name : {"data/w", "base"}) {
            fs::remove_all(dir / name);
            fs::copy(made() + "/" + name, dir / name, fs::copy_options::recursive);
        }
    }
    std::string batch() const {
        return std::string(GetParam().name == std::string("Cuda") ? "-f 0 -d 224 " : "-d 112 ") +
               "-l 1e-3 -b 2 -v 5 -m 1 --precision fp32 ";
    }
    CommandResult finetune(const std::string& more, int ranks = 1) {
        return run_shell(before(ranks) + program(GetParam()) + "finetune " + batch() + more, dir.path);
    }
    std::string go(const std::string& more) { return "-e base --vocab data/w -i data/w/train_000000.bin " + more; }
    static std::string checkpoint(int step) { return "/step_0000000" + std::to_string(step); }
    // One tensor of the newest checkpoint of a run.
    std::vector<float> tensor(const std::string& run, const std::string& name,
                              const std::string& file_name = "model.safetensors") {
        std::string newest;
        for (const auto& entry : fs::directory_iterator(dir / run))
            if (entry.path().filename().string().starts_with("step_")) newest = std::max(newest, entry.path().string());
        const SafetensorsFile file(newest + "/" + file_name);
        const TensorInfo& t = file.at(name);
        std::vector<float> values(static_cast<size_t>(t.elements()));
        file.read_float(t, 0, t.elements(), values.data());
        return values;
    }
};

// With a learning rate of nearly nothing: what the model begins with.
TEST_P(Vocabulary, OldRowsStayAndNewOnesAreTheMeansOfTheirPieces) {
    expect_good(run_shell(before(1) + program() + "train -i data/t/train_000000.bin " + small_model() +
                              "-e L1:H2:C16:T16:untied -d 64 -x 2 -v 0 -o other",
                          dir.path));
    const Tokenizer old = Tokenizer::load(dir / "data/t"), now = Tokenizer::load(dir / "data/w");
    const size_t V = static_cast<size_t>(old.vocab_size());
    ASSERT_EQ(now.vocab_size(), 320);
    for (const std::string from : {"base", "other"}) {
        const std::string run = "from_" + from;
        expect_good(finetune("-e " + from + " --vocab data/w -i data/w/train_000000.bin -l 1e-30 -c 0 -x 1 -o " + run));
        EXPECT_NE(file(run + "/step_00000001/config.json").find("\"vocab_size\": 320"), std::string::npos);
        EXPECT_TRUE(Tokenizer::load(dir / (run + "/step_00000001")).same(now));
        for (const std::string name : {"transformer.wte.weight", "lm_head.weight"}) {
            if (from == "base" && name == "lm_head.weight") continue;
            const std::vector<float> before = tensor(from, name), after = tensor(run, name);
            const size_t C = before.size() / V;
            ASSERT_EQ(after.size(), 320 * C);
            EXPECT_EQ(memcmp(before.data(), after.data(), before.size() * sizeof(float)), 0) << name;
            for (size_t id = V; id < 320; id++) {
                std::vector<int> pieces;
                old.merge(now.bytes(static_cast<int>(id)), pieces);
                ASSERT_GT(pieces.size(), 1u);
                for (size_t c = 0; c < C; c++) {
                    double sum = 0;
                    for (int piece : pieces) sum += static_cast<double>(before[static_cast<size_t>(piece) * C + c]);
                    EXPECT_NEAR(static_cast<double>(after[id * C + c]), sum / static_cast<double>(pieces.size()), 1e-8)
                        << name << " " << id;
                }
            }
        }
    }
}

// The masters of bf16 weights are not rounded.
TEST_P(Vocabulary, RowsOfBf16) {
    expect_good(finetune(go("-l 1e-30 -c 0 -x 1 --precision bf16 -o run")));
    expect_good(finetune(go("-l 1e-30 -c 0 -x 1 -o full")));
    const std::vector<float> master = tensor("run", "master.transformer.wte.weight", "optimizer.safetensors");
    EXPECT_EQ(master, tensor("full", "transformer.wte.weight"));
}

TEST_P(Vocabulary, ResumesToTheSameBits) {
    expect_good(finetune(go("-x 4 -n 2 -o whole")));
    expect_good(finetune(go("-x 4 -n 2 -o cut")));
    fs::remove_all(dir / "cut/step_00000004");
    expect_good(finetune(go("-x 4 -n 2 -o cut --resume")));
    EXPECT_EQ(file("whole/step_00000004/model.safetensors"), file("cut/step_00000004/model.safetensors"));
    EXPECT_EQ(file("whole/step_00000004/optimizer.safetensors"), file("cut/step_00000004/optimizer.safetensors"));
    // With the run itself as model, which has the words; and not with the old one alone.
    fs::remove_all(dir / "cut/step_00000004");
    expect_good(finetune("-e cut -i data/w/train_000000.bin -x 4 -n 2 -o cut --resume"));
    EXPECT_EQ(file("whole/step_00000004/model.safetensors"), file("cut/step_00000004/model.safetensors"));
    expect_one_error(finetune("-e base -i data/w/train_000000.bin -o cut --resume"), 1,
                     "give the --vocab that the run began with");
}

TEST_P(Vocabulary, RanksAndStagesAgree) {
    expect_good(finetune(go("-x 3 -o one")));
    for (int stage = 0; stage <= 3; stage++) {
        const std::string name = "two" + std::to_string(stage);
        expect_good(finetune(go("-x 3 -z " + std::to_string(stage) + " -o " + name), 2));
        expect_close(losses(name), losses("one"), 1e-5);
        const std::vector<float> one = tensor("one", "transformer.wte.weight"),
                                 two = tensor(name, "transformer.wte.weight");
        ASSERT_EQ(one.size(), two.size());
        double difference = 0, norm = 0;
        for (size_t i = 0; i < one.size(); i++)
            difference += std::pow(static_cast<double>(one[i] - two[i]), 2),
                norm += std::pow(static_cast<double>(one[i]), 2);
        EXPECT_LT(difference, 1e-6 * norm) << stage;
    }
}

TEST_P(Vocabulary, WhatIsNoExtensionIsRefused) {
    const std::string data = " -i data/w/train_000000.bin -x 1 -o no";
    expect_one_error(finetune("-e base" + data), 1,
                     "or give the model the words that it lacks: finetune --vocab data/w");
    expect_one_error(finetune("-e base --vocab nowhere" + data), 1, "nowhere/vocab.json: no such file");
    const std::string tokenize = program_path("TOKENIZE", "tokenize");
    ASSERT_EQ(run_shell(tokenize + " train --vocab-size 340 -o data/other text.txt && " + tokenize +
                            " train --vocab-size 270 -o data/less text.txt",
                        dir.path)
                  .exit_code,
              0);
    for (const char* other : {"data/other", "data/less"})
        expect_one_error(finetune("-e base --vocab " + std::string(other) + data), 1,
                         "--vocab " + std::string(other) + ": it is no extension of the model's vocabulary (");
    expect_one_error(run_shell(program(GetParam()) + "finetune -e L2:H2:C32:T16 --vocab data/w" + data, dir.path), 2,
                     "size without weights");
    expect_one_error(finetune("-e base --vocab data/w --lora-rank 2" + data), 2, "--vocab: an adapter leaves its base");
    for (const char* name : {"vocab.json", "merges.txt", "tokenizer.json"})
        for (const auto& step : fs::directory_iterator(dir / "base"))
            if (step.is_directory()) fs::remove(step.path() / name);
    expect_one_error(finetune("-e base --vocab data/w" + data), 1, "has no vocabulary beside it");
    EXPECT_FALSE(fs::exists(dir / "no"));
}

// ---- --new-rows-first -------------------------------------------------------------------------------------------------

TEST_P(Vocabulary, NewRowsFirstTouchesNothingElse) {
    expect_good(finetune(go("--new-rows-first 3 -x 3 -o run")));
    const SafetensorsFile before(dir / "base/step_00000004/model.safetensors"),
        after(dir / "run/step_00000003/model.safetensors");
    for (const TensorInfo& t : before.tensors()) {
        const TensorInfo& now = after.at(t.name);
        EXPECT_EQ(memcmp(before.bytes(t), after.bytes(now), t.end - t.begin), 0) << t.name;
    }
    expect_good(finetune(go("-l 1e-30 -c 0 -x 1 -o begin")));
    const std::vector<float> begin = tensor("begin", "transformer.wte.weight"),
                             end = tensor("run", "transformer.wte.weight");
    const size_t C = begin.size() / 320, V = static_cast<size_t>(Tokenizer::load(dir / "data/t").vocab_size());
    size_t changed = 0;
    for (size_t i = V * C; i < begin.size(); i++) changed += begin[i] != end[i];
    EXPECT_GT(changed, (begin.size() - V * C) / 2);
}

// After one step the first moment is (1 - beta1) g, from which follow norm and clipping of what alone is trained.
TEST_P(Vocabulary, NewRowsFirstClipsByTheirOwnNorm) {
    expect_good(finetune(go("--grad-clip 0 -x 1 -o all")));
    expect_good(finetune(go("--grad-clip 1e-3 --new-rows-first 1 -x 1 -o first")));
    const size_t C = tensor("all", "transformer.wte.weight").size() / 320,
                 V = static_cast<size_t>(Tokenizer::load(dir / "data/t").vocab_size());
    const auto norm = [&](const std::string& run) {
        const std::vector<float> m = tensor(run, "m.transformer.wte.weight", "optimizer.safetensors");
        double sum = 0;
        for (size_t i = V * C; i < m.size(); i++) sum += std::pow(static_cast<double>(m[i]) / 0.1, 2);
        return std::sqrt(sum);
    };
    const double logged_norm = std::stod(logged("first", "grad_norm")[0]);
    EXPECT_NEAR(logged_norm / norm("all"), 1, 1e-4);
    EXPECT_LT(logged_norm, 0.9 * std::stod(logged("all", "grad_norm")[0]));
    EXPECT_NEAR(norm("first"), 1e-3, 1e-6);
    EXPECT_EQ(logged("first", "loss"), logged("all", "loss"));
}

TEST_P(Vocabulary, NewRowsFirstResumesAcrossTheSwitch) {
    const std::string run = "--new-rows-first 2 -x 4 -n 1 -nk 0 ";
    const CommandResult r = finetune(go(run + "-o whole"));
    expect_good(r);
    EXPECT_EQ(count(r.out, "step 2: from here on everything is trained"), 1) << r.out;
    for (int step : {1, 2, 3}) {
        const std::string cut = "cut" + std::to_string(step);
        fs::copy(dir / "whole", dir / cut, fs::copy_options::recursive);
        for (int later = step + 1; later <= 4; later++) fs::remove_all(dir / (cut + checkpoint(later)));
        // the option and the place of the new words are the run's own
        expect_good(finetune("-e " + cut + " -i data/w/train_000000.bin -x 4 -n 1 -nk 0 --resume -o " + cut));
        for (const char* name : {"/model.safetensors", "/optimizer.safetensors"})
            EXPECT_EQ(file("whole" + checkpoint(4) + name), file(cut + checkpoint(4) + name)) << step << name;
    }
}

// The same as two runs, one after the other: with one batch and one learning rate, nothing else tells them apart.
TEST_P(Vocabulary, NewRowsFirstBeginsAnewWithEverything) {
    const std::string run = "-a -k constant -v 0 ";
    expect_good(finetune(go(run + "--new-rows-first 2 -x 4 -o joined")));
    expect_good(finetune(go(run + "--new-rows-first 2 -x 2 -o first")));
    expect_good(finetune("-e first -i data/w/train_000000.bin " + run + "-x 2 -o then"));
    EXPECT_EQ(tensor("joined", "transformer.wte.weight"), tensor("then", "transformer.wte.weight"));
    EXPECT_EQ(tensor("joined", "transformer.h.1.mlp.c_fc.weight"), tensor("then", "transformer.h.1.mlp.c_fc.weight"));
}

TEST_P(Vocabulary, NewRowsFirstOverRanksAndStages) {
    const std::string run = "--new-rows-first 2 -x 4 ";
    expect_good(finetune(go(run + "-o one")));
    for (int stage = 0; stage <= 3; stage++) {
        const std::string name = "two" + std::to_string(stage);
        expect_good(finetune(go(run + "-z " + std::to_string(stage) + " -o " + name), 2));
        expect_close(losses(name), losses("one"), 1e-5);
        for (size_t i = 0; i < 4; i++)
            EXPECT_NEAR(std::stod(logged(name, "grad_norm")[i]) / std::stod(logged("one", "grad_norm")[i]), 1, 1e-4);
    }
}

TEST_P(Vocabulary, NewRowsFirstWantsNewWords) {
    const char* why = "--new-rows-first: there are no new words";
    expect_one_error(finetune("-e base -i data/t/train_000000.bin --new-rows-first 2 -x 4 -o no"), 2, why);
    expect_one_error(finetune("-e base --vocab data/t -i data/t/train_000000.bin --new-rows-first 2 -x 4 -o no"), 2,
                     why);
    EXPECT_FALSE(fs::exists(dir / "no"));
}

INSTANTIATE_TEST_SUITE_P(Programs, Vocabulary, testing::ValuesIn(programs_under_test()),
                         [](const auto& one) { return std::string(one.param.name); });

}  // namespace
