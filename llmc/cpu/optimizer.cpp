// The update of parameters (llmc/model/optimizer.h), and the norm of their gradient.
//
// Limit: memory; AdamW in fp32 has 28 bytes for each parameter. A thread takes some thousand elements of a tensor: what is not
// stored as fp32 is widened into the first-level cache, all are updated there by vector code, and rounded again.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include <algorithm>
#include <type_traits>

#include "llmc/base/bf16.h"
#include "llmc/base/parallel.h"
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/math.h"
#include "llmc/model/arguments.h"
#include "llmc/model/optimizers/rules.h"
#include "llmc/model/step_state.h"

static constexpr int64_t kPiece = 2048;  // elements that a thread takes at a time, a multiple of kMomentBlock
static constexpr int kLanes = 16;        // philox numbers side by side

// body(k, word) for the random words of elements [e, e + n) of the arena; e a multiple of 64.
template <typename Body>
static void random_words(const StepState& state, Use use, int64_t e, int64_t n, Body body) {
    for (int64_t k0 = 0; k0 < n; k0 += 4 * kLanes) {
        uint32_t words[4 * kLanes];
        const uint64_t group = static_cast<uint64_t>(e + k0) / 4;
        philox_block<kLanes>(words, state.seed, static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32),
                             state.step, static_cast<uint32_t>(use) << 24);
        for (int64_t k = k0; k < std::min<int64_t>(n, k0 + 4 * kLanes); k++) body(k, words[k - k0]);
    }
}

// The elements [begin, end) of a tensor within the piece that begins with element `piece` of the arena, a multiple of 64.
template <Rule rule, typename X>
static void update_piece(const OptimizerArrays<X>& at, const OptimizerSegment& s,
                         const UpdateNumbers<acc_t<X>>& numbers, int64_t arrays_begin, int64_t piece, int64_t begin,
                         int64_t end, const OptimizerOptions& o, const StepState& state) {
    using A = acc_t<X>;
    constexpr bool moves = rule != Rule::muon_momentum;
    const int64_t first = piece - arrays_begin, n = (end - piece + kMomentBlock - 1) / kMomentBlock * kMomentBlock;
    A p_room[kPiece], m_room[kPiece], v_room[kPiece];
    // Where a moment lies: itself, or widened.
    const auto moment = [&](const Moment& from, int64_t i, A* room) {
        if (o.state_type == StateType::fp32) return from.template as<A>() + i;
        load_moments(room, from, o.state_type, i, n);
        return room;
    };
    A *m = has_m(rule) ? moment(at.m, first, m_room) : m_room,
      *v = has_v(rule) ? moment(at.v, first - s.v_shift, v_room) : v_room;
    A *p = at.master ? at.master + first : p_room, *grad = at.grad + first;
    if (moves && !at.master)
        for (int64_t k = begin - piece; k < end - piece; k++) p[k] = A(at.p[first + k]);
#pragma omp simd
    for (int64_t k = begin - piece; k < end - piece; k++) update_element(rule, s, numbers, p[k], m[k], v[k], grad[k]);

    if (o.state_type == StateType::bf16) {
        bf16 *m_to = at.m.template as<bf16>() + first, *v_to = at.v.template as<bf16>() + first - s.v_shift;
        random_words(state, Use::state_rounding, piece, n, [&](int64_t k, uint32_t word) {
            if (has_m(rule)) m_to[k].bits = round_stochastically(static_cast<float>(m[k]), word);
            if (has_v(rule)) v_to[k].bits = round_stochastically(static_cast<float>(v[k]), word >> 16);
        });
    } else if (o.state_type == StateType::int8) {
        const auto no_random = [](int64_t) { return 0u; };
        if (has_m(rule)) store_moments(at.m, o.state_type, first, n, m, no_random);
        if (has_v(rule)) store_moments(at.v, o.state_type, first - s.v_shift, n, v, no_random);
    }
    if (!moves) return;
    X* to = at.p + first;
    if constexpr (std::is_same_v<X, bf16>)
        if (o.stochastic_rounding)
            return random_words(state, Use::stochastic_rounding, piece, end - piece, [&](int64_t k, uint32_t word) {
                if (k >= begin - piece) to[k].bits = round_stochastically(p[k], word);
            });
#pragma omp simd
    for (int64_t k = begin - piece; k < end - piece; k++) store(to[k], p[k]);
}

template <typename X>
void optimizer_update(OptimizerArrays<X> at, const OptimizerSegment* segments, int count, int64_t begin, int64_t end,
                      OptimizerOptions o, const StepState* state, CpuStream) {
    if (state->skip) return;
    const UpdateNumbers<acc_t<X>> numbers(o, *state);
    for (const OptimizerSegment* s = segments; s < segments + count; s++) {
        const int64_t first = std::max(begin, s->begin), last = std::min(end, s->begin + s->n);
        if (first >= last) continue;
        const int64_t base = first / kMomentBlock * kMomentBlock;
        parallel_blocks(last - base, kPiece, [&](int64_t from, int64_t to) {
            const auto update = [&]<Rule rule>(std::integral_constant<Rule, rule>) {
                update_piece<rule>(at, *s, numbers, begin, base + from, std::max(first, base + from), base + to, o,
                                   *state);
            };
            switch (s->rule) {
                case Rule::adamw:
                    return update(std::integral_constant<Rule, Rule::adamw>{});
                case Rule::sgd:
                    return update(std::integral_constant<Rule, Rule::sgd>{});
                case Rule::adagrad:
                    return update(std::integral_constant<Rule, Rule::adagrad>{});
                case Rule::adadelta:
                    return update(std::integral_constant<Rule, Rule::adadelta>{});
                case Rule::muon_momentum:
                    return update(std::integral_constant<Rule, Rule::muon_momentum>{});
                case Rule::muon_descent:
                    return update(std::integral_constant<Rule, Rule::muon_descent>{});
            }
        });
    }
}

// Sum of squares of a gradient arena, in double and in a fixed order: the same bits for any number of threads.
template <typename G>
void global_norm_squared(double* sum, const G* grad, int64_t n, bool add, CpuStream) {
    *sum = (add ? *sum : 0) + parallel_sum(n, 1 << 16, [=](int64_t begin, int64_t end) {
               return vector_sum<double>(end - begin, [=](int64_t i) {
                   double g = acc_t<G>(grad[begin + i]);
                   return g * g;
               });
           });
}

LLMC_INSTANTIATE(optimizer_update);
template decltype(global_norm_squared<float>) global_norm_squared<float>;
template decltype(global_norm_squared<double>) global_norm_squared<double>;
