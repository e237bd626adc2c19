// The CPU program as a person uses it: from text to samples, interrupted, resumed, and given bad input.
#include <gtest/gtest.h>
#include <cmath>
#include <fstream>
#include <thread>

#include "llmc/files/checkpoint.h"
#include "llmc/files/run_directory.h"
#include "llmc/files/safetensors.h"
#include "llmc/text/shards.h"
#include "program_fixture.h"

namespace {

TEST_F(Program, TrainsAndLeavesLogPlotAndCheckpoint) {
    CommandResult r = train("-o run -s 20");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    std::string log = file("run/log.jsonl");
    EXPECT_EQ(count(log, "\"loss\":"), 20);
    EXPECT_EQ(count(log, "\"val_loss\":"), 3);                            // steps 0, 10, 20
    EXPECT_NEAR(number_after(log, "\"val_loss\":"), std::log(300), 0.3);  // untrained: uniform over the vocabulary
    EXPECT_LT(number_after(log, "\"val_loss\":", true), 4.0);
    EXPECT_NE(file("run/loss.svg").find("<svg"), std::string::npos);
    EXPECT_NE(r.out.find("sample after step 20"), std::string::npos);
    for (const char* name : {"config.json", "model.safetensors", "vocab.json", "merges.txt", "trainer_state.json",
                             "optimizer.safetensors"})
        EXPECT_TRUE(fs::exists(dir / ("run/step_00000020/" + std::string(name)))) << name;
}

#ifdef USE_ONEDNN
TEST_F(Program, SaysWhereBf16SavesNoTime) {
    const std::string note = "note: this processor has no products of bf16";
    for (const char* isa : {"AVX2", "AVX512_CORE"}) {  // as if the processor had no more
        const std::string before = std::string("ONEDNN_MAX_CPU_ISA=") + isa + " ";
        const CommandResult bf16 = gpt2(small() + "--precision bf16 -x 1 -v 0 -o " + isa, before);
        expect_good(bf16);
        EXPECT_EQ(count(bf16.err, note), 1) << bf16.err;
        EXPECT_EQ(count(gpt2(small() + "-x 1 -v 0 -o fp32_" + isa, before).err, note), 0);
    }
}
#endif

// The mark of the design: 20 steps in one go, or 10 steps, a kill and 10 more, end in the same bits. Dropout and a
// partial micro-batch included.
TEST_F(Program, KilledAndResumedIsBitIdentical) {
    for (std::string precision : {"fp32", "bf16"}) {
        std::string options = "--dropout 0.1 --precision " + precision + " -o ";
        ASSERT_EQ(train(options + "whole_" + precision).exit_code, 0);
        // Killed without warning as soon as the checkpoint of step 10 is there.
        std::string out = "cut_" + precision;
        CommandResult killed = run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() + options + out +
                                             " & pid=$!; for i in $(seq 2000); do [ -e " + out +
                                             "/step_00000010/trainer_state.json ] && break; sleep 0.005; done; kill -9 "
                                             "$pid; wait $pid 2>/dev/null; true",
                                         dir.path);
        ASSERT_TRUE(fs::exists(dir / (out + "/step_00000010"))) << killed.err;
        fs::remove_all(dir / (out + "/step_00000020"));  // had the kill come too late
        CommandResult resumed = train(options + out + " -y 1");
        ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
        EXPECT_NE(resumed.out.find("resuming"), std::string::npos);
        for (const char* name : {"model.safetensors", "optimizer.safetensors"})
            EXPECT_TRUE(file("whole_" + precision + "/step_00000020/" + name) == file(out + "/step_00000020/" + name))
                << precision << " " << name;
        EXPECT_EQ(count(file(out + "/log.jsonl"), "\"loss\":"), 20);
    }
}

TEST_F(Program, SameSeedSameBitsOtherSeedOtherBits) {
    ASSERT_EQ(train("-o a").exit_code, 0);
    ASSERT_EQ(train("-o b").exit_code, 0);
    ASSERT_EQ(train("-o c --seed 8").exit_code, 0);
    EXPECT_TRUE(file("a/step_00000020/model.safetensors") == file("b/step_00000020/model.safetensors"));
    EXPECT_FALSE(file("a/step_00000020/model.safetensors") == file("c/step_00000020/model.safetensors"));
}

TEST_F(Program, ResumeObeysWhatWasRecorded) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    // No options but where: batch, schedule and length come from the checkpoint; more steps may be asked for.
    CommandResult r = gpt2("-i data/t/train_000000.bin -o run -y 1 -x 22");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_NE(r.out.find("128 tokens a step"), std::string::npos) << r.out;
    EXPECT_EQ(count(file("run/log.jsonl"), "\"loss\":"), 22);
    expect_one_error(gpt2("-i data/t/train_000000.bin -o run -y 1 -e L3:H2:C32:T32"), 1, "--model");
}

TEST_F(Program, TermSignalSavesACheckpoint) {
    CommandResult r = run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                                    "-x 1000000 -n 0 -v 0 -o run & pid=$!; for i in $(seq 2000); do grep -q "
                                    "'\"step\":3' run/log.jsonl 2>/dev/null && break; sleep 0.005; done; "
                                    "kill -TERM $pid; wait $pid; echo code $?",
                                dir.path);
    EXPECT_NE(r.out.find("code 143"), std::string::npos) << r.out << r.err;
    std::string newest = newest_checkpoint(dir / "run");
    ASSERT_NE(newest, "") << r.out << r.err;
    TrainerState state = read_trainer_state(newest);
    EXPECT_GE(state.step, 3);
    CommandResult more = train("-o run -y 1 -v 0 -x " + std::to_string(state.step + 2));
    EXPECT_EQ(more.exit_code, 0) << more.err;
}

TEST_F(Program, AnExistingRunIsNotOverwritten) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    std::string before = file("run/step_00000020/model.safetensors"), log = file("run/log.jsonl");
    expect_one_error(train("-o run"), 1, "--resume");
    EXPECT_TRUE(before == file("run/step_00000020/model.safetensors"));
    EXPECT_EQ(log, file("run/log.jsonl"));
    CommandResult fresh = train("-o other -y 1");
    EXPECT_EQ(fresh.exit_code, 0);
    EXPECT_NE(fresh.out.find("starting afresh"), std::string::npos);
}

TEST_F(Program, TwoProcessesDoNotShareAnOutput) {
    CommandResult r = run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                                    "-x 1000000 -n 0 -o run & pid=$!; for i in $(seq 2000); do [ -s run/log.jsonl ] && "
                                    "break; sleep 0.005; done; " +
                                    program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                                    "-o run -y 1; code=$?; kill -9 $pid; exit $code",
                                dir.path);
    EXPECT_EQ(r.exit_code, 1);
    EXPECT_NE(r.err.find("another process"), std::string::npos) << r.err;
}

TEST_F(Program, FinetuneSampleAndEval) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    CommandResult tuned = gpt2("finetune " + small() + "-x 30 -e run -o tuned");
    ASSERT_EQ(tuned.exit_code, 0) << tuned.err;
    double begin = number_after(file("tuned/log.jsonl"), "\"val_loss\":"),
           end = number_after(file("run/log.jsonl"), "\"val_loss\":", true);
    EXPECT_NEAR(begin, end, 1e-4);  // starts where the other run ended
    EXPECT_LT(number_after(file("tuned/log.jsonl"), "\"val_loss\":", true), begin);

    CommandResult e = gpt2("eval -e tuned -j data/t/val_000000.bin -b 2");
    ASSERT_EQ(e.exit_code, 0) << e.err;
    double loss = number_after(e.out, "loss ");
    EXPECT_NEAR(loss, number_after(file("tuned/log.jsonl"), "\"val_loss\":", true),
                0.3);  // training looked at part of the windows
    EXPECT_NEAR(number_after(e.out, "perplexity "), std::exp(loss), 0.01);
    EXPECT_NEAR(number_after(gpt2("eval -e tuned -j data/t/val_000000.bin -b 5").out, "loss "), loss, 1e-5);

    CommandResult s = gpt2("sample -e tuned --prompt 'the cat' --max-tokens 20 --seed 3");
    ASSERT_EQ(s.exit_code, 0) << s.err;
    EXPECT_EQ(s.out.rfind("the cat", 0), 0u) << s.out;
    EXPECT_GT(s.out.size(), 20u);
    EXPECT_EQ(gpt2("sample -e tuned/step_00000030 --prompt 'the cat' --max-tokens 20 --seed 3").out, s.out);
    EXPECT_EQ(gpt2("sample -e tuned --max-tokens 20 --seed 3", "echo 'the cat' | ").out, s.out);
    EXPECT_NE(gpt2("sample -e tuned --prompt 'the cat' --max-tokens 20 --seed 4").out, s.out);
    std::ofstream(dir / "prompt.txt") << "\xEF\xBB\xBFthe cat \r\n";  // as Windows' editor writes it
    EXPECT_EQ(gpt2("sample -e tuned --prompt-file prompt.txt --max-tokens 20 --seed 3").out, s.out);
    EXPECT_EQ(count(gpt2("sample -e tuned --prompt x --max-tokens 3 --num-samples 3").out, "--- sample"), 3);
    // Beyond the context of 32 tokens, and with every filter.
    EXPECT_EQ(gpt2("sample -e tuned --prompt 'no man' --max-tokens 100 --top-k 5 --top-p 0.9 --temperature 0.8 "
                   "--precision bf16")
                  .exit_code,
              0);
}

TEST_F(Program, OverfitsOneBatch) {
    ASSERT_EQ(train("-o run -a 1 -x 60").exit_code, 0);
    EXPECT_LT(number_after(file("run/log.jsonl"), "\"loss\":", true), 1.0);
}

TEST_F(Program, RecomputeLevelsGiveTheSameWeights) {
    ASSERT_EQ(train("-o r0 -x 5 --dropout 0.1 -r 0").exit_code, 0);
    for (std::string level : {"1", "2", "3"}) {
        ASSERT_EQ(train("-x 5 --dropout 0.1 -o r" + level + " -r " + level).exit_code, 0);
        EXPECT_TRUE(file("r0/step_00000005/model.safetensors") ==
                    file("r" + level + "/step_00000005/model.safetensors"))
            << level;
    }
}

// ------------------------------------------------------------------------------------------------------------------
// bad input
TEST_F(Program, BatchesThatDoNotDivide) {
    expect_one_error(train("-o run -d 100"), 2, "--total-batch-size");
    expect_one_error(train("-o run -b 5"), 2, "--micro-batch-size");
    EXPECT_FALSE(fs::exists(dir / "run"));
}

TEST_F(Program, SequenceLongerThanTheModel) {
    expect_one_error(train("-o run -t 64"), 2, "--seq-len");
    ASSERT_EQ(train("-o run -t 16").exit_code, 0);
    expect_one_error(gpt2("eval -e run -j data/t/val_000000.bin -t 33"), 2, "--seq-len");
}

TEST_F(Program, MissingDataNamesTheRemedy) {
    expect_one_error(gpt2("-o run -e L1:H1:C16:T16"), 1, "make data");
    expect_one_error(gpt2("-o run -i nothing_*.bin -e L1:H1:C16:T16"), 2, "nothing_*.bin");
}

TEST_F(Program, BadShards) {
    std::string good = file("data/t/train_000000.bin");
    auto with = [&](const std::string& bytes) {
        std::ofstream(dir / "data/t/bad_000000.bin", std::ios::binary) << bytes;
        return gpt2("-i data/t/bad_000000.bin -j data/t/val_000000.bin -e L1:H1:C16:T16 -b 2 -x 2 -o run");
    };
    expect_one_error(with(good.substr(0, good.size() - 10)), 1, "bad_000000.bin");
    expect_one_error(with(good + "more"), 1, "bad_000000.bin");
    expect_one_error(with(good.substr(0, 100)), 1, "bad_000000.bin");
    expect_one_error(with("GGUF" + good.substr(4)), 1, "bad_000000.bin");
    std::string id = good;
    id[1024 + 41] = 0x7f;  // an id above 300
    expect_one_error(with(id), 1, "bad_000000.bin");
    EXPECT_FALSE(fs::exists(dir / "run/log.jsonl"));
}

TEST_F(Program, VocabulariesThatDisagree) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    int ids[200] = {};
    ShardWriter w(dir / "gpt2_000000.bin", 50257);
    w.write(ids, 200);
    w.close();
    expect_one_error(gpt2("finetune -e run -i gpt2_000000.bin -o tuned"), 1, "vocabulary");
    expect_one_error(train("-o other -e L2:H2:C32:T32:V299"), 1, "vocabulary");
}

TEST_F(Program, OutputThatCannotBeWritten) {
    expect_one_error(train("-o text.txt/run"), 1, "text.txt/run");
    EXPECT_EQ(file("text.txt"), read_text(workshop() + "/text.txt"));
}

TEST_F(Program, FullDiskWhileACheckpointIsWritten) {
    ASSERT_EQ(train("-o run -x 10").exit_code, 0);
    std::string before = file("run/step_00000010/model.safetensors");
    // Files may not grow beyond 60 KiB: the log fits, the weights do not.
    CommandResult r = gpt2(small() + "-o run -y 1 -x 20", "ulimit -f 60; ");
    expect_one_error(r, 1, "run/");
    EXPECT_TRUE(before == file("run/step_00000010/model.safetensors"));
    for (const auto& entry : fs::directory_iterator(dir / "run"))
        EXPECT_EQ(entry.path().filename().string().rfind(".tmp", 0), std::string::npos) << entry.path();
    EXPECT_EQ(train("-o run -y 1 -x 20").exit_code, 0);  // with room again it goes on
}

TEST_F(Program, NaNNamesStepAndTensorAndKeepsTheCheckpoint) {
    CommandResult r = train("-o hot -l 1e30 -n 1 --grad-clip 0 --weight-decay 0");
    expect_one_error(r, 1, "step ");
    EXPECT_NE(r.err.find("first tensor"), std::string::npos) << r.err;
    EXPECT_TRUE(r.err.find("weight") != std::string::npos || r.err.find("transformer") != std::string::npos) << r.err;
    EXPECT_NE(r.err.find("learning-rate"), std::string::npos) << r.err;
    EXPECT_NE(newest_checkpoint(dir / "hot"), "");
    EXPECT_NE(r.err.find("Remove hot/step_"), std::string::npos) << r.err;  // its weights are those that gave the NaN
    // Sampling such a model (greedy, sorted or not) is an error, too.
    expect_one_error(gpt2("sample -e hot --prompt a --top-p 0.9"), 1, "diverged");
}

TEST_F(Program, DamagedCheckpointIsNotResumed) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    std::string path = dir / "run/step_00000020/model.safetensors", good = read_text(path);
    std::string bad = good;
    bad[bad.size() - 7] ^= 1;
    std::ofstream(path, std::ios::binary) << bad;
    expect_one_error(train("-o run -y 1 -x 30"), 1, "model.safetensors");
    fs::remove(path);
    expect_one_error(train("-o run -y 1 -x 30"), 1, "model.safetensors");
    fs::remove_all(dir / "run/step_00000020");  // the remedy: the older one
    EXPECT_EQ(train("-o run -y 1").exit_code, 0);
    EXPECT_TRUE(good == read_text(path));
}

TEST_F(Program, InferenceNeedsAModel) {
    expect_one_error(gpt2("sample --prompt x"), 2, "--model");
    expect_one_error(gpt2("sample -e d12 --prompt x"), 2, "d12");
    expect_one_error(gpt2("eval -e nowhere"), 2, "nowhere");
    expect_one_error(gpt2("finetune -e d12 -i data/t/train_000000.bin"), 2, "d12");
    expect_one_error(gpt2("sample -e data/t --prompt x"), 2, "data/t");
}

TEST_F(Program, UsageErrors) {
    expect_one_error(gpt2("--no-such-option"), 2, "--no-such-option");
    expect_one_error(gpt2("-b 0"), 2, "-b");
    expect_one_error(gpt2("-e d13"), 2, "d13");
    CommandResult help = gpt2("--help");
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_NE(help.out.find("--train-data"), std::string::npos);
    for (const char* command : {"train", "finetune", "sample", "eval"})
        EXPECT_EQ(gpt2(std::string(command) + " --help").exit_code, 0) << command;
}

// What the outlier detectors have seen belongs to the state: a resumed run skips the same steps.
TEST_F(Program, ResumeKnowsTheOutliers) {
    std::string options = "-x 200 -v 0 -n 150 -nk 0 -sl 1 -sg 1 -o ";
    ASSERT_EQ(train(options + "whole").exit_code, 0);
    EXPECT_GT(count(file("whole/log.jsonl"), "skipped"), 0);
    fs::copy(dir / "whole", dir / "cut", fs::copy_options::recursive);
    fs::remove_all(dir / "cut/step_00000200");
    ASSERT_EQ(train(options + "cut -y 1").exit_code, 0);
    EXPECT_EQ(count(file("whole/log.jsonl"), "skipped"), count(file("cut/log.jsonl"), "skipped"));
    EXPECT_TRUE(file("whole/step_00000200/model.safetensors") == file("cut/step_00000200/model.safetensors"));
}

TEST_F(Program, ResumeWithFewerStepsThanWereDone) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    expect_one_error(train("-o run -y 1 -x 5"), 2, "--max-steps");
    CommandResult r = gpt2("-i data/t -o run -y 1");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_NE(r.out.find("model: run/step_00000020 (L2:"), std::string::npos) << r.out;
}

TEST_F(Program, ADirectoryIsItsTrainingOrValidationShards) {
    CommandResult r = gpt2("-i data/t -j data/t -e L1:H1:C8:T8 -b 2 -x 2 -o run");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_NE(r.out.find("in 1 shard(s)"), std::string::npos) << r.out;
}

// Two vocabularies of one size: ids that mean other words must not be learned, evaluated or mixed.
TEST_F(Program, VocabulariesOfOneSizeThatDisagree) {
    std::string tokenize = program_path("TOKENIZE", "tokenize");
    ASSERT_EQ(run_shell("tr aeiou uoiea < text.txt > other.txt; " + tokenize +
                            " train --vocab-size 300 -o data/u other.txt && " + tokenize +
                            " encode --vocab data/u -o data/u other.txt",
                        dir.path)
                  .exit_code,
              0);
    ASSERT_EQ(train("-o run").exit_code, 0);
    expect_one_error(gpt2("finetune -e run -i data/u -o tuned"), 1, "different tokens");
    expect_one_error(gpt2("eval -e run -j data/u"), 1, "different tokens");
    expect_one_error(gpt2("-i data/u -o run -y 1 -x 30"), 1, "different tokens");
    expect_one_error(gpt2("-i data/t -j data/u -e L1:H1:C8:T8 -o mixed"), 1, "vocabular");
    EXPECT_FALSE(fs::exists(dir / "tuned"));
}

TEST_F(Program, NumbersBeyondAllBounds) {
    expect_one_error(train("-o run -d 1099511627776"), 2, "--total-batch-size");
    expect_one_error(train("-o run -d 9223372036854775807"), 2, "--total-batch-size");
    EXPECT_FALSE(fs::exists(dir / "run"));
    ASSERT_EQ(train("-o run -m 9223372036854775807").exit_code, 0);
    EXPECT_NEAR(number_after(file("run/log.jsonl"), "\"val_loss\":"), std::log(300), 0.3);
    CommandResult e = gpt2("eval -e run -j data/t --limit 9223372036854775807");
    EXPECT_EQ(e.exit_code, 0) << e.err;
    EXPECT_GT(number_after(e.out, "loss "), 0.1);
    expect_one_error(train("-o " + std::string(300, 'a')), 1, "too long");
}

TEST_F(Program, PlacesThatCannotBeReadOrWritten) {
    ASSERT_EQ(train("-o run").exit_code, 0);
    expect_one_error(gpt2("sample -e run --prompt-file data"), 1, "--prompt-file");
    expect_one_error(gpt2("eval -e run -j data/t >/dev/full"), 1, "standard output");
    expect_one_error(gpt2("sample -e run --prompt x --max-tokens 3 >&-"), 1, "standard output");
    expect_one_error(gpt2("--help >/dev/full"), 1, "standard output");
    // With standard output closed no file of the run may take its place.
    ASSERT_EQ(
        run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() + "-o quiet <&- >&-", dir.path).exit_code,
        0);
    EXPECT_EQ(file("quiet/.lock"), "");
    EXPECT_EQ(count(file("quiet/log.jsonl"), "\n"), 23);
}

// `| head -1`, or a Ctrl-C that ends `| tee` as well: what was trained is kept.
TEST_F(Program, AReaderThatLeavesStopsTheRunWithACheckpoint) {
    CommandResult r = run_shell("(" + program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                                    "-x 1000000 -n 0 -v 0 -o run; echo code $? >&2) | head -n 7",
                                dir.path);
    EXPECT_NE(r.err.find("code 141"), std::string::npos) << r.err;
    EXPECT_NE(newest_checkpoint(dir / "run"), "");
}

// A start that fails leaves nothing that a second try would take for a run.
TEST_F(Program, AFailedStartCanBeRepeated) {
    std::string good = file("data/t/val_000000.bin");
    std::ofstream(dir / "data/t/val_000000.bin", std::ios::binary) << good.substr(0, good.size() - 2);
    expect_one_error(train("-o run"), 1, "val_000000.bin");
    std::ofstream(dir / "data/t/val_000000.bin", std::ios::binary) << good;
    expect_one_error(train("-o run -h 1 --hellaswag-data none.jsonl"), 1, "none.jsonl");
    EXPECT_EQ(train("-o run").exit_code, 0);
}

TEST_F(Program, AShardThatIsCutShortDuringTheRun) {
    CommandResult r = run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                                    "-x 1000000 -n 1 -v 0 -o run & pid=$!; for i in $(seq 2000); do [ -d "
                                    "run/step_00000003 ] && break; sleep 0.005; done; : > data/t/train_000000.bin; "
                                    "wait $pid",
                                dir.path);
    expect_one_error(r, 1, "cut short");
    EXPECT_NE(newest_checkpoint(dir / "run"), "");
}

TEST_F(Program, ShardWhoseNameIsNoUtf8) {
    fs::copy(dir / "data/t/train_000000.bin", dir / "data/t/b\xff.bin");
    CommandResult r = gpt2("-i data/t/b\xff.bin -e L1:H1:C8:T8 -b 2 -x 2 -o run");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(gpt2("-i data/t/b\xff.bin -y 1 -x 3 -o run").exit_code, 0);
}

TEST_F(Program, ModelTooLargeForMemory) { expect_one_error(train("-o run -e gpt3:175b -t 32"), 1, "memory"); }

}  // namespace

TEST_F(Program, DirectoriesWithAnyCharactersAndSmallDataSets) {
    fs::copy(dir / "data/t", dir / "data/a[b]*?", fs::copy_options::recursive);
    const std::string small = "-e L1:H1:C16:T32 -b 1 -d 32 -x 1 ";
    CommandResult r = gpt2("-i 'data/a[b]*?/train_*.bin' -j 'data/a[b]*?/val_0*.bin' -o out " + small);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    r = gpt2("-i 'data/a[b]*?' " + small);
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(count(r.out, "| val loss"), 2) << r.out;  // the shards beside were found
    // a validation part of its own that has not one window
    std::ofstream(dir / "few.txt")
        << "the cat sees the dog and the queen, my king fears no man becomes a dog. a dog, a cat!\n";
    ASSERT_EQ(
        run_shell(program_path("TOKENIZE", "tokenize") + " encode --vocab data/t -o few few.txt", dir.path).exit_code,
        0);
    r = gpt2("-i few -o few-out " + small + "-t 16 -d 16");
    EXPECT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(count(r.out + r.err, "validation loss is not measured"), 1) << r.out << r.err;
    expect_one_error(gpt2("-i few -j few/val_000000.bin -o few-out2 -t 16 " + small), 1, "few/val_000000.bin");
}
