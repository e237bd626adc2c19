// Adagrad: in units of the root of all squared gradients so far.     (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html)
//
//   v = v + g^2;  step = lr * g / (sqrt(v) + epsilon)
#pragma once
#include "llmc/model/optimizer.h"

template <typename A>
HOST_DEVICE inline A adagrad_step(A g, A& v, const UpdateNumbers<A>& u) {
    v = v + g * g;
    return u.lr * g / (std::sqrt(v) + u.epsilon);
}
