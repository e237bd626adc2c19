// The rules by which options become a Run, each set of them a function; run.cpp calls them in order. A function fills in
// what follows from the options, and throws where they cannot work.
#pragma once
#include <string>
#include <vector>
#include "llmc/run/run.h"
#include "llmc/text/template.h"

using Notes = std::vector<std::string>;  // lines for the person to read

// Data: run_data.cpp.
void choose_training_data(Run& run, Notes* notes);   // train_shards, val_shards
void drop_short_validation(Run& run, Notes* notes);  // of a data set that is small for its own validation part
void choose_evaluation_data(Run& run);               // val_shards
void choose_questions(Run& run);                     // of --task: options.val_data
// The vocabulary of the shards, which must be the model's, but that the model may have more tokens. Fills in config.V where the model leaves it to the data.
void choose_vocabulary(Run& run, const std::vector<std::string>& shards, Notes* notes);
void choose_model_vocabulary(Run& run, Notes* notes);  // where there are no shards: the one that lies with the model
void choose_extension(Run& run, Notes* notes);  // --vocab: new_words, and the model's size and vocabulary with them
void record_data(Run& run, Notes* notes);       // state.data_json, compared with that of a run that is resumed
// The same of data of any kind; train: a JSON value that says which.
void record_data(Run& run, const std::string& train, const std::vector<std::string>& train_paths,
                 const std::vector<std::string>& val_paths, Notes* notes);

// Examples: run_examples.cpp, where run.on_examples.
void choose_examples_vocabulary(Run& run, Notes* notes);  // the model's, with the template
void read_examples(Run& run, Notes* notes);               // train_examples, val_examples
void choose_head(Run& run, Notes* notes);                 // --head: what of `head` is known before the data is
void set_head(Run& run, const HeadConfig& head);          // and all of it: it is the trained adapter's, or the model's
void record_examples(Run& run, Notes* notes);             // as record_data

void choose_text(Run& run);  // --text: run.text, where T and the vocabulary are known (run_data.cpp)

// The template of examples: --template, or the model's.
Template choose_template(const Run& run, Notes* notes);

// Models beside the trained one: run_frozen.cpp. Error: it does not fit the model, or has nothing to reward with.
FrozenModel open_frozen(Run& run, const char* option, const std::string& what, Notes* notes, bool rewards = false);
void choose_teacher(Run& run, Notes* notes);  // --teacher

// Rewards: run_policy.cpp, where there is run.policy.
void choose_policy(Run& run, Notes* notes);   // and run.T, and of options those that the objective decides
void record_prompts(Run& run, Notes* notes);  // as record_data

// Output and resume: run_output.cpp.
void choose_output(Run& run, Notes* notes);     // output, resume_from and its state
void obey_resumed_run(Run& run, Notes* notes);  // config of resume_from, recorded options
void take_output(Run& run);                     // rank 0: it can be written to, and nobody else does
