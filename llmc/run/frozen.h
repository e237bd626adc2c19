// Models beside the one that is trained, which stay as they are: a teacher, a policy's reference, one that rewards.
#pragma once
#include <memory>
#include "llmc/files/adapter_files.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"

// Bytes that it takes beside the model; none, or a shared one: 0.
template <Model M>
size_t frozen_bytes(const std::optional<FrozenModel>& frozen, const Run& run, int B) {
    return frozen && !frozen->shared ? M::memory_plan(frozen->config, frozen->options(run, B)).total() : 0;
}

template <Model M>
std::shared_ptr<M> load_frozen(const FrozenModel& frozen, const Run& run, int B) {
    auto model = std::make_shared<M>(frozen.config, frozen.options(run, B));
    load_weights(frozen.source, model->tensors());
    if (frozen.source.adapter) load_adapter(frozen.source.adapter->path, model->adapter_tensors(0));
    return model;
}
