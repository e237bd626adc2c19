// A set of tensors and what happens to all of them alike: the model's, or an adapter's.
#pragma once
#include <type_traits>
#include <vector>
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
        if (!memory.trained) return;
        machine.clear(memory.m1, memory.shards.local_size());
        machine.clear(memory.m2, memory.shards.local_size());
        machine.finish();
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
