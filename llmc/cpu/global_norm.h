// Sum of squares of a gradient arena, in double and in a fixed order: the same bits for any number of threads.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/parallel.h"

template <typename G> double global_norm_squared(const G* grad, int64_t n);
