// The optimizer's part of a step, over all tensors of a set. A rank updates what it has the optimizer's state of.
#pragma once
#include <vector>
#include "llmc/model/exchange.h"
#include "llmc/model/optimizers/muon.h"

template <typename X, class Machine>
class Updater {
  public:
    Updater(Machine& machine, const ModelMemory<X, typename Machine::Arena>& memory, Exchange<X, Machine>& exchange,
            const StepOptions& o)
        : machine_(machine), memory_(memory), exchange_(exchange), o_(o), turns_(machine) {}

    template <class Arena>
    void add_to(Arena& arena) {
        arena.add(&segments_, static_cast<int64_t>(memory_.table.size()));
        add_update_pieces(arena, pieces_, memory_, o_.optimizer);
        if (o_.optimizer != Optimizer::muon) return;
        arena.add(&descents_, static_cast<int64_t>(memory_.table.size()));
        muon_.add_to(arena, memory_.table);
    }
    // resting(row): so many elements at its beginning are not trained from now on.
    template <typename Resting>
    void begin(Resting resting) {
        turns_.start();
        for (OptimizerSegment* to : {segments_, descents_}) {
            if (!to) continue;
            const std::vector<OptimizerSegment> all = segments(to == descents_, resting);
            machine_.copy_in(to, all.data(), all.size()), machine_.finish();  // before `all` goes
        }
    }
    // Of the buckets [first, end). Several such calls, and then finish(), make an update.
    void run(int first, int end, const StepState* state) {
        apply(segments_, first, end, state);
        for (int b = first; b < end && descents_; b++) orthogonalise_matrices(b);
        if (descents_) apply(descents_, first, end, state);
    }
    void finish() {
        if (pieces_.elements > 0) machine_.join(Lane::in), machine_.join(Lane::out), turns_.forget();
    }

  private:
    // A segment for each tensor. descents: of Muon's matrices their second rule, of others nothing.
    template <typename Resting>
    std::vector<OptimizerSegment> segments(bool descents, Resting resting) const {
        std::vector<OptimizerSegment> all;
        for (size_t t = 0; t < memory_.table.size(); t++) {
            const Parameter& p = memory_.table[t];
            const bool moves = p.trainable && !(descents && p.matrices == 0);
            all.push_back({.begin = p.index + resting(p),
                           .n = moves ? std::max<int64_t>(0, p.size_in_use() - resting(p)) : 0,
                           .v_shift = memory_.v_shift[t],
                           .weight_decay = p.weight_decay ? o_.weight_decay : 0.0f,
                           .l1 = p.weight_decay ? o_.l1 : 0.0f,
                           .rule = descents ? Rule::muon_descent : rule_of(o_.optimizer, p.matrices)});
        }
        return all;
    }
    // Each segment's rule, on the elements that this rank owns.
    void apply(const OptimizerSegment* segments, int from_bucket, int end_bucket, const StepState* state) {
        const OptimizerOptions options{o_.beta1,    o_.beta2,      o_.epsilon,
                                       o_.momentum, o_.state_type, o_.stochastic_rounding};
        const int count = static_cast<int>(memory_.table.size());
        const Sharding& shards = memory_.shards;
        const auto range = [&](int b, int64_t arena, int64_t local, int64_t index, int64_t n) {
            OptimizerArrays<X> arrays{memory_.own_weight(arena, local),
                                      memory_.master ? memory_.master + local : nullptr,
                                      memory_.m.template from<A>(local, o_.state_type), memory_.v,
                                      memory_.away.gradients ? memory_.own_grads + local
                                                             : memory_.summed_gradients(b) + local - shards.local(b)};
            const auto v_at = [&](int64_t i) { return memory_.v_before(arena + i, local + i, b); };
            if (pieces_.elements > 0)
                return offloaded_update(machine_, turns_, pieces_, arrays, local, v_at, segments, count, index,
                                        index + n, options, state);
            arrays.v = memory_.v.template from<A>(local, o_.state_type);
            optimizer_update(arrays, segments, count, index, index + n, options, state, machine_.stream());
        };
        if (memory_.stage == 0)
            for (auto [from, to] :
                 ranges_in_use(memory_.table, shards.bucket(from_bucket).begin, shards.bucket(end_bucket - 1).end()))
                range(from_bucket, from, from, from, to - from);
        for (int b = from_bucket; b < end_bucket && memory_.stage > 0; b++) {
            Bucket bucket = shards.bucket(b);
            if (bucket.rows == 0) continue;
            const Parameter &first = memory_.table[bucket.first_row], &last = (&first)[bucket.rows - 1];
            int64_t begin = shards.begin(b), end = std::min(begin + shards.part(b), last.offset + last.padded_size());
            range(b, begin, shards.local(b), first.index + begin - bucket.begin, std::max<int64_t>(0, end - begin));
        }
    }
    // Muon's matrices of bucket b (muon.h), where their gradients are.
    void orthogonalise_matrices(int b) {
        const Bucket bucket = memory_.shards.bucket(b);
        const Parameter *rows = memory_.table.data() + bucket.first_row, *end = rows + bucket.rows;
        if (std::none_of(rows, end, [](const Parameter& p) { return p.matrices > 0; })) return;
        auto* whole = memory_.stage == 0 ? memory_.bucket_gradients(b) : exchange_.gather_gradients(b);
        int turn = b;
        for (auto p = rows; p != end; p++)
            for (int k = 0; k < p->matrices; k++, turn++) {
                const int64_t n = p->size() / p->matrices;
                auto* u = whole + p->offset - bucket.begin + k * n;
                if (memory_.stage > 0 && turn % memory_.world != memory_.rank) machine_.clear(u, n);
                else
                    orthogonalise<X>(u, static_cast<int>(p->rows / p->matrices), static_cast<int>(p->cols), muon_,
                                     machine_.stream());
            }
        if (memory_.stage > 0) exchange_.return_gradients(b, whole);
    }

    using A = acc_t<X>;
    Machine& machine_;
    const ModelMemory<X, typename Machine::Arena>& memory_;
    Exchange<X, Machine>& exchange_;
    const StepOptions& o_;
    OptimizerSegment *segments_ = nullptr, *descents_ = nullptr;  // of each tensor; descents_: Muon's second pass
    MuonScratch<X> muon_{};
    Pieces<OptimizerArrays<X>> pieces_;
    Turns<Machine, 2> turns_;
};
