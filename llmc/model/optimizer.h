// What optimizers have in common: which there are, what they are given, and what happens to an element around their step.
//
//   g = grad * clip_scale;  p = p - step(g) - lr * weight_decay * p;  then p goes lr * l1 towards 0, and not past it
//
// step(g): llmc/model/optimizers/, one header each, and muon.h. Weight decay is apart from the gradient with every one of them
// (Loshchilov & Hutter 2019), and so is L1 (proximal: Duchi & Singer 2009, https://jmlr.org/papers/v10/duchi09a.html): weights become exactly 0.
#pragma once
#include <cmath>
#include <cstdint>
#include "llmc/base/host_device.h"
#include "llmc/model/moments.h"
#include "llmc/model/step_state.h"

// What happens to the elements of one tensor in an update. Muon's matrices have two: momentum, and then, once what this leaves
// in place of the gradient has been orthogonalised (muon.h), descent.
enum class Rule { adamw, sgd, adagrad, adadelta, muon_momentum, muon_descent };

// Elements [begin, begin + n) of the arena: one tensor, or a part of it. Begins at a multiple of 64 unless a part of the tensor is at rest.
struct OptimizerSegment {
    int64_t begin, n;
    int64_t v_shift;  // its v begins so many elements further down: other tensors have none
    float weight_decay, l1 = 0;
    Rule rule = Rule::adamw;
};
struct OptimizerOptions {
    float beta1, beta2, epsilon, momentum = 0;
    StateType state_type = StateType::fp32;
    bool stochastic_rounding = false;  // of bf16 weights
};

// What an update reads and changes, from element `begin` on, which is a multiple of 64; memory reaches to the next multiple of 64
// behind the last element, and every array begins on a boundary of 16 bytes.
template <typename X>
struct OptimizerArrays {
    X* p;
    acc_t<X>* master;  // fp32 copies of bf16 p, or null
    Moment m, v;
    grad_t<X>* grad;  // changed by the rule muon_momentum alone
};

// The moments that an optimizer keeps of a tensor. matrices: as a row of the parameter table says.
inline bool keeps_m(Optimizer o) { return o != Optimizer::adagrad; }
inline bool keeps_v(Optimizer o, int matrices) { return o == Optimizer::muon ? matrices == 0 : o != Optimizer::sgd; }
inline Rule rule_of(Optimizer o, int matrices) {
    if (o == Optimizer::muon) return matrices > 0 ? Rule::muon_momentum : Rule::adamw;
    return o == Optimizer::sgd        ? Rule::sgd
           : o == Optimizer::adagrad  ? Rule::adagrad
           : o == Optimizer::adadelta ? Rule::adadelta
                                      : Rule::adamw;
}

// The numbers of one update, in the type that it is computed in.
template <typename A>
struct UpdateNumbers {
    A lr, clip, beta1, beta2, epsilon, momentum;
    A step_size, v_scale;  // AdamW's: lr / beta1_correction, 1 / beta2_correction

    HOST_DEVICE UpdateNumbers(const OptimizerOptions& o, const StepState& s)
        : lr(A(s.learning_rate)),
          clip(A(s.clip_scale)),
          beta1(A(o.beta1)),
          beta2(A(o.beta2)),
          epsilon(A(o.epsilon)),
          momentum(A(o.momentum)),
          step_size(lr / A(s.beta1_correction)),
          v_scale(A(1) / A(s.beta2_correction)) {}
};

template <typename A>
HOST_DEVICE inline A descend(A p, A step, A weight_decay, A l1, A lr) {
    const A to = p - (step + lr * weight_decay * p), shrink = lr * l1;
    return to > shrink ? to - shrink : to < -shrink ? to + shrink : shrink > 0 ? A(0) : to;
}
