// Every kernel of a step alone, at the step's shapes, and their sum beside the step.
#pragma once
#include "dev/bench/cuda/step_kernels.cuh"
#include "llmc/cuda/attention.cuh"

namespace bench {

inline const char* bound_name(Bound bound) {
    return bound == Bound::memory ? "memory" : bound == Bound::product ? "product" : "attention";
}

// Every kernel of a step of one micro-batch of B sequences, alone.
inline void bench_kernels(const ModelConfig& m, int B, double step) {
    printf(
        "\n## Kernels of a step, bf16, B=%d, T=%d: each alone, with a cold cache\n\n"
        "| kernel | calls | ms each | ms a step | share | limit | floor ms a step | of floor "
        "|\n|---|---|---|---|---|---|---|---|\n",
        B, o.T);
    double sum = 0, floors = 0;
    auto row = [&](cudaStream_t stream, const std::string& name, double calls, Bound bound, double flops, double bytes,
                   auto work) {
        double seconds = time_alone(stream, work, 0.1), least = floor_seconds(bound, flops, bytes, rates);
        sum += calls * seconds, floors += calls * least;
        printf("| %s | %.4g | %.4f | %.3f | %.1f%% | %s | %.3f | %.0f%% |\n", name.c_str(), calls, 1e3 * seconds,
               1e3 * calls * seconds, 100 * calls * seconds / step, bound_name(bound), 1e3 * calls * least,
               100 * least / seconds);
        fflush(stdout);
        result("kernels", Row()
                              .add("kernel", name)
                              .add("calls", calls)
                              .add("ms_each", 1e3 * seconds)
                              .add("ms", 1e3 * calls * seconds)
                              .add("share_of_step", calls * seconds / step)
                              .add("limit", bound_name(bound))
                              .add("floor_ms", 1e3 * calls * least)
                              .add("of_floor", least / seconds));
    };
    step_kernels(
        m, B, o.T, attention_is_cudnn<bf16>(packed_qkv_shape(B, o.T, m.C, m.NH), nullptr, {}),
        [](cudaStream_t stream, auto* p, int64_t n, float scale, float mean) { fill(stream, p, n, scale, mean); }, row);
    printf("| **sum** | | | **%.3f** | **%.1f%%** | | **%.3f** | **%.0f%%** |\n", 1e3 * sum, 100 * sum / step,
           1e3 * floors, 100 * floors / sum);
    printf("\nThe whole step took %.3f ms, the sum of its kernels alone %.3f ms: %+.3f ms%s\n", 1e3 * step, 1e3 * sum,
           1e3 * (step - sum),
           step < sum ? " (in the step, caches are warm)" : " between kernels and at the step's ends");
    result("kernel_sum", Row()
                             .add("step_ms", 1e3 * step)
                             .add("sum_ms", 1e3 * sum)
                             .add("floor_ms", 1e3 * floors)
                             .add("B", B)
                             .add("T", o.T));
}

// Each of the program's own kernels once, for a profiler that counts (dev/gpu_check/counters.py).
inline void count_kernels(const ModelConfig& m, int B) {
    step_kernels(
        m, B, o.T, attention_is_cudnn<bf16>(packed_qkv_shape(B, o.T, m.C, m.NH), nullptr, {}),
        [](cudaStream_t stream, auto* p, int64_t n, float scale, float mean) { fill(stream, p, n, scale, mean); },
        [](cudaStream_t stream, const std::string&, double, Bound bound, double, double, auto work) {
            if (bound != Bound::product) work();
            CUDA_CHECK(cudaStreamSynchronize(stream));
        });
}

}  // namespace bench
