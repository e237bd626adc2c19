// Matrix products and attention, ours beside NVIDIA's libraries.
#pragma once
#include "dev/bench/cuda/rates.cuh"
#include "llmc/cuda/attention_cudnn.h"
#include "llmc/cuda/layers.cuh"

namespace bench {

inline void bench_products(const ModelConfig& m, int B, cudaStream_t stream) {
    int N = B * o.T, C = m.C, Vp = m.Vp(), head = std::min(N, 16384);
    int64_t longest = int64_t(std::max(N, std::max(4 * C, Vp)));
    struct Product {
        const char* name;
        int M, N, K;
        bool a_transposed, b_transposed;
        double calls;  // in a step
    };
    std::vector<Product> products;
    auto linear = [&](const char* name, int rows, int IC, int OC) {
        double calls = OC == Vp ? double(N) / rows : m.L;
        products.push_back({name, rows, OC, IC, false, true, calls});
        products.push_back({name, rows, IC, OC, false, false, calls});
        products.push_back({name, OC, IC, rows, true, false, calls});
    };
    linear("qkv", N, C, 3 * C), linear("attention projection", N, C, C), linear("fc", N, C, 4 * C);
    linear("fcproj", N, 4 * C, C), linear("LM head", head, C, Vp);
    int64_t most = 0;
    for (const Product& p : products)
        most = std::max({most, int64_t(p.M) * p.K, int64_t(p.K) * p.N, int64_t(p.M) * p.N});
    CHECK(longest > 0 && most > 0, "%lld", static_cast<long long>(most));
    Three<bf16> memory(most, most, most);
    fill(stream, memory.a, most), fill(stream, memory.b, most);
    printf(
        "\n## Matrix products, bf16, bare\n\n| product | | M | N | K | floor ms | cuBLASLt ms | TFLOP/s | own ms | "
        "TFLOP/s | "
        "own / cuBLASLt |\n|---|---|---|---|---|---|---|---|---|---|---|\n");
    for (const Product& p : products) {
        const char* kind = p.a_transposed ? "wgrad" : p.b_transposed ? "forward" : "dgrad";
        double flops = 2.0 * p.M * p.N * p.K;
        double bytes = 2.0 * (double(p.M) * p.K + double(p.K) * p.N) + (p.a_transposed ? 4.0 : 2.0) * p.M * p.N;
        auto seconds = [&](auto multiply) {
            auto arguments = [&](auto* out) {
                Matmul<bf16, std::remove_pointer_t<decltype(out)>> args{
                    .out = out, .a = memory.a, .b = memory.b, .M = p.M, .N = p.N, .K = p.K};
                args.a_transposed = p.a_transposed, args.b_transposed = p.b_transposed;
                return args;
            };
            if (p.a_transposed)
                return time_alone(
                    stream, [&, args = arguments(memory.out)] { multiply(args); }, 0.1);
            return time_alone(
                stream, [&, args = arguments(reinterpret_cast<bf16*>(memory.out))] { multiply(args); }, 0.1);
        };
        double library = seconds([&](const auto& args) { matmul_cublaslt(args, stream); });
        double own = seconds([&](const auto& args) { matmul_own(args, stream); });
        printf("| %s | %s | %d | %d | %d | %.3f | %.3f | %.0f | %.3f | %.0f | %.2f |\n", p.name, kind, p.M, p.N, p.K,
               1e3 * floor_seconds(Bound::product, flops, bytes, rates), 1e3 * library, 1e-12 * flops / library,
               1e3 * own, 1e-12 * flops / own, library / own);
        fflush(stdout);
        result("products", Row()
                               .add("product", p.name)
                               .add("kind", kind)
                               .add("M", p.M)
                               .add("N", p.N)
                               .add("K", p.K)
                               .add("calls", p.calls)
                               .add("cublaslt_ms", 1e3 * library)
                               .add("cublaslt_tflops", 1e-12 * flops / library)
                               .add("own_ms", 1e3 * own)
                               .add("own_tflops", 1e-12 * flops / own)
                               .add("own_over_cublaslt", library / own));
    }
}

inline void bench_attention(int B, cudaStream_t stream) {
    printf(
        "\n## Attention, bf16, causal, T=%d\n\n| | B | heads | head size | forward ms | TFLOP/s | backward ms | "
        "TFLOP/s |\n"
        "|---|---|---|---|---|---|---|---|\n",
        o.T);
    struct Heads {
        int NH, HS;
    };
    for (Heads h : {Heads{12, 64}, Heads{6, 128}}) {
        int C = h.NH * h.HS, T = o.T;
        int64_t NC = int64_t(B) * T * C;
        AttentionShape shape = packed_qkv_shape(B, T, C, h.NH);
        DeviceArena arena;
        bf16 *qkv, *dqkv, *out, *dout;
        float* lse;
        char* workspace;
        int64_t workspace_bytes = static_cast<int64_t>(
            std::max(attention_forward_workspace_bytes(shape), attention_backward_workspace_bytes(shape)));
        arena.add(&qkv, 3 * NC), arena.add(&dqkv, 3 * NC), arena.add(&out, NC), arena.add(&dout, NC);
        arena.add(&lse, int64_t(B) * T * h.NH), arena.add(&workspace, workspace_bytes);
        arena.allocate("the tensors of attention", false);
        device().workspace_data = workspace, device().workspace_bytes = static_cast<size_t>(workspace_bytes);
        fill(stream, qkv, 3 * NC), fill(stream, dout, NC);
        auto report = [&](const char* name, auto forward_work, auto backward_work) {
            double forward = time_alone(stream, forward_work), backward = time_alone(stream, backward_work);
            double flops = 2.0 * B * T * double(T) * C;
            printf("| %s | %d | %d | %d | %.3f | %.0f | %.3f | %.0f |\n", name, B, h.NH, h.HS, 1e3 * forward,
                   1e-12 * flops / forward, 1e3 * backward, 2.5e-12 * flops / backward);
            fflush(stdout);
            result("attention", Row()
                                    .add("by", name)
                                    .add("B", B)
                                    .add("T", T)
                                    .add("NH", h.NH)
                                    .add("HS", h.HS)
                                    .add("forward_ms", 1e3 * forward)
                                    .add("forward_tflops", 1e-12 * flops / forward)
                                    .add("backward_ms", 1e3 * backward)
                                    .add("backward_tflops", 2.5e-12 * flops / backward));
        };
        const int* no_documents = nullptr;
        report(
            "own",
            [&] { attention_own_forward(out, lse, qkv, qkv + C, qkv + 2 * C, shape, no_documents, Dropout{}, stream); },
            [&] {
                attention_own_backward(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse, shape,
                                       no_documents, Dropout{}, nullptr, stream);
            });
        if (const std::string why = attention_cudnn_missing(); !why.empty()) note("attention: " + why);
        else if (!attention_cudnn_supports(shape, true)) note("attention: cuDNN does not offer this shape");
        else
            report(
                "cudnn",
                [&] { attention_forward_cudnn(out, lse, qkv, qkv + C, qkv + 2 * C, shape, workspace, stream); },
                [&] {
                    attention_backward_cudnn(dqkv, dqkv + C, dqkv + 2 * C, dout, qkv, qkv + C, qkv + 2 * C, out, lse,
                                             shape, workspace, stream);
                });
    }
}

}  // namespace bench
