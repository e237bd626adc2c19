// Dropout.                                                                                      (Srivastava et al. 2014)
//
// Counter-based: the mask is a function of (seed, step, sample, element, site), see Dropout in step_state.h, so forward and backward
// compute it anew instead of storing it.
#pragma once
#include "llmc/bf16.h"
#include "llmc/philox.h"
#include "llmc/step_state.h"

// scale[i] = 0 or 1 / (1 - p) for elements e0 + i of row b's sample, i in [0, n).
inline void dropout_scales(float* scale, Dropout d, int b, int64_t e0, int n);

// y = dropout(x) or, in the backward pass, dx = dropout(dy): the same function. x, y (B, per_sample); x == y is allowed.
template <typename X>
void dropout_apply(X* y, const X* x, int B, int64_t per_sample, Dropout d);
