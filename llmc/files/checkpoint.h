// Checkpoints: OUT/step_00001000/ = a Hugging Face model directory (or an adapter's) + optimizer shards +
// trainer_state.json.
//
//   optimizer.safetensors   "m.NAME", "v.NAME" and, of a bf16 model, "master.NAME" for each row of the parameter table:
//                           F32, oriented as in model.safetensors; optimizer-00001-of-0000N.safetensors when it is large
//   trainer_state.json      TrainerState, and size and CRC-32C of every other file and of itself
//
// A checkpoint becomes visible only when it is whole and on disk: everything is written into OUT/.tmp_step_..., each
// file is fsynced, then the directory, then it is renamed and OUT is fsynced. A crash at any moment leaves the older
// checkpoints as they were. Nothing in it depends on the number of ranks. A checkpoint of either precision resumes at
// the other: fp32 weights come from the masters if there are any, masters from the weights if there are none.
#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "llmc/files/model_files.h"

struct TrainerState {
    int64_t step = 0;                              // updates done, skipped ones included
    int64_t optimizer_updates = 0;                 // AdamW's t
    int64_t next_sample = 0;                       // position in the data (dataloader.h)
    uint64_t seed = 0;                             // with step: the whole random state (philox.h)
    double seconds = 0;                            // trained so far, with validations, samples and checkpoints
    std::vector<double> loss_window, norm_window;  // of the outlier detectors
    double last_norm = -1;                         // of the gradient of the last update; -1: there was none
    struct {                                       // what the clock of --time-limit has decided (schedule.h)
        double limit = 0, position = 0;            // limit 0: there was none
        int64_t end = 0;
    } clock;
    struct {  // of the run's validations: the lowest loss, and how many came after it
        double loss = std::numeric_limits<double>::infinity();
        int64_t step = -1, waited = 0;  // step -1: there was none
    } best;
    std::string options_json;  // arithmetic_options_json()
    std::string data_json;     // {"train": [names and token counts], "vocabulary_size": V, and the paths of the shards}
};

// Writes one and returns its directory; makes `output` if need be. Error (full disk, no permission): the temporary
// directory is removed, older checkpoints are untouched. A whole OUT/step_... of the same step is replaced only after
// the new one is on disk (for a moment it is called step_....old, and is found by that name); any other thing of that
// name is an Error. Temporary directories that dead processes left are removed first. Optimizer files are split at
// `optimizer_file_bytes`. adapter: what `tensors` are, where they are not the model's.
std::string save_checkpoint(const std::string& output, const ModelConfig& config, const ModelTensors& tensors,
                            const Tokenizer* tokenizer, const AdapterInfo* adapter, const TrainerState& state,
                            int64_t optimizer_file_bytes = 4'000'000'000);

// What a checkpoint holds of a model, in the order in which rank 0 reads it; and what the other ranks do meanwhile: they
// give what they have of each tensor.
std::vector<std::pair<const Parameter*, Buffer>> checkpoint_order(const ModelTensors& tensors);
void take_part_in_checkpoint(const ModelTensors& tensors);

// Reads trainer_state.json and checks that every file it names is there with its checksum (Error names file and remedy:
// the next older checkpoint). Then load_training_state reads weights, masters, m, v.
TrainerState read_trainer_state(const std::string& checkpoint);
// For those who use the model alone: checks its weights, and returns a note for each of its other files that is not as it
// was saved. (The user may have changed it.)
std::vector<std::string> check_model_files(const std::string& checkpoint);
void load_training_state(const std::string& checkpoint, const ModelConfig& config, const ModelTensors& tensors);
