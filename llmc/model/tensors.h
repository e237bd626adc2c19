// How code outside of a model reaches its tensors, wherever they are.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>
#include "llmc/model/parameters.h"
#include "llmc/model/step_state.h"

enum class Buffer { weights, master, m, v };  // master: fp32 copy of bf16 weights

// Of a model on a host, a GPU or several ranks. Offsets and counts are
// elements of an arena (parameters.h), within one row of the table; values travel as float, which holds every bf16
// exactly; writing weights to a bf16 model rounds to nearest.
struct ModelTensors {
    std::vector<Parameter> table;
    bool bf16 = false;  // weights are stored as BF16 in files
    bool has_master = false;
    Optimizer optimizer = Optimizer::adamw;  // which moments there are of a tensor (optimizer.h)
    bool collective = false;                 // all ranks read together, in the same order
    bool read_by_thread = false;             // whether another thread may read while a step works on its gradients
    std::function<void(Buffer, int64_t offset, int64_t n, float* out)> read;
    std::function<void(Buffer, int64_t offset, int64_t n, const float* in)> write;
};
