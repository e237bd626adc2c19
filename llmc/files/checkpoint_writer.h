// Checkpoints written beside training: what a step waits for is a copy of the model in the host's memory; a thread
// writes that to the disk.
//
// The copy takes 4 bytes for each weight, master and moment. Where there is no memory for it, or no thread, the
// checkpoint is written at once, and training waits. A checkpoint is as whole, and as late to become visible, either
// way (checkpoint.h).
#pragma once
#include <future>
#include <memory>
#include <optional>
#include <string>
#include "llmc/files/checkpoint.h"

class CheckpointWriter {
  public:
    // keep, major_every: as delete_old_checkpoints() takes them.
    CheckpointWriter(const std::string& output, const ModelConfig& config, const std::string& vocabulary, int keep,
                     int64_t major_every)
        : output_(output), config_(config), vocabulary_(vocabulary), keep_(keep), major_every_(major_every) {}
    ~CheckpointWriter() { wait(); }
    CheckpointWriter(const CheckpointWriter&) = delete;

    struct Outcome {
        int64_t step = 0;
        std::string path, error, warning;  // path: it is there; warning: an old one could not be deleted
        double seconds = 0, waited = 0;    // that writing took, and begin()
    };
    // Rank 0; the others call take_part_in_checkpoint(). Its outcome is fetched first: one at a time is written.
    void begin(const ModelTensors& tensors, const TrainerState& state);
    std::optional<Outcome> poll();  // of the one that was begun last, once, when it is known
    std::optional<Outcome> wait();

  private:
    Outcome write(const ModelTensors& tensors, const TrainerState& state);
    ModelTensors copy(const ModelTensors& tensors);

    const std::string output_;
    const ModelConfig config_;
    std::string vocabulary_;  // where it lies: the newest checkpoint's stays, the one that a resume began from does not
    const int keep_;
    const int64_t major_every_;
    std::unique_ptr<float[]> buffers_[4];  // by Buffer; they stay, so that the next copy finds its memory at hand
    std::future<Outcome> writing_;
};
