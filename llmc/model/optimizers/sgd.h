// Stochastic gradient descent with momentum.                                       (Polyak 1964; as torch.optim.SGD has it)
//
//   m = momentum m + g;  step = lr * m
#pragma once
#include "llmc/model/optimizer.h"

template <typename A>
HOST_DEVICE inline A sgd_step(A g, A& m, const UpdateNumbers<A>& u) {
    m = u.momentum * m + g;
    return u.lr * m;
}
