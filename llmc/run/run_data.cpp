// Which data a run uses, and in which vocabulary it is.
#include <algorithm>
#include <filesystem>
#include "llmc/base/files.h"
#include "llmc/base/human.h"
#include "llmc/base/json.h"
#include "llmc/run/run_rules.h"
#include "llmc/text/dataloader.h"
#include "llmc/text/shards.h"
#include "llmc/text/task_forms.h"
#include "llmc/text/vocabulary.h"

namespace fs = std::filesystem;

// The default data set: what `make data` has made.
static std::string default_data(const std::string& split) {
    for (const char* name : {"tinyshakespeare", "bible"})
        if (is_file(strf("data/%s/%s_000000.bin", name, split.c_str())))
            return strf("data/%s/%s_*.bin", name, split.c_str());
    throw Error(strf("there is no data in data/tinyshakespeare: run `make data`, or name token shards with %s",
                     split == "train" ? "--train-data (-i)" : "--val-data (-j)"));
}

// The data of the run that is resumed, which goes on with no other unless the user names it.
static void take_recorded_data(Run& run, Notes* notes) {
    const Json data =
        parse_json_object(run.state.data_json, run.resume_from + "/trainer_state.json: what it says of the data");
    const auto take = [&](const char* key, const char* option, std::vector<std::string>* to) {
        if (!to->empty() || !data.contains(key)) return;
        for (const Json& path : data[key]) {
            if (!path.is_string())
                throw Error(strf("%s/trainer_state.json: %s holds %s, which is no path; name the data with %s",
                                 run.resume_from.c_str(), key, path.dump().c_str(), option));
            to->push_back(path.get<std::string>());
        }
        for (const std::string& path : *to)
            if (path == "-")
                throw Error(strf("--resume: the run in %s was trained on standard input; give the same again with %s -",
                                 run.output.c_str(), option));
            else if (!path_exists(path))
                throw Error(strf("--resume: %s, data of the run in %s, is gone; put it back, or name the data with %s",
                                 path.c_str(), run.output.c_str(), option));
    };
    const bool same = run.options.train_data.empty();
    take("train_paths", "--train-data (-i)", &run.options.train_data);
    if (same) take("validation_paths", "--val-data (-j)", &run.options.val_data);
    if (same && !run.options.train_data.empty())
        notes->push_back(strf("note: --resume: the run's own data (%s) instead of the default data set",
                              run.options.train_data[0].c_str()));
}

void choose_training_data(Run& run, Notes* notes) {
    Options& o = run.options;
    if (!run.resume_from.empty() && !run.state.data_json.empty()) take_recorded_data(run, notes);
    run.on_examples = std::any_of(o.train_data.begin(), o.train_data.end(), names_examples);
    if (run.on_examples) return;
    const bool beside = o.val_data.empty() && !o.train_data.empty();
    if (o.train_data.empty()) o.train_data = {default_data("train")};
    run.train_shards = expand_shards(o.train_data, "--train-data (-i)");
    if (!beside) return choose_evaluation_data(run);
    // The validation shards beside the training shards. If there are none, that is no error: nothing is validated then.
    std::string pattern = fs::path(run.train_shards[0]).parent_path() / "val_*.bin";
    try {
        run.val_shards = expand_shards({pattern}, "--val-data");
    } catch (const UsageError&) {
        notes->push_back("note: no --val-data and no " + pattern + ": validation loss is not measured");
    }
}

void drop_short_validation(Run& run, Notes* notes) {
    int64_t longest = 0;
    for (const std::string& path : run.val_shards) longest = std::max(longest, Shard(path, 0).size());
    if (!run.options.val_data.empty() || run.val_shards.empty() || longest > run.T) return;
    notes->push_back(
        strf("note: %s has %lld tokens, fewer than the %d that --seq-len %d needs: validation loss is not measured",
             run.val_shards[0].c_str(), static_cast<long long>(longest), run.T + 1, run.T));
    run.val_shards.clear();
}

void choose_evaluation_data(Run& run) {
    std::vector<std::string>& data = run.options.val_data;
    if (data.empty()) data = {default_data("val")};
    run.on_examples = std::any_of(data.begin(), data.end(), names_examples);
    if (run.on_examples && run.options.command != Command::eval)
        throw UsageError(
            strf("--val-data (-j) %s: examples to validate on want examples to train on", data[0].c_str()));
    if (run.on_examples) return;
    run.val_shards = expand_shards(run.options.val_data, "--val-data (-j)");
}

void choose_questions(Run& run) {
    Options& o = run.options;
    const std::vector<std::string>& names = task_names();
    const bool named = std::find(names.begin(), names.end(), o.task) != names.end();
    if (!named && !path_exists(o.task))
        throw UsageError(
            strf("--task %s is neither a task (%s) nor a file", o.task.c_str(), joined(names, ", ").c_str()));
    if (!named && !o.val_data.empty())
        throw UsageError(strf("--task %s is a file of questions, and --val-data (-j) names another; give one of them",
                              o.task.c_str()));
    if (named && o.val_data.empty() && o.task.starts_with("hellaswag")) {
        if (!is_file(o.hellaswag_data))
            throw Error(
                strf("--task %s: there is no %s: `make hellaswag` fetches it, or name a file with --val-data (-j)",
                     o.task.c_str(), o.hellaswag_data.c_str()));
        o.val_data = {o.hellaswag_data};
    }
    if (named && o.val_data.empty())
        throw UsageError(strf("--task %s needs its questions; name the file with --val-data (-j)", o.task.c_str()));
}

constexpr int kPaddedGpt2 = 50304;  // rows that others give a model of GPT-2's vocabulary, for speed
constexpr const char* kOtherVocabulary =
    "encode the text with the model's vocabulary (./tokenize encode --vocab), or train a new model";

// Where GPT-2's vocabulary is, or "".
static std::string gpt2_vocabulary() {
    for (const char* dir : {"data/gpt2", "gpt2"})
        if (Tokenizer::present(dir)) return dir;
    return "";
}

// A model may have more rows than its vocabulary has words, never fewer, and uses those alone that it says.
static void check_rows(const Run& run) {
    if (run.config.in_use > 0 && run.tokenizer->vocab_size() > run.config.in_use)
        throw Error(
            strf("%s: the vocabulary has %d tokens, of which the model uses %d; say how many in its size (:U%d)",
                 run.vocabulary.c_str(), run.tokenizer->vocab_size(), run.config.in_use, run.tokenizer->vocab_size()));
    if (run.tokenizer->vocab_size() > run.config.V)
        throw Error(strf(
            "%s: the vocabulary has %d tokens, the model only %d; put the vocabulary it was trained with beside it",
            run.vocabulary.c_str(), run.tokenizer->vocab_size(), run.config.V));
}

// Of shards beside which lies the vocabulary `beside`, or none: GPT-2's ids, as in llm.c's shards. It must be the model's, but
// that the model's may have more.
static void check_data_vocabulary(const Run& run, const std::vector<std::string>& shards, const std::string& beside) {
    if (run.vocabulary == beside) return;
    if (beside.empty()) {
        if (run.tokenizer->bytes(kGpt2Vocabulary - 1) == kEndOfText) return;
        throw Error(
            strf("no vocabulary lies beside the data (%s), so that it is in GPT-2's, the model (%s) in one of %d "
                 "tokens; if the data is in the model's, copy that there, else %s",
                 shards[0].c_str(), run.options.model.c_str(), run.tokenizer->vocab_size(), kOtherVocabulary));
    }
    const Tokenizer data = Tokenizer::load(beside);
    if (data.within(*run.tokenizer)) return;
    if (data.vocab_size() == run.tokenizer->vocab_size())
        throw Error(
            strf("the vocabularies of the data (%s) and of the model (%s) have the same size and different tokens: %s",
                 beside.c_str(), run.vocabulary.c_str(), kOtherVocabulary));
    const std::string words =
        data.extends(*run.tokenizer) ? ", or give the model the words that it lacks: finetune --vocab " + beside : "";
    throw Error(strf("the data (%s) has a vocabulary of %d tokens, the model (%s) another of %d: %s%s",
                     shards[0].c_str(), data.vocab_size(), run.vocabulary.c_str(), run.tokenizer->vocab_size(),
                     kOtherVocabulary, words.c_str()));
}

void choose_vocabulary(Run& run, const std::vector<std::string>& shards, Notes* notes) {
    std::string beside = vocabulary_dir(shards), models = run.source.vocabulary;  // what the model was trained with
    if (!run.resume_from.empty()) models = Tokenizer::present(run.resume_from) ? run.resume_from : "";
    run.vocabulary = models.empty() ? beside : models;  // the model's has what was added to it
    const bool gpt2s = run.config.V == 0 || run.config.V == kGpt2Vocabulary || run.config.V == kPaddedGpt2;
    if (run.vocabulary.empty() && gpt2s) run.vocabulary = gpt2_vocabulary();
    try {
        if (!run.vocabulary.empty()) run.tokenizer = Tokenizer::load(run.vocabulary);
    } catch (const OtherVocabulary& e) {
        if (run.config.V == 0) throw;
        const std::string why = e.what();
        notes->push_back("note: " + why.substr(0, why.find("; only GPT-2")) + "; tokens are printed as numbers");
        run.vocabulary = "";
        return;
    }
    if (run.config.V == 0) run.config.V = run.tokenizer ? run.tokenizer->vocab_size() : kGpt2Vocabulary;
    if (models.empty() && !beside.empty() && run.tokenizer->vocab_size() > run.config.V)
        throw Error(strf("the data (%s) has a vocabulary of %d tokens, the model (%s) one of %d: %s", shards[0].c_str(),
                         run.tokenizer->vocab_size(), run.options.model.c_str(), run.config.V, kOtherVocabulary));
    if (run.tokenizer) check_rows(run);
    if (!models.empty()) check_data_vocabulary(run, shards, beside);
}

void choose_model_vocabulary(Run& run, Notes* notes) {
    run.vocabulary = run.source.vocabulary;
    if (run.vocabulary.empty() && (run.config.V == kGpt2Vocabulary || run.config.V == kPaddedGpt2))
        run.vocabulary = gpt2_vocabulary();
    const bool optional = run.options.command == Command::export_model;  // which says so
    if (run.vocabulary.empty() && optional) return;
    if (run.vocabulary.empty())
        throw Error(
            run.options.model +
            " has no vocabulary beside it (vocab.json and merges.txt, or tokenizer.json): copy there what it was "
            "trained with (GPT-2's: `make gpt2`)");
    run.tokenizer = Tokenizer::load(run.vocabulary);
    check_rows(run);
    notes->insert(notes->end(), run.tokenizer->notes().begin(), run.tokenizer->notes().end());
}

void choose_text(Run& run) {
    Options& o = run.options;
    if (o.text.empty() && !o.was_given("text-weight")) return;
    if (o.text.empty()) throw UsageError("--text-weight weighs --text; name some, or leave it out");
    if (o.objective != "dpo" && !run.policy) throw UsageError("--text goes with --objective dpo, ppo or grpo");
    if (run.prompts(0) > 0)
        throw UsageError("--text keeps a language model as it is, and --prompt-tokens changes none; leave it out");
    const std::vector<std::string> shards = expand_shards(o.text, "--text");
    check_data_vocabulary(run, shards, vocabulary_dir(shards));
    run.text = std::make_shared<Windows>(shards, run.T, run.config.words(), true, o.seed);
    o.text.clear();
    for (const std::string& shard : shards) o.text.push_back(fs::absolute(shard).lexically_normal());
}

void choose_extension(Run& run, Notes* notes) {
    const std::string& dir = run.options.vocab;
    if (dir.empty()) return;
    if (!run.adapters.empty() || run.options.was_given("lora-rank"))
        throw UsageError(
            "--vocab: an adapter leaves its base as it is; give the whole model the words first, without --lora-rank");
    choose_model_vocabulary(run, notes);
    const Tokenizer &old = *run.tokenizer, extended = Tokenizer::load(dir);
    const int first = old.vocab_size();
    if (!extended.extends(old))
        throw Error(strf(
            "--vocab %s: it is no extension of the model's vocabulary (%s), whose words and merges must stand in it "
            "first; make one with ./tokenize train --extend %s",
            dir.c_str(), run.vocabulary.c_str(), run.vocabulary.c_str()));
    if (extended.vocab_size() > first) run.new_words.first = first;
    for (int id = first; id < extended.vocab_size(); id++) {
        std::vector<int> pieces;
        old.merge(extended.bytes(id), pieces);
        if (pieces.empty() || *std::max_element(pieces.begin(), pieces.end()) >= first)
            throw Error(strf("--vocab %s: the model's vocabulary has no tokens for the bytes of the new word %d",
                             dir.c_str(), id));
        run.new_words.pieces.push_back(std::move(pieces));
    }
    notes->push_back(strf("vocabulary: %s words of the model, %s new ones, each the mean of its old pieces",
                          human_count(first).c_str(), human_count(std::ssize(run.new_words.pieces)).c_str()));
    run.source.vocabulary = dir;
    run.config.V = std::max(run.config.V, extended.vocab_size());
    if (run.config.in_use > 0) run.config.in_use = std::max(run.config.in_use, extended.vocab_size());
}

void record_data(Run& run, Notes* notes) {
    Json shards = Json::array();
    for (const std::string& path : run.train_shards)
        shards.push_back({{"file", fs::path(path).filename()}, {"tokens", Shard(path, 0).size()}});
    record_data(run, json_line(shards), run.train_shards, run.val_shards, notes);
}

void record_data(Run& run, const std::string& train, const std::vector<std::string>& train_paths,
                 const std::vector<std::string>& val_paths, Notes* notes) {
    Json data = {{"train", parse_json(train)}, {"vocabulary_size", run.config.V}};
    if (!run.resume_from.empty())  // by the model it began with, which need not be the one that is named now
        if (const Json before = try_json(run.state.data_json); before.is_object())
            if (const Json first = before.value("first_new_word", Json(0)); !json_whole(first, &run.new_words.first) ||
                                                                            run.new_words.first < 0 ||
                                                                            run.new_words.first >= run.config.V)
                throw Error(strf("%s/trainer_state.json: first_new_word is %s; resume from an older checkpoint",
                                 run.resume_from.c_str(), first.dump().c_str()));
    if (run.new_words.first > 0) data["first_new_word"] = run.new_words.first;
    const auto absolute = [](const std::vector<std::string>& paths) {
        Json list = Json::array();
        for (const std::string& path : paths)
            list.push_back(path == "-" ? path : fs::absolute(path).lexically_normal().string());
        return list;
    };
    if (!run.resume_from.empty() && !run.state.data_json.empty()) {
        const Json before = parse_json(run.state.data_json);
        const bool same = before.value("train", Json()) == data["train"] &&
                          before.value("vocabulary_size", Json()) == data["vocabulary_size"];
        if (!same && !run.options.was_given("train-data"))
            throw Error(
                strf("--resume: %s is not the data of the run in %s; name the data to go on with: --train-data "
                     "(-i)",
                     train_paths[0].c_str(), run.output.c_str()));
        if (!same)
            notes->push_back(
                "note: --resume: the training data is not that of the interrupted run; the order of samples changes");
    }
    data["train_paths"] = absolute(train_paths), data["validation_paths"] = absolute(val_paths);
    run.state.data_json = json_line(data);
}
