// The arenas of a model or of an adapter: what a rank has of weights, gradients and optimizer state, at every stage of
// ZeRO (zero.h).
//
// Arena is that of the host, that of the device, or one that only counts bytes (plan.cpp). Nothing is allocated before
// allocate() of the arenas.
#pragma once
#include <algorithm>
#include "llmc/base/error.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"
#include "llmc/model/step_state.h"
#include "llmc/model/tensors.h"
#include "llmc/model/zero.h"

template <typename X, class Arena>
struct ModelMemory {
    using A = acc_t<X>;
    using G = grad_t<X>;
    const int rank, world, stage;  // stage 0 where nothing is divided: one rank, or no training
    const bool trained;            // with gradients and optimizer
    const Offload away;            // what of the following lies in `host`
    const bool fused;              // gradients are there while the backward pass is at their bucket
    std::vector<Parameter> table;
    Sharding shards;
    int64_t size;  // elements of a whole arena
    Arena parameters, gradients, optimizer;
    typename Arena::Host host;
    // The whole arenas; null where a rank has only its part (weights: stage 3, gradients: 2 and 3), or the device buckets in use
    X* weights = nullptr;
    G* grads = nullptr;
    bool whole_weights() const { return stage < 3 && !away.weights; }
    bool whole_gradients() const { return stage < 2 && !away.gradients && !fused; }
    // In the local arena, which at stage 0 is the whole one: weights (stage 3, or away), summed gradients, fp32 weights (bf16
    // only), the optimizer's moments
    X* weight_part = nullptr;
    G* own_grads = nullptr;
    A* master = nullptr;
    const StateType state_type;
    Moment m, v;                   // what the optimizer keeps
    std::vector<int64_t> v_shift;  // so many elements of the local arena before each row's have no v
    // Buckets in use: weights (stage 3) and gradients (2 and 3); and a part as it comes from the other ranks
    X* weight_slots[Sharding::kSlots] = {};
    G *grad_slots[Sharding::kSlots] = {}, *received = nullptr;

    // table_for(ranks): the rows, laid out for so many that divide them.
    template <typename TableFor>
    ModelMemory(TableFor table_for, int blocks, const StepOptions& o, bool with_gradients, int zero_stage)
        : rank(o.rank),
          world(o.world),
          stage(o.world > 1 && o.training ? zero_stage : 0),
          trained(with_gradients),
          away(o.training ? o.offload : Offload{}),
          fused(o.training && o.fuse_update != FuseUpdate::off),
          table(table_for(stage > 0 ? world : 1)),
          shards(table, blocks, stage > 0 ? rank : 0, stage > 0 ? world : 1),
          size(arena_size(table, shards.world())),
          state_type(o.state_type) {
        int64_t local = shards.local_size();
        if (whole_weights()) parameters.add(&weights, size);
        else add(away.weights, parameters, &weight_part, local);
        for (int slot = 0; slot < Sharding::kSlots; slot++) {
            if (!whole_weights()) parameters.add(&weight_slots[slot], shards.slot_size(slot));
            if (whole_gradients() || !trained || (fused && slot > Sharding::kFirstBlockSlot)) continue;
            gradients.add(&grad_slots[slot], shards.slot_size(slot));
        }
        if (!trained) return;
        if (whole_gradients()) gradients.add(&grads, size);
        if (away.gradients || (stage > 0 && !fused)) add(away.gradients, gradients, &own_grads, local);
        if (stage >= 2 || (stage > 0 && fused)) gradients.add(&received, shards.largest_part());
        if (std::is_same_v<X, bf16> && o.master_weights) add(away.masters, optimizer, &master, local);
        m.has_sign = o.optimizer != Optimizer::adadelta, v.has_sign = false;
        if (keeps_m(o.optimizer)) add_moment(&m, local);
        int64_t without = 0;
        for (size_t t = 0; t < table.size(); t++) {
            v_shift.push_back(without);
            const int64_t end = t + 1 < table.size() ? table[t + 1].offset : size;
            with_v_.push_back(keeps_v(o.optimizer, table[t].matrices));
            if (!with_v_[t])
                shards.for_own(table[t].offset, end - table[t].offset,
                               [&](int64_t, int64_t, int64_t n) { without += n; });
        }
        if ((v_size_ = local - without) > 0) add_moment(&v, v_size_);
    }

    bool has_v() const { return v_size_ > 0; }
    // The row that an element of the arena is in, or in the gap behind it.
    size_t row_of(int64_t arena) const {
        const auto behind = [](int64_t at, const Parameter& p) { return at < p.offset; };
        return static_cast<size_t>(std::upper_bound(table.begin(), table.end(), arena, behind) - table.begin()) - 1;
    }
    // So many elements of v are in front of an element of this rank's part of bucket b, or of that part's end.
    int64_t v_before(int64_t arena, int64_t local, int b) const {
        const size_t t = row_of(arena);
        return local - v_shift[t] - (with_v_[t] ? 0 : arena - std::max(table[t].offset, shards.begin(b)));
    }

    // A moment from an element of the local arena on, which is of row t.
    Moment moment(Buffer which, size_t t, int64_t local) const {
        const Moment& all = which == Buffer::m ? m : v;
        CHECK(all, "this optimizer has no such moment (%d)", static_cast<int>(which));
        return all.template from<A>(local - (which == Buffer::v ? v_shift[t] : 0), state_type);
    }

    void allocate() {
        parameters.allocate("the weights", true), host.allocate("what is offloaded", true);
        if (!trained) return;
        gradients.allocate("the gradients", true);
        optimizer.allocate("the optimizer's state", true);
        if (stage == 0 && grads) own_grads = grads;
    }
    // Once that is done: where the layers find a tensor and leave its gradient, null where it is frozen.
    X* weight_of(const Parameter& p) const {
        const int b = shards.bucket_of(p);
        return weights ? weights + p.offset : weight_slots[shards.slot(b)] + p.offset - shards.bucket(b).begin;
    }
    G* gradient_of(const Parameter& p) const {
        const int b = shards.bucket_of(p);
        return trained ? bucket_gradients(b) + p.offset - shards.bucket(b).begin : nullptr;
    }
    // Bucket b's gradients where the layers leave them, and where this rank's part of them is on the device once ranks have added
    // them up.
    G* bucket_gradients(int b) const {
        const int slot = shards.slot(b);
        return grads ? grads + shards.bucket(b).begin
                     : grad_slots[fused ? std::min(slot, Sharding::kFirstBlockSlot) : slot];
    }
    G* summed_gradients(int b) const {
        return stage == 0 ? bucket_gradients(b) : fused ? received : own_grads + shards.local(b);
    }
    // A weight of one's own part, by its place in the arena and in the local arena.
    X* own_weight(int64_t arena, int64_t local) const { return weights ? weights + arena : weight_part + local; }

    // body(array, elements) for what the moments are kept in.
    template <typename Body>
    void for_moments(Body body) {
        for (const auto& [moment, n] : {std::pair(m, shards.local_size()), {v, v_size_}})
            if (moment) {
                body(moment.values, n * Moment::bytes<A>(state_type));
                if (moment.scales) body(moment.scales, n / kMomentBlock);
            }
    }

  private:
    int64_t v_size_ = 0;
    std::vector<bool> with_v_;  // rows
    template <typename Y>
    void add(bool is_away, Arena& here, Y** view, int64_t n) {
        is_away ? host.add(view, n) : here.add(view, n);
    }
    void add_moment(Moment* moment, int64_t n) {
        add(away.optimizer, optimizer, &moment->values, n * Moment::bytes<A>(state_type));
        if (state_type == StateType::int8) add(away.optimizer, optimizer, &moment->scales, n / kMomentBlock);
    }
};
