// The matrix products of a training step alone, by oneDNN: the floor under a step on a CPU.
#pragma once
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <unordered_map>
#include <vector>
#ifdef USE_ONEDNN
#include <dnnl.hpp>
#endif
#include "llmc/model/config.h"

template <typename F>
double seconds(F f) {
    auto begin = std::chrono::steady_clock::now();
    f();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
// The fastest of a few: for work so short that an interruption would count.
template <typename F>
double best_seconds(F f, int times = 3) {
    double best = seconds(f);
    for (int i = 1; i < times; i++) best = std::min(best, seconds(f));
    return best;
}

// One of the matrix products of a step: out (M,N) = op(a) (M,K) . op(b) (K,N), `times` of them.
struct Shape {
    const char* name;
    int M, N, K;
    bool a_transposed, b_transposed, gradient;  // gradient: the result is fp32
    double times;
    double flops() const { return 2.0 * M * N * K; }
};

// Forward, dx and dw of every linear layer, for `rows` = B*T; the LM head for `head` rows at a time.
inline std::vector<Shape> step_shapes(const ModelConfig& m, int rows, int head) {
    std::vector<Shape> shapes;
    auto linear = [&](const char* name, int N, int C, int OC, double times) {
        shapes.push_back({name, N, OC, C, false, true, false, times});
        shapes.push_back({name, N, C, OC, false, false, false, times});
        shapes.push_back({name, OC, C, N, true, false, true, times});
    };
    linear("qkv", rows, m.C, 3 * m.C, m.L);
    linear("attproj", rows, m.C, m.C, m.L);
    linear("fc", rows, m.C, 4 * m.C, m.L);
    linear("fcproj", rows, 4 * m.C, m.C, m.L);
    linear("LM head", head, m.C, m.Vp(), double(rows) / head);
    return shapes;
}

#ifdef USE_ONEDNN
struct BareProduct {
    dnnl::matmul primitive;
    std::unordered_map<int, dnnl::memory> arguments;
    dnnl::stream stream;

    BareProduct(dnnl::engine& engine, const Shape& s, dnnl::memory::data_type type, bool packed) : stream(engine) {
        using tag = dnnl::memory::format_tag;
        auto layout = [&](bool transposed) { return packed ? tag::any : transposed ? tag::ba : tag::ab; };
        dnnl::memory::desc a({s.M, s.K}, type, layout(s.a_transposed)), b({s.K, s.N}, type, layout(s.b_transposed));
        dnnl::memory::desc out({s.M, s.N}, s.gradient ? dnnl::memory::data_type::f32 : type, layout(false));
#if DNNL_VERSION_MAJOR >= 3
        dnnl::matmul::primitive_desc description(engine, a, b, out);
#else
        dnnl::matmul::primitive_desc description(dnnl::matmul::desc(a, b, out), engine);
#endif
        primitive = dnnl::matmul(description);
        auto memory = [&](const dnnl::memory::desc& d) {
            dnnl::memory m(d, engine);
            memset(m.get_data_handle(), 0x3c, d.get_size());  // 0.0115, as fp32 and as bf16
            return m;
        };
        arguments = {{DNNL_ARG_SRC, memory(description.src_desc())},
                     {DNNL_ARG_WEIGHTS, memory(description.weights_desc())},
                     {DNNL_ARG_DST, memory(description.dst_desc())}};
    }
    void run() {
        primitive.execute(stream, arguments);
        stream.wait();
    }
};

// Seconds of all bare products of a step. The LM head in the chunks that the model uses, or whole (up to a limit of
// memory): what is faster a row.
struct Bare {
    double plain = 0, packed = 0, best = 0;
};
template <typename X>
Bare bare_products(const ModelConfig& m, int rows, int chunk, bool print) {
    dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    auto type = std::is_same_v<X, float> ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
    Bare bare;
    std::vector<Shape> shapes = step_shapes(m, rows, chunk), other = step_shapes(m, rows, std::min(rows, 1024));
    for (size_t i = 0; i < shapes.size(); i++) {
        auto time = [&](const Shape& s, bool packed) {
            BareProduct product(engine, s, type, packed);
            product.run();
            return best_seconds([&] { product.run(); }, 2) * s.times;
        };
        double plain = time(shapes[i], false), packed = time(shapes[i], true);
        if (other[i].M != shapes[i].M || other[i].K != shapes[i].K)
            plain = std::min(plain, time(other[i], false)), packed = std::min(packed, time(other[i], true));
        bare.plain += plain, bare.packed += packed, bare.best += std::min(plain, packed);
        double flops = shapes[i].flops() * shapes[i].times;
        if (print)
            printf("    %-8s %-7s %5d x %5d x %5d  plain %7.1f ms %6.2f TFLOP/s   packed %7.1f ms %6.2f TFLOP/s\n",
                   shapes[i].name,
                   shapes[i].gradient       ? "dw"
                   : shapes[i].b_transposed ? "forward"
                                            : "dx",
                   shapes[i].M, shapes[i].N, shapes[i].K, plain * 1e3, flops / plain * 1e-12, packed * 1e3,
                   flops / packed * 1e-12);
    }
    return bare;
}
#endif
