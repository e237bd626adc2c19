// How much working memory the CPU layers need beside a model's arenas: plain arithmetic, for the layers and for who plans
// a run (llmc/cuda/workspaces.h is that of a GPU).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include "llmc/cpu/amx.h"
#include "llmc/model/activations.h"
#include "llmc/model/config.h"
#include "llmc/model/step_state.h"

// Whether a product of (M,K) and (K,N) copies the latter into the layout that oneDNN likes best, for this one product. With
// AVX-512 that wins 3 to 15% at M = 4096 (AMX: more) and 7 to 25% where b's rows are long strides apart, as in dx; where
// those are whole pages, all in the same sets of a cache, half of the time; else it costs up to 5%.
inline bool worth_packing(int64_t M, int64_t N, int64_t K, bool b_transposed, size_t element) {
    const bool same_sets = static_cast<size_t>(N) * element % 4096 == 0;
    return M >= 2048 || (M >= 512 && !b_transposed && (K >= 2048 || same_sets));
}
// That copy, of elements of so many bytes: columns in blocks of 64, rows of at most 16.
inline size_t packed_bytes(int64_t M, int64_t N, int64_t K, bool b_transposed, size_t element) {
    if (!worth_packing(M, N, K, b_transposed, element)) return 0;
    return static_cast<size_t>((K + 15) / 16 * 16) * static_cast<size_t>((N + 63) / 64 * 64) * element;
}

// Products of bf16 by AMX (matmul_amx.cpp): worth their copies from some rows on. Sums go along K a piece at a time.
constexpr int kAmxDepth = 3072;
inline bool worth_amx(int64_t M, int64_t N, int64_t K) { return M >= 128 && N >= 32 && K >= 32 && amx_available(); }
// The copy of the smaller operand, in tiles of 32 x 16.
inline size_t packed_amx_bytes(int64_t M, int64_t N, int64_t K) {
    return static_cast<size_t>((K + 31) / 32 * 32) * static_cast<size_t>((std::min(M, N) + 31) / 32 * 32) * 2;
}

// Working memory of a thread: tiles of products and of attention, oneDNN's scratch: measured (dev/bench/memory_table.sh); and one
// head's keys and values (T,HS) in the backward pass of attention, three copies in the layers' type and two gradients in fp32.
inline size_t cpu_thread_bytes(const ModelConfig& m, int T, size_t element) {
    return (2 << 20) + static_cast<size_t>(T) * static_cast<size_t>((m.HS() + 15) / 16 * 16) * (3 * element + 8);
}

// The machine code that oneDNN writes for the 14 products of a step, each in two or three sizes of tiles, more of them where the
// width is odd. Measured likewise, with AMX for bf16.
inline size_t product_code_bytes(const ModelConfig& m, size_t element) {
    const bool odd = m.C % 32 != 0;
    return 14 * (element == 4 ? odd ? 170'000 : 60'000 : odd ? 620'000 : 180'000);
}

// Of all products of a training step with weights of so many bytes an element, in micro-batches of so many sizes. One copy
// serves all products of the same types: in fp32 all, in bf16 those with activations as their result, and those with gradients
// of weights.
inline size_t cpu_products_bytes(const ModelConfig& m, const StepOptions& o, size_t element, int threads, int sizes) {
    const int64_t N = int64_t(o.B) * o.T, C = m.C, chunk = kCpuLogits.chunk(N, m.Vp());
    size_t activations = 0, gradients = 0;
    const auto layer = [&](int64_t rows, int64_t in, int64_t out) {
        activations = std::max({activations, packed_bytes(rows, out, in, true, element),
                                o.training ? packed_bytes(rows, in, out, false, element) : 0});
        if (o.training && o.adapters.empty())
            gradients = std::max(gradients, packed_bytes(out, in, rows, false, element));
    };
    layer(N, C, 3 * C), layer(N, C, C), layer(N, C, m.F()), layer(N, m.F(), C), layer(chunk, C, m.Vp());
    const size_t packed = element == 4 ? std::max(activations, gradients) : activations + gradients;
    return packed + cpu_thread_bytes(m, o.T, element) * static_cast<size_t>(threads) +
           product_code_bytes(m, element) * static_cast<size_t>(sizes);
}
