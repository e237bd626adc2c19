// --optimizer, --state-type and --l1 in whole runs: they learn, resume to the same bits, and say what cannot be.
#include <sstream>
#include "llmc/base/files.h"
#include "llmc/base/json.h"
#include "llmc/files/safetensors.h"
#include "program_fixture.h"

namespace {

class Optimizing : public Program {
  protected:
    // As small() but for the learning rate.
    static std::string options() {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T32 -b 3 -d 128 -v 0 -n 10 ";
    }
    std::string weights(const std::string& run) { return file(run + "/step_00000020/model.safetensors"); }
    std::vector<std::string> tensors(const std::string& run) {
        std::vector<std::string> names;
        const SafetensorsFile f(dir / (run + "/step_00000020/optimizer.safetensors"));
        for (const TensorInfo& t : f.tensors()) names.push_back(t.name);
        return names;
    }
    double first_loss(const std::string& run) { return std::stod(logged(run, "loss").front()); }
    double last_loss(const std::string& run) { return std::stod(logged(run, "loss").back()); }
};

struct Kind {
    const char *optimizer, *rate;
};
const Kind kKinds[] = {{"adamw", "1e-2"}, {"muon", "1e-2"}, {"sgd", "0.3"}, {"adagrad", "3e-2"}, {"adadelta", "1"}};

}  // namespace

TEST_F(Optimizing, EachLearnsAndResumesToTheSameBits) {
    for (auto [optimizer, rate] : kKinds)
        for (std::string more : {" --state-type fp32", " --state-type bf16 --precision bf16 -w 0 --stochastic-rounding",
                                 " --state-type int8 --precision bf16"}) {
            const std::string name = optimizer;
            if (!more.starts_with(" --state-type int8") && name != "adamw" && name != "muon") continue;  // enough
            SCOPED_TRACE(optimizer + more);
            const std::string run = name + std::to_string(more.size());
            const std::string all = options() + "-x 20 -l " + rate + " --optimizer " + optimizer + more;
            expect_good(gpt2(all + " -o " + run));
            EXPECT_LT(last_loss(run), first_loss(run) - 0.5);
            const std::string whole = weights(run);
            fs::remove_all(dir / (run + "/step_00000020"));
            expect_good(gpt2("train -y 1 -o " + run));
            EXPECT_TRUE(weights(run) == whole) << "resumed";
        }
}

// What is not needed is neither in memory nor in files.
TEST_F(Optimizing, RememberOnlyWhatTheyNeed) {
    const auto has = [&](const std::string& optimizer, const std::string& name) {
        const std::vector<std::string> all = tensors(optimizer);
        return std::find(all.begin(), all.end(), name) != all.end();
    };
    std::map<std::string, double> bytes;
    for (auto [optimizer, rate] : kKinds) {
        expect_good(gpt2(options() + "-x 20 --optimizer " + optimizer + " -o " + optimizer));
        const CommandResult plan =
            gpt2(std::string("plan -e L2:H2:C32:T32 -b 3 -d 384 --gpu cpu --json --optimizer ") + optimizer);
        expect_good(plan);
        bytes[optimizer] = parse_json(plan.out)["memory"]["optimizer"].get<double>();
    }
    const std::string wte = "transformer.wte.weight", fc = "transformer.h.1.mlp.c_fc.weight";
    EXPECT_TRUE(has("adamw", "m." + fc) && has("adamw", "v." + fc));
    EXPECT_TRUE(has("muon", "m." + fc) && !has("muon", "v." + fc) && has("muon", "v." + wte) &&
                has("muon", "m." + wte));
    EXPECT_TRUE(has("muon", "v.transformer.h.1.mlp.c_fc.bias"));
    EXPECT_TRUE(has("sgd", "m." + fc) && !has("sgd", "v." + fc));
    EXPECT_TRUE(!has("adagrad", "m." + fc) && has("adagrad", "v." + fc));
    EXPECT_TRUE(has("adadelta", "m." + fc) && has("adadelta", "v." + fc));
    EXPECT_EQ(bytes["sgd"], bytes["adamw"] / 2);
    EXPECT_EQ(bytes["adagrad"], bytes["adamw"] / 2);
    EXPECT_EQ(bytes["adadelta"], bytes["adamw"]);
    EXPECT_LT(bytes["muon"], bytes["adamw"]);
    EXPECT_GT(bytes["muon"], bytes["sgd"]);
}

TEST_F(Optimizing, L1MakesWeightsZero) {
    expect_good(gpt2(options() + "-x 20 -l 1e-2 --l1 0.3 -o sparse"));
    expect_good(gpt2(options() + "-x 20 -l 1e-2 -o dense"));
    const auto zeros = [&](const std::string& run) {
        SafetensorsFile f(dir / (run + "/step_00000020/model.safetensors"));
        const TensorInfo& t = f.at("transformer.h.1.mlp.c_fc.weight");
        std::vector<float> x(32 * 128);
        f.read_float(t, 0, static_cast<int64_t>(x.size()), x.data());
        return std::count(x.begin(), x.end(), 0.0f);
    };
    EXPECT_EQ(zeros("dense"), 0);
    EXPECT_GT(zeros("sparse"), 32 * 128 / 5);
}

TEST_F(Optimizing, StateTypesMayChangeInAResume) {
    for (const char* optimizer : {"adamw", "muon"}) {
        const std::string run = std::string("changed-") + optimizer;
        expect_good(gpt2(options() + "-x 20 -l 1e-2 --optimizer " + optimizer + " -o " + run));
        const double before = last_loss(run);
        for (const char* type : {"int8", "bf16", "fp32"}) {
            fs::remove_all(dir / (run + "/step_00000020"));
            const CommandResult r = gpt2(std::string("train -y 1 --state-type ") + type + " -o " + run);
            expect_good(r);
            EXPECT_NEAR(last_loss(run), before, 0.05) << type;
        }
    }
}

TEST_F(Optimizing, WhatCannotBeIsSaid) {
    expect_good(gpt2(options() + "-x 10 --optimizer sgd -o run"));
    expect_one_error(gpt2("train -y 1 -x 20 --optimizer muon -o run"), 2,
                     "was begun with --optimizer sgd, whose state muon cannot go on from");
    expect_good(gpt2("train -y 1 -x 20 --optimizer sgd -o run"));
    expect_one_error(gpt2(options() + "--optimizer lion -o other"), 2, "--optimizer");
    expect_one_error(gpt2(options() + "--state-type int4 -o other"), 2, "--state-type");
    expect_one_error(gpt2(options() + "--l1 -1 -o other"), 2, "--l1");
    expect_one_error(gpt2(options() + "--momentum 1 -o other"), 2, "--momentum");
    EXPECT_FALSE(fs::exists(dir / "other"));
}

TEST_F(Optimizing, SweepStopsTheLosingHalfAndGoesOn) {
    const std::string sweep = "TRAIN_GPT2=" + program_path("TRAIN_GPT2", "train_gpt2") + " bash " +
                              fs::current_path().string() + "/dev/sweep.sh ";
    const std::string all =
        sweep +
        "-o s --grid -l 1e-6 1e-2 --grid --optimizer adamw sgd -- -i data/t -e L1:H2:C16:T16 -b 4 -d 64 -x 16 -m 1";
    const CommandResult r = run_shell(all, dir.path);
    expect_good(r);
    const std::string table = file("s/table.txt");
    int whole = 0, lines = 0;
    std::istringstream in(table);
    for (std::string line; std::getline(in, line); lines++) whole += line.starts_with("16 ");
    EXPECT_EQ(lines, 5) << table;
    EXPECT_EQ(whole, 1) << table;
    EXPECT_NE(table.find("16       "), std::string::npos);
    EXPECT_LT(table.find("-l 1e-2 --optimizer adamw"), table.find("-l 1e-6 --optimizer adamw")) << table;
    EXPECT_TRUE(fs::exists(dir / "s/sweep.svg"));
    const CommandResult again = run_shell(all, dir.path);  // has all that it needs
    expect_good(again);
    EXPECT_EQ(file("s/table.txt"), table);
    // what was stopped can be finished, by hand
    expect_good(gpt2("train -o s/l_1e-6_optimizer_sgd --resume"));
    EXPECT_TRUE(fs::exists(dir / "s/l_1e-6_optimizer_sgd/step_00000016"));
    expect_one_error(run_shell(sweep + "-o s --grid -l -- -x 16", dir.path), 2, "--grid -l has no values");
    expect_one_error(run_shell(sweep + "-o s --grid -l 1 -- -i d", dir.path), 2, "-x (--max-steps)");
    expect_one_error(run_shell(sweep + "-o s -- -x 9", dir.path), 2, "--grid is missing");
}
