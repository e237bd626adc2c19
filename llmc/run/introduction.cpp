#include "llmc/run/introduction.h"

#include <algorithm>

#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/model/adapter.h"

std::vector<std::string> introduction(const Run& run, int B, const DataLoader& data, const Group& group,
                                      const std::function<MemoryPlan(const StepOptions&)>& memory) {
    const Options& o = run.options;
    const auto bytes = [](auto n) { return human_bytes(static_cast<double>(n)); };
    std::vector<std::string> lines;
    lines.push_back(strf("model: %s (%s), %s parameters, %s", o.model.c_str(), model_size_text(run.config).c_str(),
                         human_count(parameter_count(run.config)).c_str(), run.bf16 ? "bf16" : "fp32"));
    if (!run.adapters.empty()) {
        const AdapterConfig& adapter = run.adapters[0].config;
        int64_t trained = 0;
        for (const Parameter& p : adapter_table(run.config, adapter)) trained += p.size();
        const std::string what =
            adapter.prompts.tokens > 0
                ? strf("%d prompts%s", adapter.prompts.tokens, adapter.prompts.encoder ? " of an encoder" : "")
                : strf("LoRA of rank %d, alpha %g", adapter.lora.rank, static_cast<double>(adapter.lora.alpha));
        lines.push_back(strf("adapter: %s, on %s; %s parameters are trained", what.c_str(),
                             run.adapters[0].base.c_str(), human_count(trained).c_str()));
    }
    if (run.policy) {
        lines.push_back(
            strf("objective: %s, %d answers a step, %d to a prompt, %d epoch(s) of %d update(s), KL %g to %s",
                 o.objective == "ppo" ? "PPO" : "GRPO", o.rollouts, o.group_size, o.rollout_epochs, o.minibatches, o.kl,
                 o.reference.c_str()));
        lines.push_back(
            strf("prompts: %s, %s tokens, and %s to validate on; answers of at most %d tokens",
                 human_count(run.policy->prompts->size()).c_str(), human_count(run.policy->prompts->tokens()).c_str(),
                 human_count(run.policy->val_prompts ? run.policy->val_prompts->size() : 0).c_str(), o.max_tokens));
    } else if (o.objective == "dpo") {
        lines.push_back(strf("objective: DPO, beta %g", o.beta));
    } else if (run.teacher) {
        lines.push_back(strf("objective: distillation, temperature %g, the text's own words count %g",
                             o.teacher_temperature, o.hard_weight));
    } else if (run.labelled()) {
        const HeadConfig& head = run.head;
        std::string what = run.train_examples->labels_of() == LabelOf::pair ? "a reward"
                           : head.regression()                              ? "a number"
                                                                            : strf("%d classes: ", head.outputs);
        for (size_t i = 0; i < std::min<size_t>(8, head.labels.size()); i++)
            what += (i ? ", " : "") + printable(head.labels[i]) + (i == 7 && head.labels.size() > 8 ? ", ..." : "");
        if (head.both_orders) what += ", from both orders of a pair";
        lines.push_back(strf("head: %s; %s", what.c_str(),
                             o.lm_weight > 0
                                 ? strf("the language model's loss counts %g of its own", o.lm_weight).c_str()
                                 : "without the language model's loss"));
    }
    const std::string tokens = human_count(data.rows().tokens()), rows = human_count(data.samples_per_epoch());
    if (!run.policy && run.on_examples)
        lines.push_back(strf("data: %s examples, %s tokens, in %s rows of %d an epoch, and %s to validate on",
                             human_count(run.train_examples->examples()).c_str(), tokens.c_str(), rows.c_str(), run.T,
                             human_count(run.val_examples ? run.val_examples->examples() : 0).c_str()));
    else if (!run.policy)
        lines.push_back(strf("data: %s training tokens in %zu shard(s), %s windows of %d an epoch", tokens.c_str(),
                             run.train_shards.size(), rows.c_str(), run.T));
    if (run.text)
        lines.push_back(strf("text beside: %s tokens; their loss counts %g", human_count(run.text->tokens()).c_str(),
                             o.text_weight));
    if (run.policy)
        lines.push_back(strf("batch: %s rows of at most %d tokens an update, micro-batches of %d",
                             human_count(run.rows_of_update()).c_str(), run.T, B));
    else
        lines.push_back(strf("batch: %s tokens a step = %s sequences of %d, micro-batches of %d",
                             human_count(o.total_batch_size).c_str(), human_count(run.sequences).c_str(), run.T, B));
    if (group.world() > 1)
        lines.push_back(strf("ranks: %d (by %s), ZeRO stage %d; the memory is that of each", group.world(),
                             group.ranks().source.c_str(), o.zero_stage));

    StepOptions options = run.step_options(B);
    const MemoryPlan plan = memory(options);
    lines.push_back(strf("memory: parameters %s, gradients %s, optimizer %s, activations %s, together %s",
                         bytes(plan.parameters).c_str(), bytes(plan.gradients).c_str(), bytes(plan.optimizer).c_str(),
                         bytes(plan.activations + plan.buffers).c_str(), bytes(plan.total()).c_str()) +
                    (o.fuse_update == "off" ? "" : "; gradients of one block at a time (" + o.fuse_update + ")") +
                    (plan.host > 0 ? "; in the host's memory " + bytes(plan.host) : ""));
    std::string saved;
    for (options.recompute = o.recompute + 1; options.recompute <= 3; options.recompute++)
        saved += strf("%s%d saves %s", saved.empty() ? "" : ", ", options.recompute,
                      bytes(static_cast<int64_t>(plan.total() - memory(options).total())).c_str());
    if (!saved.empty()) lines.push_back("recompute: level " + saved);
    return lines;
}
