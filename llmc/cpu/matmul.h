// Matrix products.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue; row-major
//
// One argument struct, so that what later needs more (scales for FP8, slices for tensor parallelism) adds a field and not a
// function. Products go to oneDNN where the build has it (matmul_onednn.cpp: AMX, AVX-512 or AVX2, whatever the CPU offers) and
// else, and always in double, to the portable tiles below.
#pragma once
#include "llmc/bf16.h"
#include "llmc/cpu/gelu.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/parallel.h"

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

// Off: the portable tiles even where oneDNN is built in, for tests and benchmarks.
inline bool& matmul_use_onednn() {
    static bool use = true;
    return use;
}

#ifdef USE_ONEDNN
// False where this CPU or library has no product of these types (bf16): the caller computes it otherwise.
bool matmul_onednn(const Matmul<float, float>& args);
bool matmul_onednn(const Matmul<bf16, bf16>& args);
bool matmul_onednn(const Matmul<bf16, float>& args);
#endif

template <typename X, typename O>
void matmul_portable(const Matmul<X, O>& args) {
    using A = acc_t<X>;
    parallel_for(args.M, [=](int64_t m) {
        for (int n = 0; n < args.N; n++) {
            int64_t at = m * args.N + n;
            A sum = args.bias ? A(args.bias[n]) : A(0);
            for (int k = 0; k < args.K; k++)
                sum += A(args.a_transposed ? args.a[int64_t(k) * args.M + m] : args.a[m * args.K + k]) *
                       A(args.b_transposed ? args.b[int64_t(n) * args.K + k] : args.b[int64_t(k) * args.N + n]);
            if (args.accumulate) sum += A(args.out[at]);
            if (args.epilogue == Epilogue::gelu) {
                if (args.aux) args.aux[at] = X(sum);
                sum = gelu(A(X(sum)));
            }
            if (args.epilogue == Epilogue::gelu_backward) sum *= gelu_gradient(A(args.aux[at]));
            args.out[at] = O(sum);
        }
    });
}

template <typename X, typename O>
void matmul(const Matmul<X, O>& args) {
#ifdef USE_ONEDNN
    if constexpr (!std::is_same_v<X, double>) {
        if (matmul_use_onednn() && matmul_onednn(args)) return;
    }
#endif
    matmul_portable(args);
}

// Linear layer: y (N,OC) = x (N,C) . w (OC,C)^T + bias (OC). With pre_gelu: y = GELU of that, and the value before goes to pre_gelu (may be y's
// own sum if it is not wanted: pass null and gelu = true).
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu = false) {
    Matmul<X> args{.out = y, .a = x, .b = w, .M = N, .N = OC, .K = C};
    args.b_transposed = true;
    args.bias = bias;
    args.epilogue = pre_gelu || gelu ? Epilogue::gelu : Epilogue::none;
    args.aux = pre_gelu;
    matmul(args);
}

// dbias (OC) += column sums of dy (N,OC). Each thread owns columns; rows are summed in blocks of 64 (less rounding than one long
// sum), in an order that does not depend on the number of threads.
template <typename X>
void bias_backward(grad_t<X>* dbias, const X* dy, int N, int OC) {
    using A = acc_t<X>;
    constexpr int columns = 256;
    parallel_blocks(OC, columns, [=](int64_t begin, int64_t end) {
        int width = static_cast<int>(end - begin);
        A total[columns] = {};
        for (int64_t n0 = 0; n0 < N; n0 += 64) {
            A sum[columns] = {};
            for (int64_t n = n0; n < std::min<int64_t>(N, n0 + 64); n++) {
                const X* row = dy + n * OC + begin;
#pragma omp simd
                for (int c = 0; c < width; c++) sum[c] += A(row[c]);
            }
#pragma omp simd
            for (int c = 0; c < width; c++) total[c] += sum[c];
        }
#pragma omp simd
        for (int c = 0; c < width; c++) dbias[begin + c] += total[c];
    });
}

// dx (N,C) = dy . w, and if pre_gelu: dx *= gelu'(pre_gelu), the gradient through the GELU whose output x was;
// dw (OC,C) += dy^T . x; dbias (OC) += column sums of dy. dx, dw, dbias may each be null.
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu, int N, int C,
                     int OC) {
    if (dx) {
        Matmul<X> args{.out = dx, .a = dy, .b = w, .M = N, .N = C, .K = OC};
        args.epilogue = pre_gelu ? Epilogue::gelu_backward : Epilogue::none;
        args.aux = const_cast<X*>(pre_gelu);
        matmul(args);
    }
    if (dw) {
        Matmul<X, grad_t<X>> args{.out = dw, .a = dy, .b = x, .M = OC, .N = C, .K = N};
        args.a_transposed = args.accumulate = true;
        matmul(args);
    }
    if (dbias) bias_backward(dbias, dy, N, OC);
}
