// Rate of attention on the CPU, beside that of a large matrix product in the same run.
//
//   bench_attention [B T NH HS]        default 4 1024 12 64 (GPT-2 124M)
//
// Counted: the products of the causal half, 4 * B * NH * T * T * HS / 2 forward, 2.5 times as many backward. Decoding:
// bytes of keys and values per second, beside a plain sum over an array as large.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "llmc/base/parallel.h"
#include "llmc/cpu/layers.h"
#ifdef USE_ONEDNN
#include <dnnl.h>
#endif

namespace {

// Shortest time of a few runs, in seconds.
template <typename Body>
double seconds(Body body) {
    double best = 1e30;
    for (int i = 0; i < 7; i++) {
        auto begin = std::chrono::steady_clock::now();
        body();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
    return best;
}

template <typename X>
std::vector<X> random_values(size_t n) {
    std::vector<X> x(n);
    uint32_t state = 1;
    for (X& e : x) e = X(acc_t<X>(static_cast<int32_t>(state = state * 1664525u + 1013904223u)) / acc_t<X>(1u << 31));
    return x;
}

double sgemm_rate() {
#ifdef USE_ONEDNN
    const int N = 1536;
    auto a = random_values<float>(size_t(N) * N), b = a, c = a;
    return 2.0 * N * N * N /
           seconds([&] { dnnl_sgemm('N', 'N', N, N, N, 1, a.data(), N, b.data(), N, 0, c.data(), N); }) * 1e-9;
#else
    return 0;
#endif
}

template <typename X>
void bench(const char* name, int B, int T, int NH, int HS, double gemm, Dropout dropout) {
    int C = NH * HS;
    size_t rows = size_t(B) * T;
    auto qkv = random_values<X>(rows * 3 * C), dout = random_values<X>(rows * C), dqkv = qkv, out = dout;
    std::vector<acc_t<X>> lse(rows * NH);
    AttentionShape s = packed_qkv_shape(B, T, C, NH);
    const X *q = qkv.data(), *k = q + C, *v = k + C;
    double flops = 4.0 * B * NH * T * T * HS / 2;
    double forward =
        flops / seconds([&] { attention_forward(out.data(), lse.data(), q, k, v, s, nullptr, dropout); }) * 1e-9;
    double backward = 2.5 * flops * 1e-9 / seconds([&] {
                          attention_backward(dqkv.data(), dqkv.data() + C, dqkv.data() + 2 * C, dout.data(), q, k, v,
                                             out.data(), lse.data(), s, nullptr, dropout);
                      });
    printf("%-18s forward %7.1f GFLOP/s", name, forward);
    if (gemm > 0) printf(" (%.2f of sgemm)", forward / gemm);
    printf("   backward %7.1f GFLOP/s", backward);
    if (gemm > 0) printf(" (%.2f of sgemm)", backward / gemm);
    if (dropout.active()) {
        puts("");
        return;
    }
    s.Tq = 1;
    s.kv_row = C, s.kv_batch = int64_t(T) * C;  // a cache: the first third of qkv are keys, the second values
    double bytes = 2.0 * double(rows) * C * sizeof(X);
    double decode = seconds([&] { attention_forward(out.data(), {}, q, q, q + rows * C, s, nullptr, {}); });
    const uint64_t* words = reinterpret_cast<const uint64_t*>(q);
    volatile uint64_t sink = 0;
    double plain = seconds([&] {
        uint64_t sum = 0;
        int64_t n = int64_t(bytes / 8);
#pragma omp parallel for reduction(+ : sum)
        for (int64_t i = 0; i < n; i++) sum += words[i];
        sink = sink + sum;
    });
    printf("   decode %6.1f GB/s (%.2f of a plain read)\n", bytes * 1e-9 / decode, plain / decode);
}

}  // namespace

int main(int argc, char** argv) {
    auto number = [&](int i, int otherwise) { return argc > i ? atoi(argv[i]) : otherwise; };
    int B = number(1, 4), T = number(2, 1024), NH = number(3, 12), HS = number(4, 64);
    StepState state;
    double gemm = sgemm_rate();
    printf("B=%d T=%d NH=%d HS=%d, %d threads\n", B, T, NH, HS, thread_count());
    if (gemm > 0) printf("sgemm 1536^3 %.1f GFLOP/s\n", gemm);
    bench<float>("fp32", B, T, NH, HS, gemm, {});
    bench<bf16>("bf16", B, T, NH, HS, gemm, {});
    bench<float>("fp32, dropout 0.1", B, T, NH, HS, gemm, {0.1f, 0, &state});
    if (gemm > 0) printf("sgemm again  %.1f GFLOP/s\n", sgemm_rate());
}
