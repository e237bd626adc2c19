// Adadelta: steps whose size comes from the usual size of earlier steps.              (Zeiler 2012, https://arxiv.org/abs/1212.5701)
//
//   v = beta2 v + (1 - beta2) g^2
//   d = sqrt(m + epsilon) / sqrt(v + epsilon) * g;  m = beta2 m + (1 - beta2) d^2;  step = lr * d
//
// beta2 is the paper's rho. m is a mean of squares here. lr = 1 is the paper's.
#pragma once
#include "llmc/model/optimizer.h"

template <typename A>
HOST_DEVICE inline A adadelta_step(A g, A& m, A& v, const UpdateNumbers<A>& u) {
    v = u.beta2 * v + (1 - u.beta2) * g * g;
    const A d = std::sqrt(m + u.epsilon) / std::sqrt(v + u.epsilon) * g;
    m = u.beta2 * m + (1 - u.beta2) * d * d;
    return u.lr * d;
}
