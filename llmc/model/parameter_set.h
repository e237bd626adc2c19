// A set of tensors and what happens to all of them alike: the model's, or an adapter's.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>
#include "llmc/model/arguments.h"
#include "llmc/model/exchange.h"
#include "llmc/model/initial_weights.h"
#include "llmc/model/memory.h"
#include "llmc/model/optimizers/muon.h"
#include "llmc/model/tensors.h"

template <typename X, class Machine>
struct ParameterSet {
    Machine& machine;
    ModelMemory<X, typename Machine::Arena> memory;
    Exchange<X, Machine> exchange;

    // As ModelMemory takes them.
    template <typename TableFor>
    ParameterSet(Machine& on, TableFor table_for, int blocks, const StepOptions& o, bool trained, int zero_stage)
        : machine(on), memory(table_for, blocks, o, trained, zero_stage), exchange(on, memory), o_(o) {}
    ParameterSet(const ParameterSet&) = delete;

    // If above 0, only the rows of words from this one on are trained; else all there is.
    int64_t first_word = 0;
    int64_t resting(const Parameter& p) const {  // so many elements at its beginning are not
        return first_word == 0 ? 0 : p.has_row_per_word() ? first_word * p.cols : p.padded_size();
    }

    // What an update reads and uses.
    template <class Arena>
    void add_update(Arena& arena) {
        arena.add(&norm_squared_, 1);
        arena.add(&segments_, static_cast<int64_t>(memory.table.size()));
        if (o_.optimizer != Optimizer::muon) return;
        arena.add(&descents_, static_cast<int64_t>(memory.table.size()));
        muon_.add_to(arena, memory.table);
    }
    // From now on only the rows of words from `first` on are trained; 0: everything.
    void train_words_from(int64_t first) {
        first_word = first;
        const auto upload = [&](OptimizerSegment* to, bool descents) {
            const std::vector<OptimizerSegment> all = segments(descents);
            machine.copy_in(to, all.data(), all.size());
            machine.finish();  // before `all` goes
        };
        upload(segments_, false);
        if (o_.optimizer == Optimizer::muon) upload(descents_, true);
    }

    // Weights as the table says (initial_weights.h). Clears the optimizer.
    void initialise(int blocks, uint64_t seed) {
        std::vector<float> values;
        for (size_t t = 0; t < memory.table.size(); t++) {
            const Parameter& p = memory.table[t];
            values.resize(static_cast<size_t>(p.size()));
            initial_weights(values.data(), p, t, blocks, seed, 0, p.size());
            exchange.write(Buffer::weights, p.offset, p.size(), values.data());
            if (memory.master) exchange.write(Buffer::master, p.offset, p.size(), values.data());
        }
        if (memory.trained) clear_optimizer();
    }
    void clear_optimizer() {
        memory.for_moments([&](auto* x, int64_t n) { machine.clear(x, n); });
        machine.finish();
    }

    // The end of a step: mean loss, norm, clip scale and the decision to skip, then the optimizer; nothing of it passes through the
    // host. A rank updates what it has the optimizer state of; then the weights of all parts come together again.
    void update(StepState* state) {
        const Sharding& shards = memory.shards;
        const auto stream = machine.stream();
        // What is not trained has no part in the norm: it must not make clipping shorten the steps of what is.
        if (first_word > 0)
            for (const Parameter& p : memory.table)
                shards.for_own(p.offset, resting(p),
                               [&](int64_t, int64_t local, int64_t n) { machine.clear(memory.own_grads + local, n); });
        const auto ranges = ranges_in_use(memory.table, memory.size);
        const bool all = ranges.size() == 1;
        global_norm_squared(norm_squared_, memory.own_grads, all ? shards.local_size() : 0, false, stream);
        for (auto [from, to] : ranges)
            if (!all)
                shards.for_own(from, to - from, [&](int64_t, int64_t local, int64_t n) {
                    global_norm_squared(norm_squared_, memory.own_grads + local, n, true, stream);
                });
        exchange.sum_losses_and_norm(state->sums, kStepSums, norm_squared_);
        finish_gradients(state, norm_squared_, o_.grad_clip, stream);
        apply(segments_, state);
        if (o_.optimizer == Optimizer::muon) orthogonalise_all(), apply(descents_, state);
        exchange.gather_weights();
    }

    // How files reach the weights and the optimizer. With several ranks, all of them read together; each writes on its
    // own.
    ModelTensors tensors() {
        ModelTensors t{.table = memory.table,
                       .bf16 = std::is_same_v<X, bf16>,
                       .has_master = memory.master != nullptr,
                       .optimizer = o_.optimizer,
                       .collective = exchange.collective(),
                       .read_by_thread = Machine::kReadByThread,
                       .read = {},
                       .write = {}};
        t.read = [this](Buffer b, int64_t offset, int64_t n, float* out) { exchange.read(b, offset, n, out); };
        t.write = [this](Buffer b, int64_t offset, int64_t n, const float* in) { exchange.write(b, offset, n, in); };
        return t;
    }

  private:
    // What is trained, a segment for each tensor. descents: of Muon's matrices their second rule, of others nothing.
    std::vector<OptimizerSegment> segments(bool descents) const {
        std::vector<OptimizerSegment> all;
        for (size_t t = 0; t < memory.table.size(); t++) {
            const Parameter& p = memory.table[t];
            const int64_t n = p.trainable ? std::max<int64_t>(0, p.size_in_use() - resting(p)) : 0;
            all.push_back({.begin = p.index + resting(p),
                           .n = descents && p.matrices == 0 ? 0 : n,
                           .v_shift = memory.v_shift[t],
                           .weight_decay = p.weight_decay ? o_.weight_decay : 0.0f,
                           .l1 = p.weight_decay ? o_.l1 : 0.0f,
                           .rule = descents ? Rule::muon_descent : rule_of(o_.optimizer, p.matrices)});
        }
        return all;
    }
    // Each segment's rule, on the elements that this rank owns.
    void apply(const OptimizerSegment* segments, StepState* state) {
        const OptimizerOptions options{o_.beta1,    o_.beta2,      o_.epsilon,
                                       o_.momentum, o_.state_type, o_.stochastic_rounding};
        const auto range = [&](int64_t arena, int64_t local, int64_t index, int64_t n) {
            const OptimizerArrays<X> arrays{memory.own_weight(arena, local),
                                            memory.master ? memory.master + local : nullptr,
                                            memory.m.template from<A>(local, o_.state_type),
                                            memory.v.template from<A>(local, o_.state_type), memory.own_grads + local};
            optimizer_update(arrays, segments, static_cast<int>(memory.table.size()), index, index + n, options, state,
                             machine.stream());
        };
        if (memory.stage == 0) {
            for (auto [from, to] : ranges_in_use(memory.table, memory.size)) range(from, from, from, to - from);
            return;
        }
        const Sharding& shards = memory.shards;
        for (int b = 0; b < shards.buckets(); b++) {
            Bucket bucket = shards.bucket(b);
            if (bucket.rows == 0) continue;
            const Parameter &first = memory.table[bucket.first_row], &last = (&first)[bucket.rows - 1];
            int64_t begin = shards.begin(b), end = std::min(begin + shards.part(b), last.offset + last.padded_size());
            range(begin, shards.local(b), first.index + begin - bucket.begin, std::max<int64_t>(0, end - begin));
        }
    }
    // Muon's matrices (muon.h), where their gradients are.
    void orthogonalise_all() {
        int turn = 0;
        for (int b = 0; b < memory.shards.buckets(); b++) {
            const Bucket bucket = memory.shards.bucket(b);
            const auto rows = memory.table.begin() + static_cast<ptrdiff_t>(bucket.first_row);
            const auto end = rows + static_cast<ptrdiff_t>(bucket.rows);
            if (std::none_of(rows, end, [](const Parameter& p) { return p.matrices > 0; })) continue;
            auto* whole = memory.stage == 0 ? memory.own_grads + bucket.begin : exchange.gather_gradients(b);
            for (auto p = rows; p != end; p++)
                for (int k = 0; k < p->matrices; k++, turn++) {
                    const int64_t n = p->size() / p->matrices;
                    auto* u = whole + p->offset - bucket.begin + k * n;
                    if (memory.stage > 0 && turn % memory.world != memory.rank) machine.clear(u, n);
                    else
                        orthogonalise<X>(u, static_cast<int>(p->rows / p->matrices), static_cast<int>(p->cols), muon_,
                                         machine.stream());
                }
            if (memory.stage > 0) exchange.return_gradients(b, whole);
        }
    }

    using A = acc_t<X>;
    const StepOptions o_;
    double* norm_squared_ = nullptr;
    OptimizerSegment *segments_ = nullptr, *descents_ = nullptr;  // of each tensor; descents_: Muon's second pass
    MuonScratch<X> muon_{};
};
