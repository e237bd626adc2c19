// eval: how well a model does on held-out text, or on a task.
#pragma once
#include <cmath>
#include <cstdio>
#include "llmc/base/human.h"
#include "llmc/base/system.h"
#include "llmc/files/model_files.h"
#include "llmc/run/log.h"
#include "llmc/run/mean_loss.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"
#include "llmc/run/schedule.h"
#include "llmc/text/dataloader.h"
#include "llmc/text/hellaswag.h"

template <Model M>
int eval_command(Run run, Group& group) {
    const Options& o = run.options;
    const StepOptions inference = run.inference_options(o.micro_batch_size > 0 ? o.micro_batch_size : 4);
    M model(run.config, inference);
    load_run(run, model);
    RunLog log("", 0);
    double begin = seconds_now();
    auto progress = [&](const char* what, int64_t done, int64_t all) {
        log.progress(what, done, all,
                     (seconds_now() - begin) / static_cast<double>(done) * static_cast<double>(all - done));
    };
    if (o.task == "hellaswag") {
        ChoiceResult r =
            evaluate_choices(model, read_hellaswag(o.hellaswag_data, *run.tokenizer, o.eval_limit), inference.B, run.T,
                             [&](int64_t done, int64_t all) { progress("HellaSwag", done, all); });
        double n = static_cast<double>(r.questions);
        log.clear_progress();
        printf("HellaSwag: %lld questions, accuracy %.4f, normalised accuracy %.4f\n",
               static_cast<long long>(r.questions), static_cast<double>(r.right) / n,
               static_cast<double>(r.right_normalised) / n);
        return 0;
    }
    DataLoader data(run.validation_rows());
    const int64_t windows = validation_windows(data, o.eval_limit);
    double loss = mean_loss(model, data, windows, inference.B, run.T, group,
                            [&](int64_t done, int64_t all) { progress("evaluating", done, all); });
    log.clear_progress();
    printf("loss %.6f, perplexity %.4f, over %s tokens in %s of %d\n", loss, std::exp(loss),
           human_count(std::llround(data.rows().weight(0, windows))).c_str(),
           run.on_examples ? "examples in rows" : "windows", run.T);
    if (!std::isfinite(loss))
        throw Error("the loss is not finite: the first such tensor is " + model.first_non_finite());
    return 0;
}
