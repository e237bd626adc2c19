// The loop around the training step: evaluation, sampling, checkpoints, logs. Written once, for any model (model.h).
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include "llmc/files/checkpoint.h"
#include "llmc/files/run_directory.h"
#include "llmc/text/dataloader.h"
#include "llmc/base/error.h"
#include "llmc/ranks/group.h"
#include "llmc/text/hellaswag.h"
#include "llmc/run/log.h"
#include "llmc/run/introduction.h"
#include "llmc/run/mean_loss.h"
#include "llmc/run/model.h"
#include "llmc/run/rank_batches.h"
#include "llmc/run/run.h"
#include "llmc/run/schedule.h"
#include "llmc/run/stop_signal.h"
#include "llmc/text/sampler.h"

inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

template <Model M>
class Trainer {
  public:
    Trainer(Run run_in, Group& ranks)
        : run(std::move(run_in)),
          o(run.options),
          group(ranks),
          B(micro_batch()),
          model(run.config, run.step_options(B), std::make_unique<typename M::Communicator>(group)),
          train_data(run.train_shards, run.T, run.config.V, true, o.seed),
          batches(train_data, run.sequences, B, group.rank(), group.world()),
          val_data(run.val_shards.empty()
                       ? nullptr
                       : std::make_unique<DataLoader>(run.val_shards, run.T, run.config.V, false, 0)),
          questions(read_questions()),
          log(group.rank() == 0 ? run.output : "", run.resume_from.empty() ? 0 : run.state.step) {}

    // Returns the program's exit code.
    int train() {
        const auto memory = [&](const StepOptions& options) { return M::memory_plan(run.config, options); };
        for (const std::string& line : introduction(run, B, train_data, group, memory)) log.print(line);
        start();
        catch_stop_signals();
        StepTimer timer;
        int64_t first = run.state.step;
        for (int64_t step = first;; step++) {
            bool last = step >= o.max_steps;
            auto due = [&](int64_t every) { return (every > 0 && step % every == 0) || last; };
            bool fresh =
                step > first || run.resume_from.empty();  // what was done before the checkpoint is not done again
            if (fresh && val_data && o.val_every > 0 && due(o.val_every)) validate(step);
            if (fresh && o.sample_every > 0 && due(o.sample_every)) print_sample();
            bool stop = any_stop_signal();  // looked at once: a signal that comes now waits for the next step
            if (fresh && step > first && (due(o.checkpoint_every) || stop)) save(step);
            if (last || stop) break;
            train_step(step, timer);
        }
        log.clear_progress();
        if (group.rank() == 0) log.write_plot();
        if (stop_signal && run.state.step < o.max_steps) {
            log.print(strf("stopped by signal %d after step %lld; go on with: the same command with --resume",
                           static_cast<int>(stop_signal), static_cast<long long>(run.state.step)));
            return 128 + stop_signal;
        }
        log.print("done: model and optimizer in " + newest_checkpoint(run.output) + ", log and plot in " + run.output +
                  "/log.jsonl and loss.svg");
        return 0;
    }

  private:
    // Time of recent steps, for the progress line.
    struct StepTimer {
        double mean = 0;
        void add(double seconds) { mean = mean == 0 ? seconds : 0.95 * mean + 0.05 * seconds; }
    };

    int micro_batch() {
        int b = choose_micro_batch(
            run, [&](int candidate) { return M::memory_plan(run.config, run.step_options(candidate)).total(); },
            M::Device::available_memory());
        b = static_cast<int>(-group.most(-b));  // the least that any rank has room for
        o.micro_batch_size = b;                 // recorded: a resume takes the same, whatever is free then
        return b;
    }

    std::vector<MultipleChoice> read_questions() const {
        if (!o.hellaswag) return {};
        if (!run.tokenizer) throw Error("--hellaswag needs GPT-2's vocabulary: `make gpt2`");
        return read_hellaswag(o.hellaswag_data, *run.tokenizer, 0);
    }

    // Weights, optimizer and history, as they were or new; then the number of steps.
    void start() {
        if (!run.resume_from.empty()) {
            load_training_state(run.resume_from, run.config, model.tensors());
            loss_outliers.restore({run.state.loss_window.begin(), run.state.loss_window.end()});
            norm_outliers.restore({run.state.norm_window.begin(), run.state.norm_window.end()});
            log.print(
                strf("resuming %s after step %lld", run.resume_from.c_str(), static_cast<long long>(run.state.step)));
        } else {
            initial_weights();
            run.state.seed = o.seed;
        }
        if (o.time_limit > 0 && run.resume_from.empty()) fit_time_limit();
        if (o.max_steps < 0) o.max_steps = std::max<int64_t>(1, train_data.samples_per_epoch() / run.sequences);
        run.state.options_json = arithmetic_options_json(o);
        log.print(strf("training: step %lld to %lld, output in %s", static_cast<long long>(run.state.step),
                       static_cast<long long>(o.max_steps), run.output.c_str()));
    }
    void initial_weights() {
        model.init_weights(o.seed);
        if (run.source.kind != ModelSource::Kind::size) load_weights(run.source, model.tensors());
    }

    // --time-limit: times steps for about a second and a validation, fixes the number of steps so that the whole run
    // takes about that long, and begins anew. Recorded as --max-steps, so that a resume does not time again.
    void fit_time_limit() {
        double begin = seconds_now(), validation_seconds = 0;
        std::vector<double> steps;
        // With several ranks the slowest one's clock counts.
        while (steps.size() < 4 || group.most(seconds_now() - begin) < std::min(1.5, 0.05 * o.time_limit)) {
            double t = seconds_now();
            StepState s = step_state(0);
            model.step(*load_batch(0), &s, {});
            steps.push_back(seconds_now() - t);
        }
        std::nth_element(steps.begin(), steps.begin() + static_cast<std::ptrdiff_t>(steps.size() / 2), steps.end());
        double step_seconds = steps[steps.size() / 2];  // the median: the first ones meet cold memory
        if (val_data && o.val_every > 0) {
            double t = seconds_now();
            validation_loss();
            validation_seconds = (seconds_now() - t) / static_cast<double>(o.val_every);  // per step
        }
        double left = o.time_limit - (seconds_now() - begin);
        double fit = -group.most(-left / (step_seconds + validation_seconds));
        o.max_steps = static_cast<int64_t>(std::clamp(fit, 10.0, 1e15));
        batch = nullptr;
        initial_weights();
        log.print(strf("timing: %.0f ms a step; %lld steps fit into %s", 1e3 * step_seconds,
                       static_cast<long long>(o.max_steps), human_seconds(o.time_limit).c_str()));
    }

    StepState step_state(int64_t step) {
        StepState s;
        double t = static_cast<double>(run.state.optimizer_updates + 1);
        Schedule schedule{o.lr_schedule, o.learning_rate, o.final_lr_fraction, o.warmup_steps, o.max_steps};
        s.seed = o.seed, s.step = static_cast<uint32_t>(step);
        s.learning_rate = static_cast<float>(schedule.at(step));
        s.beta1_correction = static_cast<float>(1 - std::pow(o.beta1, t)),
        s.beta2_correction = static_cast<float>(1 - std::pow(o.beta2, t));
        s.rank_first_sample = static_cast<uint32_t>(batches.first());
        s.loss_normaliser = static_cast<float>(1.0 / static_cast<double>(run.sequences * run.T));
        s.skip_loss_above = loss_outliers.threshold(o.skip_loss_z),
        s.skip_norm_above = norm_outliers.threshold(o.skip_grad_z);
        return s;
    }

    void train_step(int64_t step, StepTimer& timer) {
        double begin = seconds_now();
        int64_t n = run.sequences, at = o.overfit_one_batch ? 0 : run.state.next_sample;
        if (!batch || batch_at != at) batch = load_batch(at);
        StepState s = step_state(step);
        // While a GPU is at work, the next step's tokens are fetched and travel to it.
        model.step(*batch, &s, [&]() -> const Batch* {
            if (o.overfit_one_batch || step + 1 >= o.max_steps) return nullptr;
            return batch = load_batch(at + n);
        });
        if (!std::isfinite(s.loss) || !std::isfinite(s.grad_norm)) not_finite(step, s);
        run.state.step = step + 1;
        run.state.next_sample = at + n;
        run.state.optimizer_updates += !s.skip;
        loss_outliers.add(static_cast<double>(s.loss)), norm_outliers.add(static_cast<double>(s.grad_norm));
        double seconds = seconds_now() - begin;
        run.state.seconds += seconds;
        timer.add(seconds);

        LogEntry e;
        e.step = step + 1;
        e.loss = s.loss, e.grad_norm = s.grad_norm, e.lr = s.learning_rate, e.ms = 1e3 * seconds;
        e.tok_s = static_cast<double>(run.sequences * run.T) / seconds;
        if (double peak = M::Device::peak_flops(run.bf16); peak > 0) e.mfu = *e.tok_s * token_flops / peak;
        e.skipped = s.skip;
        log.write(e);
        // Every step is in log.jsonl; for the eye the first ten and then about two hundred lines.
        if (step < 10 || (step + 1) % std::max<int64_t>(1, o.max_steps / 200) == 0 || s.skip)
            log.print_step(e, o.max_steps);
        if (o.gpu_log_every > 0 && (step + 1) % o.gpu_log_every == 0)
            if (std::string health = M::Device::health(); !health.empty()) log.print("GPU: " + health);
        double left = timer.mean * static_cast<double>(o.max_steps - step - 1);
        log.progress(strf("step %lld/%lld, loss %.3f", static_cast<long long>(step + 1),
                          static_cast<long long>(o.max_steps), static_cast<double>(s.loss)),
                     step + 1, o.max_steps, left);
    }

    const Batch* load_batch(int64_t at) {
        batch_at = at;
        return batches.load(at, !o.overfit_one_batch);
    }

    // Whether any rank got a signal: all stop after the same step.
    bool any_stop_signal() {
        int most = static_cast<int>(group.most(stop_signal));
        if (most && !stop_signal) stop_signal = most;
        return most != 0;
    }

    // The update was not made: the weights are still those of the step before. Nothing that is on disk is touched.
    [[noreturn]] void not_finite(int64_t step, const StepState& s) {
        log.clear_progress();
        std::vector<std::string> saved = list_checkpoints(run.output);
        std::string advice = "No checkpoint was written yet: start again";
        if (!saved.empty()) {
            advice = "Go on from " + saved.back() + " with --resume";
            // A checkpoint of the very weights that gave this would give it again.
            if (saved.back().ends_with(strf("step_%08lld", static_cast<long long>(step))))
                advice = "Remove " + saved.back() + ", whose weights give this, " +
                         (saved.size() > 1 ? "go on from the checkpoint before it with --resume" : "start again");
        }
        throw Error(
            strf("step %lld: loss %g, gradient norm %g; the first tensor that is not finite: %s. %s, and try a lower "
                 "--learning-rate or a longer --warmup-steps",
                 static_cast<long long>(step + 1), static_cast<double>(s.loss), static_cast<double>(s.grad_norm),
                 model.first_non_finite().c_str(), advice.c_str()));
    }

    double validation_loss() {
        int64_t all = val_data->samples_per_epoch(), windows = o.val_batches <= all / B ? o.val_batches * B : all;
        return mean_loss(model, *val_data, windows, B, run.T, group, [](int64_t, int64_t) {});
    }

    void validate(int64_t step) {
        LogEntry e;
        e.step = step;
        e.val_loss = validation_loss();
        std::string line = strf("step %lld/%lld | val loss %.6f", static_cast<long long>(step),
                                static_cast<long long>(o.max_steps), *e.val_loss);
        if (!questions.empty()) {
            ChoiceResult r = evaluate_choices(model, questions, B, run.T, [&](int64_t done, int64_t all) {
                log.progress("HellaSwag", done, all, 0);
            });
            e.hellaswag = static_cast<double>(r.right_normalised) / static_cast<double>(r.questions);
            line += strf(" | HellaSwag %.4f", *e.hellaswag);
        }
        log.write(e);
        log.print(line);
    }

    void print_sample() {
        log.clear_progress();
        SamplerOptions s;
        s.seed = o.seed;
        std::string text;
        std::vector<int> prompt{run.tokenizer ? run.tokenizer->end_of_text()
                                              : run.config.V - 1};  // the last id: GPT-2's <|endoftext|>
        generate_text(model, run.tokenizer ? &*run.tokenizer : nullptr, prompt, o.sample_tokens, s, 0,
                      [&](const std::string& piece) { text += piece; });
        log.print("--- sample after step " + std::to_string(run.state.step) + "\n" + text + "\n---");
    }

    void save(int64_t step) {
        run.state.loss_window.assign(loss_outliers.window().begin(), loss_outliers.window().end());
        run.state.norm_window.assign(norm_outliers.window().begin(), norm_outliers.window().end());
        if (group.rank() > 0) return take_part_in_checkpoint(model.tensors());
        std::string path = save_checkpoint(run.output, run.config, model.tensors(), run.vocabulary, run.state);
        delete_old_checkpoints(run.output, o.keep_checkpoints, o.major_checkpoint_every);
        log.write_plot();
        log.print(strf("step %lld/%lld | checkpoint %s", static_cast<long long>(step),
                       static_cast<long long>(o.max_steps), path.c_str()));
    }

    Run run;
    Options& o;
    Group& group;
    int B;  // sequences per micro-batch
    M model;
    const double token_flops = flops_per_token(run.config, run.T);
    DataLoader train_data;
    RankBatches batches;
    const Batch* batch = nullptr;  // what was loaded last, for the step that begins at sample batch_at
    int64_t batch_at = -1;
    std::unique_ptr<DataLoader> val_data;
    std::vector<MultipleChoice> questions;
    RunLog log;  // after all that may fail: a run that never began leaves no log
    OutlierDetector loss_outliers, norm_outliers;
};
