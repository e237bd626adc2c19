// From options to everything that must be known before a model is built: data, vocabulary, sizes, batch, output
// directory, resume.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>
#include "llmc/checkpoint.h"
#include "llmc/log.h"
#include "llmc/model_files.h"
#include "llmc/options.h"
#include "llmc/step_state.h"
#include "llmc/tokenizer.h"

struct Run {
    Options options;  // defaults filled in, recorded values of a resumed run obeyed
    std::vector<std::string> train_shards, val_shards;
    std::string vocabulary;  // directory, or "" if its files are nowhere (GPT-2's ids are printed as numbers)
    std::optional<Tokenizer> tokenizer;
    ModelSource source;
    ModelConfig config;
    bool bf16 = false;
    int T = 0;
    int64_t sequences = 0;            // of a whole step: total batch / T
    std::string output, resume_from;  // resume_from: a checkpoint, or ""
    TrainerState state;               // of that checkpoint
    std::shared_ptr<const int> lock;  // held while this process trains into `output`

    StepOptions step_options(int B) const;  // for training
};

// train and finetune. Every combination that cannot work ends here, before memory is taken or anything is written.
// `notes`: lines for the person to read ("--resume: no run in …, starting afresh").
Run prepare_training(const Options& options, const ProgramInfo& program, std::vector<std::string>* notes);

// sample and eval: model, vocabulary, and for eval the validation shards.
Run prepare_inference(const Options& options, const ProgramInfo& program);

// Sequences per micro-batch: options.micro_batch_size, or the largest equal split of run.sequences that `bytes(B)` says
// fits in `available` bytes.
int choose_micro_batch(const Run& run, const std::function<size_t(int)>& bytes, double available);

// Bytes of memory that are available on this machine now.
double available_host_memory();
