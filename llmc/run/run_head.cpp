// Which head a run trains, by the options, the model and, where classes are not named, the data.
#include <algorithm>
#include "llmc/base/error.h"
#include "llmc/run/run_rules.h"
#include "llmc/text/tasks.h"

void set_head(Run& run, const HeadConfig& head) {
    run.head = head;
    if (run.adapters.empty()) run.config.head = head;
    else run.adapters[0].config.head = head, run.config.head = run.source.config.head = {};
}

void choose_head(Run& run, Notes* notes) {
    Options& o = run.options;
    HeadConfig& models = run.config.head;
    if (o.objective == "reward") {
        if (o.was_given("head") && o.head != "regress")
            throw UsageError("--objective reward has a head of one number of its own; leave out --head");
        o.head = "regress";
        if (!o.was_given("lm-weight") && run.resume_from.empty()) o.lm_weight = 0;
    }
    const bool policy = o.objective == "ppo" || o.objective == "grpo";
    if ((o.objective == "dpo" || o.objective == "distill" || policy) && o.was_given("head") && o.head != "none")
        throw UsageError(strf("--objective %s trains the language model; leave out --head", o.objective.c_str()));
    if (o.was_given("beta") && o.objective != "dpo") throw UsageError("--beta goes with --objective dpo");
    if (o.head == "none" && !run.adapters.empty() && run.adapters[0].config.head.outputs > 0)
        throw UsageError(
            strf("--model %s is an adapter with a head; say with --head what it is to learn", o.model.c_str()));
    if (o.objective != "lm" && o.objective != "distill" && !run.on_examples)
        throw UsageError(strf("--objective %s learns from JSON lines with \"prompt\"%s; %s is none",
                              o.objective.c_str(), policy ? "" : ", \"chosen\" and \"rejected\"",
                              o.train_data[0].c_str()));
    if (o.head == "none") {
        if (models.outputs > 0 && !o.was_given("head"))
            notes->push_back("note: the model's head is left out: without --head a language model is trained");
        models = run.source.config.head = {};
        return;
    }
    if (!run.on_examples)
        throw UsageError(
            strf("--head learns from JSON lines with \"text\" and \"label\"; %s is none", o.train_data[0].c_str()));
    HeadConfig asked, known = run.adapters.empty() ? models : run.adapters[0].config.head;
    asked.outputs = o.head == "regress" ? 1 : 0, asked.both_orders = o.both_orders;
    if (o.was_given("labels")) {
        asked.labels = read_labels(o.labels), asked.outputs = static_cast<int>(asked.labels.size());
        std::vector<std::string> sorted = asked.labels;
        std::sort(sorted.begin(), sorted.end());
        if (asked.outputs < 2) throw UsageError("--labels: a classification wants two classes at least");
        if (const auto twice = std::adjacent_find(sorted.begin(), sorted.end()); twice != sorted.end())
            throw UsageError(strf("--labels has '%s' twice", twice->c_str()));
    }
    // The model's own head goes on, unless another one is asked for.
    const bool same = known.outputs > 0 && known.regression() == (o.head == "regress") &&
                      (asked.labels.empty() || asked.labels == known.labels) &&
                      (!o.was_given("both-orders") || o.both_orders == known.both_orders);
    if (same) return set_head(run, known);
    if (!run.resume_from.empty())
        throw UsageError(
            strf("--resume: the run in %s trains another head; leave out --head, --labels and --both-orders, "
                 "or choose another --output",
                 run.output.c_str()));
    if (!run.adapters.empty() && !run.adapters[0].path.empty())
        throw UsageError(
            strf("--model %s is an adapter without this head; name its model for a new one", o.model.c_str()));
    if (known.outputs > 0) notes->push_back("note: the model has another head, which a new one replaces");
    run.source.config.head = {};
    set_head(run, asked);
}
