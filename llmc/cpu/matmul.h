// Matrix products.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue; row-major
//
// One argument struct, so that what later needs more (scales for FP8, slices for tensor parallelism) adds a field and not a
// function. Products go to oneDNN where the build has it (matmul_onednn.cpp: AMX, AVX-512 or AVX2, whatever the CPU offers) and
// else, and always in double, to the portable tiles below.
#pragma once
#include "llmc/bf16.h"

enum class Epilogue { none, gelu, gelu_backward };

template <typename X, typename O = X>  // X: operands, O: result (X, or float for gradients accumulated from bf16)
struct Matmul {
    O* out;
    const X* a;
    const X* b;
    int M, N, K;
    bool a_transposed = false;         // a is stored (K,M)
    bool b_transposed = false;         // b is stored (N,K)
    bool accumulate = false;           // out +=
    const X* bias = nullptr;           // (N)
    Epilogue epilogue = Epilogue::none;
    X* aux = nullptr;                  // (M,N) gelu: receives the value before GELU; gelu_backward: holds it, out *= gelu'(aux)
};

template <typename X, typename O>
void matmul(const Matmul<X, O>& args);

// Linear layer: y (N,OC) = x (N,C) . w (OC,C)^T + bias (OC). With pre_gelu: y = GELU of that, and the value before goes to pre_gelu (may be y's
// own sum if it is not wanted: pass null and gelu = true).
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu = false);

// dx (N,C) = dy . w, and if pre_gelu: dx *= gelu'(pre_gelu), the gradient through the GELU whose output x was;
// dw (OC,C) += dy^T . x; dbias (OC) += column sums of dy. dx, dw, dbias may each be null.
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu, int N, int C,
                     int OC);
