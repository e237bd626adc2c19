// --objective ppo and grpo: prompts, rewards, reference.
#include <algorithm>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/json.h"
#include "llmc/run/rewards.h"
#include "llmc/run/run_rules.h"

namespace fs = std::filesystem;

constexpr int64_t kValidationPromptsEvery = 10;  // without --val-data one of each ten prompts is for validation

static void check_options(const Run& run) {
    const Options& o = run.options;
    const char* name = o.objective.c_str();
    if (o.rewards.empty() && o.reward_commands.empty())
        throw UsageError(strf(
            "--objective %s learns from rewards; say with --reward or --reward-command where they come from", name));
    if (run.prompts(0) > 0)
        throw UsageError(strf("--objective %s trains the model or --lora-rank; it cannot train --prompt-tokens", name));
    if (o.zero_stage == 3)
        throw UsageError(strf("--objective %s samples from whole weights; --zero-stage is 2 at most", name));
    if (o.was_given("total-batch-size"))
        throw UsageError(strf("--total-batch-size (-d): a step of --objective %s has --rollouts; leave it out", name));
    if (o.overfit_one_batch)
        throw UsageError(strf("--overfit-one-batch (-a): --objective %s writes its own; leave it out", name));
    if (o.new_rows_first > 0)
        throw UsageError(strf("--new-rows-first goes before --objective %s, in a run of its own", name));
    if (o.objective == "grpo" && o.group_size < 2)
        throw UsageError("--group-size 1: grpo compares answers to one prompt; give 2 or more, or --objective ppo");
    if (o.rollouts % o.group_size != 0)
        throw UsageError(strf("--rollouts %d is no multiple of --group-size %d", o.rollouts, o.group_size));
    if (o.rollouts % o.minibatches != 0)
        throw UsageError(strf("--rollouts %d is no multiple of --minibatches %d", o.rollouts, o.minibatches));
    if (o.rollouts / o.minibatches < run.world)
        throw UsageError(strf("--rollouts %d in %d --minibatches are fewer than the %d ranks", o.rollouts,
                              o.minibatches, run.world));
    if (o.micro_batch_size > o.rollouts / o.minibatches)
        throw UsageError(strf("--micro-batch-size (-b) %d is more than the %d answers of an update", o.micro_batch_size,
                              o.rollouts / o.minibatches));
}

// Where a model stands on the policy's own frozen base, that is loaded only once.
static FrozenModel open_beside(Run& run, const char* option, const std::string& what, Notes* notes, bool rewards) {
    FrozenModel frozen = open_frozen(run, option, what, notes, rewards);
    const ModelSource& source = frozen.source;
    std::error_code error;
    frozen.shared = !run.adapters.empty() && (source.adapter || !rewards) &&
                    fs::equivalent(run.adapters[0].base, source.path, error);
    if (!frozen.shared || !source.adapter) return frozen;
    frozen.adapter = run.adapters.size();
    run.adapters.push_back(*source.adapter);
    return frozen;
}

static void read_prompts(Run& run, Notes* notes) {
    Options& o = run.options;
    ReaderOptions reading;
    reading.skip_bad = o.skip_bad, reading.command = "... -i -";
    for (const auto* paths : {&o.train_data, &o.val_data})
        for (const std::string& path : *paths)
            if (path == "-" && run.world > 1)
                throw UsageError("-: ranks cannot share standard input; write the prompts into a file");
    const Template chat = choose_template(run, notes);
    run.tokenizer->set_chat_template(chat.jinja());
    const int room = run.T - o.max_tokens;
    if (room < 1)
        throw UsageError(strf("--max-tokens %d leaves no room for prompts in --seq-len (-t) %d", o.max_tokens, run.T));
    const auto read = [&](const std::vector<std::string>& paths) {
        ReadingNotes said;
        std::vector<AnswerPrompt> all = read_answer_prompts(paths, reading, chat, *run.tokenizer, &said);
        for (const std::string& line : said.lines()) notes->push_back(line);
        const int64_t before = std::ssize(all);
        std::erase_if(all, [&](const AnswerPrompt& p) { return std::ssize(p.ids) > room; });
        if (all.empty())
            throw Error(strf(
                "all prompts are longer than %d tokens, the room that --max-tokens %d leaves in a row of %d; give a "
                "smaller --max-tokens",
                room, o.max_tokens, run.T));
        if (before > std::ssize(all))
            notes->push_back(
                strf("note: %s of %s prompts are longer than %d tokens, the room that --max-tokens leaves, and were "
                     "left out",
                     human_count(before - std::ssize(all)).c_str(), human_count(before).c_str(), room));
        return all;
    };
    std::vector<AnswerPrompt> train = read(o.train_data), validation;
    if (!o.val_data.empty()) {
        validation = read(o.val_data);
    } else if (o.val_every > 0 && std::ssize(train) >= kValidationPromptsEvery) {
        std::vector<AnswerPrompt> rest;
        for (size_t i = 0; i < train.size(); i++)
            (i % kValidationPromptsEvery == kValidationPromptsEvery - 1 ? validation : rest)
                .push_back(std::move(train[i]));
        train = std::move(rest);
    }
    run.policy->prompts = std::make_shared<AnswerPrompts>(std::move(train), true, o.seed);
    int longest = run.policy->prompts->longest();
    if (!validation.empty()) {
        run.policy->val_prompts = std::make_shared<AnswerPrompts>(std::move(validation), false, 0);
        longest = std::max(longest, run.policy->val_prompts->longest());
    }
    run.T = std::min(run.T, (longest + o.max_tokens + 31) / 32 * 32);
}

void choose_policy(Run& run, Notes* notes) {
    Options& o = run.options;
    const bool ppo = o.objective == "ppo";
    if (!ppo && o.objective != "grpo") {
        for (const char* option :
             {"reward", "reward-command", "reward-timeout", "rollouts", "group-size", "max-tokens", "rollout-epochs",
              "minibatches", "kl", "reference", "clip", "gae-lambda", "value-weight", "target-kl", "max-kl"})
            if (o.command == Command::finetune && o.was_given(option))
                throw UsageError(strf("--%s goes with --objective ppo or grpo", option));
        return;
    }
    const bool fresh = run.resume_from.empty();
    if (o.group_size == 0) o.group_size = ppo ? 1 : 8;
    if (o.rollout_epochs == 0) o.rollout_epochs = ppo ? 4 : 1;
    if (fresh && !o.was_given("kl")) o.kl = ppo ? 0.05 : 0.04;
    if (fresh && !o.was_given("max-tokens")) o.max_tokens = 64;
    if (fresh && !o.was_given("learning-rate")) o.learning_rate = run.adapters.empty() ? 1e-5 : 1e-4;
    check_options(run);
    run.policy = std::make_shared<PolicyPlan>();
    read_prompts(run, notes);
    run.sequences = o.rollouts / o.group_size;
    if (o.reference.empty())
        o.reference = fs::absolute(run.source.adapter ? run.source.adapter->path : run.source.path).lexically_normal();
    if (o.kl > 0 || o.max_kl > 0) run.policy->reference = open_beside(run, "--reference", o.reference, notes, false);
    for (const RewardSource& s : reward_sources(o)) {
        std::optional<FrozenModel> model;
        if (s.kind == RewardSource::model) model = open_beside(run, "--reward", s.what, notes, true);
        run.policy->rewards.push_back(std::move(model));
    }
    if (ppo) set_head(run, {.outputs = 1, .value = true});
}

void record_prompts(Run& run, Notes* notes) {
    const Options& o = run.options;
    Json train = {{"file", fs::path(o.train_data[0]).filename()},
                  {"prompts", run.policy->prompts->size()},
                  {"tokens", run.policy->prompts->tokens()}};
    if (run.text) train["text_tokens"] = run.text->tokens();
    record_data(run, json_line(train), o.train_data, o.val_data, notes);
}
