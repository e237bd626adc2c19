// The update of one element, by its tensor's rule: what the layers of plain/, cpu/ and cuda/ do for all of them.
#pragma once
#include "llmc/model/optimizer.h"
#include "llmc/model/optimizers/adadelta.h"
#include "llmc/model/optimizers/adagrad.h"
#include "llmc/model/optimizers/adamw.h"
#include "llmc/model/optimizers/muon.h"
#include "llmc/model/optimizers/sgd.h"

// p, what is remembered of it, and its gradient, which Muon's momentum changes in place of p.
template <typename A>
HOST_DEVICE inline void update_element(Rule rule, const OptimizerSegment& s, const UpdateNumbers<A>& u, A& p, A& m,
                                       A& v, A& grad) {
    const A g = grad * u.clip;
    A step = 0;
    switch (rule) {
        case Rule::adamw:
            step = adamw_step(g, m, v, u);
            break;
        case Rule::sgd:
            step = sgd_step(g, m, u);
            break;
        case Rule::adagrad:
            step = adagrad_step(g, v, u);
            break;
        case Rule::adadelta:
            step = adadelta_step(g, m, v, u);
            break;
        case Rule::muon_momentum:
            grad = muon_momentum(g, m, u);
            return;
        case Rule::muon_descent:
            step = u.lr * grad;
            break;
    }
    p = descend(p, step, A(s.weight_decay), A(s.l1), u.lr);
}
HOST_DEVICE inline bool has_m(Rule rule) { return rule != Rule::adagrad && rule != Rule::muon_descent; }
HOST_DEVICE inline bool has_v(Rule rule) {
    return rule == Rule::adamw || rule == Rule::adagrad || rule == Rule::adadelta;
}
