// A set of tensors and what happens to all of them alike: the model's, or an adapter's.
#pragma once
#include <algorithm>
#include <type_traits>
#include <vector>
#include "llmc/model/arguments.h"
#include "llmc/model/exchange.h"
#include "llmc/model/initial_weights.h"
#include "llmc/model/memory.h"
#include "llmc/model/tensors.h"

template <typename X, class Machine>
struct ParameterSet {
    Machine& machine;
    ModelMemory<X, typename Machine::Arena> memory;
    Exchange<X, Machine> exchange;

    // As ModelMemory takes them.
    template <typename TableFor>
    ParameterSet(Machine& on, TableFor table_for, int blocks, const StepOptions& o, bool trained, int zero_stage)
        : machine(on), memory(table_for, blocks, o, trained, zero_stage), exchange(on, memory) {}
    ParameterSet(const ParameterSet&) = delete;

    // If above 0, only the rows of words from this one on are trained; else all there is.
    int64_t first_word = 0;
    int64_t resting(const Parameter& p) const {  // so many elements at its beginning are not
        return first_word == 0 ? 0 : p.has_row_per_word() ? first_word * p.cols : p.padded_size();
    }

    // What is trained, a segment for each tensor.
    std::vector<AdamWSegment> segments(float weight_decay) const {
        std::vector<AdamWSegment> all;
        for (const Parameter& p : memory.table)
            all.push_back({p.index + resting(p), p.trainable ? std::max<int64_t>(0, p.size_in_use() - resting(p)) : 0,
                           p.weight_decay ? weight_decay : 0.0f});
        return all;
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
        machine.clear(memory.m1, memory.shards.local_size());
        machine.clear(memory.m2, memory.shards.local_size());
        machine.finish();
    }

    // The end of a step: mean loss, norm, clip scale and the decision to skip, then AdamW; nothing of it passes through the
    // host. A rank updates what it has the optimizer state of; then the weights of all parts come together again.
    void update(StepState* state, double* norm_squared, const AdamWSegment* segments, const StepOptions& o) {
        const Sharding& shards = memory.shards;
        const auto stream = machine.stream();
        // What is not trained has no part in the norm: it must not make clipping shorten the steps of what is.
        if (first_word > 0)
            for (const Parameter& p : memory.table)
                shards.for_own(p.offset, resting(p),
                               [&](int64_t, int64_t local, int64_t n) { machine.clear(memory.own_grads + local, n); });
        const auto ranges = ranges_in_use(memory.table, memory.size);
        const bool all = ranges.size() == 1;
        global_norm_squared(norm_squared, memory.own_grads, all ? shards.local_size() : 0, false, stream);
        for (auto [from, to] : ranges)
            if (!all)
                shards.for_own(from, to - from, [&](int64_t, int64_t local, int64_t n) {
                    global_norm_squared(norm_squared, memory.own_grads + local, n, true, stream);
                });
        exchange.sum_losses_and_norm(state->sums, kStepSums, norm_squared);
        finish_gradients(state, norm_squared, o.grad_clip, stream);
        AdamWOptions options{o.beta1, o.beta2, o.epsilon, o.stochastic_rounding};
        auto adamw = [&](int64_t arena, int64_t local, int64_t index, int64_t n) {
            adamw_update<X>(memory.own_weight(arena, local), memory.master ? memory.master + local : nullptr,
                            memory.m1 + local, memory.m2 + local, memory.own_grads + local, segments,
                            static_cast<int>(memory.table.size()), index, index + n, options, state, stream);
        };
        if (memory.stage == 0) {
            for (auto [from, to] : ranges) adamw(from, from, from, to - from);
            return;
        }
        for (int b = 0; b < shards.buckets(); b++) {
            Bucket bucket = shards.bucket(b);
            if (bucket.rows == 0) continue;
            const Parameter &first = memory.table[bucket.first_row], &last = (&first)[bucket.rows - 1];
            int64_t begin = shards.begin(b), end = std::min(begin + shards.part(b), last.offset + last.padded_size());
            adamw(begin, shards.local(b), first.index + begin - bucket.begin, std::max<int64_t>(0, end - begin));
        }
        exchange.gather_weights();
    }

    // How files reach the weights and the optimizer. With several ranks, all of them read together; each writes on its
    // own.
    ModelTensors tensors() {
        ModelTensors t{.table = memory.table,
                       .bf16 = std::is_same_v<X, bf16>,
                       .has_master = memory.master != nullptr,
                       .collective = exchange.collective(),
                       .read_by_thread = Machine::kReadByThread,
                       .read = {},
                       .write = {}};
        t.read = [this](Buffer b, int64_t offset, int64_t n, float* out) { exchange.read(b, offset, n, out); };
        t.write = [this](Buffer b, int64_t offset, int64_t n, const float* in) { exchange.write(b, offset, n, in); };
        return t;
    }
};
