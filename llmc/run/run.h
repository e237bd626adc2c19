// A run: everything that must be known before a model is built. It follows from the options, and from what they name:
// data, vocabulary, sizes, batch, output directory, the checkpoint to resume from.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>
#include "llmc/files/adapter_files.h"
#include "llmc/files/checkpoint.h"
#include "llmc/files/model_files.h"
#include "llmc/model/step_state.h"
#include "llmc/run/options.h"
#include "llmc/text/answer_prompts.h"
#include "llmc/text/packing.h"
#include "llmc/text/tokenizer.h"

struct Run;

// A model beside the one that is trained: a teacher, a policy's reference, or one that rewards (frozen.h).
struct FrozenModel {
    ModelSource source;
    ModelConfig config;         // with its head
    bool shared = false;        // it is the trained model's own base, which is frozen,
    size_t adapter = SIZE_MAX;  // with this one of run.adapters, or without any
    StepOptions options(const Run& run, int B) const;
    std::string path() const { return source.adapter ? source.adapter->path : source.path; }
};
struct PolicyPlan {
    std::shared_ptr<const AnswerPrompts> prompts, val_prompts;
    std::optional<FrozenModel> reference;             // none: neither --kl nor --max-kl
    std::vector<std::optional<FrozenModel>> rewards;  // of each source (rewards.h), if it is a model
};

struct Run {
    Options options;  // defaults filled in, recorded values of a resumed run obeyed
    std::vector<std::string> train_shards, val_shards;
    bool on_examples = false;  // the data is examples, and these take the place of shards:
    std::shared_ptr<PackedExamples> train_examples, val_examples;
    std::shared_ptr<PolicyPlan> policy;                         // or these are prompts to write answers to
    std::shared_ptr<const Rows> text;                           // --text, beside either
    std::shared_ptr<const PackedExamples> val_without_prompts;  // for what sees none, where others do
    std::string vocabulary;  // directory, or "" if its files are nowhere (GPT-2's ids are printed as numbers)
    std::optional<Tokenizer> tokenizer;
    ModelSource source;
    std::optional<FrozenModel> teacher;  // --teacher
    std::vector<AdapterInfo> adapters;   // over the model; training: the one that is trained, path "": new
    // What sample, chat and eval compute with: an adapter's name and number, or "none" and SIZE_MAX
    std::vector<std::pair<std::string, size_t>> choices;
    ModelConfig config;
    HeadConfig head;       // the one that labelled examples are for, the adapter's or the model's
    bool one_head = true;  // all of `choices` have that one
    NewWords new_words;    // --vocab: those that the source's vocabulary lacks
    bool bf16 = false;
    int T = 0;
    int64_t sequences = 0;  // of a whole step, over all ranks: total batch / T; of a policy prompts
    int64_t rows_of_update() const { return policy ? options.rollouts / options.minibatches : sequences; }
    int rank = 0, world = 1;
    int prompts(size_t adapter) const {
        return adapter < adapters.size() ? adapters[adapter].config.prompts.tokens : 0;
    }
    std::string output, resume_from;   // resume_from: a checkpoint, or ""
    TrainerState state;                // of that checkpoint
    std::vector<std::string> damaged;  // checkpoints newer than that, which are renamed before the run goes on
    std::shared_ptr<const int> lock;   // held while this process trains into `output`

    StepOptions step_options(int B) const;  // for training
    StepOptions inference_options(int B) const;
    bool labelled() const {
        return train_examples ? train_examples->labelled() : val_examples && val_examples->labelled();
    }
    bool keeps_best() const { return options.patience > 0 || on_examples; }
    std::shared_ptr<const PackedExamples> validation_examples(size_t adapter) const {
        return val_without_prompts && prompts(adapter) == 0 ? val_without_prompts : val_examples;
    }
    std::shared_ptr<const Rows> training_rows() const;
    std::shared_ptr<const Rows> validation_rows(size_t adapter = 0) const;  // null: there is nothing to validate on
};

// Into a model of these options: the weights, of which its adapters, too.
template <class M>
void load_run(const Run& run, M& model) {
    load_weights(run.source, model.tensors(), run.new_words);
    for (size_t i = 0; i < run.adapters.size(); i++) {
        if (run.adapters[i].path.empty()) model.init_adapter(i, run.options.seed);
        else load_adapter(run.adapters[i].path, model.adapter_tensors(i));
    }
}

// train and finetune. Every combination that cannot work ends here, before memory is taken or anything is written.
// `notes`: lines for the person to read ("--resume: no run in …, starting afresh").
// Only rank 0 looks after the output directory.
Run prepare_training(const Options& options, const ProgramInfo& program, int rank, int world,
                     std::vector<std::string>* notes);

// sample and eval: model, vocabulary, and for eval the validation shards.
Run prepare_inference(const Options& options, const ProgramInfo& program, std::vector<std::string>* notes);
