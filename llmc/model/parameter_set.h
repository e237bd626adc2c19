// A set of tensors and what happens to all of them alike: the model's, or an adapter's.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>
#include "llmc/model/arguments.h"
#include "llmc/model/exchange.h"
#include "llmc/model/initial_weights.h"
#include "llmc/model/memory.h"
#include "llmc/model/micro_step.h"
#include "llmc/model/optimizers/update.h"
#include "llmc/model/tensors.h"

template <typename X, class Machine>
struct ParameterSet {
    Machine& machine;
    ModelMemory<X, typename Machine::Arena> memory;
    Exchange<X, Machine> exchange;

    // As ModelMemory takes them.
    template <typename TableFor>
    ParameterSet(Machine& on, TableFor table_for, int blocks, const StepOptions& o, bool trained, int zero_stage)
        : machine(on),
          memory(table_for, blocks, o, trained, zero_stage),
          exchange(on, memory),
          o_(o),
          updater_(on, memory, exchange, o_) {}
    ParameterSet(const ParameterSet&) = delete;

    // If above 0, only the rows of words from this one on are trained; else all there is.
    int64_t first_word = 0;
    int64_t resting(const Parameter& p) const {  // so many elements at its beginning are not
        return first_word == 0 ? 0 : p.has_row_per_word() ? first_word * p.cols : p.padded_size();
    }

    // What an update reads and uses (Updater).
    template <class Arena>
    void add_update(Arena& arena) {
        arena.add(&norm_squared_, 2);
        updater_.add_to(arena);
    }
    // From now on only the rows of words from `first` on are trained; 0: everything.
    void train_words_from(int64_t first) {
        first_word = first;
        updater_.begin([this](const Parameter& p) { return resting(p); });
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
        memory.for_moments([&](auto* x, int64_t n) {
            if (memory.away.optimizer) std::memset(static_cast<void*>(x), 0, static_cast<size_t>(n) * sizeof *x);
            else machine.clear(x, n);
        });
        machine.finish();
    }

    // A micro-step begins; state: where the layers read it.
    void begin_micro_step(const MicroStep& m, StepState* state) {
        exchange.begin_micro_step(m.first, m.last);
        pass_ = m.pass, state_ = state;
    }
    // Bucket b's gradients of a micro-step are complete, and what they are of is not read any more. Their norm is taken before
    // they leave, in the order of update(). Bucket 0 is the last one.
    void reduce_gradients(int b) {
        if (memory.away.gradients && exchange.last_micro_step()) add_to_norm(b);
        exchange.reduce_gradients(b);
        if (pass_ == Pass::gradients) return;
        if (pass_ != Pass::update) add_to_norm(b);
        if (pass_ == Pass::norm_and_update) decide(state_, b + 1 == memory.shards.buckets());
        if (pass_ == Pass::norm) return;
        updater_.run(b, b + 1, state_);
        if (b == 0) finish_update();
    }

    // The end of a step: mean loss, norm, clip scale and the decision to skip, then, unless it is fused, the optimizer; nothing of
    // it passes through the host. A rank updates what it has the optimizer state of.
    void update(StepState* state) {
        if (memory.fused) return decide(state, true);
        const Sharding& shards = memory.shards;
        // What is not trained has no part in the norm: it must not make clipping shorten the steps of what is.
        if (first_word > 0)
            for (const Parameter& p : memory.table)
                shards.for_own(p.offset, resting(p),
                               [&](int64_t, int64_t local, int64_t n) { machine.clear(memory.own_grads + local, n); });
        if (!memory.away.gradients)
            for (int b = shards.buckets() - 1; b >= 0; b--) add_to_norm(b);
        decide(state, true);
        updater_.run(0, shards.buckets(), state);
        finish_update();
    }
    // Mean loss, norm of the buckets so far, clip scale and the decision to skip. with_losses: ranks have not added them up yet.
    void decide(StepState* state, bool with_losses) {
        double* norm = norm_squared_ + 1;  // over all ranks
        machine.copy(norm, norm_squared_, 1);
        exchange.sum_losses_and_norm(state->sums, with_losses ? kStepSums : 0, norm);
        finish_gradients(state, norm, o_.grad_clip, machine.stream());
    }
    // All buckets are updated: the weights of all parts come together again.
    void finish_update() { updater_.finish(), exchange.gather_weights(); }

    // How files reach the weights and the optimizer. With several ranks, all of them read together; each writes alone.
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
    // Joins the squares of bucket b's gradients, of what this rank owns, to their sum. The last bucket begins it.
    void add_to_norm(int b) {
        const Sharding& shards = memory.shards;
        const int64_t begin = shards.begin(b);
        if (b + 1 == shards.buckets()) machine.clear(norm_squared_, 1);
        for (auto [from, to] : ranges_in_use(memory.table, begin, begin + shards.part(b)))
            global_norm_squared(norm_squared_, memory.summed_gradients(b) + from - begin, to - from, true,
                                machine.stream());
    }

    using G = grad_t<X>;
    const StepOptions o_;
    double* norm_squared_ = nullptr;  // (2) of this rank's part, and of all
    Pass pass_ = Pass::gradients;     // of the micro-step at hand
    StepState* state_ = nullptr;
    Updater<X, Machine> updater_;
};
