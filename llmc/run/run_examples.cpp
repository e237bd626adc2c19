// Examples as data: which files, by which template, and what is held back for validation.
#include <algorithm>
#include <filesystem>
#include <optional>
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/json.h"
#include "llmc/run/run_rules.h"
#include "llmc/text/examples.h"
#include "llmc/text/labels.h"
#include "llmc/text/shards.h"

namespace fs = std::filesystem;

constexpr int64_t kValidationEvery = 10;  // without --val-data one of each ten examples is for validation

// What ./tokenize examples has written is named by its files, or by their directory; "" where the paths are JSON.
static std::vector<std::string> written_files(const std::vector<std::string>& paths, const char* name) {
    std::vector<std::string> files;
    for (const std::string& path : paths)
        if (is_directory(path)) files.push_back(path + "/" + name);
        else if (is_examples_file(path)) files.push_back(path);
    if (!files.empty() && files.size() != paths.size())
        throw UsageError(strf("%s: give either such files of ./tokenize examples or JSON, not both", files[0].c_str()));
    return files;
}

static std::vector<std::string> all_paths(const Options& o) {
    std::vector<std::string> all = o.train_data;
    all.insert(all.end(), o.val_data.begin(), o.val_data.end());
    return all;
}

void choose_examples_vocabulary(Run& run, Notes* notes) {
    const std::vector<std::string> files = written_files(all_paths(run.options), "train.examples");
    if (!files.empty()) {
        choose_vocabulary(run, files, notes);
    } else {
        if (!run.resume_from.empty()) run.source.vocabulary = run.resume_from;
        choose_model_vocabulary(run, notes);
    }
    if (!run.tokenizer)
        throw Error("examples need the model's vocabulary; put it beside the model (GPT-2's: `make gpt2`)");
    if (files.empty()) return;
    if (run.options.was_given("template"))
        throw UsageError(
            strf("--template: %s has been written with one; give it to ./tokenize examples", files[0].c_str()));
    if (const std::string dir = vocabulary_dir(files); !dir.empty())
        if (const std::string jinja = Tokenizer::load(dir).chat_template(); !jinja.empty())
            run.tokenizer->set_chat_template(jinja);
}

Template choose_template(const Run& run, Notes* notes) {
    const Options& o = run.options;
    std::string note;
    Template chosen = Template::choose(o.chat_template, *run.tokenizer, &note);
    if (!note.empty()) notes->push_back(note);
    if (!run.resume_from.empty() && chosen.jinja() != run.tokenizer->chat_template())
        throw UsageError(strf("--template %s: the run in %s has another one; leave it out, or start another run",
                              o.chat_template.c_str(), run.output.c_str()));
    return chosen;
}

// Trained prompts of what the examples are for: of several adapters with any, all must have as many.
static int prompts_of(const Run& run) {
    if (run.options.command != Command::eval) return run.prompts(0);
    int prompts = 0;
    for (const auto& [name, adapter] : run.choices)
        if (const int n = run.prompts(adapter); n > 0 && prompts > 0 && n != prompts)
            throw UsageError(
                strf("--adapter: %d prompts and %d in %s; evaluate one after the other", prompts, n, name.c_str()));
        else prompts = std::max(prompts, n);
    return prompts;
}

void read_examples(Run& run, Notes* notes) {
    Options& o = run.options;
    const int prompts = prompts_of(run);
    std::optional<Template> chat;
    ReaderOptions reading;
    reading.skip_bad = o.skip_bad, reading.command = "... -i -";
    const bool evaluates = o.command == Command::eval;
    // eval decides by the data whether labels are meant
    std::optional<Labels> labels;
    std::optional<LabelOf> wanted;
    if (!evaluates) wanted = o.objective == "reward" || o.objective == "dpo" ? LabelOf::pair : LabelOf::text;
    const bool dpo = o.objective == "dpo";
    if (run.head.outputs > 0 || o.head != "none" || dpo)
        labels.emplace(run.head, run.T, static_cast<float>(o.lm_weight), wanted, dpo);
    int64_t unused = 0;
    const auto read = [&](const std::vector<std::string>& paths, const char* file) {
        Examples all;
        const std::vector<std::string> written = written_files(paths, file);
        if (!written.empty() && labels && !evaluates)
            throw UsageError(
                strf("--head: %s has no labels; give the JSON lines that it was written from", written[0].c_str()));
        for (const std::string& path : written) all.add(read_examples_file(path, run.config.words()));
        if (!written.empty() && prompts > 0)
            throw UsageError(
                strf("%s has no places for prompts; name the JSON that it was made of", written[0].c_str()));
        if (!written.empty()) return all;
        if (run.world > 1 && std::find(paths.begin(), paths.end(), "-") != paths.end())
            throw UsageError("-: ranks cannot share standard input; write the examples into a file");
        if (!chat) {
            chat = choose_template(run, notes);
            run.tokenizer->set_chat_template(chat->jinja());
            if (chat->prompts() > 0 && prompts == 0 && o.command == Command::finetune)
                throw UsageError(
                    strf("the template has places for prompts; train them with --prompt-tokens %d", chat->prompts()));
            chat = chat->with_prompts(prompts);
        }
        ReadingNotes said;
        all = read_examples(paths, reading, *chat, *run.tokenizer, &said, labels ? &*labels : nullptr, &unused);
        for (const std::string& line : said.lines()) notes->push_back(line);
        return all;
    };
    const auto pack = [&](const Examples& all, bool shuffle) {
        auto fitted = std::make_shared<Examples>(all.fit(run.T));
        const std::string of = human_count(all.size()) + " examples";
        const bool labelled = !all.labels.empty();
        const char* how = labelled ? "of the texts the end" : "of the prompt the beginning, then the end";
        if (fitted->cut > 0)
            notes->push_back(strf("note: %s of %s are longer than %d tokens%s and were cut: %s",
                                  human_count(fitted->cut).c_str(), of.c_str(),
                                  run.head.both_orders && labelled ? run.T / 2 : run.T,
                                  run.head.both_orders && labelled ? " in each order" : "", how));
        if (fitted->left_out > 0)
            notes->push_back(strf("note: %s of %s were left out: cut so, nothing to learn remains",
                                  human_count(fitted->left_out).c_str(), of.c_str()));
        if (fitted->size() == 0) throw Error("no example fits into --seq-len (-t); give a longer one");
        return std::make_shared<PackedExamples>(fitted, run.T, o.packing, shuffle, o.seed);
    };
    const auto say_unused = [&] {
        if (unused > 0)
            notes->push_back(strf("note: the labels of %s examples are not used: %s", human_count(unused).c_str(),
                                  evaluates ? "the model has no head" : "--head trains one that gives them"));
    };
    if (evaluates) {
        const Examples all = read(o.val_data, "val.examples");
        run.val_examples = pack(all, false);
        for (const auto& [name, adapter] : run.choices)
            if (prompts > 0 && run.prompts(adapter) == 0) run.val_without_prompts = pack(all.without_prompts(), false);
        return say_unused();
    }
    Examples train = read(o.train_data, "train.examples"), validation;
    if (labels && !dpo) set_head(run, labels->head(train));
    if (o.val_data.empty() && is_file(o.train_data[0] + "/val.examples")) o.val_data = {o.train_data[0]};
    if (!o.val_data.empty()) {
        validation = read(o.val_data, "val.examples");
    } else if (o.val_every > 0 && train.size() >= kValidationEvery) {
        train = train.hold_back(kValidationEvery, &validation);
    }
    say_unused();
    run.train_examples = pack(train, true);
    if (validation.size() > 0) run.val_examples = pack(validation, false);
    else
        notes->push_back(
            "note: too few examples to hold some back, and no --val-data: validation loss is not measured");
}

void record_examples(Run& run, Notes* notes) {
    const Options& o = run.options;
    Json train = {{"file", fs::path(o.train_data[0]).filename()},
                  {"examples", run.train_examples->examples()},
                  {"tokens", run.train_examples->tokens()}};
    if (run.text) train["text_tokens"] = run.text->tokens();
    record_data(run, json_line(train), o.train_data, o.val_data, notes);
}
