// A round of learning from rewards: a policy writes answers, they get rewards, and it learns from these (llmc/objectives/rewards.h).
//
//   prompts ── Decoder, the very weights that are trained ── answers ── reward sources (rewards.h)
//      log p, log q, values of their tokens, by passes without gradients ── advantages ── updates, several where options say so
//
// Answers are divided over the ranks, each written with random numbers of its own; then all have all of them.
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/system.h"
#include "llmc/objectives/advantages.h"
#include "llmc/objectives/rewards.h"
#include "llmc/ranks/group.h"
#include "llmc/run/answers.h"
#include "llmc/run/frozen.h"
#include "llmc/run/log.h"
#include "llmc/run/model.h"
#include "llmc/run/rank_batches.h"
#include "llmc/run/rewards.h"
#include "llmc/run/run.h"
#include "llmc/text/generate.h"

template <Model M>
class Policy {
  public:
    // An optimizer's step on this rank's part of a batch; the rest of the StepState is filled in.
    using Update = std::function<void(const Batch&, StepState*)>;

    Policy(M& model, const Run& run, Group& group, int B)
        : model_(model), run_(run), o_(run.options), group_(group), B_(B), rewards_(o_) {
        const auto open = [&](const std::optional<FrozenModel>& frozen) {
            if (!frozen) return Judge{};
            Judge judge{&model, frozen->adapter, frozen->shared ? nullptr : load_frozen<M>(*frozen, run, B)};
            if (judge.own) judge.model = judge.own.get();
            if (judge.own && frozen->source.adapter) judge.adapter = 0;
            return judge;
        };
        reference_ = open(run.policy->reference);
        for (const auto& reward : run.policy->rewards) judges_.push_back(open(reward));
        decoder_ = std::make_unique<Decoder<typename M::Model>>(model, texts_at_once(run), run.T);
        RewardOptions options;
        options.clip = static_cast<float>(o_.clip), options.value_weight = static_cast<float>(o_.value_weight);
        if (!values()) options.kl = static_cast<float>(o_.kl);  // PPO's is a part of the rewards
        learn_rewards(model, options, values());
    }
    // Of what the constructor allocates beside the model.
    static size_t bytes(const Run& run, int B) {
        size_t sum =
            Decoder<typename M::Model>::bytes(run.config, texts_at_once(run), run.T, run.step_options(B).adapters);
        sum += frozen_bytes<M>(run.policy->reference, run, B);
        for (const auto& reward : run.policy->rewards) sum += frozen_bytes<M>(reward, run, B);
        return sum;
    }

    // Step `step`, of the prompts from row first_prompt on. Leaves the mean loss and norm of its updates in `s`.
    void round(int64_t step, int64_t first_prompt, StepState* s, LogEntry* e, const Update& update) {
        const double began = seconds_now();
        const uint32_t texts = static_cast<uint32_t>(o_.rollouts);
        std::vector<const AnswerPrompt*> prompts;
        for (uint32_t i = 0; i < texts; i++)
            prompts.push_back(&run_.policy->prompts->prompt(first_prompt + i / static_cast<uint32_t>(o_.group_size)));
        std::vector<Answer> answers = write(prompts, o_.seed + 0x9E3779B97F4A7C15u * static_cast<uint64_t>(step + 1));
        const double written = seconds_now();
        judge(answers, prompts);
        look_back(answers);
        share(answers);
        report(answers, e);
        set_advantages(answers);

        const int64_t tokens = count_tokens(answers), n = texts / static_cast<uint32_t>(o_.minibatches);
        auto rows =
            std::make_shared<AnswerRows>(std::move(answers), run_.T, !values(), o_.seed + static_cast<uint64_t>(step));
        DataLoader loader(rows);
        RankBatches batches(loader, n, B_, group_.rank(), group_.world());
        const double judged = seconds_now();
        StepState all = *s;
        double loss = 0, norm = 0, updates = 0, sums[kStepSums] = {}, looked_at = 0;
        bool enough = false;
        for (int epoch = 0; epoch < o_.rollout_epochs && !enough; epoch++)
            for (int k = 0; k < o_.minibatches && !enough; k++) {
                const int64_t at = epoch * int64_t(texts) + k * n;
                *s = all;
                s->step = static_cast<uint32_t>(step * o_.rollout_epochs * o_.minibatches + epoch * o_.minibatches + k);
                s->rank_first_sample = static_cast<uint32_t>(batches.first());
                s->loss_normaliser = static_cast<float>(1 / rows->weight(at, n));
                update(*batches.load(at, false), s);
                loss += static_cast<double>(s->loss), norm += static_cast<double>(s->grad_norm), updates++;
                for (int i = 0; i < kStepSums; i++) sums[i] += s->sums[i];
                looked_at += static_cast<double>(rows->tokens_of(at, n));
                enough = !std::isfinite(s->loss) || !std::isfinite(s->grad_norm);
                if (o_.target_kl > 0 && s->sums[kChange] / static_cast<double>(rows->tokens_of(at, n)) > o_.target_kl)
                    enough = true;
            }
        s->loss = static_cast<float>(loss / updates), s->grad_norm = static_cast<float>(norm / updates);
        e->clipped = sums[kClipped] / looked_at, e->change = sums[kChange] / looked_at;
        if (values()) e->value_loss = sums[kValueLoss] / looked_at / std::max(1e-30, o_.value_weight);
        e->updates = updates;
        e->sample_tok_s = static_cast<double>(tokens) / (written - began);
        e->learn_tok_s = looked_at / (seconds_now() - judged);
        e->tok_s = static_cast<double>(tokens) / (seconds_now() - began);
    }

    // The rewards of answers to prompts that it does not learn from, an answer each, of at most `most` of them.
    void validate(int64_t most, LogEntry* e) {
        const AnswerPrompts& from = *run_.policy->val_prompts;
        std::vector<const AnswerPrompt*> prompts;
        for (int64_t i = 0; i < std::min(most, from.size()); i++) prompts.push_back(&from.prompt(i));
        std::vector<Answer> answers = write(prompts, o_.seed);
        judge(answers, prompts);
        share(answers);
        LogEntry said;
        report(answers, &said);
        e->val_reward = said.reward;
    }

  private:
    struct Judge {
        M* model = nullptr;
        size_t adapter = M::kNoAdapter;
        std::shared_ptr<M> own;
    };
    bool values() const { return o_.objective == "ppo"; }
    static int texts_at_once(const Run& run) {
        return std::min(64, (run.options.rollouts + run.world - 1) / run.world);
    }
    std::pair<size_t, size_t> own_part(size_t n) const {
        const size_t rank = static_cast<size_t>(group_.rank()), world = static_cast<size_t>(group_.world());
        return {n * rank / world, n * (rank + 1) / world};
    }

    // This rank's part of the answers; the others stay empty.
    std::vector<Answer> write(const std::vector<const AnswerPrompt*>& prompts, uint64_t seed) {
        const auto [begin, end] = own_part(prompts.size());
        std::vector<Answer> answers(prompts.size());
        std::vector<Prompt> starts;
        std::vector<GrowingText> grown;
        std::vector<std::vector<std::string>> stops;
        for (size_t i = begin; i < end; i++) {
            starts.push_back({prompts[i]->ids, static_cast<uint32_t>(i)});
            stops.push_back(prompts[i]->stop.empty() ? std::vector<std::string>{} : std::vector{prompts[i]->stop});
        }
        for (const auto& stop : stops) grown.emplace_back(&*run_.tokenizer, stop);
        Generator generator(*decoder_);
        SamplerOptions options;
        options.seed = seed;
        generator.run(starts, o_.max_tokens, options, false, [&](size_t i, Drawn token) {
            answers[begin + i].ids.push_back(token.id);
            return grown[i].push(token);
        });
        for (size_t i = begin; i < end; i++) {
            Answer& a = answers[i];
            a.prompt = static_cast<int>(prompts[i]->ids.size());
            a.ids.insert(a.ids.begin(), prompts[i]->ids.begin(), prompts[i]->ids.end());
            GrowingText& text = grown[i - begin];
            text.take(true), a.text = text.text();
            a.ended = text.end() != GrowingText::End::length;
            a.signals.resize(a.ids.size() - static_cast<size_t>(a.prompt));
        }
        return answers;
    }

    void judge(std::vector<Answer>& answers, const std::vector<const AnswerPrompt*>& prompts) {
        const auto [begin, end] = own_part(answers.size());
        std::vector<AnswerText> texts;
        for (size_t i = begin; i < end; i++) texts.push_back({prompts[i]->line, prompts[i]->right, answers[i].text});
        for (size_t source = 0; source < rewards_.sources().size(); source++) {
            const std::vector<double> rewards = judges_[source].model
                                                    ? scores(judges_[source], {answers.data() + begin, end - begin})
                                                    : rewards_.of(source, texts);
            for (double r : rewards)
                if (!std::isfinite(r))
                    throw Error(strf("--reward %s gave a reward of %g; its weights or its weight are of no use",
                                     rewards_.sources()[source].what.c_str(), r));
            for (size_t i = begin; i < end; i++) answers[i].rewards.push_back(rewards[i - begin]);
        }
    }
    // Calls look(first, batch) for these answers, B at a time.
    template <class Look>
    void for_each_batch(std::span<const Answer> answers, Look look) const {
        for (size_t at = 0; at < answers.size(); at += static_cast<size_t>(B_)) {
            const auto some = answers.subspan(at, std::min<size_t>(static_cast<size_t>(B_), answers.size() - at));
            look(at, batch_of(some, run_.T));
        }
    }
    // What a head says of whole texts, by their last tokens.
    std::vector<double> scores(Judge& judge, std::span<const Answer> answers) {
        std::vector<double> all;
        judge.model->use_adapter(judge.adapter);
        const size_t Kp = 8;
        for_each_batch(answers, [&](size_t at, const Batch& batch) {
            std::vector<float> scores(batch.inputs.size() * Kp);
            judge.model->scores(scores.data(), batch);
            for (int b = 0; b < batch.sequences; b++) {
                const size_t last = answers[at + static_cast<size_t>(b)].ids.size() - 1;
                all.push_back(static_cast<double>(scores[(static_cast<size_t>(b * batch.T) + last) * Kp]));
            }
        });
        if (judge.model == &model_) model_.use_adapter(trained_adapter());
        return all;
    }
    size_t trained_adapter() const { return run_.adapters.empty() ? M::kNoAdapter : 0; }

    // log p, log q and values of the tokens that this rank's part has written.
    void look_back(std::vector<Answer>& answers) {
        const auto [begin, end] = own_part(answers.size());
        const std::span<Answer> own(answers.data() + begin, end - begin);
        const auto pass = [&](M& model, bool scored, auto set) {
            for_each_batch(own, [&](size_t at, const Batch& batch) {
                std::vector<float> losses(batch.inputs.size()), scores(scored ? 8 * losses.size() : 0);
                model.forward_only(batch, losses.data(), scored ? scores.data() : nullptr);
                for (int b = 0; b < batch.sequences; b++) {
                    Answer& a = own[at + static_cast<size_t>(b)];
                    const size_t from = static_cast<size_t>(b * batch.T + a.prompt - 1);
                    for (size_t t = 0; t < a.signals.size(); t++)
                        set(a.signals[t], -losses[from + t], scored ? scores[8 * (from + t)] : 0);
                }
            });
        };
        pass(model_, values(),
             [](TokenSignals& s, float log_p, float value) { s.log_p = s.log_q = log_p, s.value = value; });
        if (!reference_.model) return;
        reference_.model->use_adapter(reference_.adapter);
        pass(*reference_.model, false, [](TokenSignals& s, float log_q, float) { s.log_q = log_q; });
        if (reference_.model == &model_) model_.use_adapter(trained_adapter());
    }

    // Each rank gives its part, and gets those of the others.
    void share(std::vector<Answer>& answers) {
        if (group_.world() == 1) return;
        const auto [begin, end] = own_part(answers.size());
        const std::vector<std::string> all = group_.exchange(answers_bytes({answers.data() + begin, end - begin}));
        std::vector<Answer> whole;
        for (const std::string& part : all)
            for (Answer& a : answers_of(part)) whole.push_back(std::move(a));
        answers = std::move(whole);
    }

    void set_advantages(std::vector<Answer>& answers) const {
        std::vector<double> totals;
        for (const Answer& a : answers) totals.push_back(rewards_.total(a.rewards.data()));
        if (!values()) {
            const std::vector<float> advantages = group_advantages(totals, static_cast<size_t>(o_.group_size));
            for (size_t i = 0; i < answers.size(); i++)
                for (TokenSignals& s : answers[i].signals) s.advantage = advantages[i];
            return;
        }
        std::vector<TokenSignals*> all;
        for (size_t i = 0; i < answers.size(); i++) {
            generalised_advantages(answers[i].signals, totals[i], o_.kl, o_.gae_lambda);
            for (TokenSignals& s : answers[i].signals) all.push_back(&s);
        }
        whiten_advantages(all);
    }

    void report(const std::vector<Answer>& answers, LogEntry* e) const {
        const double n = static_cast<double>(answers.size());
        const auto& sources = rewards_.sources();
        e->reward = e->kl = e->entropy = e->answer_tokens = e->ended = 0;
        double tokens = 0;
        for (const RewardSource& s : sources) e->rewards.push_back({s.name(), 0});
        for (const Answer& a : answers) {
            *e->reward += rewards_.total(a.rewards.data()) / n;
            *e->ended += a.ended / n, *e->answer_tokens += static_cast<double>(a.signals.size()) / n;
            tokens += static_cast<double>(a.signals.size());
            for (size_t i = 0; i < sources.size(); i++) e->rewards[i].second += a.rewards[i] / n;
            for (const TokenSignals& s : a.signals) {
                const double log_q = static_cast<double>(s.log_q) - static_cast<double>(s.log_p);
                *e->kl += (std::exp(log_q) - log_q - 1) / n, *e->entropy -= static_cast<double>(s.log_p);
            }
        }
        *e->entropy /= std::max(1.0, tokens);
    }
    static int64_t count_tokens(const std::vector<Answer>& answers) {
        int64_t n = 0;
        for (const Answer& a : answers) n += std::ssize(a.signals);
        return n;
    }

    M& model_;
    const Run& run_;
    const Options& o_;
    Group& group_;
    int B_;
    Rewards rewards_;
    Judge reference_;
    std::vector<Judge> judges_;  // of each source; without a model where it is another kind
    std::unique_ptr<Decoder<typename M::Model>> decoder_;
};
