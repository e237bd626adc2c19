// The sweeps of test/faults in short: a few faults of each kind, always the same ones. test/faults/*.py without options try
// them all.
#include "program_fixture.h"

namespace {

void sweep(const std::string& script_and_options) {
    const CommandResult r =
        run_shell("export TRAIN_GPT2='" + program_path("TRAIN_GPT2", "train_gpt2") + "' TOKENIZE='" +
                  program_path("TOKENIZE", "tokenize") + "'; python3 test/faults/" + script_and_options);
    if (r.exit_code == 127) GTEST_SKIP() << "python3 is missing";
    if (r.exit_code == 77) GTEST_SKIP() << r.out.substr(0, r.out.find('\n'));
    EXPECT_EQ(r.exit_code, 0) << r.out << r.err;
}

TEST(Faults, CallsThatFailAndKillsBeforeThem) { sweep("calls.py --count 2"); }
// A checkpoint that cannot be looked at is not one that is not there, in whose place an older one is taken.
TEST(Faults, NothingIsTakenInstead) {
    sweep("calls.py --only 'calls of eval: newfstatat run/step_00000004/trainer_state.json'");
}
TEST(Faults, KillsAndSignals) { sweep("signals.py --count 6 --kills 20 --ranks 0"); }
TEST(Faults, FlippedBitsAndDamagedFiles) { sweep("files.py --count 5"); }
TEST(Faults, FullDisks) { sweep("disk.py --count 2"); }

}  // namespace
