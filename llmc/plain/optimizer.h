// The update: optimizers as loops (llmc/model/optimizer.h has what they share, and the arrays; moments.h what they remember).
#pragma once
#include <algorithm>
#include "llmc/base/philox.h"
#include "llmc/model/arguments.h"
#include "llmc/model/optimizers/rules.h"

// bf16 weights from the parameter p of element e of the arena: to nearest, or stochastically, by its own random numbers.
template <typename X>
void store_weight(X* to, acc_t<X> p, int64_t e, const OptimizerOptions& o, const StepState& state) {
    *to = p;
    if constexpr (std::is_same_v<X, bf16>)
        if (o.stochastic_rounding) {
            const Philox4 random = philox(state.seed, uint32_t(e / 4), uint32_t(e / 4 >> 32), state.step,
                                          uint32_t(Use::stochastic_rounding) << 24);
            to->bits = round_stochastically(p, random.v[e % 4]);
        }
}

// Elements [begin, end) of the arena. Does nothing where state->skip.
template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      OptimizerOptions o, const StepState* state, Plain) {
    using A = acc_t<X>;
    if (state->skip) return;
    const UpdateNumbers<A> numbers(o, *state);
    for (const OptimizerSegment* s = segments; s < segments + count; s++) {
        const int64_t first = std::max(begin, s->begin), last = std::min(end, s->begin + s->n);
        for (int64_t block = first / kMomentBlock * kMomentBlock; block < last; block += kMomentBlock) {
            A m[kMomentBlock] = {}, v[kMomentBlock] = {};
            const int64_t i = block - begin;
            if (has_m(s->rule)) load_moments(m, at.m, o.state_type, i, kMomentBlock);
            if (has_v(s->rule)) load_moments(v, at.v, o.state_type, i - s->v_shift, kMomentBlock);
            for (int64_t e = std::max(first, block); e < std::min(last, block + kMomentBlock); e++) {
                A p = at.master ? at.master[e - begin] : A(at.p[e - begin]);
                update_element(s->rule, *s, numbers, p, m[e - block], v[e - block], at.grad[e - begin]);
                if (s->rule == Rule::muon_momentum) continue;
                if (at.master) at.master[e - begin] = p;
                store_weight(&at.p[e - begin], p, e, o, *state);
            }
            const auto random = [&](int64_t k) {
                return moment_rounding(state->seed, state->step, block + k).v[k % 4];
            };
            if (has_m(s->rule)) store_moments(at.m, o.state_type, i, kMomentBlock, m, random);
            if (has_v(s->rule))
                store_moments(at.v, o.state_type, i - s->v_shift, kMomentBlock, v,
                              [&](int64_t k) { return random(k) >> 16; });
        }
    }
}

// ---- Muon (llmc/model/optimizers/muon.h) ----

// x (n) = u / |u|
template <typename X>
void divide_by_norm(X* x, const grad_t<X>* u, const double* norm_squared, int64_t n, Plain) {
    const acc_t<X> scale = acc_t<X>(1 / (std::sqrt(*norm_squared) + 1e-7));
    for (int64_t i = 0; i < n; i++) x[i] = u[i] * scale;
}
// square (s,s) = a I + b gram + c square
template <typename X>
void newton_schulz_polynomial(X* square, const X* gram, int s, Plain) {
    using A = acc_t<X>;
    const A a = A(kNewtonSchulz.a), b = A(kNewtonSchulz.b), c = A(kNewtonSchulz.c);
    for (int64_t i = 0; i < int64_t(s) * s; i++)
        square[i] = (i % (s + 1) == 0 ? a : A(0)) + b * A(gram[i]) + c * A(square[i]);
}
// u (n) = x * scale
template <typename X>
void scaled_copy(grad_t<X>* u, const X* x, float scale, int64_t n, Plain) {
    for (int64_t i = 0; i < n; i++) u[i] = acc_t<X>(x[i]) * scale;
}
