// What a forward pass leaves behind for the backward pass, and where it lies; the same for both programs.
//
// Shapes: B sequences of T tokens, C channels, NH heads of HS = C / NH, V words padded to Vp, L layers, N = B*T rows.
#pragma once
#include <algorithm>
#include <array>
#include <functional>
#include <vector>
#include "llmc/model/arguments.h"
#include "llmc/model/parameters.h"

// What one block keeps from its forward pass for its backward pass, in the order in which it is computed. Views may be
// shared between layers: see Activations.
template <typename X>
struct BlockActivations {
    X* input;                                            // (B,T,C) residual stream that enters the block
    X* ln1;                                              // (B,T,C)
    X* qkv;                                              // (B,T,3C)
    X* atty;                                             // (B,T,C) attention, before its projection
    X* residual2;                                        // (B,T,C) residual stream between attention and MLP
    X* ln2;                                              // (B,T,C)
    X* fch;                                              // (B,T,F) before GELU
    X* fch_gelu;                                         // (B,T,F) after GELU; with room for (B,T,C)
    acc_t<X>*ln1_mean, *ln1_rstd, *ln2_mean, *ln2_rstd;  // (B,T)
    acc_t<X>* lse;                                       // (B,NH,T) log-sum-exp of attention's scores
};

// How many of N rows of the LM head are worked on at once: equal chunks of at most `most` logits, in multiples of `unit`. A
// rule of the shape alone: chunks decide the order of sums. Each reads and writes the gradient of wte once more.
struct LogitsLimit {
    int64_t most, unit;
    constexpr int64_t chunk(int64_t N, int Vp) const {
        const int64_t chunks = (N - 1) / std::max(unit, most / Vp / unit * unit) + 1;
        return std::min(N, ((N - 1) / chunks / unit + 1) * unit);
    }
};
inline constexpr LogitsLimit kCpuLogits{int64_t(52) << 20, 64};  // 208 MiB in fp32: 1024 rows of GPT-2's vocabulary
inline constexpr LogitsLimit kGpuLogits{int64_t(1) << 30, 128};  // 2 GiB in bf16: 21,248 rows

// All activations of a forward pass over at most N = B*T rows, in an Arena of the host or of the device.
template <typename X, class Arena>
struct Activations {
    // L of them, and h[L]: only input, ln1 and their statistics, for the final layernorm
    std::vector<BlockActivations<X>> h;
    X* branch;         // (N,C) output of the attention projection or the MLP, before it is added
    X* logits;         // (chunk, Vp)
    acc_t<X>* losses;  // (N)
    // With adapters, of rank R at most, (N,R) of each linear layer of each block (lora.h); and with their dropout room for
    // what is dropped out of, (N, max(C,F))
    std::vector<std::array<X*, std::size(kLinears)>> lora;
    X* lora_input = nullptr;
    int64_t chunk;  // rows of the LM head that are worked on at once
    Arena arena;
    typename Arena::Host host;
    std::vector<X*> host_inputs;  // (N,C) each: those of blocks 0 to L - 2, if they are offloaded (TwoOfMany)

    // keep_all = false (evaluation, sampling): one set of buffers serves all layers. Else `recompute` says which
    // tensors are not kept but computed again in the backward pass (StepOptions). offload: blocks take turns in two inputs.
    Activations(const ModelConfig& m, int64_t N, int64_t lm_head_chunk, bool keep_all, int recompute,
                const std::vector<AdapterConfig>& adapters, bool offload = false)
        : h(static_cast<size_t>(m.L) + 1), chunk(lm_head_chunk) {
        int64_t C = m.C;
        int lora_rank = 0;
        for (size_t l = 0; l < h.size(); l++) {
            BlockActivations<X>& a = h[l];
            bool last = l + 1 == h.size();
            auto add = [&](auto member, int64_t n, bool kept) {
                if (kept || l == 0) arena.add(&(a.*member), n);
                else shared.push_back([this, member, l] { h[l].*member = h[0].*member; });
            };
            using Block = BlockActivations<X>;
            if (offload && l > 1) shared.push_back([this, l] { h[l].input = h[l % 2].input; });
            else add(&Block::input, N * C, keep_all);
            add(&Block::ln1, N * C, keep_all && (recompute < 2 || last));  // the final one is needed right away
            add(&Block::ln1_mean, N, keep_all), add(&Block::ln1_rstd, N, keep_all);
            if (last) break;
            add(&Block::qkv, 3 * N * C, keep_all && recompute < 3);
            add(&Block::atty, N * C, keep_all && recompute < 3);
            add(&Block::lse, N * m.NH, keep_all && recompute < 3);
            add(&Block::residual2, N * C, keep_all && recompute < 3);
            add(&Block::ln2, N * C, keep_all && recompute < 2);
            add(&Block::ln2_mean, N, keep_all), add(&Block::ln2_rstd, N, keep_all);
            add(&Block::fch, N * m.F(), keep_all && recompute < 3);
            add(&Block::fch_gelu, N * std::max(m.F(), m.C), keep_all && recompute < 1);
        }
        for (const AdapterConfig& adapter : adapters) lora_rank = std::max(lora_rank, adapter.lora.rank);
        if (lora_rank > 0) lora.resize(static_cast<size_t>(m.L));
        for (auto& block : lora)
            for (X*& x : block) arena.add(&x, N * lora_rank);
        if (keep_all && !adapters.empty() && adapters[0].lora.dropout > 0)
            arena.add(&lora_input, N * std::max(m.F(), m.C));
        if (offload) host_inputs.resize(static_cast<size_t>(m.L) - 1);
        for (X*& x : host_inputs) host.add(&x, N * C);
        arena.add(&branch, N * C), arena.add(&logits, chunk * m.Vp()), arena.add(&losses, N);
    }
    void allocate(const char* what, bool zero) {
        arena.allocate(what, zero), host.allocate(what, zero);
        for (auto& share : shared) share();
    }

  private:
    std::vector<std::function<void()>> shared;
};

// Gradients of activations: a few buffers that all layers use in turn.
template <typename X>
struct BackwardScratch {
    X* dresidual;        // (N,C) gradient of the residual stream, the one thing that travels from block to block
    X* dbranch;          // (N,C)
    X* dwide;            // (N,F) gradient of fch, then (N,3C) of qkv
    X* dlora;            // (N,R) with an adapter of rank R
    ColumnSums<X> sums;  // of the one at hand

    template <class Arena>
    void add_to(Arena& arena, int64_t N, int64_t C, int64_t F, int64_t R) {
        arena.add(&dresidual, N * C), arena.add(&dbranch, N * C), arena.add(&dwide, N * std::max(F, 3 * C));
        if (R > 0) arena.add(&dlora, N * R);
    }
};

// Bytes of each arena.
struct MemoryPlan {
    size_t parameters = 0, gradients = 0, optimizer = 0, activations = 0, buffers = 0;
    size_t host = 0;  // of page-locked host memory, beside the device's
    size_t total() const { return parameters + gradients + optimizer + activations + buffers; }
    template <class ModelMemory>
    void add(const ModelMemory& memory) {
        parameters += memory.parameters.bytes(), gradients += memory.gradients.bytes();
        optimizer += memory.optimizer.bytes(), host += memory.host.bytes();
    }
};
