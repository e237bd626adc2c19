// An adapter in memory; model/adapter.h says what it is.
#pragma once
#include "llmc/base/philox.h"
#include "llmc/lora.h"
#include "llmc/model/adapter.h"
#include "llmc/model/parameter_set.h"
#include "llmc/prompts.h"

template <typename X, class Machine>
struct Adapter {
    const AdapterConfig config;
    ParameterSet<X, Machine> set;
    AdapterPointers<X> w;
    AdapterPointers<grad_t<X>> dw;
    PromptEncoder<X> encoder{};

    Adapter(Machine& machine, const ModelConfig& m, const AdapterConfig& c, const StepOptions& o, bool trained)
        : config(c),
          set(
              machine, [&](int world) { return adapter_table(m, c, world); }, m.L, without_blocks_away(o), trained,
              std::min(o.zero_stage, 2)) {}  // its weights are few: all ranks have them
    static StepOptions without_blocks_away(StepOptions o) {
        o.offload.weights = o.offload.gradients = o.offload.activations = false;
        return o;
    }
    void allocate(const ModelConfig& m) {
        set.memory.allocate();
        w = {m, set.memory.table, [&](const Parameter& p) { return set.memory.weight_of(p); }};
        dw = {m, set.memory.table, [&](const Parameter& p) { return set.memory.gradient_of(p); }};
    }
    // New: matrices change nothing yet; prompts are words, drawn at random, of the model that is there
    // (Lester et al. 2021, section 3.2), unless an encoder makes them.
    void initialise(const ModelConfig& m, const ModelTensors& model, uint64_t seed) {
        set.initialise(m.L, seed);
        if (config.prompts.encoder || config.prompts.tokens == 0) return;
        const Parameter &wte = model.table[0], &to = set.memory.table[0];
        std::vector<float> row(static_cast<size_t>(m.C));
        for (uint32_t p = 0; p < static_cast<uint32_t>(config.prompts.tokens); p++) {
            const Philox4 random = philox(seed, p, 0, 0, static_cast<uint32_t>(Use::init) << 24 | 1);
            model.read(Buffer::weights, wte.offset + int64_t(random.v[0] % static_cast<uint32_t>(m.words())) * m.C, m.C,
                       row.data());
            set.exchange.write(Buffer::weights, to.offset + int64_t(p) * m.C, m.C, row.data());
            if (set.memory.master) set.exchange.write(Buffer::master, to.offset + int64_t(p) * m.C, m.C, row.data());
        }
    }
    // Gradients of prompts from that of the embedded tokens, dout (B,T,C).
    template <class Stream>
    void prompts_backward(const X* dout, const int* tokens, int B, int T, int C, Dropout dropout, Stream stream) {
        const int P = config.prompts.tokens;
        if (!config.prompts.encoder)
            return prompt_backward<X>(dw.prompts.prompts, dout, tokens, P, B, T, C, dropout, stream);
        set.machine.clear(encoder.dprompts, int64_t(P) * C);
        prompt_backward<X>(encoder.dprompts, dout, tokens, P, B, T, C, dropout, stream);
        prompt_encoder_backward<X>(dw.prompts, encoder, w.prompts, set.exchange.add_gradients(), stream);
    }
};
