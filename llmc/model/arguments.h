// Arguments of layers that are too many for a list of parameters; the same for the CPU layers and the CUDA layers.
#pragma once
#include <cstdint>
#include <type_traits>
#include "llmc/model/batch.h"
#include "llmc/model/step_state.h"

enum class Epilogue { none, gelu, gelu_backward };

//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue; row-major
//
// One struct: what later needs more (scales for FP8, slices for tensor parallelism) adds a field and not a function.
template <typename X, typename O = X>  // X: operands, O: result (X, or float for gradients accumulated from bf16)
struct Matmul {
    O* out;
    const X *a, *b;
    int M, N, K;
    bool a_transposed = false;  // a is stored (K,M)
    bool b_transposed = false;  // b is stored (N,K)
    bool accumulate = false;    // out +=
    const X* bias = nullptr;    // (N)
    Epilogue epilogue = Epilogue::none;
    X* aux = nullptr;  // (M,N) gelu: receives the value before GELU; gelu_backward: holds it, out *= gelu'(aux)
};

// Query i of sequence b, head h starts at q + b * q_batch + i * q_row + h * HS; keys and values alike, with head h * NKV / NH.
struct AttentionShape {
    int B, Tq, Tk, NH, NKV, HS;      // Tq < Tk: the queries are the last Tq positions (decoding with a KV cache)
    int64_t q_row, kv_row, out_row;  // elements from one position to the next
    int64_t q_batch, kv_batch, out_batch;
    float divisor = 1;  // of the scores, beside sqrt(HS)
};

// Column sums of a gradient, parts (count, columns), which the layer that has written it may leave: the linear layer that it goes
// through next has its bias' gradient from them. parts null: nobody wants any. (The CPU's layers leave none.)
template <typename X>
struct ColumnSums {
    float* parts = nullptr;
    int count = 0;
    const X* of = nullptr;  // the gradient; null: none, or they are taken
};
template <typename X>
using Sums = std::type_identity_t<ColumnSums<X>*>;  // as a parameter: others say what X is

// Shape of a packed qkv (B,T,3C) with q = qkv, k = qkv + C, v = qkv + 2C, out (B,T,C).
inline AttentionShape packed_qkv_shape(int B, int T, int C, int NH, float divisor = 1) {
    int64_t row = 3ll * C;
    return {B, T, T, NH, NH, C / NH, row, row, C, T * row, T * row, int64_t(T) * C, divisor};
}

// The tokens of a step where the machine has them, and those of a micro-batch where the layers read them; (rows, T) each.
// weights, doc_start and positions are null where every target counts alike and a sequence is one document (batch.h).
struct StepTokens {
    const int *inputs, *targets;
    const float* weights;
    const int* doc_start;
    const float* labels = nullptr;
    const int* partners = nullptr;
    const TokenSignals* signals = nullptr;
};
template <typename A>
struct MicroBatch {
    int *inputs, *targets;
    A* weights;
    int *doc_start, *positions;  // positions begin anew with each document: t - doc_start
    float* labels = nullptr;     // and partners: null where there is no head to train; here partners are rows of N
    int* partners = nullptr;
    TokenSignals* signals = nullptr;

    template <class Arena>
    void add_to(Arena& arena, int64_t rows, const StepOptions& o) {
        arena.add(&inputs, rows), arena.add(&targets, rows);
        if (o.examples) arena.add(&weights, rows), arena.add(&doc_start, rows), arena.add(&positions, rows);
        if (o.labels) arena.add(&labels, rows), arena.add(&partners, rows);
        if (o.signals) arena.add(&signals, rows);
    }
};

// Where a layer runs, its last argument: as plain loops (llmc/plain/), or as the CPU's layers (llmc/cpu/). The work is done
// when the call returns. A layer that the CPU has no version of runs as plain loops. A GPU's layers take a cudaStream_t.
struct Plain {};
struct CpuStream : Plain {};
