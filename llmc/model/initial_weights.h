// GPT-2's initialisation (Radford et al. 2019, section 2.3).
#pragma once
#include <cstdint>
#include "llmc/model/parameters.h"

// out[0 .. end - begin) = weights begin .. end of p, row `index` of the parameter table of a model with L layers; begin
// is a multiple of 4. Weight i of a tensor is a function of (seed, index, i): the same on a CPU and on a GPU, for any
// number of threads.
void initial_weights(float* out, const Parameter& p, size_t index, int L, uint64_t seed, int64_t begin, int64_t end);
