// How much working memory the CPU layers need beside a model's arenas: plain arithmetic, for the layers and for who plans
// a run (llmc/cuda/workspaces.h is that of a GPU).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include "llmc/cpu/amx_available.h"
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

// Products of bf16 by AMX (matmul_amx.cpp): worth their copies from some rows on.
inline bool worth_amx(int64_t M, int64_t N, int64_t K) { return M >= 128 && N >= 32 && K >= 32 && amx_available(); }

// How such a product is divided. Panels are 32 rows of a or columns of b: two tiles side by side. The smaller operand is
// copied once, for all (`shared`); a task copies own_block panels of the other one, kAmxDepth of K at a time, and
// multiplies them by `wide` panels of the shared one, kBlock at a time. The sums of kBlock x kBlock blocks of the result
// wait in the L2 cache; where K is longer than kAmxDepth, those of all blocks of a task.
struct AmxBlocks {
    static constexpr int kAmxDepth = 3072, kBlock = 8, kPanel = 32;
    bool own_rows, long_k;
    int own_panels, shared_panels, own_block = kBlock, wide;
    size_t shared_pairs, own_pairs, sums;  // pairs of bf16 of the copies; floats

    AmxBlocks(int64_t M, int64_t N, int64_t K, int threads) : own_rows(M >= N), long_k(K > kAmxDepth) {
        own_panels = count(std::max(M, N), kPanel), shared_panels = wide = count(std::min(M, N), kPanel);
        while (count(own_panels, own_block) * count(shared_panels, wide) < 2 * threads &&
               (own_block > 4 || wide > kBlock)) {
            if (own_block > 4) own_block /= 2;
            else wide = count(wide, 2);
        }
        // alike, and as many for each thread where they are few
        const int across = count(shared_panels, wide);
        for (int blocks = count(own_panels, own_block); blocks <= own_panels; blocks++) {
            own_block = count(own_panels, blocks);
            const int tasks = count(own_panels, own_block) * across;
            if (tasks % threads == 0 || tasks > 8 * threads) break;
        }
        const auto pairs = [](int panels, int64_t k) { return size_t(panels) * kPanel * size_t(count(k, 32)) * 16; };
        shared_pairs = pairs(shared_panels, K), own_pairs = pairs(own_block, std::min<int64_t>(K, kAmxDepth));
        sums = size_t(own_block) * size_t(long_k ? wide : std::min(wide, kBlock)) * kPanel * kPanel;
    }
    static int count(int64_t n, int64_t block) { return static_cast<int>((n + block - 1) / block); }
};

// Working memory of a thread: the library's scratch and tiles, where it makes products, measured (dev/bench/memory_table.sh);
// and one head's keys and values (T,HS) in the backward pass of attention, three copies in the layers' type and two gradients
// in fp32.
inline size_t cpu_thread_bytes(const ModelConfig& m, int T, size_t element, bool by_library) {
    return (by_library ? 2 << 20 : 0) +
           static_cast<size_t>(T) * static_cast<size_t>((m.HS() + 15) / 16 * 16) * (3 * element + 8);
}

// The machine code that oneDNN writes for a product, in two or three sizes of tiles, more of them where the width is odd.
// Measured likewise.
inline size_t product_code_bytes(const ModelConfig& m, size_t element) {
    const bool odd = m.C % 32 != 0;
    return element == 4 ? odd ? 170'000 : 60'000 : odd ? 620'000 : 180'000;
}

// Of products whose result has one type, which share their copies.
struct ProductMemory {
    size_t packed = 0, own = 0, sums = 0;  // for all threads; for each
    void add(int64_t M, int64_t N, int64_t K, bool b_transposed, size_t element, int threads, int* by_library) {
        if (element == 2 && worth_amx(M, N, K)) {
            const AmxBlocks b(M, N, K, threads);
            packed = std::max(packed, 4 * b.shared_pairs), own = std::max(own, 4 * b.own_pairs);
            sums = std::max(sums, 4 * b.sums);
        } else {
            packed = std::max(packed, packed_bytes(M, N, K, b_transposed, element)), ++*by_library;
        }
    }
    size_t bytes(int threads) const { return packed + (own + sums) * static_cast<size_t>(threads); }
};

// Of all products of a training step with weights of so many bytes an element, in micro-batches of so many sizes. In fp32
// all have one type of result, in bf16 activations are another than gradients of weights.
inline size_t cpu_products_bytes(const ModelConfig& m, const StepOptions& o, size_t element, int threads, int sizes) {
    const int64_t N = int64_t(o.B) * o.T, C = m.C, chunk = kCpuLogits.chunk(N, m.Vp());
    ProductMemory activations, gradients;
    int by_library = o.adapters.empty() ? 0 : 1;  // products of few columns
    const auto layer = [&](int64_t rows, int64_t in, int64_t out) {
        activations.add(rows, out, in, true, element, threads, &by_library);
        if (o.training) activations.add(rows, in, out, false, element, threads, &by_library);
        if (o.training && o.adapters.empty())
            (element == 4 ? activations : gradients).add(out, in, rows, false, element, threads, &by_library);
    };
    layer(N, C, 3 * C), layer(N, C, C), layer(N, C, m.F()), layer(N, m.F(), C), layer(chunk, C, m.Vp());
    return activations.bytes(threads) + gradients.bytes(threads) +
           cpu_thread_bytes(m, o.T, element, by_library > 0) * static_cast<size_t>(threads) +
           product_code_bytes(m, element) * static_cast<size_t>(by_library * sizes);
}
