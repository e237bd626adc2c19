// Runs that are there already: which data and which checkpoint a resume takes, and what is set aside rather than lost.
#include <sys/stat.h>

#include "llmc/files/checkpoint.h"
#include "llmc/files/run_directory.h"
#include "program_fixture.h"

namespace {

class ProgramResume : public Program {
  protected:
    const std::string model = "-e L2:H2:C32:T32 -b 3 -d 128 -v 0 -n 10 ";
    // without its log, in which the milliseconds differ
    std::string weights(const std::string& run, int step) {
        return file(run + "/" + step_name(step) + "/model.safetensors");
    }
    void damage(const std::string& name) {
        std::fstream f(dir / name, std::ios::in | std::ios::out | std::ios::binary);
        f.seekg(-5, std::ios::end);
        const char c = static_cast<char>(f.get() ^ 4);
        f.seekp(-5, std::ios::end);
        f.put(c);
    }
    bool exists(const std::string& name) { return fs::exists(fs::symlink_status(dir / name)); }
};

}  // namespace

using std::filesystem::copy;
TEST_F(ProgramResume, GoesOnWithItsOwnData) {
    fs::rename(dir / "data/t", dir / "data/mine");
    expect_good(gpt2("train " + model + "-i data/mine -x 20 -o run"));
    const std::string whole = weights("run", 20);
    fs::remove_all(dir / "run/step_00000020");
    fs::create_directories(dir / "data/tinyshakespeare");  // the default data set, which is other data
    for (const char* name : {"vocab.json", "merges.txt", "val_000000.bin"})
        fs::copy(fs::path(dir.path) / "data/mine" / name, fs::path(dir.path) / "data/tinyshakespeare" / name);
    fs::copy(dir / "data/mine/val_000000.bin", dir / "data/tinyshakespeare/train_000000.bin");
    fs::copy(dir / "run", dir / "other", fs::copy_options::recursive);
    CommandResult r = gpt2("train -x 20 -v 0 -o run --resume");
    expect_good(r);
    EXPECT_NE(r.out.find("the run's own data"), std::string::npos) << r.out;
    EXPECT_TRUE(weights("run", 20) == whole);

    // Other data only where it is named. Data that is gone, or that changed, is said.
    CommandResult named = gpt2("train -x 20 -v 0 -o other --resume -i data/tinyshakespeare");
    expect_good(named);
    EXPECT_NE(named.out.find("the order of samples changes"), std::string::npos) << named.out;
    fs::rename(dir / "data/mine/train_000000.bin", dir / "data/moved.bin");
    expect_one_error(gpt2("train -x 30 -o run --resume"), 1, "data/mine/train_000000.bin");
    fs::copy(dir / "data/mine/val_000000.bin", dir / "data/mine/train_000000.bin");
    expect_one_error(gpt2("train -x 30 -o run --resume"), 1, "is not the data of the run");
}

TEST_F(ProgramResume, AnOutputThatCannotBeListedIsNoNewRun) {
    fs::create_symlink("run", dir / "run");  // root may list everything else
    for (const char* resume : {"", "--resume"})
        expect_one_error(train(std::string("-o run ") + resume), 1, "cannot list run");
}

TEST_F(ProgramResume, WhatIsNoCheckpointIsSetAside) {
    expect_good(train("-o run"));
    const std::string whole = weights("run", 20);
    fs::remove(dir / "run/step_00000020/trainer_state.json");
    CommandResult r = train("-o run --resume");
    expect_good(r);
    EXPECT_NE(r.out.find("step_00000020 has no trainer_state.json"), std::string::npos) << r.out;
    EXPECT_NE(r.out.find("resuming run/step_00000010"), std::string::npos) << r.out;
    EXPECT_TRUE(weights("run", 20) == whole);
    EXPECT_TRUE(exists("run/step_00000020.aside/model.safetensors"));

    // Where there is nothing else to go on from, nothing is begun anew.
    fs::remove_all(dir / "run/step_00000010");
    fs::remove(dir / "run/step_00000020/trainer_state.json");
    const std::string log = file("run/log.jsonl");
    expect_one_error(train("-o run --resume"), 1, "step_00000020 has no trainer_state.json");
    EXPECT_EQ(file("run/log.jsonl"), log);
    EXPECT_TRUE(weights("run", 20) == whole);
    // It would be in the way of a run's checkpoint: said at the start.
    fs::remove(dir / "run/log.jsonl");
    expect_one_error(train("-o run"), 1, "step_00000020 has no trainer_state.json");
}

TEST_F(ProgramResume, FallsBackWhereTheNewestIsDamaged) {
    expect_good(train("-o run"));
    const std::string whole = weights("run", 20);
    damage("run/step_00000020/optimizer.safetensors");
    expect_one_error(train("-o run --resume"), 1, "step_00000020 is damaged");
    CommandResult r = train("-o run --resume --fall-back");
    expect_good(r);
    EXPECT_NE(r.out.find("resuming run/step_00000010"), std::string::npos) << r.out;
    EXPECT_TRUE(weights("run", 20) == whole);
    EXPECT_TRUE(exists("run/step_00000020.aside/optimizer.safetensors"));
    // None that is sound: the run stays as it is.
    damage("run/step_00000020/optimizer.safetensors"), damage("run/step_00000010/optimizer.safetensors");
    expect_one_error(train("-o run --resume --fall-back"), 1, "is damaged");
    EXPECT_TRUE(exists("run/step_00000020/trainer_state.json"));
}

TEST_F(ProgramResume, ALogWithStepsIsKept) {
    // A run that diverges: the same command with a lower rate begins anew, as the message says, and both logs are there.
    expect_one_error(train("-o run -n 0 -l 1e30"), 1, "log.aside.jsonl");
    EXPECT_NE(file("run/log.aside.jsonl").find("\"loss\""), std::string::npos);
    expect_good(train("-o run -n 0"));
    // A run that was killed before its first checkpoint.
    fs::remove_all(dir / "run/step_00000020");
    const std::string log = file("run/log.jsonl");
    CommandResult r = train("-o run --resume");
    expect_good(r);
    EXPECT_NE(r.out.find("log.aside.1.jsonl"), std::string::npos) << r.out;
    EXPECT_EQ(file("run/log.aside.1.jsonl"), log);
}

TEST_F(ProgramResume, DamagedWeightsAreUsedForNothing) {
    expect_good(train("-o run"));
    damage("run/step_00000020/model.safetensors");
    for (const char* command :
         {"eval -e run -j data/t", "sample -e run/step_00000020 --prompt a", "finetune -e run -i data/t -x 1 -o tuned"})
        expect_one_error(gpt2(command), 1, "model.safetensors does not match its checksum");
    // The optimizer's files are not read there.
    damage("run/step_00000010/optimizer.safetensors");
    expect_good(gpt2("eval -e run/step_00000010 -j data/t --limit 1"));
}

TEST_F(ProgramResume, WhatIsTakenInsteadIsSaid) {
    expect_good(train("-o run"));
    const std::string whole = gpt2("eval -e run -j data/t").out;
    // A file that the user may have changed, and one that is gone.
    std::ofstream(dir / "run/step_00000020/config.json", std::ios::app) << "\n";
    fs::remove(dir / "run/step_00000020/special_tokens_map.json");
    CommandResult r = gpt2("eval -e run -j data/t");
    expect_good(r);
    EXPECT_EQ(count(r.out + r.err, "note: run/step_00000020: config.json has"), 1) << r.out << r.err;
    EXPECT_EQ(count(r.out + r.err, "note: run/step_00000020: special_tokens_map.json: No such file"), 1) << r.err;
    // A checkpoint that is none any more.
    fs::remove(dir / "run/step_00000020/trainer_state.json");
    r = gpt2("eval -e run -j data/t");
    expect_good(r);
    EXPECT_EQ(count(r.out + r.err, "step_00000020 has no trainer_state.json and is no checkpoint; run/step_00000010"),
              1)
        << r.out << r.err;
    EXPECT_EQ(count(whole, "note: "), 0) << whole;
}

TEST_F(ProgramResume, WritesTheSameFilesAsARunThatWasNeverStopped) {
    expect_good(train("-o whole"));
    expect_good(train("-o run"));
    fs::remove_all(dir / "run/step_00000020");
    expect_good(train("-o run --resume"));
    int files = 0;
    for (auto& entry : fs::directory_iterator(dir / "whole/step_00000020")) {
        const std::string name = entry.path().filename();
        if (name == "trainer_state.json") continue;  // it has the time that was spent
        EXPECT_TRUE(file("run/step_00000020/" + name) == file("whole/step_00000020/" + name)) << name;
        files++;
    }
    EXPECT_GE(files, 9);
}

TEST_F(ProgramResume, ALogThatIsNoFileIsRefused) {
    expect_good(train("-o run"));
    fs::remove(dir / "run/log.jsonl");
    ASSERT_EQ(mkfifo((dir / "run/log.jsonl").c_str(), 0600), 0);
    expect_one_error(gpt2(small() + "-o run --resume -x 21", "timeout 20 "), 1, "run/log.jsonl is no regular file");
}

TEST_F(ProgramResume, PartOfADataSetIsNotTakenForTheWhole) {
    fs::rename(dir / "data/t/merges.txt", dir / "merges");
    expect_one_error(train("-o run"), 1, "data/t/merges.txt: no such file");  // and is not GPT-2's vocabulary
    fs::rename(dir / "merges", dir / "data/t/merges.txt");
    fs::rename(dir / "data/t/val_000000.bin", dir / "val.bin");
    expect_one_error(gpt2("train " + model + "-i data/t -j data/t -x 20 -o run"), 2, "data/t has the train part");
    expect_good(gpt2("train " + model + "-i data/t -x 1 -o run"));
}

TEST_F(ProgramResume, ClearsWhatAKilledProcessLeft) {
    expect_good(train("-o run"));
    const std::string left =
        "run/.tmp_step_00000005.deleted." + std::to_string(getpid());  // whoever has that number now
    fs::create_directories(dir / left);
    expect_good(train("-o run --resume -x 21 -n 0"));
    EXPECT_FALSE(exists(left));
}

TEST_F(ProgramResume, RunsAreNamedAfterTheirData) {
    fs::copy(dir / "data/t/train_000000.bin", dir / "novel.bin");
    fs::create_directories(dir / "data/web");
    for (const char* name : {"vocab.json", "merges.txt"})
        fs::copy(fs::path(dir.path) / "data/t" / name, fs::path(dir.path) / "data/web" / name);
    fs::copy(dir / "data/t/train_000000.bin", dir / "data/web/crawl_train_000001.bin");
    const std::string size = "-e L1:H1:C8:T8:V300 -x 1 -d 8 -v 0 ";
    for (const char* vocabulary : {"vocab.json", "merges.txt"})
        fs::copy(fs::path(dir.path) / "data/t" / vocabulary, dir / vocabulary);
    expect_good(gpt2("train -i ./novel.bin " + size));
    EXPECT_TRUE(exists("runs/novel-L1-H1-C8-T8-V300/log.jsonl"));
    expect_good(gpt2("train -i data/t/train_000000.bin " + size));
    EXPECT_TRUE(exists("runs/t-L1-H1-C8-T8-V300/log.jsonl"));
    expect_good(gpt2("train -i data/web/crawl_train_000001.bin " + size));
    EXPECT_TRUE(exists("runs/crawl-L1-H1-C8-T8-V300/log.jsonl"));
}

TEST_F(ProgramResume, ADirectoryWinsOverASizeOfItsName) {
    expect_good(train("-o run"));
    fs::copy(dir / "run/step_00000020", dir / "d6", fs::copy_options::recursive);
    CommandResult r = gpt2("eval -e d6 -j data/t --limit 1");
    expect_good(r);
    EXPECT_EQ(r.out, gpt2("eval -e run -j data/t --limit 1").out);
}

TEST_F(ProgramResume, ValidationIsOverTheSameTextWhateverFits) {
    const std::string begin = "train -i data/t -j data/t/train_000000.bin -e L2:H2:C32:T32 -d 192 -x 1 ";
    std::vector<double> loss;
    for (const char* how : {"-m 1 -b 1", "-m 1 -b 5", "-m 1 -b 6", "-m 2 -b 5"}) {
        const std::string run = "run" + std::to_string(loss.size());
        expect_good(gpt2(begin + how + " -o " + run));
        loss.push_back(number_after(file(run + "/log.jsonl"), "\"val_loss\":"));
    }
    EXPECT_NEAR(loss[1], loss[0], 1e-6);
    EXPECT_NEAR(loss[2], loss[0], 1e-6);
    EXPECT_GT(std::abs(loss[3] - loss[0]), 1e-5);  // more text
    CommandResult a = gpt2("eval -e run0 -j data/t/train_000000.bin --limit 2 -b 1"),
                  b = gpt2("eval -e run0 -j data/t/train_000000.bin --limit 2 -b 7");
    EXPECT_NE(a.out.find("1,024 tokens, "), std::string::npos) << a.out << a.err;  // 2 batches of 16 windows of 32
    EXPECT_NEAR(number_after(a.out, "loss "), number_after(b.out, "loss "), 2e-6);
}

// The checkpoint that a resume began from, whose vocabulary it has, is deleted while the run goes on.
TEST_F(ProgramResume, SavesOnWhenItsFirstCheckpointIsGone) {
    expect_good(train("-nk 1 -o run"));
    const std::string vocabulary = file("run/step_00000020/vocab.json");
    CommandResult r = train("-nk 1 -x 60 -o run --resume");
    expect_good(r);
    EXPECT_EQ(r.err, "");
    EXPECT_FALSE(exists("run/step_00000020"));
    EXPECT_FALSE(vocabulary.empty());
    EXPECT_EQ(file("run/step_00000060/vocab.json"), vocabulary);
}

TEST_F(ProgramResume, ACheckpointThatFailsIsTriedAgain) {
    // Something lies where the checkpoint of step 300 is to be, put there after the start.
    CommandResult r =
        run_shell(program_path("TRAIN_GPT2", "train_gpt2") + " " + small() +
                      "-v 0 -n 300 -x 400 -o run & pid=$!; for i in $(seq 2000); do [ -s run/log.jsonl ] && "
                      "break; sleep 0.005; done; mkdir run/step_00000300; wait $pid",
                  dir.path);
    expect_good(r);
    EXPECT_EQ(r.error_lines(), 1) << r.err;
    EXPECT_NE(r.err.find("warning: the checkpoint of step 300 was not saved"), std::string::npos) << r.err;
    EXPECT_NE(r.err.find("training goes on, and saves again after step"), std::string::npos) << r.err;
    const std::vector<std::string> saved = list_checkpoints(dir / "run");
    ASSERT_EQ(saved.size(), 2u) << r.out << r.err;
    EXPECT_GT(step_of(fs::path(saved[0]).filename()), 300);
    EXPECT_LT(step_of(fs::path(saved[0]).filename()), 400);
    EXPECT_EQ(losses("run").size(), 400u);
}

TEST_F(ProgramResume, AFullDiskStopsNoTraining) {
    // No file may be larger than 100 kB: the model's is.
    CommandResult r = run_shell(
        "ulimit -f 100; " + program_path("TRAIN_GPT2", "train_gpt2") + " " + small() + "-e L4:H2:C48:T32 -v 0 -o run",
        dir.path);
    EXPECT_EQ(r.exit_code, 1) << r.out;
    EXPECT_NE(r.err.find("training goes on"), std::string::npos) << r.err;
    EXPECT_NE(r.err.find("error: the checkpoint of step 20 was not saved"), std::string::npos) << r.err;
    EXPECT_EQ(losses("run").size(), 20u);
}
