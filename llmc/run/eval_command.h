// eval: how well a model does on held-out text, or on a task.
#pragma once
#include <cmath>
#include <cstdio>
#include <optional>
#include "llmc/base/human.h"
#include "llmc/run/first_non_finite.h"
#include "llmc/base/system.h"
#include "llmc/files/model_files.h"
#include "llmc/run/eval_head.h"
#include "llmc/run/eval_tasks.h"
#include "llmc/run/log.h"
#include "llmc/run/mean_loss.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"
#include "llmc/text/dataloader.h"

// How many bytes of text each token stands for: none those that mark its begin and end.
inline std::vector<int> token_bytes(const Run& run) {
    std::vector<int> bytes;
    if (!run.tokenizer) return bytes;
    bytes.resize(static_cast<size_t>(run.config.V));
    for (int id = 0; id < run.tokenizer->vocab_size(); id++)
        bytes[static_cast<size_t>(id)] = static_cast<int>(run.tokenizer->bytes(id).size());
    std::vector<int> marks = run.tokenizer->ends();
    marks.insert(marks.end(), {run.tokenizer->end_of_text(), run.tokenizer->begin_of_text()});
    for (const int id : marks)
        if (id >= 0) bytes[static_cast<size_t>(id)] = 0;
    return bytes;
}

template <Model M, class Progress>
Report evaluate_loss(M& model, const Run& run, size_t adapter, int B, Group& group, Progress progress) {
    DataLoader data(run.validation_rows(adapter));
    const int64_t windows = validation_windows(data, run.options.eval_limit);
    const MeanLoss mean = mean_loss(model, data, windows, B, run.T, group, token_bytes(run), progress);
    const double tokens = data.rows().weight(0, windows);
    Report report;
    report.counts = {{"tokens", std::llround(tokens)}};
    report.measures = {{"loss", "loss", mean.loss, NAN, 6}, {"perplexity", "perplexity", std::exp(mean.loss)}};
    if (mean.bytes > 0) {
        report.counts.emplace_back("bytes", std::llround(mean.bytes));
        report.measures.push_back(
            {"bits_per_byte", "bits per byte", mean.loss * tokens / mean.bytes / std::log(2.0), NAN, 6});
    }
    report.note = strf(", in %s of %d", run.on_examples ? "examples in rows" : "windows", run.T);
    return report;
}

template <Model M, class Progress>
Report evaluate_head(M& model, const Run& run, size_t adapter, int B, Group& group, Progress progress) {
    const std::shared_ptr<const PackedExamples> examples = run.validation_examples(adapter);
    DataLoader data(examples);
    const int64_t windows = validation_windows(data, run.options.eval_limit);
    const HeadAnswers answers = head_answers(model, *examples, data, run.head, windows, B, group, progress);
    const auto text = [&](int64_t i, bool second) {
        std::vector<int> ids = examples->document(i, second);
        std::erase_if(ids, [](int id) { return id < 0; });  // prompts
        return run.tokenizer->decode(ids);
    };
    if (!run.options.answers.empty() && group.rank() == 0)
        write_file(run.options.answers, head_answers_json(answers, run.head, text));
    return head_report(answers, run.head);
}

template <Model M>
int eval_command(Run run, Group& group) {
    const Options& o = run.options;
    const StepOptions inference = run.inference_options(o.micro_batch_size > 0 ? o.micro_batch_size : 4);
    M model(run.config, inference);
    load_run(run, model);
    RunLog log("", 0);
    double begin = seconds_now();
    auto progress = [&](int64_t done, int64_t all) {
        log.progress("evaluating", done, all,
                     (seconds_now() - begin) / static_cast<double>(done) * static_cast<double>(all - done));
    };
    for (const auto& [name, adapter] : run.choices) {
        model.use_adapter(adapter);
        begin = seconds_now();
        Report report = run.labelled()   ? evaluate_head(model, run, adapter, inference.B, group, progress)
                        : o.task.empty() ? evaluate_loss(model, run, adapter, inference.B, group, progress)
                                         : evaluate_task(model, run,
                                                         {*run.tokenizer, group, inference.B, run.T, progress, nullptr,
                                                          0, run.prompts(adapter)});
        if (run.choices.size() > 1) report.adapter = name;
        log.clear_progress();
        printf("%s\n", o.json ? report.json().c_str() : report.table().c_str());
        for (const Measure& m : report.measures)
            if (!std::isfinite(m.value))
                throw Error(m.name + " is not finite: the first such tensor is " + first_non_finite(model));
    }
    return 0;
}
