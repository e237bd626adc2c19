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
        arena.add(&norm_squared_, 1);
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

    // Bucket b's gradients of a micro-step are complete. Their norm is taken before they leave, in the order of update().
    void reduce_gradients(int b) {
        if (memory.away.gradients && exchange.last_micro_step()) add_to_norm(b);
        exchange.reduce_gradients(b);
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
        if (!memory.away.gradients)
            for (int b = shards.buckets() - 1; b >= 0; b--) add_to_norm(b);
        exchange.sum_losses_and_norm(state->sums, kStepSums, norm_squared_);
        finish_gradients(state, norm_squared_, o_.grad_clip, stream);
        updater_.run(state);
        exchange.gather_weights();
    }

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
        bool more = b + 1 < shards.buckets();
        const G* own = memory.away.gradients ? memory.grad_slots[shards.slot(b)] : memory.own_grads + shards.local(b);
        for (auto [from, to] : ranges_in_use(memory.table, memory.size)) {
            from = std::max(from, shards.begin(b)), to = std::min(to, shards.begin(b) + shards.part(b));
            if (more && from >= to) continue;
            global_norm_squared(norm_squared_, own + (from - shards.begin(b)), std::max<int64_t>(0, to - from), more,
                                machine.stream());
            more = true;
        }
    }

    using G = grad_t<X>;
    const StepOptions o_;
    double* norm_squared_ = nullptr;
    Updater<X, Machine> updater_;
};
