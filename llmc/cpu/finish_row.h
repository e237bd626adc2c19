// What the own products (matmul.cpp, matmul_amx.cpp) do with their sums: bias, epilogue, rounding.
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/cpu/gelu.h"
#include "llmc/cpu/math.h"
#include "llmc/cpu/tile.h"
#include "llmc/model/arguments.h"

// The end of a row of products: sum (count), for columns n0 and on of row m.
template <typename X, typename O>
[[gnu::always_inline]] inline void finish_row(const Matmul<X, O>& args, int m, int n0, int count, acc_t<X>* sum) {
    using A = acc_t<X>;
    const int64_t at = int64_t(m) * args.N + n0;
    O* out = args.out + at;
    const auto each = [=](auto element) {
#pragma omp simd
        for (int n = 0; n < count; n++) element(n);
    };
    if (args.bias) each([=, bias = args.bias + n0](int n) { sum[n] += A(bias[n]); });
    if (args.accumulate) each([=](int n) { sum[n] += A(out[n]); });
    if (args.epilogue == Epilogue::gelu) {
        if (args.aux)  // y is a function of what the backward pass will see
            each([=, aux = args.aux + at](int n) { store(aux[n], sum[n]), sum[n] = A(aux[n]); });
        each([=](int n) { sum[n] = gelu(sum[n]); });
    }
    if (args.epilogue == Epilogue::gelu_backward)
        each([=, aux = args.aux + at](int n) { sum[n] *= gelu_gradient(A(aux[n])); });
    int whole = 0;
    if constexpr (std::is_same_v<O, bf16>)
        for (; whole + kLanes<A> <= count; whole += kLanes<A>) store_bf16(out + whole, load_vector<A>(sum + whole));
    for (int n = whole; n < count; n++) store(out[n], static_cast<acc_t<O>>(sum[n]));
}
