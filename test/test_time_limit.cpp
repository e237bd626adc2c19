// --time-limit: the plan by a clock that the test moves, what the log keeps for a resume, and whole runs.
#include <gtest/gtest.h>
#include <cmath>
#include <functional>

#include "llmc/base/philox.h"
#include "llmc/files/checkpoint.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/log.h"
#include "llmc/run/schedule.h"
#include "mpi_fixture.h"

// ---- plan and position, as the trainer asks for them --------------------------------------------------------------

struct SimulatedRun {
    TimeLimit limit;
    Pace pace;
    std::function<double(int64_t)> step_seconds, validation_seconds = [](int64_t) { return 0.0; };
    int64_t val_every = 0;

    double now = 0, position = 0, before_last_step = 0, longest_move = 0;
    int64_t end = TimeLimit::kNotKnown, step = 0, changes = 0;
    std::vector<double> positions;

    void run() {
        pace.every(Pace::validation, val_every);
        for (;; step++) {
            int64_t planned = end;
            if (step < end) end = limit.plan(step, now, position, end, pace);
            changes += end != planned;
            if (val_every > 0 && (step % val_every == 0 || step >= end)) {
                pace.took(Pace::validation, validation_seconds(step));
                now += validation_seconds(step);
            }
            if (step >= end) return;
            double moved = TimeLimit::advance(position, step, end) - position;
            longest_move = std::max(longest_move, moved);
            position += moved;
            positions.push_back(position);
            before_last_step = now;
            pace.step_took(step_seconds(step));
            now += step_seconds(step);
            ASSERT_LT(step, 1000000);
        }
    }
};
static SimulatedRun simulate(double limit, std::function<double(int64_t)> step_seconds, int64_t max_steps = -1) {
    SimulatedRun r;
    r.limit = {limit, max_steps};
    r.step_seconds = step_seconds;
    r.run();
    return r;
}

TEST(TimeLimit, ASteadyMachineFollowsAStraightLineToTheLimit) {
    for (double step : {0.1, 0.15, 0.7}) {
        SimulatedRun r = simulate(60, [&](int64_t) { return step; });
        EXPECT_NEAR(r.now, 60, 0.51 * step);
        EXPECT_EQ(r.position, 1);
        const double n = static_cast<double>(r.positions.size());
        for (size_t i = 0; i < r.positions.size(); i++)
            EXPECT_NEAR(r.positions[i], static_cast<double>(i + 1) / n, 0.02) << i;
        EXPECT_LE(r.changes, 5);  // the end was known, and stayed
    }
}

TEST(TimeLimit, AMachineThatBecomesSlowOrFast) {
    for (double factor : {10.0, 3.0, 0.2}) {
        double turn = 300;  // of 600 steps
        SimulatedRun r = simulate(60, [&](int64_t s) { return static_cast<double>(s) < turn ? 0.1 : 0.1 * factor; });
        EXPECT_NEAR(r.now, 60, 1.01 * 0.1 * factor) << factor;
        EXPECT_EQ(r.position, 1);
        // The line bends where the machine changes, and jumps nowhere: half of the way is left for the steps that are.
        const double steps_left = static_cast<double>(r.positions.size()) - turn;
        EXPECT_NEAR(r.positions[299], 0.5, 0.02);
        EXPECT_LT(r.longest_move, 5 * std::max(0.5 / steps_left, 1.0 / 600)) << factor;
    }
}

TEST(TimeLimit, StepsWhoseTimesDifferWidely) {
    for (uint32_t seed = 0; seed < 20; seed++) {
        // Most take 0.1 s, one in eight 0.3 to 2.3 s.
        auto time = [&](int64_t s) {
            Philox4 r = philox(seed, static_cast<uint32_t>(s), 0, 0, 0);
            return r.v[0] % 8 ? 0.1 : 0.3 + 2.0 * r.v[1] / 4294967296.0;
        };
        SimulatedRun r = simulate(60, time);
        EXPECT_EQ(r.position, 1);
        EXPECT_GT(r.now, 60 - 2.5) << seed;
        EXPECT_LT(r.before_last_step, 60 + 2.3) << seed;  // the one before the last began within the limit
        for (size_t i = 1; i < r.positions.size(); i++) EXPECT_GT(r.positions[i], r.positions[i - 1]);
    }
}

TEST(TimeLimit, PausesCount) {
    SimulatedRun r;
    r.limit.seconds = 60;
    r.step_seconds = [](int64_t) { return 0.1; };
    r.validation_seconds = [](int64_t) { return 1.7; };
    r.val_every = 40;
    r.run();
    EXPECT_LT(r.now, 60.06);     // with the validation at the end
    EXPECT_GT(r.now, 60 - 1.8);  // a step more could have meant one validation more
    EXPECT_EQ(r.position, 1);

    Pace p;
    p.step_took(5), p.step_took(2);
    p.every(Pace::validation, 10), p.took(Pace::validation, 100);
    EXPECT_EQ(p.seconds(0, 10), 20 + 200);  // before step 0 and after step 10, the last
    EXPECT_EQ(p.seconds(1, 10), 18 + 100);
    EXPECT_EQ(p.seconds(1, 11), 20 + 200);
    EXPECT_EQ(p.seconds(10, 11), 2 + 200);
    EXPECT_EQ(p.seconds(11, 11), 100);
    p.took(Pace::checkpoint, 1000);  // of which there is only the last one
    EXPECT_EQ(p.seconds(1, 10), 18 + 1100);
    p.took(Pace::checkpoint, 1e6);  // stopped meanwhile
    EXPECT_EQ(p.seconds(1, 10), 18 + 4100);
    p.took(Pace::checkpoint, 1000);
    EXPECT_EQ(p.seconds(1, 10), 18 + 1100);
}

TEST(TimeLimit, AProcessThatWasStopped) {
    // For longer than the limit: one more step, at the end of the schedule.
    SimulatedRun longer = simulate(60, [](int64_t s) { return s == 100 ? 1000 : 0.1; });
    EXPECT_EQ(longer.positions.size(), 102u);
    EXPECT_NEAR(longer.positions[100], 101 / 600.0, 0.01);
    EXPECT_EQ(longer.position, 1);
    // For less: what is left of the schedule is spread over what is left of the time, and the mean hardly moves.
    SimulatedRun shorter = simulate(60, [](int64_t s) { return s == 100 ? 20 : 0.1; });
    EXPECT_NEAR(shorter.now, 60, 0.1);
    EXPECT_NEAR(static_cast<double>(shorter.positions.size()), 400, 3);
    EXPECT_LT(shorter.longest_move, 0.006);
    EXPECT_EQ(shorter.position, 1);
}

TEST(TimeLimit, VeryShortLimits) {
    // Spent before the first step: one step, which is the last one.
    SimulatedRun none;
    none.limit.seconds = 0.5, none.now = 0.6;
    none.step_seconds = [](int64_t) { return 1.0; };
    none.run();
    EXPECT_EQ(none.positions, std::vector<double>{1});
    // Shorter than a step: the first one is taken before that is known.
    EXPECT_EQ(simulate(0.5, [](int64_t) { return 1.0; }).positions, (std::vector<double>{0, 1}));
    for (int steps = 2; steps < 8; steps++) {
        SimulatedRun few = simulate(steps, [](int64_t) { return 1.0; });
        EXPECT_EQ(few.positions.size(), static_cast<size_t>(steps));
        EXPECT_EQ(few.position, 1);
    }
}

TEST(TimeLimit, TheFirstStepDoesNotSpeakForTheOthers) {
    SimulatedRun r = simulate(60, [](int64_t s) { return s == 0 ? 3 : 0.1; });
    EXPECT_NEAR(r.now, 60, 0.06);
    EXPECT_LT(r.longest_move, 0.06);
}

TEST(TimeLimit, MaxStepsBesideItEndsTheRunIfItComesFirst) {
    SimulatedRun by_steps = simulate(
        60, [](int64_t) { return 0.1; }, 100);
    EXPECT_EQ(by_steps.positions.size(), 100u);
    EXPECT_NEAR(by_steps.positions[49], 0.5, 1e-9);
    EXPECT_EQ(by_steps.position, 1);
    SimulatedRun by_clock = simulate(
        60, [](int64_t) { return 0.1; }, 10000);
    EXPECT_NEAR(by_clock.now, 60, 0.06);
    EXPECT_EQ(by_clock.position, 1);
}

TEST(TimeLimit, ARunThatGoesOnAfterItsEndStaysThere) {
    Pace pace;
    pace.step_took(1);
    TimeLimit limit{100};
    EXPECT_EQ(limit.plan(60, 60, 1, TimeLimit::kNotKnown, pace), 100);  // a resume that gives more time
    EXPECT_EQ(limit.plan(60, 101, 1, TimeLimit::kNotKnown, pace), 60);  // less than was spent: no step
    EXPECT_EQ(limit.plan(60, 101, 0.9, TimeLimit::kNotKnown, pace), 61);
    EXPECT_EQ(limit.plan(60, 60, 0.5, TimeLimit::kNotKnown, Pace{}), TimeLimit::kNotKnown);  // nothing timed yet
    EXPECT_EQ(limit.plan(60, 60, 0.5, 77, Pace{}), 77);
    EXPECT_EQ(TimeLimit::advance(1, 60, 100), 1);
    EXPECT_EQ(TimeLimit::advance(0.25, 60, TimeLimit::kNotKnown), 0.25);
}

TEST(Schedule, ByPosition) {
    for (const char* kind : {"cosine", "linear", "wsd"}) {
        Schedule s{kind, 2.0, 0.25, 10};
        EXPECT_DOUBLE_EQ(s.at(1000, 1), 0.5) << kind;
        EXPECT_DOUBLE_EQ(s.at(10, 0), 2.0) << kind;
        EXPECT_DOUBLE_EQ(s.at(4, 0), 1.0) << kind;  // warm-up
        EXPECT_DOUBLE_EQ(s.at(4, 1), 0.5) << kind;  // that ends in it
        EXPECT_DOUBLE_EQ(s.at(0, 1), 0.2) << kind;  // at once
    }
    EXPECT_DOUBLE_EQ((Schedule{"cosine", 1, 0, 0}.at(7, 0.5)), 0.5);
    EXPECT_DOUBLE_EQ((Schedule{"linear", 1, 0, 0}.at(7, 0.75)), 0.25);
    EXPECT_DOUBLE_EQ((Schedule{"wsd", 1, 0, 0}.at(7, 0.8)), 1);
    EXPECT_DOUBLE_EQ((Schedule{"wsd", 1, 0, 0}.at(7, 0.85)), 0.5);
    EXPECT_DOUBLE_EQ((Schedule{"constant", 1, 0, 0}.at(7, 1)), 1);
    EXPECT_THROW((Schedule{"cosin", 1, 0, 0}.at(7, 1)), std::exception);
}

// ---- what the log keeps
// ----------------------------------------------------------------------------------------------

class TimeLimitLog : public testing::Test {
  protected:
    TemporaryDirectory dir;
    void write(int64_t resume_step, int64_t steps, double end, double limit = 60, double recorded = 60) {
        RunLog log(dir.path, resume_step, limit, recorded);
        for (int64_t s = resume_step + 1; s <= resume_step + steps; s++) {
            LogEntry e;
            e.step = s, e.loss = 1, e.end = s == 1 ? NAN : end;
            log.write(e);
        }
    }
    std::map<int64_t, double> kept(int64_t resume_step, double limit = 60, double recorded = 60) {
        return RunLog(dir.path, resume_step, limit, recorded).repeats();
    }
};

TEST_F(TimeLimitLog, StepsThatWereCutOffAreKnownAfterTheNextCrashToo) {
    write(0, 10, 100);
    EXPECT_EQ(kept(8), (std::map<int64_t, double>{{9, 100}, {10, 100}}));
    write(4, 2, 200);  // goes on from a checkpoint of step 4, crashes at step 6 (a program that follows what it is told
                       // writes 100 here, too)
    EXPECT_EQ(kept(4), (std::map<int64_t, double>{{5, 200}, {6, 200}, {7, 100}, {8, 100}, {9, 100}, {10, 100}}));
    EXPECT_EQ(kept(9), (std::map<int64_t, double>{{10, 100}}));
    EXPECT_TRUE(kept(10).empty());
}

TEST_F(TimeLimitLog, ADamagedLineIsNotBelievedWithoutEnd) {
    write(0, 3, 100);
    std::ofstream(dir / "log.jsonl", std::ios::app)
        << "{\"step\":1,\"time_limit\":60,\"repeats\":[[2,900000000000000,7],[2,9223372036854775807,7]]}\n";
    EXPECT_EQ(kept(1).size(), 99'999u);  // and step 1, which was not cut off
}

TEST_F(TimeLimitLog, AnEndThatWasNotKnown) {
    write(0, 3, 100);
    write(1, 2, NAN);
    EXPECT_NE(read_text(dir / "log.jsonl").find("\"end\":null"), std::string::npos);
    for (int i = 0; i < 2; i++) {  // read from the lines of the steps, then from that of the resume
        auto repeats = kept(1);
        ASSERT_EQ(repeats.size(), 2u);
        EXPECT_TRUE(std::isnan(repeats[2]) && std::isnan(repeats[3]));
    }
}

TEST_F(TimeLimitLog, AnotherLimitIsAnotherRecord) {
    write(0, 10, 100);
    EXPECT_TRUE(kept(4, 90).empty());
    write(0, 10, 100);
    write(4, 3, 150, 90);  // the checkpoint of step 4 was saved at 60 s, the resume gives 90
    EXPECT_EQ(kept(4, 90), (std::map<int64_t, double>{{5, 150}, {6, 150}, {7, 150}}));
    write(4, 0, 0, 60);
    EXPECT_TRUE(kept(4, 60).empty());
}

// ---- programs
// ----------------------------------------------------------------------------------------------------------

class TimeLimitProgram : public Program {
  protected:
    static std::string clocked() {
        return "-i data/t/train_000000.bin -j data/t/val_000000.bin -e L2:H2:C32:T32 -b 4 -d 128 -v 7 -m 1 -l 1e-2 -k "
               "linear "
               "-q 0.25 -nk 0 ";
    }
    std::string trainer() { return program_path("TRAIN_GPT2", "train_gpt2") + " " + clocked(); }
    // What a file of the log says of each step.
    std::map<int64_t, std::string> field(const std::string& log, const std::string& name) const {
        std::map<int64_t, std::string> values;
        std::istringstream lines(file(log));
        for (std::string line; std::getline(lines, line);) {
            size_t at = line.find("\"" + name + "\":"), begin = at + name.size() + 3;
            if (at != std::string::npos && line.find("\"loss\":") != std::string::npos)
                values[std::stoll(line.substr(line.find("\"step\":") + 7))] =
                    line.substr(begin, line.find_first_of(",}", begin) - begin);
        }
        return values;
    }
    void expect_the_end_of_the_schedule(const std::string& run) {
        ASSERT_FALSE(field(run + "/log.jsonl", "lr").empty());
        EXPECT_EQ(std::stof(field(run + "/log.jsonl", "lr").rbegin()->second), 0.25f * 1e-2f);
    }
    // Shell: waits until a log holds step n.
    static std::string wait_for(const std::string& run, int64_t n) {
        return "for i in $(seq 20000); do grep -q '\"step\":" + std::to_string(n) + ",\"loss' " + run +
               "/log.jsonl 2>/dev/null && break; sleep 0.005; done; ";
    }
};

TEST_F(TimeLimitProgram, EndsAtTheLastLearningRateAndAResumeGivesTheSameBits) {
    CommandResult r = gpt2(clocked() + "-o run --time-limit 3 -n 1");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    expect_the_end_of_the_schedule("run");
    auto lr = field("run/log.jsonl", "lr"), loss = field("run/log.jsonl", "loss"), end = field("run/log.jsonl", "end");
    const int64_t steps = lr.rbegin()->first;
    ASSERT_GE(steps, 2);
    EXPECT_EQ(end.rbegin()->second, std::to_string(steps));
    // Back to a checkpoint in the middle; nothing is given but where.
    for (const std::string& dir_name : list_checkpoints(dir / "run"))
        if (step_of(fs::path(dir_name).filename()) == steps) fs::rename(dir_name, dir / "last");
        else if (step_of(fs::path(dir_name).filename()) > steps / 2) fs::remove_all(dir_name);
    r = gpt2("-i data/t/train_000000.bin -o run -y 1 -n 0");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(field("run/log.jsonl", "lr"), lr);
    EXPECT_EQ(field("run/log.jsonl", "loss"), loss);
    EXPECT_EQ(field("run/log.jsonl", "end"), end);
    std::string again = newest_checkpoint(dir / "run");
    for (const char* name : {"/model.safetensors", "/optimizer.safetensors"})
        EXPECT_TRUE(read_text(dir / "last" + name) == read_text(again + name)) << name;
    // It is over: a further resume does nothing.
    r = gpt2("-i data/t/train_000000.bin -o run -y 1");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(field("run/log.jsonl", "lr"), lr);
}

TEST_F(TimeLimitProgram, TwoCrashesLoseNoDecision) {
    // Crashes after step 12, goes on from step 4; crashes soon after, goes on once more.
    std::string start = trainer() + "-o run --time-limit 1000 -y 1 -v 0 ";
    run_shell(start + "-n 4 & pid=$!; " + wait_for("run", 12) + "kill -9 $pid", dir.path);
    auto first = field("run/log.jsonl", "lr"), loss = field("run/log.jsonl", "loss");
    ASSERT_GE(first.rbegin()->first, 12);
    for (const std::string& name : list_checkpoints(dir / "run"))
        if (step_of(fs::path(name).filename()) > 4) fs::remove_all(name);
    run_shell(start + "-n 0 & pid=$!; " + wait_for("run", 5) + "kill -9 $pid", dir.path);
    const int64_t second = field("run/log.jsonl", "lr").rbegin()->first;
    EXPECT_GE(second, 5);
    const int64_t reached = std::max(first.rbegin()->first, second);
    for (auto& [step, value] : field("run/log.jsonl", "lr")) first.try_emplace(step, value);
    run_shell(start + "-n 0 & pid=$!; " + wait_for("run", reached) + "kill -9 $pid", dir.path);
    auto third = field("run/log.jsonl", "lr"), third_loss = field("run/log.jsonl", "loss");
    for (auto& [step, value] : first) EXPECT_EQ(third[step], value) << step;
    for (auto& [step, value] : loss) EXPECT_EQ(third_loss[step], value) << step;
}

TEST_F(TimeLimitProgram, StoppedForLongerThanItsLimit) {
    CommandResult r = run_shell(trainer() + "-o run --time-limit 2 & pid=$!; " + wait_for("run", 3) +
                                    "kill -STOP $pid; sleep 0.1; grep -c '\"loss\"' run/log.jsonl >stopped; sleep 2; "
                                    "kill -CONT $pid; wait $pid; echo code $?",
                                dir.path);
    EXPECT_NE(r.out.find("code 0"), std::string::npos) << r.out << r.err;
    expect_the_end_of_the_schedule("run");
    // The step in which it was stopped, and one more.
    EXPECT_LE(field("run/log.jsonl", "lr").rbegin()->first, std::stoll(file("stopped")) + 2);
}

TEST_F(TimeLimitProgram, OtherLimitsForAResume) {
    auto steps = [&] { return field("run/log.jsonl", "lr").rbegin()->first; };
    // Stopped early; what a resume gives is spent: one step, at the end of the schedule.
    run_shell(trainer() + "-o run --time-limit 1000 & pid=$!; " + wait_for("run", 3) + "kill -TERM $pid; wait $pid",
              dir.path);
    const int64_t before = read_trainer_state(newest_checkpoint(dir / "run")).step;
    CommandResult r = gpt2("-i data/t/train_000000.bin -o run -y 1 --time-limit 0.001");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_NE(r.out.find("--time-limit 0.001, as given, replaces 1000"), std::string::npos) << r.out;
    EXPECT_EQ(steps(), before + 1);
    expect_the_end_of_the_schedule("run");
    // More time after the end: at the last learning rate.
    r = gpt2("-i data/t/train_000000.bin -o run -y 1 --time-limit 1000 -x " + std::to_string(before + 4));
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(steps(), before + 4);
    expect_the_end_of_the_schedule("run");
    // No limit any more.
    r = gpt2("-i data/t/train_000000.bin -o run -y 1 --time-limit 0 -x " + std::to_string(before + 6));
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(steps(), before + 6);
}

TEST_F(TimeLimitProgram, WithAllThatPauses) {
    CommandResult r = gpt2(clocked() + "-o run --time-limit 2 -v 2 -s 3 -g 4 -n 5 -nk 1 -u 3");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_LE(std::stof(field("run/log.jsonl", "lr").rbegin()->second), 0.25f * 1e-2f);
    r = gpt2(clocked() + "-o short --time-limit 0.0001");
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_EQ(field("short/log.jsonl", "lr").size(), 1u);
    expect_the_end_of_the_schedule("short");
}

class TimeLimitRanks : public MpiProgram {};

TEST_P(TimeLimitRanks, RankZerosClockDecides) {
    std::string line =
        before(2) + program(GetParam()) + small(GetParam()) + "-x -1 -q 0.25 -l 1e-2 -o run --time-limit 3 -n 1 -nk 0";
    CommandResult r = run_shell(line, dir.path);
    ASSERT_EQ(r.exit_code, 0) << r.err;
    std::string log = file("run/log.jsonl");
    EXPECT_FLOAT_EQ(static_cast<float>(number_after(log, "\"lr\":", true)), 0.25e-2f) << log;
    for (const std::string& name : list_checkpoints(dir / "run"))
        if (name == newest_checkpoint(dir / "run")) fs::rename(name, dir / "last");
    r = run_shell(line + " -y 1", dir.path);
    ASSERT_EQ(r.exit_code, 0) << r.err;
    EXPECT_TRUE(read_text(dir / "last/model.safetensors") ==
                read_text(newest_checkpoint(dir / "run") + "/model.safetensors"));
}
INSTANTIATE_TEST_SUITE_P(Programs, TimeLimitRanks, testing::ValuesIn(programs_under_test()),
                         [](const auto& which) { return which.param.name; });
