#include "llmc/run/run.h"

#include <algorithm>
#include <filesystem>
#include "llmc/base/error.h"
#include "llmc/base/human.h"
#include "llmc/files/run_directory.h"
#include "llmc/model/parameters.h"
#include "llmc/run/run_rules.h"
#include "llmc/text/dataloader.h"

StepOptions Run::step_options(int B) const {
    StepOptions o;
    o.B = B, o.T = T;
    o.recompute = options.recompute;
    o.dropout = static_cast<float>(options.dropout), o.grad_clip = static_cast<float>(options.grad_clip);
    o.beta1 = static_cast<float>(options.beta1), o.beta2 = static_cast<float>(options.beta2);
    o.epsilon = static_cast<float>(options.epsilon), o.weight_decay = static_cast<float>(options.weight_decay);
    o.optimizer = optimizer_of(options), o.state_type = state_type_of(options);
    o.momentum = static_cast<float>(options.momentum), o.l1 = static_cast<float>(options.l1);
    o.examples = on_examples, o.labels = labelled(), o.preferred = options.objective == "reward";
    o.objective = options.objective == "dpo" || teacher || policy, o.signals = policy != nullptr;
    o.language = !o.labels || options.lm_weight > 0 || options.objective == "dpo";
    o.rank = rank, o.world = world, o.zero_stage = options.zero_stage, o.offload = offload_of(options);
    o.fuse_update = fuse_update_of(options);
    o.master_weights = options.master_weights, o.stochastic_rounding = options.stochastic_rounding;
    for (const AdapterInfo& adapter : adapters) o.adapters.push_back(adapter.config);
    return o;
}

StepOptions Run::inference_options(int B) const {
    StepOptions o;
    o.training = false;
    o.B = B, o.T = T, o.examples = on_examples, o.labels = labelled();
    for (const AdapterInfo& adapter : adapters) o.adapters.push_back(adapter.config);
    return o;
}

std::shared_ptr<const Rows> Run::training_rows() const {
    if (policy) return policy->prompts;
    if (on_examples) return train_examples;
    return std::make_shared<Windows>(train_shards, T, config.words(), true, options.seed);
}
std::shared_ptr<const Rows> Run::validation_rows(size_t adapter) const {
    if (policy) return policy->val_prompts;
    if (on_examples) return validation_examples(adapter);
    if (val_shards.empty()) return nullptr;
    return std::make_shared<Windows>(val_shards, T, config.words(), false, 0);
}

static void choose_model(Run& run, const std::string& default_model, Notes* notes) {
    Options& o = run.options;
    // a directory that is called like the program's own choice is meant only where it is named
    if (o.model.empty() && parse_model_size(default_model, &run.source.config)) o.model = default_model;
    else run.source = find_model(o.model, o.base);
    run.config = run.source.config;
    if (run.source.adapter) run.adapters = {*run.source.adapter};
    else if (o.was_given("base"))
        throw UsageError("--base is the model of an adapter, and --model is none; leave it out");
    notes->insert(notes->end(), run.source.notes.begin(), run.source.notes.end());
    if (run.source.kind == ModelSource::Kind::directory && is_whole_checkpoint(run.source.path))
        for (const std::string& note : check_model_files(run.source.path)) notes->push_back(note);
    if (o.command != Command::train && run.source.kind == ModelSource::Kind::size)
        throw UsageError(strf("%s: --model %s is a size without weights; name a run, a model directory or a .bin file",
                              command_name(o.command), o.model.c_str()));
}

// What finetune trains of an adapter: a new one, or that which --model names, as it is.
static void choose_adapter(Run& run) {
    const Options& o = run.options;
    AdapterConfig wanted = adapter_config(o, run.config);
    if (wanted == AdapterConfig{}) return;
    if (run.adapters.empty()) {
        if (run.source.kind == ModelSource::Kind::size)
            throw UsageError(strf("--%s adapts a model that has learned something; name one with --model",
                                  wanted.lora.rank > 0 ? "lora-rank" : "prompt-tokens"));
        run.adapters = {{"", std::filesystem::absolute(run.source.path).lexically_normal().string(), wanted}};
        return;
    }
    AdapterConfig& there = run.adapters[0].config;
    const auto refuse = [&](const std::string& kind, const char* options) {
        throw UsageError(strf("--model %s is an adapter of %s; leave out --%s..., or name its model for a new one",
                              o.model.c_str(), kind.c_str(), options));
    };
    wanted.lora.layers = there.lora.layers, wanted.lora.rank_stabilised = there.lora.rank_stabilised;
    if (wanted.lora.rank > 0 && !(wanted.lora == there.lora))
        refuse(there.lora.rank == 0
                   ? "another kind"
                   : strf("rank %d, alpha %g, dropout %g", there.lora.rank, static_cast<double>(there.lora.alpha),
                          static_cast<double>(there.lora.dropout)),
               "lora-");
    if (wanted.prompts.tokens == 0) return;
    if (wanted.prompts.tokens != there.prompts.tokens)
        refuse(there.prompts.tokens == 0 ? "another kind" : strf("%d prompts", there.prompts.tokens), "prompt-");
    if (!run.resume_from.empty()) there.prompts.encoder = wanted.prompts.encoder;  // which the checkpoint has
    else if (o.was_given("prompt-encoder") && wanted.prompts.encoder)
        throw UsageError(
            strf("--model %s has finished prompts, which are trained on without an encoder; leave out "
                 "--prompt-encoder lstm",
                 o.model.c_str()));
}

// What sample, chat and eval compute with.
static void choose_adapters(Run& run) {
    const Options& o = run.options;
    const auto add = [&](const std::string& what) {
        std::filesystem::path path = std::filesystem::path(what).lexically_normal();
        if (!path.has_filename()) path = path.parent_path();
        std::string name = path.filename().string();
        for (const auto& [other, number] : run.choices)
            if (other == name) name = what;
        run.choices.push_back({name, 0});
    };
    if (o.adapters.empty() && run.adapters.empty()) run.choices = {{"none", SIZE_MAX}};
    else if (o.adapters.empty()) add(o.model);
    else if (!run.adapters.empty())
        throw UsageError(strf("--model %s is an adapter itself; name its model, %s, to use --adapter", o.model.c_str(),
                              run.adapters[0].base.c_str()));
    for (const std::string& what : o.adapters) {
        if (what == "none") {
            run.choices.push_back({what, SIZE_MAX});
            continue;
        }
        const AdapterInfo adapter = find_adapter(what, run.config);
        add(what), run.choices.back().second = run.adapters.size();
        // its template, where it has one
        if (run.adapters.empty() && Tokenizer::present(adapter.path)) run.source.vocabulary = adapter.path;
        run.adapters.push_back(adapter);
    }
}

static void choose_precision_and_length(Run& run, const ProgramInfo& program) {
    Options& o = run.options;
    if (o.precision.empty()) o.precision = program.default_precision;
    run.bf16 = o.precision == "bf16";
    if (o.seq_len == 0) o.seq_len = run.config.T;
    if (o.seq_len > run.config.T)
        throw UsageError(strf("--seq-len (-t) %d is longer than the model's longest context, %d; give at most that",
                              o.seq_len, run.config.T));
    run.T = o.seq_len;
}

static void choose_total_batch(Run& run, int64_t default_tokens) {
    Options& o = run.options;
    const int64_t T = run.T;
    int64_t most = std::max<int64_t>(1, default_tokens / T);
    if (run.on_examples)  // an epoch has sixteen steps, where there are enough for that
        most =
            std::clamp<int64_t>(run.train_examples->epoch_begin(1) / 16, run.world, std::max<int64_t>(run.world, most));
    if (o.total_batch_size == 0)
        o.total_batch_size = o.micro_batch_size > 0 ? step_tokens(o.micro_batch_size, run.T, run.world) : most * T;
    if (o.total_batch_size % T != 0) {
        const int64_t below = o.total_batch_size / T * T;
        throw UsageError(strf(
            "--total-batch-size (-d) %lld is no multiple of --seq-len (-t) %d; the nearest that are: %lld and %lld",
            static_cast<long long>(o.total_batch_size), run.T, static_cast<long long>(std::max<int64_t>(below, T)),
            static_cast<long long>(below + T)));
    }
    run.sequences = o.total_batch_size / T;
    check_batch(run.config, o.total_batch_size);
    if (run.sequences < run.world)
        throw UsageError(
            strf("--total-batch-size (-d) %lld gives %lld sequences a step, fewer than the %d ranks; make it "
                 "larger, or start fewer ranks",
                 static_cast<long long>(o.total_batch_size), static_cast<long long>(run.sequences), run.world));
    if (o.micro_batch_size > run.sequences)
        throw UsageError(
            strf("--micro-batch-size (-b) %d x --seq-len (-t) %d is more than --total-batch-size (-d) %lld; make one "
                 "smaller or the other larger",
                 o.micro_batch_size, run.T, static_cast<long long>(o.total_batch_size)));
}

Run prepare_training(const Options& options, const ProgramInfo& program, int rank, int world,
                     std::vector<std::string>* notes) {
    Run run;
    run.options = options;
    run.rank = rank, run.world = world;
    if (options.zero_stage > 0 && world == 1) notes->push_back("note: --zero-stage has no effect with one process");
    choose_model(run, program.default_model, notes);
    choose_extension(run, notes);
    // A run that is named brings its data with it; else the data gives the run its name.
    if (!options.output.empty()) choose_output(run, notes);
    choose_training_data(run, notes);
    if (options.output.empty()) choose_output(run, notes);
    if (!run.resume_from.empty()) obey_resumed_run(run, notes);
    std::vector<std::string> all_shards = run.train_shards;
    all_shards.insert(all_shards.end(), run.val_shards.begin(), run.val_shards.end());
    if (run.on_examples) choose_examples_vocabulary(run, notes);
    else choose_vocabulary(run, all_shards, notes);
    check_model_config(run.config, "--model " + run.options.model);
    choose_adapter(run);
    if (run.prompts(0) > 0 && !run.on_examples)
        throw UsageError("--prompt-tokens: prompts stand in examples; name JSON lines with --train-data (-i)");
    choose_precision_and_length(run, program);
    choose_head(run, notes);
    choose_teacher(run, notes);
    choose_policy(run, notes);
    if (!run.policy && run.on_examples) read_examples(run, notes);
    else if (!run.policy) drop_short_validation(run, notes);
    if (!run.policy) choose_total_batch(run, program.default_total_batch);
    choose_text(run);
    if (run.on_examples && !run.options.was_given("val-every") && run.options.val_every > 0)  // after each epoch
        run.options.val_every = (run.training_rows()->epoch_begin(1) + run.sequences - 1) / run.sequences;
    if (run.options.patience > 0 && !run.validation_rows())
        throw UsageError("--patience needs data to validate on; name some with --val-data (-j)");
    if (run.policy) record_prompts(run, notes);
    else if (run.on_examples) record_examples(run, notes);
    else record_data(run, notes);
    if (run.options.new_rows_first > 0 && run.new_words.first == 0)
        throw UsageError("--new-rows-first: there are no new words; name a vocabulary that has some with --vocab");
    check_offload(run.options, {.cpu = program.name == "train_gpt2",
                                .masters = run.bf16 && run.options.master_weights,
                                .adapter = !run.adapters.empty(),
                                .ranks = world});
    check_fuse_update(run.options, (run.rows_of_update() + world - 1) / world);
    if (rank == 0) take_output(run);
    return run;
}

Run prepare_inference(const Options& options, const ProgramInfo& program, std::vector<std::string>* notes) {
    Run run;
    run.options = options;
    choose_model(run, "", notes);
    check_model_config(run.config, "--model " + options.model);
    choose_adapters(run);
    if (options.command == Command::eval && options.task.empty()) {
        choose_evaluation_data(run);
        for (const auto& [name, adapter] : run.choices)
            if (run.prompts(adapter) > 0 && !run.on_examples)
                throw UsageError(
                    strf("%s: its prompts stand in examples; name JSON lines with --val-data (-j)", name.c_str()));
        if (run.on_examples) choose_examples_vocabulary(run, notes);
        else choose_vocabulary(run, run.val_shards, notes);
    } else {
        choose_model_vocabulary(run, notes);
        if (options.command == Command::eval) choose_questions(run);
    }
    choose_precision_and_length(run, program);
    for (const auto& [name, number] : run.choices) {
        const bool own = number < run.adapters.size() && run.adapters[number].config.head.outputs > 0;
        const HeadConfig& head = own ? run.adapters[number].config.head : run.config.head;
        if (&name == &run.choices[0].first) run.head = head;
        run.one_head = run.one_head && head == run.head;
    }
    if (run.on_examples) read_examples(run, notes);
    if (run.labelled() && !run.one_head)
        throw UsageError(
            "--adapter: these have not the same head; give those that have to one eval, the others to another");
    if (!options.answers.empty() && options.task.empty() && !run.labelled())
        throw UsageError("--answers goes with --task, or with labelled texts and a model that has a head; name one");
    return run;
}
