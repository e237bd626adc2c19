#include "llmc/checkpoint.h"
#include "llmc/error.h"
std::string newest_checkpoint(const std::string&) { return ""; }
std::vector<std::string> list_checkpoints(const std::string&) { return {}; }
std::string save_checkpoint(const std::string&, const ModelConfig&, const ModelTensors&, const std::string&,
                            const TrainerState&) {
    throw Error("not implemented yet: save_checkpoint");
}
TrainerState read_trainer_state(const std::string&) { throw Error("not implemented yet: read_trainer_state"); }
void load_training_state(const std::string&, const ModelConfig&, const ModelTensors&) {
    throw Error("not implemented yet");
}
void delete_old_checkpoints(const std::string&, int, int64_t) {}
