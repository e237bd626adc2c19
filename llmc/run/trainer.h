// The loop around the training step: evaluation, sampling, checkpoints, logs. Written once, for any model (model.h).
#pragma once
#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include "llmc/files/checkpoint_writer.h"
#include "llmc/files/run_directory.h"
#include "llmc/run/first_non_finite.h"
#include "llmc/run/frozen.h"
#include "llmc/text/dataloader.h"
#include "llmc/base/error.h"
#include "llmc/objectives/distillation.h"
#include "llmc/objectives/preferences.h"
#include "llmc/base/system.h"
#include "llmc/ranks/group.h"
#include "llmc/run/eval_head.h"
#include "llmc/run/eval_tasks.h"
#include "llmc/run/log.h"
#include "llmc/run/introduction.h"
#include "llmc/run/mean_loss.h"
#include "llmc/run/model.h"
#include "llmc/run/policy.h"
#include "llmc/run/rank_batches.h"
#include "llmc/run/reference.h"
#include "llmc/run/run.h"
#include "llmc/run/run_memory.h"
#include "llmc/run/schedule.h"
#include "llmc/run/stop_signal.h"
#include "llmc/run/text_beside.h"
#include "llmc/text/generate.h"

template <Model M>
class Trainer {
  public:
    Trainer(Run run_in, Group& ranks)
        : run(std::move(run_in)),
          o(run.options),
          group(ranks),
          memory(run, group),
          B(memory.B),
          model(run.config, run.step_options(B), std::make_unique<typename M::Communicator>(group)),
          train_data(run.training_rows()),
          batches(train_data, run.sequences, B, group.rank(), group.world()),
          plain_text(run, group, B),
          val_data(make_loader(run.validation_rows())),
          questions(training_questions(run)),
          log(group.rank() == 0 ? run.output : "", run.resume_from.empty() ? 0 : run.state.step, o.time_limit,
              run.state.clock.limit) {}

    // Returns the program's exit code.
    int train() {
        const auto plan = [&](const StepOptions& options) { return M::memory_plan(run.config, options); };
        for (const std::string& line : introduction(run, B, train_data, group, plan)) log.print(line);
        for (const std::string& line : memory.lines) log.print(line);
        start();
        catch_stop_signals();
        bool fresh = run.resume_from.empty();  // what was done before the checkpoint is not done again
        for (;;) {
            const int64_t step = run.state.step;
            if (limit.seconds > 0 && step < end) end = plan_end(step);
            bool last = step >= end;
            auto due = [&](int64_t every) { return (every > 0 && step % every == 0) || last; };
            bool better = false;
            if (fresh && val_data && o.val_every > 0 && due(o.val_every))
                timed(Pace::validation, [&] { better = validate(step); });
            if (o.patience > 0 && run.state.best.waited >= o.patience) last = true;
            if (fresh && o.sample_every > 0 && due(o.sample_every)) timed(Pace::sample, [&] { print_sample(); });
            look_at_checkpoint(false);
            const auto [stop, retry] = wishes();  // looked at once: a signal that comes now waits for the next step
            if (fresh && step > 0 && (due(o.checkpoint_every) || better || stop || retry))
                timed(Pace::checkpoint, [&] { save(last || stop); });
            if (last || stop) break;
            fresh = train_step(step);
        }
        log.clear_progress();
        if (group.rank() == 0) log.write_plot();
        if (stop_signal && run.state.step < end) {
            log.print(strf("stopped by signal %d after step %lld; go on with: the same command with --resume",
                           static_cast<int>(stop_signal), static_cast<long long>(run.state.step)));
            return 128 + stop_signal;
        }
        if (run.state.step < end)
            log.print(strf("stopped early: %lld validations in a row without a lower loss (--patience)",
                           static_cast<long long>(run.state.best.waited)));
        say_best();
        log.print(memory.measured());
        log.print("done: model and optimizer in " + newest_checkpoint(run.output) + ", log and plot in " + run.output +
                  "/log.jsonl and loss.svg");
        return 0;
    }

  private:
    static std::unique_ptr<DataLoader> make_loader(std::shared_ptr<const Rows> rows) {
        return rows ? std::make_unique<DataLoader>(std::move(rows)) : nullptr;
    }

    // Weights, optimizer and history, as they were or new; then the number of steps.
    void start() {
        if (group.most(M::Device::begin_algorithms(o.device) ? 0 : 1) > 0) {
            log.print("note: the checkpoint's algorithms were timed on another GPU or version of cuBLASLt (" +
                      o.device.timed_algorithms.substr(0, o.device.timed_algorithms.find(';')) +
                      "); they are timed anew");
            o.device.timed_algorithms.clear(), M::Device::begin_algorithms(o.device);
        }
        for (const std::string& line : M::Device::choices(o.device, run.config, model.options())) log.print(line);
        pace.every(Pace::validation, o.val_every), pace.every(Pace::sample, o.sample_every);
        pace.every(Pace::checkpoint, o.checkpoint_every);
        if (!run.resume_from.empty()) {
            if (!run.adapters.empty()) load_run(run, model);
            load_checkpoint();
            log.print(
                strf("resuming %s after step %lld", run.resume_from.c_str(), static_cast<long long>(run.state.step)));
        } else {
            initial_weights();
            run.state.seed = o.seed;
        }
        if (o.objective == "dpo") {
            add_reference(model, run, B, group,
                          [&](int64_t done, int64_t all) { log.progress("the reference", done, all, 0); });
            learn_preferences(model, static_cast<float>(o.beta));
        }
        if (run.teacher) follow_teacher();
        if (run.policy) policy = std::make_unique<Policy<M>>(model, run, group, B);
        if (o.time_limit > 0) start_clock();
        else
            run.state.clock = {},
            end = o.max_steps = o.max_steps > 0 && !o.was_given("epochs") ? o.max_steps : steps_of_epochs();
        run.state.options_json = arithmetic_options_json(o);
        std::string until = o.time_limit > 0 ? " until " + human_seconds(o.time_limit) + " are over" : "";
        if (!of_end().empty())
            until = strf(" to %lld", static_cast<long long>(end)) + (until.empty() ? "" : ", or" + until);
        log.print(strf("training: step %lld%s, output in %s", static_cast<long long>(run.state.step), until.c_str(),
                       run.output.c_str()));
    }
    void follow_teacher() {
        std::shared_ptr<M> teacher = load_frozen<M>(*run.teacher, run, B);
        std::string line = strf("teacher: %s (%s), beside the model %s", o.teacher.c_str(),
                                model_size_text(run.teacher->config).c_str(),
                                human_bytes(static_cast<double>(frozen_bytes<M>(run.teacher, run, B))).c_str());
        if (val_data && o.val_every > 0 && run.resume_from.empty())
            line += strf(" | val loss %.6f", validation_loss(*teacher));
        log.print(line);
        learn_from_teacher(model, teacher, static_cast<float>(o.teacher_temperature),
                           static_cast<float>(o.hard_weight));
    }
    // Of windows, those that fill a step; every example is seen, and the last step may go on with the next epoch's.
    int64_t steps_of_epochs() const {
        const int64_t epochs = o.epochs > 0 ? o.epochs : run.on_examples && !run.policy ? kExampleEpochs : 1;
        const int64_t rows = train_data.rows().epoch_begin(epochs) + (run.on_examples ? run.sequences - 1 : 0);
        return std::max<int64_t>(1, rows / run.sequences);
    }

    // ---- --time-limit (schedule.h) ----

    void start_clock() {
        limit.seconds = o.time_limit, limit.max_steps = o.max_steps;
        auto& clock = run.state.clock;
        bool same = clock.limit == o.time_limit;  // the recorded end is that of another limit otherwise
        // A run that has followed its steps so far goes on where they have brought its schedule.
        if (clock.limit == 0 && o.max_steps > 0)
            clock.position = static_cast<double>(run.state.step) / static_cast<double>(o.max_steps);
        if (!same) clock.end = o.max_steps > 0 ? o.max_steps : TimeLimit::kNotKnown;
        clock.limit = o.time_limit;
        end = clock.end;
    }
    double elapsed() const { return spent_before + seconds_now() - began; }
    // Rank 0 decides: as it did before, of a step that is taken once more; else by its clock.
    int64_t plan_end(int64_t step) {
        int64_t decided = -1;
        if (group.rank() == 0) {
            auto before = log.repeats().find(step + 1);
            if (before == log.repeats().end())
                decided = limit.plan(step, elapsed(), run.state.clock.position, end, pace);
            else decided = std::isfinite(before->second) ? static_cast<int64_t>(before->second) : TimeLimit::kNotKnown;
        }
        return run.state.clock.end = static_cast<int64_t>(group.most(static_cast<double>(decided)));
    }
    template <typename Body>
    void timed(Pace::Pause what, Body body) {
        double before = seconds_now();
        body();
        pace.took(what, seconds_now() - before);
    }
    // "/345", where the end is known.
    std::string of_end() const { return end < TimeLimit::kNotKnown ? strf("/%lld", static_cast<long long>(end)) : ""; }

    void initial_weights() {
        model.init_weights(o.seed);
        if (run.source.kind != ModelSource::Kind::size) load_run(run, model);
    }

    void set_corrections(StepState* s) const {
        const double t = static_cast<double>(run.state.optimizer_updates + 1);
        s->beta1_correction = static_cast<float>(1 - std::pow(o.beta1, t)),
        s->beta2_correction = static_cast<float>(1 - std::pow(o.beta2, t));
    }
    StepState step_state(int64_t step, int64_t first_row) {
        StepState s;
        Schedule schedule{o.lr_schedule, o.learning_rate, o.final_lr_fraction, o.warmup_steps, end};
        s.seed = o.seed, s.step = static_cast<uint32_t>(step);
        s.learning_rate =
            static_cast<float>(limit.seconds > 0 ? schedule.at(step, run.state.clock.position) : schedule.at(step));
        set_corrections(&s);
        s.rank_first_sample = static_cast<uint32_t>(batches.first());
        s.loss_normaliser = static_cast<float>(1.0 / train_data.rows().weight(first_row, run.sequences));
        s.skip_loss_above = loss_outliers.threshold(o.skip_loss_z),
        s.skip_norm_above = norm_outliers.threshold(o.skip_grad_z);
        return s;
    }

    // --new-rows-first. When the rest joins in, the optimizer begins anew: to moments that were zero all the while, the
    // corrections of a long run would give steps of a wrong length.
    void choose_trained_words(int64_t step) {
        const int64_t first = step < o.new_rows_first ? run.new_words.first : 0;
        if (first != first_word) model.train_words_from(first_word = first);
        if (step == 0 || step != o.new_rows_first) return;
        writer.finish_copy();
        model.clear_optimizer();
        run.state.optimizer_updates = 0;
        norm_outliers.restore({});
        log.print(strf("step %lld: from here on everything is trained", static_cast<long long>(step)));
    }

    // Whether it brought the run forward: not so if it ended with a return to a checkpoint.
    bool train_step(int64_t step) {
        double begin = seconds_now();
        int64_t n = run.sequences, at = o.overfit_one_batch ? 0 : run.state.next_sample;
        if (!policy && (!batch || batch_at != at)) batch = load_batch(at);
        if (limit.seconds > 0) run.state.clock.position = TimeLimit::advance(run.state.clock.position, step, end);
        choose_trained_words(step);
        StepState s = step_state(step, at);
        // While a GPU is at work, the next step's tokens are fetched and travel to it.
        auto next_batch = [&]() -> const Batch* {
            if (o.overfit_one_batch || step + 1 >= end) return nullptr;
            return batch = load_batch(at + n);
        };
        const auto update = [&](const Batch& rows, StepState* state, const typename M::NextBatch& next) {
            if (fuse == FuseUpdate::last_norm) state->last_norm = static_cast<float>(run.state.last_norm);
            model.step(rows, state, next, [&] { writer.finish_copy(); });
            run.state.optimizer_updates += !state->skip, plain_text.count(*state);
            run.state.last_norm = static_cast<double>(state->grad_norm);
        };
        LogEntry e;
        if (policy) {
            policy->round(step, at, &s, &e, [&](const Batch& rows, StepState* state) {
                set_corrections(state);
                const Batch* all = plain_text.beside(rows, int64_t(state->step) * run.rows_of_update(),
                                                     1 / static_cast<double>(state->loss_normaliser));
                update(*all, state, {});
            });
        } else {
            update(*batch, &s, next_batch);
        }
        if (const std::string timed = M::Device::timed_algorithms(); !timed.empty()) {  // in all ranks alike
            o.device.timed_algorithms = M::Device::take_algorithms(group.exchange(timed));
            run.state.options_json = arithmetic_options_json(o);
        }
        // By the norm of the step before, some blocks may be updated when another's gradient makes the update end.
        const bool partial = fuse == FuseUpdate::last_norm && s.skip && s.loss <= s.skip_loss_above;
        const bool finite = std::isfinite(s.loss) && std::isfinite(s.grad_norm) && !partial;
        not_finite_in_a_row = finite ? 0 : not_finite_in_a_row + 1;
        if (!finite && o.on_nan == "rollback" && roll_back(step, at + n)) return false;
        if (!finite && (o.on_nan != "skip" || not_finite_in_a_row > 9)) not_finite(step, s);
        run.state.step = step + 1;
        run.state.next_sample = at + n;
        if (finite) loss_outliers.add(static_cast<double>(s.loss)), norm_outliers.add(static_cast<double>(s.grad_norm));
        double seconds = seconds_now() - begin;
        pace.step_took(seconds);

        e.step = step + 1;
        e.text_loss = plain_text.mean_loss();
        e.loss = s.loss, e.grad_norm = s.grad_norm, e.lr = s.learning_rate, e.ms = 1e3 * seconds;
        if (!policy) e.tok_s = static_cast<double>(run.sequences * run.T) / seconds;
        if (o.max_kl > 0 && e.kl && *e.kl > o.max_kl) {
            log.print(strf(
                "step %lld: the policy is %.3f nats an answer from its reference, more than --max-kl %g: the run ends",
                static_cast<long long>(step + 1), *e.kl, o.max_kl));
            end = step + 1;
        }
        if (double peak = M::Device::peak_flops(run.bf16); peak > 0 && !policy) e.mfu = *e.tok_s * token_flops / peak;
        e.skipped = s.skip;
        if (limit.seconds > 0) e.end = end < TimeLimit::kNotKnown ? static_cast<double>(end) : NAN;
        log.write(e);
        // Every step is in log.jsonl; for the eye the first ten and then about two hundred lines.
        if (step < 10 || (step + 1) % std::max<int64_t>(1, end / 200) == 0 || s.skip)
            log.print_step(e, of_end().empty() ? 0 : end);
        if (o.gpu_log_every > 0 && (step + 1) % o.gpu_log_every == 0)
            if (std::string health = M::Device::health(); !health.empty()) log.print("GPU: " + health);
        double left = pace.seconds(step + 1, end);
        if (limit.seconds > 0) left = std::min(left, std::max(0.0, limit.seconds - elapsed()));
        log.progress(strf("step %lld%s, %s %.3f", static_cast<long long>(step + 1), of_end().c_str(),
                          policy ? "reward" : "loss", policy ? *e.reward : *e.loss),
                     step + 1, of_end().empty() ? 0 : end, left);
        return true;
    }

    // --on-nan rollback: the run is what it was at its newest checkpoint, and goes on with the data from next_sample on.
    // False: there is no checkpoint, or it was done often enough.
    bool roll_back(int64_t step, int64_t next_sample) {
        std::map<int64_t, std::string> saved;
        look_at_checkpoint(true);
        if (group.rank() == 0) saved = checkpoints_by_step(run.output);
        const int64_t back =  // rank 0 wrote it, and knows
            static_cast<int64_t>(group.most(saved.empty() ? -1.0 : static_cast<double>(saved.rbegin()->first)));
        if (back < 0 || rollbacks++ >= o.max_rollbacks) return false;
        log.print(
            strf("step %lld: loss or gradient is not finite; back to the checkpoint of step %lld, without the data "
                 "of the steps since then (rollback %d of %d)",
                 static_cast<long long>(step + 1), static_cast<long long>(back), rollbacks, o.max_rollbacks));
        run.resume_from = run.output + "/" + step_name(back);
        run.state = read_trainer_state(run.resume_from);
        load_checkpoint();
        run.state.next_sample = next_sample;
        batch = nullptr;
        log.roll_back(back, step + 1, next_sample);
        return true;
    }
    void load_checkpoint() {
        load_training_state(run.resume_from, run.config, model.trained_tensors());
        loss_outliers.restore({run.state.loss_window.begin(), run.state.loss_window.end()});
        norm_outliers.restore({run.state.norm_window.begin(), run.state.norm_window.end()});
    }

    const Batch* load_batch(int64_t at) {
        batch_at = at;
        const Batch* rows = batches.load(at, !o.overfit_one_batch);
        return plain_text.beside(*rows, at, train_data.rows().weight(at, run.sequences));
    }

    // Whether any rank got a signal: all stop after the same step. And whether rank 0 wants a checkpoint once more.
    struct Wishes {
        bool stop, retry;
    };
    Wishes wishes() {
        constexpr int kRetry = 1024;  // above all signals
        const bool want = retry_at > 0 && run.state.step >= retry_at;
        const int most = static_cast<int>(group.most(stop_signal + (want ? kRetry : 0))), signal = most % kRetry;
        if (signal && !stop_signal) stop_signal = signal;
        return {signal != 0, most >= kRetry};
    }

    // The update was not made, or not all of it (`partial` above). Nothing that is on disk is touched.
    [[noreturn]] void not_finite(int64_t step, const StepState& s) {
        look_at_checkpoint(true);
        log.clear_progress();
        // so that the same command, with another learning rate, finds no run that it would have to resume
        const bool saved = !list_checkpoints(run.output).empty();
        const std::string aside = !saved && group.rank() == 0 ? log.set_aside() : "";
        throw Error(not_finite_message(run.output, step, s, first_non_finite(model), aside));
    }

    double validation_loss(M& of) {
        return mean_loss(of, *val_data, validation_windows(*val_data, o.val_batches), B, run.T, group, {},
                         [](int64_t, int64_t) {})
            .loss;
    }
    // Of a head: of its labels alone, and how many it gives.
    void measure_validation(LogEntry& e) {
        if (policy) return policy->validate(16 * o.val_batches, &e);
        const int64_t windows = validation_windows(*val_data, o.val_batches);
        const auto silent = [](int64_t, int64_t) {};
        if (!run.labelled()) {
            e.val_loss = validation_loss(model);
            return;
        }
        const Report report = head_report(
            o.objective == "dpo"
                ? preference_answers(model, *run.val_examples, *val_data, o.beta, true, windows, B, group, silent)
                : head_answers(model, *run.val_examples, *val_data, run.head, windows, B, group, silent),
            run.head);
        e.val_loss = report.measures[0].value;
        if (!run.head.regression() || run.val_examples->labels_of() == LabelOf::pair) e.val_acc = report.value("acc");
        if (run.val_examples->labels_of() == LabelOf::pair) e.val_margin = report.value("margin");
    }

    // Whether the loss is the lowest so far, so that this model is to be kept.
    bool validate(int64_t step) {
        LogEntry e;
        e.step = step;
        measure_validation(e);
        std::string line = strf("step %lld%s", static_cast<long long>(step), of_end().c_str());
        if (e.val_reward) line += strf(" | val reward %.4f", *e.val_reward);
        else line += strf(" | val loss %.6f", *e.val_loss);
        if (e.val_acc) line += strf(" | accuracy %.4f", *e.val_acc);
        if (e.val_margin) line += strf(" | margin %.4f", *e.val_margin);
        if (!questions.questions.empty()) {
            const auto progress = [&](int64_t done, int64_t all) { log.progress("HellaSwag", done, all, 0); };
            const Answers answers = answer(model, questions, {*run.tokenizer, group, B, run.T, progress});
            Report report;
            add_measures(report, questions, answers.scores);
            e.hellaswag = report.value("acc_tokens");  // llm.c's figure
            line += strf(" | HellaSwag %.4f", *e.hellaswag);
        }
        auto& best = run.state.best;
        const double loss = e.val_reward ? -*e.val_reward : *e.val_loss;
        const bool better = run.keeps_best() && loss < best.loss;
        if (better) best.loss = loss, best.step = step, best.waited = 0;
        else if (run.keeps_best()) best.waited++;
        if (best.step >= 0) e.best_step = static_cast<double>(best.step);
        log.write(e);
        log.print(line);
        return better;
    }
    void say_best() {
        const auto& best = run.state.best;
        if (best.step < 0) return;
        const std::string path = run.output + "/" + step_name(best.step);
        log.print(strf("best: step %lld, val %s %.6f: %s", static_cast<long long>(best.step),
                       policy ? "reward" : "loss", policy ? -best.loss : best.loss,
                       best.step == 0 ? "the model as it was before" : path.c_str()));
    }

    void print_sample() {
        log.clear_progress();
        SamplerOptions s;
        s.seed = o.seed;
        std::string text;
        std::vector<int> prompt = run.tokenizer
                                      ? empty_prompt(*run.tokenizer)
                                      : std::vector{run.config.words() - 1};  // the last id: GPT-2's <|endoftext|>
        Decoder decoder(model, 1, run.config.T);
        prompt = prompts_in_front(run.prompts(0), prompt);
        Generator generator(decoder);
        generate_text(generator, run.tokenizer ? &*run.tokenizer : nullptr, {prompt}, o.sample_tokens, s, {},
                      [&](const std::string& piece) { text += piece; });
        log.print("--- sample after step " + std::to_string(run.state.step) + "\n" + text + "\n---");
    }

    // Begins to write a checkpoint; at_once: and waits for it.
    void save(bool at_once) {
        run.state.loss_window.assign(loss_outliers.window().begin(), loss_outliers.window().end());
        run.state.norm_window.assign(norm_outliers.window().begin(), norm_outliers.window().end());
        run.state.seconds = elapsed();
        if (group.rank() > 0) return take_part_in_checkpoint(model.trained_tensors());
        look_at_checkpoint(true);
        writer.begin(model.trained_tensors(), run.state, memory.copies && !at_once);
        log.write_plot();
        if (at_once) look_at_checkpoint(true, true);
    }

    // What became of the checkpoint that is being written. One that failed is tried again after the next step, then
    // after two more, four more ...; at the end of a run there is nothing to go on for, and it is an error.
    void look_at_checkpoint(bool wait, bool at_end = false) {
        const auto outcome = wait ? writer.wait() : writer.poll();
        if (!outcome) return;
        pace.took(Pace::writing, outcome->seconds);
        if (!outcome->warning.empty()) log.warn(outcome->warning);
        if (outcome->error.empty()) {
            retry_at = retry_after = 0;
            std::string line = strf("step %lld%s | checkpoint %s", static_cast<long long>(outcome->step),
                                    of_end().c_str(), outcome->path.c_str());
            if (!at_end)
                line += strf(" | written in %.3f s, training waited %.3f s", outcome->seconds, outcome->waited);
            log.print(line);
            return;
        }
        if (at_end) throw Error(outcome->error);
        retry_after = std::clamp<int64_t>(2 * retry_after, 1, 64), retry_at = run.state.step + retry_after;
        log.warn(strf("%s; training goes on, and saves again after step %lld", outcome->error.c_str(),
                      static_cast<long long>(retry_at)));
    }

    Run run;
    Options& o;
    Group& group;
    const RunMemory<M> memory;
    const FuseUpdate fuse = fuse_update_of(o);
    const int B;  // sequences per micro-batch
    M model;
    const double token_flops = flops_per_token(run.config, run.T, !run.adapters.empty());
    DataLoader train_data;
    RankBatches batches;
    const Batch* batch = nullptr;  // what was loaded last, for the step that begins at sample batch_at
    int64_t batch_at = -1;
    TextBeside plain_text;
    int64_t first_word = 0;  // of those that are trained
    std::unique_ptr<DataLoader> val_data;
    std::unique_ptr<Policy<M>> policy;  // that learns from rewards
    Task questions;
    RunLog log;  // after all that may fail: a run that never began leaves no log
    OutlierDetector loss_outliers, norm_outliers;
    CheckpointWriter writer{run.output,
                            run.config,
                            run.tokenizer ? &*run.tokenizer : nullptr,
                            run.adapters.empty() ? nullptr : &run.adapters[0],
                            o.keep_checkpoints,
                            o.major_checkpoint_every};
    int64_t retry_at = 0, retry_after = 0;  // after which step a checkpoint that failed is tried again; 0: none failed
    int not_finite_in_a_row = 0, rollbacks = 0;
    int64_t end = 0;  // the run ends after that many steps; --time-limit moves it
    TimeLimit limit;
    Pace pace;
    const double began = seconds_now(), spent_before = run.state.seconds;
};
