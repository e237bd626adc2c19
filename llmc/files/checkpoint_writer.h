// Checkpoints written beside training: the model is copied in the host's memory, and a thread writes the copy to the
// disk. Weights and optimizer change only when a step ends with its update, so the copy, too, is made beside the step's
// forward and backward pass: by a thread where the CPU trains, by the waiting host where a GPU does.
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
    CheckpointWriter(const std::string& output, const ModelConfig& config, const Tokenizer* tokenizer,
                     const AdapterInfo* adapter, int keep, int64_t major_every)
        : output_(output),
          config_(config),
          tokenizer_(tokenizer),
          adapter_(adapter),
          keep_(keep),
          major_every_(major_every) {}
    ~CheckpointWriter();
    CheckpointWriter(const CheckpointWriter&) = delete;

    struct Outcome {
        int64_t step = 0;
        std::string path, error, warning;  // path: it is there; warning: an old one could not be deleted
        double seconds = 0, waited = 0;    // that writing took, and that begin() and finish_copy() did
    };
    // Rank 0; the others call take_part_in_checkpoint(). Its outcome is fetched first: one at a time is written. Not
    // beside: without a copy; finish_copy() then waits until it is written.
    void begin(const ModelTensors& tensors, const TrainerState& state, bool beside = true);
    void finish_copy();             // before the model changes
    std::optional<Outcome> poll();  // of the one that was begun last, once, when it is known
    std::optional<Outcome> wait();

  private:
    Outcome write(const ModelTensors& tensors, const TrainerState& state) const;
    std::optional<ModelTensors> copy(const ModelTensors& tensors);

    const std::string output_;
    const ModelConfig config_;
    const Tokenizer* const tokenizer_;
    const AdapterInfo* const adapter_;
    const int keep_;
    const int64_t major_every_;
    std::unique_ptr<float[]> buffers_[4];  // by Buffer; they stay, so that the next copy finds its memory at hand
    struct {
        ModelTensors tensors;
        TrainerState state;
        double waited = 0;
    } begun_;
    std::future<std::optional<ModelTensors>> copying_;
    std::future<Outcome> writing_;
};
