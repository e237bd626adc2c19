// finetune --objective ppo and grpo: a policy that learns from rewards.
#include "llmc/base/json.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/reward_command.h"
#include "llmc/run/rewards.h"
#include "llmc/base/system.h"
#include "mpi_fixture.h"

namespace {

std::string prompts(int n) {
    const char* who[] = {"the cat", "a dog", "my king", "the queen", "no man"};
    std::string lines;
    for (int i = 0; i < n; i++)
        lines += strf(R"({"prompt": "who sees %s%s?", "answer": "%d"})", who[i % 5], i / 5 % 2 ? " now" : "", i) + "\n";
    return lines;
}

class Policies : public Program {
  protected:
    void SetUp() override {
        Program::SetUp();
        expect_good(gpt2(small() + "-x 30 -v 0 -n 0 -o base"));
        write("p.jsonl", prompts(40));
    }
    void write(const std::string& name, const std::string& text) { std::ofstream(dir / name) << text; }
    CommandResult learn(const std::string& more) {
        return gpt2("finetune -e base -i p.jsonl --max-tokens 10 --rollouts 16 -b 4 -k constant " + more);
    }
    double mean_of(const std::string& run, const std::string& key, size_t from, size_t n) {
        const std::vector<std::string> all = logged(run, key);
        double sum = 0;
        for (size_t i = from; i < from + n; i++) sum += std::stod(all.at(i)) / static_cast<double>(n);
        return sum;
    }
    std::string newest(const std::string& run) { return newest_checkpoint(dir / run); }
};

}  // namespace

TEST_F(Policies, LearnFromRewards) {
    const struct {
        const char *name, *options;
    } ways[] = {{"ppo", "--objective ppo -l 1e-3 --kl 0.01 --rollout-epochs 2"},
                {"grpo", "--objective grpo --group-size 8 --lora-rank 4 -l 1e-2 --kl 0.01"}};
    for (const auto& [name, options] : ways) {
        SCOPED_TRACE(name);
        const CommandResult r =
            learn(std::string(options) +
                  " --rollouts 32 -x 15 -v 5 --reward 'match:^[^e]*$' --reward length:2:0.5 -o " + name);
        expect_good(r);
        const std::string run = name;
        EXPECT_GT(mean_of(run, "reward", 12, 3), mean_of(run, "reward", 0, 3) + 0.15);
        // Each source is logged, and the sum is theirs.
        EXPECT_NEAR(mean_of(run, "match", 0, 15) + 0.5 * mean_of(run, "length", 0, 15), mean_of(run, "reward", 0, 15),
                    1e-6);
        // It begins as its own reference, and goes away from it.
        EXPECT_NEAR(std::stod(logged(run, "kl").front()), 0, 1e-6);
        EXPECT_GT(std::stod(logged(run, "kl").back()), 1e-3);
        for (const std::string& x : logged(run, "entropy")) EXPECT_GT(std::stod(x), 0);
        for (const std::string& x : logged(run, "answer_tokens")) EXPECT_LE(std::stod(x), 10);
        EXPECT_EQ(logged(run, "sample_tok_s").size(), 15u);
        EXPECT_EQ(logged(run, "val_reward").size(), 4u);
        EXPECT_NE(file(run + "/loss.svg").find("reward"), std::string::npos);
        // What comes out is a language model, of which nobody else sees the value head.
        expect_good(gpt2("sample -e " + run + " --prompt 'who sees the cat?' --max-tokens 5"));
        if (run == "grpo") continue;
        EXPECT_EQ(read_text(newest(run) + "/config.json").find("score"), std::string::npos);
        EXPECT_NE(read_text(newest(run) + "/config.json").find("GPT2LMHeadModel"), std::string::npos);
        expect_good(gpt2("export -e " + run + " -o exported"));
        EXPECT_EQ(read_text(dir / "exported/model.safetensors").find("value_head"), std::string::npos);
    }
}

TEST_F(Policies, ResumeBitForBit) {
    for (const std::string how : {"--objective ppo --minibatches 2 --rollout-epochs 2 --fuse-update last-norm -b 8",
                                  "--objective ppo --lora-rank 2", "--objective grpo --group-size 4"}) {
        SCOPED_TRACE(how);
        expect_good(learn(how + " -l 1e-3 -x 5 -n 3 -nk 0 -v 2 --reward match:a --reward-command 'while read x; do "
                                "echo ${#x}; done' -o run"));
        const char* name = how.find("lora") == std::string::npos ? "/model.safetensors" : "/adapter_model.safetensors";
        const std::string weights = read_text(newest("run") + name);
        const std::vector<std::string> rewards = logged("run", "reward"), kl = logged("run", "kl"),
                                       validation = logged("run", "val_reward");
        fs::remove_all(newest("run"));
        expect_good(gpt2("train -o run --resume -v 2"));
        EXPECT_TRUE(read_text(newest("run") + name) == weights);
        EXPECT_EQ(logged("run", "reward"), rewards);
        EXPECT_EQ(logged("run", "kl"), kl);
        EXPECT_EQ(logged("run", "val_reward"), validation);
        fs::remove_all(dir / "run");
    }
}

// Models reward, too: one that is an adapter of the policy's base stands on the policy's own weights.
TEST_F(Policies, LearnFromRewardModels) {
    std::string pairs;
    for (int i = 0; i < 64; i++)
        pairs +=
            strf(R"({"prompt": "who sees %d?", "chosen": " the cat.", "rejected": " a dog and a king and more %d."})",
                 i, i * 7) +
            "\n";
    write("pairs.jsonl", pairs);
    expect_good(
        gpt2("finetune -e base -i pairs.jsonl --objective reward -b 4 -d 128 -l 3e-3 --epochs 2 -v 0 -o whole"));
    expect_good(
        gpt2("finetune -e base -i pairs.jsonl --objective reward -b 4 -d 128 -l 3e-3 --epochs 2 -v 0 --lora-rank "
             "2 -o judge"));
    expect_good(learn("--objective grpo --group-size 4 --lora-rank 2 -x 2 --reward judge:2 --reward whole -o run"));
    EXPECT_NEAR(2 * mean_of("run", "judge", 0, 2) + mean_of("run", "whole", 0, 2), mean_of("run", "reward", 0, 2),
                1e-5);
    expect_good(learn("--objective grpo --group-size 4 -x 1 --reward judge --reward whole -o full"));
    // the same scores, whether the judge stands on the policy's weights or on its own, as long as nothing has been learned
    EXPECT_NEAR(std::stod(logged("full", "judge")[0]), std::stod(logged("run", "judge")[0]), 1e-4);
    expect_good(learn("--objective ppo --lora-rank 2 -x 2 --reward judge -o run_ppo"));
    // An adapter goes on, held to what it was.
    expect_good(
        gpt2("finetune -e run_ppo -i p.jsonl --max-tokens 10 --rollouts 16 -b 4 --objective ppo -x 2 --reward judge "
             "-o further"));
    EXPECT_NEAR(std::stod(logged("further", "kl").front()), 0, 1e-6);
    expect_one_error(learn("--objective ppo --reward base -o bad"), 1, "--reward base has no head of one number");
}

TEST_F(Policies, EndEarly) {
    CommandResult r = learn("--objective grpo --group-size 4 -l 1e-2 -x 30 --max-kl 0.02 --reward match:e -o far");
    expect_good(r);
    EXPECT_NE(r.out.find("more than --max-kl 0.02: the run ends"), std::string::npos) << r.out;
    EXPECT_LT(logged("far", "reward").size(), 30u);
    // far less is learned from answers that the policy has left behind
    expect_good(learn("--objective ppo -l 1e-2 -x 3 --rollout-epochs 8 --target-kl 0.001 --reward match:e -o near"));
    EXPECT_LT(std::stod(logged("near", "updates").back()), 8);
}

TEST_F(Policies, BadInput) {
    const auto refused = [&](const std::string& options, int code, const std::string& why) {
        SCOPED_TRACE(options);
        expect_one_error(learn("-x 1 -v 0 " + options + " -o bad"), code, why);
        fs::remove_all(dir / "bad");
    };
    refused("--objective ppo", 2, "learns from rewards; say with --reward");
    refused("--objective grpo --reward nonsense", 2, "nonsense is neither a model's directory nor length:N");
    refused("--objective grpo --reward length:no", 2, "length:20");
    refused("--objective grpo --reward 'match:(a'", 2, "is no regular expression");
    refused("--objective grpo --group-size 1 --reward answer", 2, "grpo compares answers");
    refused("--objective grpo --group-size 5 --reward answer", 2, "no multiple of --group-size 5");
    refused("--objective ppo --minibatches 3 --reward answer", 2, "no multiple of --minibatches 3");
    refused("--objective ppo --reward answer --max-tokens 32", 2, "leaves no room for prompts");
    refused("--objective ppo --reward answer --max-tokens 31", 1, "all prompts are longer than 1 tokens");
    refused("--objective ppo --reward answer --prompt-tokens 2", 2, "it cannot train --prompt-tokens");
    refused("--objective ppo --reward answer -d 128", 2, "leave it out");
    refused("--objective ppo --reward answer --head classify", 2, "leave out --head");
    refused("--reward answer", 2, "goes with --objective ppo or grpo");
    const std::string ppo = "--objective ppo --reward-command ";
    refused(ppo + "'while read x; do echo nan; done'", 1, "answered 'nan', which is no finite number");
    refused(ppo + "'while read x; do echo good; done'", 1, "answered 'good', which is no finite number");
    refused(ppo + "'echo deep trouble >&2; exit 3'", 1, "ended with status 3, 3 times at one answer");
    refused(ppo + "'echo deep trouble >&2; exit 3'", 1, "its last words: deep trouble");
    refused("--reward-timeout 0.4 " + ppo + "'sleep 60'", 1, "has not answered within 0.4 s");
    refused(ppo + "/no/such/program", 1, "ended with status 127");
    for (const auto& [line, why] : {std::pair{R"({"prompt": ""})", "the prompt is empty"},
                                    {R"({"text": "a"})", "no field \"prompt\""},
                                    {R"({"prompt": 3})", "field \"prompt\" is not a string"},
                                    {R"({"messages": []})", "there is no message"},
                                    {R"({"messages": [{"role": "assistant", "content": "a"}]})",
                                     "the last message is the assistant's: there is nothing to write"}}) {
        write("p.jsonl", prompts(2) + line + "\n");
        refused("--objective ppo --reward answer", 1, std::string("p.jsonl:3: ") + why);
        expect_good(learn("--objective ppo --reward answer --skip-bad -x 1 -v 0 -o good"));
        fs::remove_all(dir / "good");
    }
    refused("-i data/t/train_000000.bin --objective ppo --reward answer", 1, "");
}

// ---- where rewards come from ----

TEST(RewardSources, Rules) {
    Options o;
    o.rewards = {"length:3", "match:^a+$:2", "answer:0.5", "match:x:y"};
    Rewards rewards(o);
    ASSERT_EQ(rewards.sources().size(), 4u);
    const std::vector<AnswerText> answers = {
        {"{}", "aaa", " aaa\n"}, {"{}", "b", "aaa"}, {"{}", "b", "one two three four x:y"}};
    EXPECT_EQ(rewards.of(0, answers), (std::vector<double>{1, 1, 0.6}));
    EXPECT_EQ(rewards.of(1, answers), (std::vector<double>{0, 1, 0}));
    EXPECT_EQ(rewards.of(2, answers), (std::vector<double>{1, 0, 0}));
    EXPECT_EQ(rewards.of(3, answers), (std::vector<double>{0, 0, 1}));  // no number: a part of the expression
    const double each[] = {1, 1, 1, 1};
    EXPECT_EQ(rewards.total(each), 1 + 2 + 0.5 + 1);
}

TEST(RewardCommands, AnswerEachLine) {
    RewardCommand lengths("while read -r x; do echo ${#x}; done", 10);
    EXPECT_EQ(lengths.ask({"a", "bcd", ""}), (std::vector<double>{1, 3, 0}));
    EXPECT_EQ(lengths.ask({"ef"}), (std::vector<double>{2}));
    EXPECT_EQ(lengths.ask({}), (std::vector<double>{}));
    // more than pipes hold, of a program that answers at once and of one that reads everything first
    const std::vector<std::string> many(3000, std::string(100, 'x'));
    EXPECT_EQ(lengths.ask(many), std::vector<double>(3000, 100));
    RewardCommand late("head -n 3000 | sed 's/.*/7.5/'", 10);
    EXPECT_EQ(late.ask(many), std::vector<double>(3000, 7.5));
}
TEST(RewardCommands, AreStartedAgain) {
    RewardCommand once("read -r x; echo ${#x}", 10);  // ends after one answer
    EXPECT_EQ(once.ask({"a", "bb", "ccc"}), (std::vector<double>{1, 2, 3}));
    EXPECT_EQ(once.ask({"dddd"}), (std::vector<double>{4}));
    RewardCommand killed("read -r x; echo ${#x}; kill -9 $$", 10);
    EXPECT_EQ(killed.ask({"a", "bb", "ccc", "dddd", "eeeee"}), (std::vector<double>{1, 2, 3, 4, 5}));
    const double begin = seconds_now();
    {
        RewardCommand stays("trap '' TERM; while read -r x; do echo 1; done; sleep 100", 10);
        EXPECT_EQ(stays.ask({"a"}), (std::vector<double>{1}));
    }
    EXPECT_LT(seconds_now() - begin, 20);  // it is not waited for
}

// ---- both programs, several ranks ----

namespace {
class RanksOfPolicies : public MpiProgram {
  protected:
    std::vector<double> rewards(const std::string& run) const {
        std::vector<double> all;
        for (const std::string& x : logged(run, "reward")) all.push_back(1 + std::stod(x));
        return all;
    }
};
}  // namespace
TEST_P(RanksOfPolicies, WriteAndLearnTheSame) {
    expect_good(start(1, small() + "-e L2:H2:C16:T32 -t 32 -d 224 -x 2 -v 0 -b 7 -o base"));
    std::ofstream(dir / "p.jsonl") << prompts(20);
    for (const std::string objective : {"ppo --minibatches 2 --rollout-epochs 2", "grpo --group-size 5 --kl 0.5"}) {
        SCOPED_TRACE(objective);
        const std::string run =
                              "finetune -e base -i p.jsonl --precision fp32 -f 0 --max-tokens 8 --rollouts 10 -l 3e-3 "
                              "--reward match:e --reward length:2 -v 2 -x " +
                              std::string(is_slow() ? "2" : "4") + " --objective " + objective + " ",
                          name = objective.substr(0, 3);
        expect_good(start(1, run + "-b 5 -o " + name));
        if (is_slow()) {  // the other program
            expect_good(gpt2(run + "-b 5 -o cpu_" + name));
            expect_close(rewards(name), rewards("cpu_" + name), 1e-6);
        }
        for (int stage : is_slow() ? std::vector<int>{2} : std::vector<int>{0, 2}) {
            const std::string several = name + std::to_string(stage);
            expect_good(start(2, run + "-b 2 -z " + std::to_string(stage) + " -o " + several));
            expect_close(rewards(several), rewards(name), 1e-6);
            EXPECT_EQ(logged(several, "val_reward"), logged(name, "val_reward"));
            // The norm of a gradient multiplies what rounding has done to the weights: 4e-4 by another order of sums alone.
            for (const char* key : {"loss", "kl", "grad_norm"}) {
                const std::vector<std::string> got = logged(several, key), want = logged(name, key);
                ASSERT_EQ(got.size(), want.size());
                for (size_t i = 0; i < got.size(); i++)
                    EXPECT_NEAR(std::stod(got[i]), std::stod(want[i]),
                                (key[0] == 'g' ? 2e-3 : 1e-4) * (1 + std::abs(std::stod(want[i]))))
                        << key;
            }
        }
    }
    expect_one_error(start(1, "finetune -e base -i p.jsonl --objective ppo --reward answer -z 3 --max-tokens 8 -o bad"),
                     2, "--zero-stage is 2 at most");
}
INSTANTIATE_TEST_SUITE_P(Programs, RanksOfPolicies, testing::ValuesIn(programs_under_test()),
                         [](const auto& test) { return std::string(test.param.name); });
