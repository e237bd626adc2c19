// Checkpoints: OUT/step_00001000/ = a Hugging Face model directory + optimizer shards + trainer_state.json.
//
// A checkpoint becomes visible only when it is whole and on disk: everything is written into OUT/.tmp_step_..., each file is
// fsynced, then the directory, then it is renamed and OUT is fsynced. A crash at any moment leaves the older checkpoints as
// they were. Nothing in it depends on the number of ranks.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include "llmc/model_files.h"

struct TrainerState {
    int64_t step = 0;                          // updates done, skipped ones included
    int64_t optimizer_updates = 0;             // AdamW's t
    int64_t next_sample = 0;                   // position in the data (dataloader.h)
    uint64_t seed = 0;                         // with step: the whole random state (philox.h)
    double best_val_loss = 0;                  // 0: none yet
    double seconds = 0;                        // trained so far
    std::vector<double> loss_window, norm_window;   // of the outlier detectors
    std::string options_json;                  // arithmetic_options_json()
    std::string data_json;                     // {"train": [shard names and token counts], "vocabulary size": V}
};

// Directory of the newest whole checkpoint below `output`, "" if there is none. Half-written ones (.tmp_*) are no checkpoints.
std::string newest_checkpoint(const std::string& output);
std::vector<std::string> list_checkpoints(const std::string& output);      // oldest first

// Writes one. Error (full disk, no permission): the temporary directory is removed, older checkpoints are untouched.
// Returns its directory. If OUT/step_... of that step is there already and whole, it is replaced only after the new one is on disk.
std::string save_checkpoint(const std::string& output, const ModelConfig& config, const ModelTensors& tensors,
                            const std::string& vocabulary, const TrainerState& state);

// Reads trainer_state.json and checks that every file it names is there with its checksum (Error names file and remedy: the
// next older checkpoint). Then load_optimizer reads weights, masters, m, v.
TrainerState read_trainer_state(const std::string& checkpoint);
void load_training_state(const std::string& checkpoint, const ModelConfig& config, const ModelTensors& tensors);

// Deletes all but the newest `keep` (0 = keep all) that are no multiple of `major_every` (0 = none is major). Never the newest.
void delete_old_checkpoints(const std::string& output, int keep, int64_t major_every);
