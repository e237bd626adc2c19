// --on-nan: a trainer whose model gives NaN for chosen data.
#include <gtest/gtest.h>
#include <cmath>
#include <functional>
#include <sstream>
#include "llmc/run/trainer.h"
#include "program_fixture.h"
#include "test/models.h"

namespace {

std::function<bool(size_t)> bad;     // whether the nth step that is tried has no finite loss
std::vector<std::vector<int>> seen;  // the data of the steps that were tried
bool half = false;                   // it has one, and an update that ended within the blocks

struct SometimesNan : GPT2<float, Cpu> {
    using GPT2<float, Cpu>::GPT2;
    template <typename Next, typename Before>
    void step(const Batch& batch, StepState* s, Next next, Before before_update) {
        const bool now = bad(seen.size());
        seen.push_back(batch.inputs);
        if (now && !half) s->skip_loss_above = -1;  // no update, as where the real loss is none
        GPT2<float, Cpu>::step(batch, s, next, before_update);
        if (now) half ? void(s->skip = 1) : void(s->loss = NAN);
    }
};

bool never(size_t) { return false; }
bool the_eighth(size_t n) { return n == 7; }
bool from_the_eighth(size_t n) { return n >= 7; }

class OnNan : public Program {
  protected:
    // 20 steps of 4 sequences, a checkpoint after each 5. What the error says, or "".
    std::string run(const std::string& how, bool (*which)(size_t)) {
        bad = which, seen.clear();
        fs::remove_all(dir / "run");
        const std::string line = "train -i " + (dir / "data/t/train_000000.bin") +
                                 " -e L1:H2:C16:T16 -b 4 -d 64 -x 20 -v 0 -n 5 -o " + (dir / "run") + " --on-nan " +
                                 how;
        std::vector<std::string> words = {"train_gpt2"};
        for (std::istringstream in(line); in >> words.emplace_back();) continue;
        words.pop_back();
        std::vector<const char*> argv;
        for (const std::string& w : words) argv.push_back(w.c_str());
        const ProgramInfo program{"train_gpt2", "d12", "fp32", 64};
        Options options;
        EXPECT_TRUE(parse_options(static_cast<int>(argv.size()), argv.data(), program, &options));
        std::vector<std::string> notes;
        Group alone(Ranks{}, 1);
        std::string error;
        testing::internal::CaptureStdout();
        try {
            Trainer<SometimesNan> trainer(prepare_training(options, program, 0, 1, &notes), alone);
            EXPECT_EQ(trainer.train(), 0);
        } catch (const Error& e) {
            error = e.what();
        }
        said = testing::internal::GetCapturedStdout();
        return error;
    }
    std::string said;
};

TEST_F(OnNan, RollbackLeavesTheDataOut) {
    EXPECT_EQ(run("stop", never), "");
    const auto undisturbed = seen;
    EXPECT_EQ(run("rollback", the_eighth), "");
    // The sixth step is taken again, with the data that comes after that of the eighth.
    EXPECT_EQ(seen.size(), 23u);
    EXPECT_TRUE(std::equal(undisturbed.begin(), undisturbed.end(), seen.begin()));
    EXPECT_NE(said.find("step 8: loss or gradient is not finite; back to the checkpoint of step 5"), std::string::npos)
        << said;
    const std::string log = file("run/log.jsonl");
    EXPECT_NE(log.find("{\"step\":5,\"rolled_back_from\":8,\"next_sample\":32}"), std::string::npos) << log;
    EXPECT_EQ(losses("run").size(), 20u) << log;
    const TrainerState state = read_trainer_state(newest_checkpoint(dir / "run"));
    EXPECT_EQ(state.step, 20);
    EXPECT_EQ(state.next_sample, 92);
    EXPECT_EQ(state.optimizer_updates, 20);
}

// Weights of which some blocks moved and others did not are not gone on with, whatever the norm was.
TEST_F(OnNan, RollbackOfHalfAnUpdate) {
    half = true;
    EXPECT_EQ(run("rollback --fuse-update last-norm", the_eighth), "");
    half = false;
    EXPECT_EQ(seen.size(), 23u);
    EXPECT_NE(said.find("back to the checkpoint of step 5"), std::string::npos) << said;
}

TEST_F(OnNan, RollbackUnderATimeLimit) {
    // The clock is not put back: what was lost counts, and the run still ends by it, at the end of its schedule.
    const double before = seconds_now();
    EXPECT_EQ(run("rollback --time-limit 1.5 -x -1", the_eighth), "");
    EXPECT_LT(seconds_now() - before, 60);
    EXPECT_NE(said.find("step 8: loss or gradient is not finite; back to the checkpoint of step 5"), std::string::npos)
        << said;
    const TrainerState state = read_trainer_state(newest_checkpoint(dir / "run"));
    EXPECT_GE(state.step, 8);
    EXPECT_EQ(losses("run").size(), static_cast<size_t>(state.step));  // each step once
    EXPECT_EQ(state.next_sample, 4 * (state.step + 3));                // the data of three steps was left out
    EXPECT_EQ(state.clock.position, 1);
    EXPECT_EQ(state.clock.end, state.step);
    EXPECT_GE(state.seconds, 1);
}

TEST_F(OnNan, RollbackEndsAfterAFewTimes) {
    std::string error = run("rollback --max-rollbacks 2", from_the_eighth);
    EXPECT_NE(error.find("Remove"), std::string::npos) << error;  // the checkpoint's own weights give it now
    EXPECT_EQ(count(said, "back to the checkpoint of step 5"), 2) << said;
    EXPECT_EQ(seen.size(), 10u);
}

TEST_F(OnNan, RollbackNeedsACheckpoint) {
    EXPECT_NE(run("rollback", [](size_t n) { return n == 2; }).find("No checkpoint was written yet"),
              std::string::npos);
}

TEST_F(OnNan, SkipGoesOn) {
    EXPECT_EQ(run("skip", the_eighth), "");
    const std::string log = file("run/log.jsonl");
    EXPECT_EQ(count(log, "\"loss\":null"), 1) << log;
    EXPECT_EQ(count(log, "\"skipped\":true"), 1) << log;
    EXPECT_EQ(read_trainer_state(newest_checkpoint(dir / "run")).optimizer_updates, 19);
    EXPECT_NE(run("skip", from_the_eighth).find("step 17: loss nan"), std::string::npos);  // ten in a row
    EXPECT_EQ(seen.size(), 17u);
}

TEST_F(OnNan, StopIsTheDefault) {
    EXPECT_NE(run("stop", the_eighth).find("step 8: loss nan"), std::string::npos);
    EXPECT_EQ(seen.size(), 8u);
}

}  // namespace
