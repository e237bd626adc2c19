// Matrix products.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (arguments.h)
//
// Large products of bf16 go to AMX where the CPU has it (matmul_amx.cpp); the others to oneDNN where the build has it
// (matmul_onednn.cpp: AVX-512 or AVX2, whatever the CPU offers) and else, and always in double, to the portable tiles below.
#include "llmc/cpu/layers.h"
#include "llmc/cpu/instantiate.h"
#include "llmc/base/bf16.h"
#include "llmc/cpu/finish_row.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/workspaces.h"
#include "llmc/base/parallel.h"
#include "llmc/model/arguments.h"

// Blocks of out, each on one thread: the products of the block into scratch in A's type, then bias, epilogue and the
// store. The order of the sums depends on K alone, so the blocks may follow the number of threads without changing the
// result.
template <typename X, typename O>
void matmul_portable(const Matmul<X, O>& args) {
    using A = acc_t<X>;
    constexpr int columns = kTileColumns * kLanes<A>;
    auto count = [](int n, int block) { return (n + block - 1) / block; };
    int rows = std::min(args.M, 72 * kTileRows), width = std::min(args.N, 8 * columns);
    while (count(args.M, rows) * count(args.N, width) < 4 * thread_count() &&
           (rows > 8 * kTileRows || width > columns)) {
        if (width > columns && width >= rows) width = count(width / 2, columns) * columns;
        else rows = count(rows / 2, kTileRows) * kTileRows;
    }
    int across = count(args.N, width);
    parallel_for_dynamic(int64_t(count(args.M, rows)) * across, [=](int64_t block) {
        int m0 = static_cast<int>(block / across) * rows, n0 = static_cast<int>(block % across) * width;
        int M = std::min(rows, args.M - m0), N = std::min(width, args.N - n0);
        static thread_local std::vector<A> scratch;
        A* sum = cache_aligned(scratch, static_cast<size_t>(M) * N);
        const X* a = args.a + (args.a_transposed ? m0 : int64_t(m0) * args.K);
        const X* b = args.b + (args.b_transposed ? int64_t(n0) * args.K : n0);
        gemm_tile(sum, N, a, args.a_transposed ? args.M : args.K, args.a_transposed, b,
                  args.b_transposed ? args.K : args.N, args.b_transposed, M, N, args.K, false);
        for (int m = 0; m < M; m++) finish_row(args, m0 + m, n0, N, sum + int64_t(m) * N);
    });
}

// Few rows of a, as in decoding: memory is the limit, so each row of b (N,K) is read once, by all rows of a together,
// and rows one after the other, which is what prefetchers follow.
constexpr int matmul_few_rows = 4;

// Elements 2 i and 2 i + 1 of a piece of 2 * lanes elements, as two vectors. In bf16 that takes a shift and a mask.
template <typename A, typename X>
[[gnu::always_inline]] inline void load_pairs(const X* from, Vector<A>& even, Vector<A>& odd) {
    if constexpr (std::is_same_v<X, bf16>) {
        typedef bf16_pair Pairs __attribute__((vector_size(kVectorBytes), aligned(2), may_alias));  // rows may be odd
        Pairs both = *reinterpret_cast<const Pairs*>(from);
        even = (Vector<A>)(both << 16), odd = (Vector<A>)(both & 0xffff0000u);
    } else {
        even = load_vector<A>(from), odd = load_vector<A>(from + kLanes<A>);
    }
}

// sum[m * sum_stride + n] = a_m . b_n for m < M, n < count; a (M,K) in A's type and in the order of load_pairs.
template <int M, typename A, typename X>
inline void dot_products(A* sum, int sum_stride, const A* a, const X* b, int count, int K) {
    constexpr int lanes = kLanes<A>;
    int whole = K / (2 * lanes) * 2 * lanes;
    for (int n = 0; n < count; n++, b += K) {
        Vector<A> even[M] = {}, odd[M] = {};
        for (int k = 0; k < whole; k += 2 * lanes) {
            Vector<A> w0, w1;
            load_pairs<A>(b + k, w0, w1);
#pragma GCC unroll 4
            for (int m = 0; m < M; m++) {
                even[m] += w0 * load_vector<A>(a + m * K + k);
                odd[m] += w1 * load_vector<A>(a + m * K + k + lanes);
            }
        }
#pragma GCC unroll 4
        for (int m = 0; m < M; m++) {
            A total = sum_lanes<A>(even[m] + odd[m]);
            for (int k = whole; k < K; k++) total += A(b[k]) * a[m * K + k];
            sum[m * sum_stride + n] = total;
        }
    }
}

template <typename X, typename O>
void matmul_few(const Matmul<X, O>& args) {
    using A = acc_t<X>;
    constexpr int block = 64, piece = 2 * kLanes<A>;
    std::vector<A> storage;
    A* a = cache_aligned(storage, static_cast<size_t>(args.M) * args.K);
    std::copy(args.a, args.a + int64_t(args.M) * args.K, a);
    if (std::is_same_v<X, bf16>)
        for (int m = 0; m < args.M; m++)
            for (int k = 0; k + piece <= args.K; k += piece)
                for (int i = 0; i < piece; i++)
                    a[m * args.K + k + i % 2 * piece / 2 + i / 2] = A(args.a[int64_t(m) * args.K + k + i]);
    parallel_blocks(args.N, block, [=](int64_t begin, int64_t end) {
        A sum[matmul_few_rows * block];
        int count = static_cast<int>(end - begin);
        const X* b = args.b + begin * args.K;
        switch (args.M) {
            case 1:
                dot_products<1>(sum, block, a, b, count, args.K);
                break;
            case 2:
                dot_products<2>(sum, block, a, b, count, args.K);
                break;
            case 3:
                dot_products<3>(sum, block, a, b, count, args.K);
                break;
            default:
                dot_products<4>(sum, block, a, b, count, args.K);
        }
        for (int m = 0; m < args.M; m++) finish_row(args, m, static_cast<int>(begin), count, sum + m * block);
    });
}

template <typename X, typename O>
void matmul(const Matmul<X, O>& args, CpuStream) {
    if (args.M <= matmul_few_rows && args.b_transposed && !args.a_transposed) return matmul_few(args);
    if constexpr (std::is_same_v<X, bf16>)
        if (worth_amx(args.M, args.N, args.K)) return matmul_amx(args);
#ifdef USE_ONEDNN
    if constexpr (!std::is_same_v<X, double>) {
        if (matmul_use_onednn() && matmul_onednn(args)) return;
    }
#endif
    matmul_portable(args);
}

// Linear layer: y (N,OC) = x (N,C) . w (OC,C)^T + bias (OC). With pre_gelu: y = GELU of that, and the value before goes
// to pre_gelu (may be y's own sum if it is not wanted: pass null and gelu = true).
template <typename X>
void matmul_forward(X* y, X* pre_gelu, const X* x, const X* w, const X* bias, int N, int C, int OC, bool gelu,
                    CpuStream) {
    Matmul<X> args{.out = y, .a = x, .b = w, .M = N, .N = OC, .K = C};
    args.b_transposed = true;
    args.bias = bias;
    args.epilogue = pre_gelu || gelu ? Epilogue::gelu : Epilogue::none;
    args.aux = pre_gelu;
    matmul(args);
}

// dbias (OC) += column sums of dy (N,OC). Each thread owns columns; rows are summed in blocks of 64 (less rounding than
// one long sum), in an order that does not depend on the number of threads.
template <typename X>
void bias_backward(grad_t<X>* dbias, const X* dy, int N, int OC, CpuStream) {
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
// dw (OC,C) += dy^T . x, or = where dw_accumulate is false; dbias (OC) += column sums of dy. dx, dw, dbias may each be
// null.
template <typename X>
void matmul_backward(X* dx, grad_t<X>* dw, grad_t<X>* dbias, const X* dy, const X* x, const X* w, const X* pre_gelu,
                     int N, int C, int OC, bool dw_accumulate, Sums<X>, CpuStream) {
    if (dx) {
        Matmul<X> args{.out = dx, .a = dy, .b = w, .M = N, .N = C, .K = OC};
        args.epilogue = pre_gelu ? Epilogue::gelu_backward : Epilogue::none;
        args.aux = const_cast<X*>(pre_gelu);
        matmul(args);
    }
    if (dw) {
        Matmul<X, grad_t<X>> args{.out = dw, .a = dy, .b = x, .M = OC, .N = C, .K = N};
        args.a_transposed = true;
        args.accumulate = dw_accumulate;
        matmul(args);
    }
    if (dbias) bias_backward(dbias, dy, N, OC);
}

LLMC_INSTANTIATE(matmul_forward);
LLMC_INSTANTIATE(matmul_backward);
LLMC_INSTANTIATE(bias_backward);
template void matmul(const Matmul<float, float>&, CpuStream);
template void matmul(const Matmul<bf16, bf16>&, CpuStream);
template void matmul(const Matmul<bf16, float>&, CpuStream);
template void matmul(const Matmul<double, double>&, CpuStream);
