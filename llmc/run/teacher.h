// A run's teacher as a model beside the one that learns (llmc/objectives/distillation.h).
#pragma once
#include <memory>
#include "llmc/files/adapter_files.h"
#include "llmc/run/model.h"
#include "llmc/run/run.h"

// Bytes that it takes; none: 0.
template <Model M>
size_t teacher_bytes(const Run& run, int B) {
    return run.teacher ? M::memory_plan(run.teacher->config, run.teacher_options(B)).total() : 0;
}

template <Model M>
std::shared_ptr<M> load_teacher(const Run& run, int B) {
    auto teacher = std::make_shared<M>(run.teacher->config, run.teacher_options(B));
    load_weights(*run.teacher, teacher->tensors());
    if (run.teacher->adapter) load_adapter(run.teacher->adapter->path, teacher->adapter_tensors(0));
    return teacher;
}
