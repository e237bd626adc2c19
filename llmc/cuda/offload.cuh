// The update of what lies in page-locked host memory (StepOptions::offload), piece by piece: the next one comes and the one
// before goes while the kernel of optimizer.cuh works on one.
//
// Limit: PCIe, which carries both ways at once. AdamW in fp32 with masters: 12 bytes of an element come and 12 go, and bf16 moments
// and no masters make 4 of them; the kernel needs a twentieth of that time.
#pragma once
#include <algorithm>
#include "llmc/base/turns.h"
#include "llmc/cuda/layers.cuh"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"

// body(device, host, n, changed) for each array of n elements, from element `from` of `at` on, that a piece stands for.
// v_at(i): where the first v at or behind element i is in at.v, which begins with the first of all.
template <typename X, typename VAt, typename Body>
void for_arrays_of_piece(const OptimizerArrays<X>& piece, const OptimizerArrays<X>& at, int64_t from, int64_t n,
                         StateType type, VAt v_at, Body body) {
    if (piece.p) body(piece.p, at.p + from, n, true);
    if (piece.master) body(piece.master, at.master + from, n, true);
    if (piece.grad) body(piece.grad, at.grad + from, n, false);
    const auto moment = [&](const Moment& here, const Moment& host, int64_t elements) {
        if (!here || elements == 0) return;
        body(here.values, host.values, elements * Moment::bytes<float>(type), true);
        if (here.scales) body(here.scales, host.scales, elements / kMomentBlock, true);
    };
    moment(piece.m, at.m.template from<float>(from, type), n);
    const int64_t v = v_at(from);
    moment(piece.v, at.v.template from<float>(v, type), v_at(from + n) - v);
}

// optimizer_update of elements [begin, end), the first of which is element `local` of what this rank has, and all arrays but at.v
// begin with it.
template <class Machine, typename X, typename VAt>
void offloaded_update(Machine& machine, Turns<Machine, 2>& turns, const Pieces<OptimizerArrays<X>>& pieces,
                      const OptimizerArrays<X>& at, int64_t local, VAt v_at, const OptimizerSegment* segments,
                      int count, int64_t begin, int64_t end, const OptimizerOptions& o, const StepState* state) {
    const int64_t size = pieces.elements, all = end - begin;
    const auto arrays = [&](int64_t k, auto body) {  // whole blocks of moments
        for_arrays_of_piece(pieces.at[k % 2], at, k * size, round_up(std::min(size, all - k * size), kMomentBlock),
                            o.state_type, v_at, body);
    };
    const auto fetch = [&](int64_t k) {
        if (k * size >= all) return;
        turns.fetch(static_cast<int>(k % 2), [&] {
            arrays(k, [&](auto* here, const auto* host, int64_t n, bool) { machine.bring(here, host, n); });
        });
    };
    fetch(0);
    for (int64_t k = 0; k * size < all; k++) {
        const int64_t from = k * size;
        const int buffer = static_cast<int>(k % 2);
        const OptimizerArrays<X>& here = pieces.at[buffer];
        fetch(k + 1);
        turns.need(buffer);
        optimizer_update<X>({here.p ? here.p : at.p + from,
                             here.master ? here.master
                             : at.master ? at.master + from
                                         : nullptr,
                             here.m ? here.m : at.m.template from<float>(from, o.state_type),
                             here.v ? here.v.template from<float>(local + from - v_at(from), o.state_type)
                                    : at.v.template from<float>(local + from, o.state_type),
                             here.grad ? here.grad : at.grad + from},
                            segments, count, begin + from, std::min(end, begin + from + size), o, state,
                            machine.stream());
        turns.put_away(buffer, [&] {
            arrays(k, [&](auto* here_, auto* host, int64_t n, bool changed) {
                if (changed) machine.put_away(host, here_, n);
            });
        });
    }
}
