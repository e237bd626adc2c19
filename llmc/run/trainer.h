// The loop around the training step: evaluation, sampling, checkpoints, logs. Written once, for both programs.
//
// Model is GPT2<X> of train_gpt2.cpp or train_gpt2.cu; it offers open(), configure(), step(), token_losses(), decode(),
// tensors(), init_weights(), memory_plan(), first_non_finite().
#pragma once
#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <functional>
#include <memory>
#include <string>
#include <vector>
#include "llmc/files/checkpoint.h"
#include "llmc/text/dataloader.h"
#include "llmc/base/error.h"
#include "llmc/ranks/group.h"
#include "llmc/text/hellaswag.h"
#include "llmc/run/log.h"
#include "llmc/run/run.h"
#include "llmc/text/sampler.h"
#include "llmc/run/schedule.h"

// Set by SIGINT, SIGTERM, SIGUSR1 (which mpirun passes on, and a scheduler can send before its time limit), SIGHUP (the
// terminal is gone) and SIGPIPE (the reader of our output is): the loop finishes its step, saves a checkpoint and ends.
// A second signal kills at once, but for SIGPIPE, which each further line raises. A signal that was ignored at the
// start (nohup) stays so; not SIGINT, which shells ignore after `&`.
inline volatile std::sig_atomic_t stop_signal = 0;
inline void catch_stop_signals() {
    for (int s : {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGPIPE}) {
        auto before = std::signal(s, [](int which) {
            stop_signal = which;
            std::signal(which, which == SIGPIPE ? SIG_IGN : SIG_DFL);
        });
        if (before == SIG_IGN && s != SIGINT) std::signal(s, SIG_IGN);
    }
}

inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Mean loss over the first `windows` windows of `data`, B at a time, the batches dealt to the ranks in turn; all ranks
// call it. progress(done, all) after each batch.
template <class Model, class Progress>
double mean_loss(Model& model, DataLoader& data, int64_t windows, int B, int T, Group& group, Progress progress) {
    std::vector<float> losses(static_cast<size_t>(B) * static_cast<size_t>(T));
    double sum = 0;
    int64_t step = int64_t(B) * group.world();
    for (int64_t i = B * group.rank(), begin = 0; begin < windows; i += step, begin += step) {
        // A rank that has none left works on the first batch again, in vain: at ZeRO's stage 3 all must work together.
        bool counts = i < windows;
        int64_t at = counts ? i : 0;
        int n = static_cast<int>(std::min<int64_t>(B, windows - at));
        const Batch& batch = data.load(at, n, i + step < windows ? i + step : -1);
        model.token_losses(losses.data(), batch.inputs.data(), batch.targets.data(), n, T);
        for (int64_t j = 0; counts && j < int64_t(n) * T; j++)
            sum += static_cast<double>(losses[static_cast<size_t>(j)]);
        progress(std::min(begin + step, windows), windows);
    }
    return group.sum(sum) / static_cast<double>(windows * T);
}

template <class Model>
class Trainer {
  public:
    Trainer(Run run_in, Group& ranks)
        : run(std::move(run_in)),
          o(run.options),
          group(ranks),
          comm(group),
          B(micro_batch()),
          model(run.config, run.step_options(B), &comm),
          train_data(run.train_shards, run.T, run.config.V, true, o.seed),
          val_data(run.val_shards.empty()
                       ? nullptr
                       : std::make_unique<DataLoader>(run.val_shards, run.T, run.config.V, false, 0)),
          questions(read_questions()),
          log(group.rank() == 0 ? run.output : "", run.resume_from.empty() ? 0 : run.state.step) {}

    // Returns the program's exit code.
    int train() {
        print_plan();
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
            run, [&](int candidate) { return Model::memory_plan(run.config, run.step_options(candidate)).total(); },
            Model::Device::available_memory());
        b = static_cast<int>(-group.most(-b));  // the least that any rank has room for
        o.micro_batch_size = b;                 // recorded: a resume takes the same, whatever is free then
        return b;
    }

    std::vector<MultipleChoice> read_questions() const {
        if (!o.hellaswag) return {};
        if (!run.tokenizer) throw Error("--hellaswag needs GPT-2's vocabulary: `make gpt2`");
        return read_hellaswag(o.hellaswag_data, *run.tokenizer, 0);
    }

    void print_plan() {
        auto plan = Model::memory_plan(run.config, run.step_options(B));
        const ModelConfig& m = run.config;
        log.print(strf("model: %s (L=%d, NH=%d, C=%d, T=%d, V=%d), %s parameters, %s", o.model.c_str(), m.L, m.NH, m.C,
                       m.T, m.V, human_count(parameter_count(m)).c_str(), run.bf16 ? "bf16" : "fp32"));
        log.print(strf("data: %s training tokens in %zu shard(s), %s windows of %d an epoch",
                       human_count(train_data.tokens()).c_str(), run.train_shards.size(),
                       human_count(train_data.samples_per_epoch()).c_str(), run.T));
        log.print(strf("batch: %s tokens a step = %s sequences of %d, micro-batches of %d",
                       human_count(o.total_batch_size).c_str(), human_count(run.sequences).c_str(), run.T, B));
        if (group.world() > 1)
            log.print(strf("ranks: %d (by %s), ZeRO stage %d; the memory is that of each", group.world(),
                           group.ranks().source.c_str(), o.zero_stage));
        log.print(strf("memory: parameters %s, gradients %s, optimizer %s, activations %s, together %s",
                       human_bytes(static_cast<double>(plan.parameters)).c_str(),
                       human_bytes(static_cast<double>(plan.gradients)).c_str(),
                       human_bytes(static_cast<double>(plan.optimizer)).c_str(),
                       human_bytes(static_cast<double>(plan.activations + plan.buffers)).c_str(),
                       human_bytes(static_cast<double>(plan.total())).c_str()));
        std::string saved;
        StepOptions options = run.step_options(B);
        for (options.recompute = o.recompute + 1; options.recompute <= 3; options.recompute++) {
            size_t smaller = Model::memory_plan(run.config, options).total();
            saved += strf("%s%d saves %s", saved.empty() ? "" : ", ", options.recompute,
                          human_bytes(static_cast<double>(plan.total()) - static_cast<double>(smaller)).c_str());
        }
        if (!saved.empty()) log.print("recompute: level " + saved);
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
        s.rank_first_sample = static_cast<uint32_t>(own_first());
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
        if (double peak = Model::Device::peak_flops(run.bf16); peak > 0) e.mfu = *e.tok_s * flops_per_token(run.config, run.T) / peak;
        e.skipped = s.skip;
        log.write(e);
        // Every step is in log.jsonl; for the eye the first ten and then about two hundred lines.
        if (step < 10 || (step + 1) % std::max<int64_t>(1, o.max_steps / 200) == 0 || s.skip)
            log.print_step(e, o.max_steps);
        if (o.gpu_log_every > 0 && (step + 1) % o.gpu_log_every == 0)
            if (std::string health = Model::Device::health(); !health.empty()) log.print("GPU: " + health);
        double left = timer.mean * static_cast<double>(o.max_steps - step - 1);
        log.progress(strf("step %lld/%lld, loss %.3f", static_cast<long long>(step + 1),
                          static_cast<long long>(o.max_steps), static_cast<double>(s.loss)),
                     step + 1, o.max_steps, left);
    }

    // Of a step's sequences each rank has an equal share, the first ones one more where they do not divide.
    int64_t own_share() const { return run.sequences / group.world() + (group.rank() < run.sequences % group.world()); }
    int64_t own_first() const {
        return run.sequences / group.world() * group.rank() +
               std::min<int64_t>(group.rank(), run.sequences % group.world());
    }
    // This rank's part of the step that begins at sample `at`; that of the step after it is read in the background.
    const Batch* load_batch(int64_t at) {
        batch_at = at;
        int64_t first = at + own_first(), next = o.overfit_one_batch ? -1 : first + run.sequences;
        const Batch& loaded = train_data.load(first, static_cast<int>(own_share()), next);
        // All ranks need the same number of micro-batches: one sequence more makes it up, of which nothing counts.
        int64_t most = (run.sequences + group.world() - 1) / group.world();
        if (ceil_of(own_share(), B) == ceil_of(most, B)) return &loaded;
        padded = loaded;
        padded.sequences++;
        padded.inputs.resize(padded.inputs.size() + static_cast<size_t>(run.T), 0);
        padded.targets.resize(padded.targets.size() + static_cast<size_t>(run.T), -1);
        return &padded;
    }
    static int64_t ceil_of(int64_t n, int64_t part) { return (n + part - 1) / part; }

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
        if (std::isfinite(*e.val_loss) && (run.state.best_val_loss == 0 || *e.val_loss < run.state.best_val_loss))
            run.state.best_val_loss = *e.val_loss;
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
    typename Model::Communicator comm;
    int B;  // sequences per micro-batch
    Model model;
    DataLoader train_data;
    const Batch* batch = nullptr;  // what was loaded last, for the step that begins at sample batch_at
    int64_t batch_at = -1;
    Batch padded;
    std::unique_ptr<DataLoader> val_data;
    std::vector<MultipleChoice> questions;
    RunLog log;  // after all that may fail: a run that never began leaves no log
    OutlierDetector loss_outliers, norm_outliers;
};
