// The rates of this very card: a large copy, a large matrix product.
#pragma once
#include "dev/bench/cuda/measure.cuh"
#include "llmc/cuda/layers.cuh"

namespace bench {

template <typename X>
struct Three {  // operands of a product, or source and target of a copy
    DeviceArena arena;
    X *a, *b;
    float* out;  // room for either type
    Three(int64_t na, int64_t nb, int64_t nout) {
        arena.add(&a, na), arena.add(&b, nb), arena.add(&out, nout);
        arena.allocate("the operands of a product", false);
    }
};

static __global__ void copy_kernel(float4* to, const float4* from, int64_t n) {
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < n; i += int64_t(gridDim.x) * blockDim.x)
        to[i] = from[i];
}

inline void bench_rates(cudaStream_t stream) {
    int64_t bytes = int64_t(o.copy_mb) << 20, side = o.product;
    {
        DeviceArena arena;
        char *from, *to;
        arena.add(&from, bytes), arena.add(&to, bytes), arena.allocate("the two ends of a copy", false);
        fill(stream, reinterpret_cast<float*>(from), bytes / 4);
        double by_driver = time_alone(stream, [&] {
            CUDA_CHECK(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice, stream));
        });
        double by_kernel = 1e9;
        for (int blocks : {8, 16, 32, 64})
            by_kernel =
                std::min(by_kernel, time_alone(stream, [&] {
                             launch(copy_kernel, blocks * device().multiprocessors, 256, 0, stream,
                                    reinterpret_cast<float4*>(to), reinterpret_cast<const float4*>(from), bytes / 16);
                         }));
        rates.copy = 2.0 * static_cast<double>(bytes) / std::min(by_driver, by_kernel);
        printf(
            "\n## Rates of this card\n\n- copy of %d MiB: %.0f GB/s read plus written by cudaMemcpyAsync, %.0f by a "
            "kernel "
            "with 16-byte accesses\n",
            o.copy_mb, 2e-9 * static_cast<double>(bytes) / by_driver, 2e-9 * static_cast<double>(bytes) / by_kernel);
    }
    Three<bf16> m(side * side, side * side, side * side);
    fill(stream, m.a, side * side), fill(stream, m.b, side * side);
    Matmul<bf16> args{
        .out = reinterpret_cast<bf16*>(m.out), .a = m.a, .b = m.b, .M = o.product, .N = o.product, .K = o.product};
    args.b_transposed = true;
    double seconds = time_alone(
        stream, [&] { o.own ? matmul_own(args, stream) : matmul_cublaslt(args, stream); }, 0.5);
    rates.product = 2.0 * static_cast<double>(side * side * side) / seconds;
    // What the best attention kernels reach of a large product's rate on an H100, 500 of 798 TFLOP/s.
    rates.attention = rates.product * 500 / 798;
    printf("- bf16 product of %d^3 by %s: %.1f TFLOP/s\n- attention, for the floors: 500/798 of that, %.1f TFLOP/s\n",
           o.product, o.own ? "the own kernel" : "cuBLASLt", 1e-12 * rates.product, 1e-12 * rates.attention);
    result("rates", Row()
                        .add("copy_gb_per_second", 1e-9 * rates.copy)
                        .add("product_tflops", 1e-12 * rates.product)
                        .add("product_by", o.own ? "own" : "cublaslt")
                        .add("attention_tflops_assumed", 1e-12 * rates.attention));
}

}  // namespace bench
