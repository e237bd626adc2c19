// How much working memory the CUDA layers need (workspace(), common.cuh), and how they divide their work, as far as
// that decides it. Plain arithmetic, in which the GPU is its number of multiprocessors: the layers' launchers ask here,
// and so do the model, which reserves the largest, and who plans a run without a GPU.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include "llmc/base/turns.h"
#include "llmc/model/arguments.h"
#include "llmc/model/optimizer.h"
#include "llmc/model/parameters.h"

inline int ceil_div(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

// ---- the update of what is offloaded (offload.cuh): two pieces of it, an eighth of what a rank updates, so that copies and
// work go on beside each other; 4M elements are enough for that ----

template <class Arena, typename X, class Memory>
void add_update_pieces(Arena& arena, Pieces<OptimizerArrays<X>>& pieces, const Memory& memory, Optimizer optimizer) {
    const Offload& away = memory.away;
    if (!away.optimizer && !away.masters && !away.gradients && !away.weights) return;
    const int64_t eighth = (memory.shards.local_size() + 7) / 8;
    const int64_t n = pieces.elements = std::min(int64_t(4) << 20, round_up(eighth, kMomentBlock));
    const auto add_moment = [&](Moment& m) {
        arena.add(&m.values, n * Moment::bytes<acc_t<X>>(memory.state_type));
        if (memory.state_type == StateType::int8) arena.add(&m.scales, n / kMomentBlock);
    };
    for (OptimizerArrays<X>& at : pieces.at) {
        at.m.has_sign = memory.m.has_sign, at.v.has_sign = memory.v.has_sign;
        if (away.weights) arena.add(&at.p, n);
        if (away.gradients) arena.add(&at.grad, n);
        if (away.masters) arena.add(&at.master, n);
        if (away.optimizer && keeps_m(optimizer)) add_moment(at.m);
        if (away.optimizer && memory.has_v()) add_moment(at.v);
    }
}

// ---- encoder_backward: three arrays (N), each on a 256-byte boundary, and what sorting them wants ----

inline size_t encoder_index_bytes(int64_t N) { return (static_cast<size_t>(N) * sizeof(int) + 255) / 256 * 256; }
inline size_t encoder_backward_workspace_bytes(int64_t N, size_t sort_bytes) {
    return 3 * encoder_index_bytes(N) + sort_bytes;
}

// ---- layernorm_backward: the sums of each block, (blocks, 2, C) fp32 ----

// Elements of a row that a thread has.
inline int layernorm_backward_columns(int C) { return C <= 512 * 8 ? 8 : 24; }
constexpr bool layernorm_backward_sums(int columns) { return columns <= 8; }  // whether there is room for dx's, too
inline int layernorm_backward_threads(int C) { return 32 * ceil_div(C, 32 * layernorm_backward_columns(C)); }
// 512 threads a multiprocessor, all that registers allow; a block has at least 16 rows, so that its sums stay small
// beside them.
inline int layernorm_backward_blocks(int64_t N, int C, int multiprocessors) {
    return std::min(multiprocessors * std::max(1, 512 / layernorm_backward_threads(C)), ceil_div(N, 16));
}
inline size_t layernorm_backward_workspace_bytes(int64_t N, int C, int multiprocessors) {
    return static_cast<size_t>(layernorm_backward_blocks(N, C, multiprocessors)) * 2 * static_cast<size_t>(C) *
           sizeof(float);
}

// ---- matmul: the sums of parts of K, and those of bias_backward's rows ----

constexpr int matmul_own_most_items = 5;  // for each block that runs at once, if K is split: bounds the workspace
constexpr int matmul_own_largest_tile = 128 * 256;
inline size_t matmul_own_workspace_bytes(int multiprocessors) {
    return static_cast<size_t>(multiprocessors) * matmul_own_most_items * matmul_own_largest_tile * sizeof(float);
}
// 32 MiB is what NVIDIA recommends from Hopper on and 4 MiB for what came before (cuBLAS documentation,
// cublasSetWorkspace). cuBLASLt's is memory of its own.
inline size_t cublaslt_recommended_bytes(int capability) { return capability >= 90 ? 32 << 20 : 4 << 20; }

// Rows that one block adds: at most 256 parts, of 32 rows or more. A function of N alone, like the order of the sums.
inline int bias_backward_rows(int64_t N) { return std::max(32, ceil_div(ceil_div(N, 256), 8) * 8); }
inline size_t bias_backward_workspace_bytes(int64_t N, int OC) {
    return static_cast<size_t>(ceil_div(N, bias_backward_rows(N))) * static_cast<size_t>(OC) * sizeof(float);
}

// ---- column sums that layers leave (ColumnSums in arguments.h): where biases are trained ----

inline bool leaves_column_sums(const StepOptions& o) { return o.training && o.adapters.empty(); }
// attention_backward in bf16: a row of sums for each tile of positions of a sequence
constexpr int attention_mma_tile(int HS) { return HS <= 128 ? 128 : 64; }
inline int attention_sum_parts(const AttentionShape& s) { return s.B * ceil_div(s.Tk, attention_mma_tile(s.HS)); }
// The most that one of them leaves, for up to N rows.
inline int64_t column_sums_elements(int64_t N, int C, int F, const AttentionShape& attention, int multiprocessors,
                                    bool own_matmul) {
    return std::max({own_matmul ? int64_t(4 * ceil_div(N, 256)) * F : 0,  // matmul_own: one for 64 rows of whole tiles
                     int64_t(layernorm_backward_blocks(N, C, multiprocessors)) * C,
                     int64_t(attention_sum_parts(attention)) * 3 * C,
                     int64_t(std::min(256, ceil_div(N, 32))) * F});  // gelu_backward, as bias_backward_rows says
}

// ---- attention_backward by our own kernels: statistics of each query of each head ----

// bf16: two floats (B,NH,stride), padded to a multiple of the largest tile
constexpr int attention_stats_rows = 128;
inline int attention_stats_stride(const AttentionShape& s) {
    return ceil_div(s.Tq, attention_stats_rows) * attention_stats_rows;
}
inline size_t attention_mma_backward_workspace_bytes(const AttentionShape& s) {
    return 2 * sizeof(float) * s.B * s.NH * attention_stats_stride(s);
}
// float: one (B,NH,Tq)
inline size_t attention_fp32_backward_workspace_bytes(const AttentionShape& s) {
    return sizeof(float) * s.B * s.NH * s.Tq;
}
inline size_t attention_own_backward_workspace_bytes(const AttentionShape& s) {
    return std::max(attention_mma_backward_workspace_bytes(s), attention_fp32_backward_workspace_bytes(s));
}

// ---- attention_decode: sums over parts of the keys ----

namespace attention_decode_detail {

constexpr int kRows = 4;       // queries and heads of one key head that a block takes together
constexpr int kThreads = 128;  // 16 groups of 8 lanes: a group reads a key or value, 8 lanes * 16 bytes at a time
constexpr int kBatch = 4;      // keys that a group asks for at once
constexpr int kStep = kThreads / 8 * kBatch;

struct Split {
    int rows, tiles, keys, count;  // a block's rows of at most kRows, blocks for all rows, keys of a block, blocks
    int most;                      // count is not above it, nor is that of a smaller cache
};
inline Split split(const AttentionShape& s) {
    const int all_rows = s.Tq * (s.NH / s.NKV), rows = all_rows == 1 ? 1 : kRows, tiles = ceil_div(all_rows, rows);
    const int steps = ceil_div(s.Tk, kStep);
    // About 1024 blocks fill any GPU; a block's scores, rows * keys, fit into 32 KiB.
    const int want = std::clamp(1024 / (s.B * s.NKV * tiles), ceil_div(s.Tk, 2048), steps);
    const int keys = ceil_div(steps, want) * kStep;
    return {rows, tiles, keys, ceil_div(s.Tk, keys), want};
}
// A query's part is HS + 2 floats: sum of exp(s - m) v, m, sum of exp(s - m); parts (B,NH,Tq,count,HS+2). Scores are in
// units of log 2.
inline size_t parts(const AttentionShape& s) { return size_t(s.B) * s.NH * s.Tq * split(s).most * (s.HS + 2); }

}  // namespace attention_decode_detail

// For up to shape.B * shape.Tq queries at once, of however many texts, and a cache with up to shape.Tk positions a text.
inline size_t attention_decode_workspace_bytes(AttentionShape shape) {
    size_t most = 0;
    const int rows = shape.B * shape.Tq;
    for (shape.B = 1; shape.B <= rows; shape.B++)
        for (shape.Tq = 1; shape.Tq <= rows / shape.B; shape.Tq++)
            most = std::max(most, attention_decode_detail::parts(shape));
    return most * sizeof(float);
}

// ---- global_norm_squared: a sum for each block ----

inline int global_norm_most_blocks(int multiprocessors) { return 4 * multiprocessors; }
inline size_t global_norm_workspace_bytes(int multiprocessors) {
    return static_cast<size_t>(global_norm_most_blocks(multiprocessors)) * sizeof(double);
}

// ---- the largest of them, in a step or in decoding with this shape ----

// A training step of N rows with this attention, or (training = false) decoding alone. sort_bytes: what sorting the N
// rows by token wants (sort.cuh). cuDNN's attention is not counted.
inline size_t gpu_workspace_bytes(bool training, int64_t N, int C, int F, const AttentionShape& attention,
                                  const AttentionShape& decode, int multiprocessors, size_t sort_bytes) {
    size_t bytes = std::max(
        {size_t(1) << 20, matmul_own_workspace_bytes(multiprocessors), attention_decode_workspace_bytes(decode)});
    if (!training) return bytes;
    return std::max({bytes, layernorm_backward_workspace_bytes(N, C, multiprocessors),
                     bias_backward_workspace_bytes(N, std::max(F, 3 * C)),
                     encoder_backward_workspace_bytes(N, sort_bytes), attention_own_backward_workspace_bytes(attention),
                     global_norm_workspace_bytes(multiprocessors)});
}
