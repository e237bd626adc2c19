// AdamW: a step along the mean gradient, in units of its usual size.          (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101)
//
//   m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
//   step = lr * (m / beta1_correction) / (sqrt(v / beta2_correction) + epsilon)
#pragma once
#include "llmc/model/optimizer.h"

template <typename A>
HOST_DEVICE inline A adamw_step(A g, A& m, A& v, const UpdateNumbers<A>& u) {
    m = u.beta1 * m + (1 - u.beta1) * g;
    v = u.beta2 * v + (1 - u.beta2) * g * g;
    return u.step_size * m / (std::sqrt(v * u.v_scale) + u.epsilon);
}
