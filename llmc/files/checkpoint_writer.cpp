#include "llmc/files/checkpoint_writer.h"

#include <algorithm>
#include <chrono>
#include <new>
#include <system_error>
#include "llmc/base/error.h"
#include "llmc/base/system.h"
#include "llmc/files/parameter_files.h"
#include "llmc/files/run_directory.h"

CheckpointWriter::~CheckpointWriter() {
    try {
        wait();
    } catch (const std::exception&) {  // a GPU that has failed cannot be read: another error tells of it
    }
}

CheckpointWriter::Outcome CheckpointWriter::write(const ModelTensors& tensors, const TrainerState& state) const {
    Outcome outcome;
    outcome.step = state.step;
    const double begin = seconds_now();
    try {
        outcome.path = save_checkpoint(output_, config_, tensors, tokenizer_, adapter_, state);
    } catch (const Error& e) {
        outcome.error = e.what();
    } catch (const std::bad_alloc&) {
        outcome.error =
            strf("the checkpoint of step %lld was not saved: out of memory", static_cast<long long>(state.step));
    }
    try {
        if (outcome.error.empty()) delete_old_checkpoints(output_, keep_, major_every_, state.best.step);
    } catch (const Error& e) {
        outcome.warning = e.what();
    }
    outcome.seconds = seconds_now() - begin;
    return outcome;
}

// A view of the copies; none, where there is no memory for them. It is taken before anything is read: the other ranks
// take part in the same reads, once.
std::optional<ModelTensors> CheckpointWriter::copy(const ModelTensors& tensors) {
    const auto order = checkpoint_order(tensors);
    const size_t elements = static_cast<size_t>(tensors.table.back().offset + tensors.table.back().size());
    if (!buffers_[0] &&
        4.0 * static_cast<double>(elements) * (tensors.has_master ? 4 : 3) > 0.8 * available_host_memory())
        return {};
    try {
        for (const auto& [p, buffer] : order)
            if (auto& b = buffers_[static_cast<int>(buffer)]; !b) b.reset(new float[elements]);  // not filled yet
    } catch (const std::bad_alloc&) {
        return {};
    }
    for (const auto& [p, buffer] : order)
        copy_parameter(*p, tensors, buffer, &buffers_[static_cast<int>(buffer)][static_cast<size_t>(p->offset)]);
    ModelTensors view = tensors;
    view.read = [this](Buffer b, int64_t offset, int64_t n, float* out) {
        std::copy_n(&buffers_[static_cast<int>(b)][static_cast<size_t>(offset)], n, out);
    };
    return view;
}

void CheckpointWriter::begin(const ModelTensors& tensors, const TrainerState& state, bool beside) {
    CHECK(!copying_.valid() && !writing_.valid(), "the outcome of the checkpoint before was not fetched");
    begun_ = {tensors, state, 0};
    auto job = [this, beside] { return beside ? copy(begun_.tensors) : std::optional<ModelTensors>(); };
    try {
        copying_ =
            std::async(tensors.read_by_thread && !tensors.collective ? std::launch::async : std::launch::deferred, job);
    } catch (const std::system_error&) {  // no thread is to be had
        copying_ = std::async(std::launch::deferred, job);
    }
    if (tensors.collective) finish_copy();
}

void CheckpointWriter::finish_copy() {
    if (!copying_.valid()) return;
    const double start = seconds_now();
    const auto copied = copying_.get();
    begun_.waited = seconds_now() - start;
    try {
        if (copied) {
            writing_ = std::async(std::launch::async, [this, copied] {
                Outcome outcome = write(*copied, begun_.state);
                outcome.waited = begun_.waited;
                return outcome;
            });
            return;
        }
    } catch (const std::system_error&) {
    }
    std::promise<Outcome> done;
    Outcome outcome = write(begun_.tensors, begun_.state);
    outcome.waited = seconds_now() - start;
    done.set_value(outcome);
    writing_ = done.get_future();
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::poll() {
    if (!writing_.valid() || writing_.wait_for(std::chrono::seconds(0)) != std::future_status::ready) return {};
    return writing_.get();
}

std::optional<CheckpointWriter::Outcome> CheckpointWriter::wait() {
    finish_copy();
    if (!writing_.valid()) return {};
    return writing_.get();
}
