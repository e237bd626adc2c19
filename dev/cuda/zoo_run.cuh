// A page of the zoo as a program: every version is checked, then timed, on the GPU at hand. Included by zoo.cuh.
//
//   PAGE [-b BLOCK] [-v VERSION] [SIZE...]        make zoo P=PAGE ARGS="-b 128 4096 1600"
//
// Times are medians of many batches of launches between two CUDA events, warm. A batch walks through several copies of
// the problem, together three times larger than the L2 cache, so that each launch finds its inputs in device memory, as
// it would in the middle of a training step.
//
// The limits are measured in the same run: cudaMemcpy between two large buffers (bytes read plus bytes written) for
// pages bound by memory; cuBLASLt on a large product for pages bound by arithmetic (fp32 without TF32).
#pragma once
#include <algorithm>
#include <cstring>
#include "llmc/cuda/device.cuh"

namespace zoo {

// The workspace of device(); grows, never shrinks.
inline void reserve_workspace(size_t bytes) {
    static std::unique_ptr<char, CudaFree> memory;
    if (bytes <= device().workspace_bytes) return;
    void* p = nullptr;
    CUDA_CHECK(cudaMalloc(&p, bytes));
    memory.reset(static_cast<char*>(p));
    device().workspace_data = memory.get(), device().workspace_bytes = bytes;
}

inline void open_device() {
    int driver = 0;
    CUDA_CHECK(cudaDriverGetVersion(&driver));
    if (driver == 0)
        throw Error(
            "this machine has no NVIDIA driver, and so no GPU to run on; dev/cuda/README.md says how to run the "
            "kernels on a CPU");
    DeviceOptions options;
    ::open_device(options, 0);
    device().tf32 = false;
}

// Median time of one launch, in seconds; the launches take turns.
inline double median_seconds(const std::vector<std::function<void(cudaStream_t)>>& launches) {
    struct Event {
        cudaEvent_t event{};
        Event() { CUDA_CHECK(cudaEventCreate(&event)); }
        ~Event() { cudaEventDestroy(event); }
    } begin, end;
    size_t next = 0;
    auto batch = [&](int n) {
        CUDA_CHECK(cudaEventRecord(begin.event, nullptr));
        for (int i = 0; i < n; i++) launches[next++ % launches.size()](nullptr);
        CUDA_CHECK(cudaEventRecord(end.event, nullptr));
        CUDA_CHECK(cudaEventSynchronize(end.event));
        float milliseconds = 0;
        CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.event, end.event));
        return 1e-3 * milliseconds / n;
    };
    batch(1);  // loads the kernel
    double once = batch(static_cast<int>(launches.size()));
    int n = std::clamp(static_cast<int>(1e-3 / once), 1, 1000);  // a batch of a millisecond
    for (double warm = 0; warm < 0.05; warm += once * n) batch(n);
    std::vector<double> times(static_cast<size_t>(std::clamp(static_cast<int>(1 / (once * n)), 5, 101)));
    for (double& time : times) time = batch(n);
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    return times[times.size() / 2];
}

// Bytes per second of a copy within device memory, read plus written.
inline double copy_rate() {
    Page p;
    std::vector<char> zeros(256 << 20);
    char *from = p.input(zeros), *to = p.input(zeros);
    auto copy = [=, n = zeros.size()](cudaStream_t s) {
        CUDA_CHECK(cudaMemcpyAsync(to, from, n, cudaMemcpyDeviceToDevice, s));
    };
    return 2.0 * static_cast<double>(zeros.size()) / median_seconds({copy});
}

// Floating-point operations per second of cuBLASLt on a large product.
template <typename X>
double product_rate() {
    Page p;
    const int n = sizeof(X) == 4 ? 4096 : 8192;
    std::vector<X> values = random<X>(static_cast<size_t>(n) * n, 1);
    Matmul<X> product{.out = p.input(values), .a = p.input(values), .b = p.input(values), .M = n, .N = n, .K = n};
    return 2.0 * n * n * n / median_seconds({[=](cudaStream_t s) { matmul_cublaslt(product, s); }});
}

using MakePage = Page (*)(const Setup&);

// Checks and times every version for one type; the number of wrong ones.
template <typename X>
int run_type(const char* name, const Sizes& sizes, Setup setup, int only, MakePage make_page) {
    std::vector<Page> copies{make_page(setup)};  // the first one is checked, all are timed
    double bytes = copies[0].bytes, turns = bytes > 0 ? 3.0 * device().l2_bytes / bytes : 0;
    setup.reference = false;
    while (copies.size() < 2 || (static_cast<double>(copies.size()) < turns && copies.size() < 100))
        copies.push_back(make_page(setup));
    const Page& page = copies[0];
    reserve_workspace(page.workspace_bytes);

    double limit = page.flops > 0 ? product_rate<X>() : copy_rate(), work = page.flops > 0 ? page.flops : page.bytes;
    bool is_bf16 = sizeof(X) == 2;
    printf("\n%s %s (%s =", name, is_bf16 ? "bf16" : "fp32", sizes.names);
    for (int n : setup.size) printf(" %d", n);
    printf("), blocks of %d; limit: %s, %.0f %s\n", setup.block, page.flops > 0 ? "cuBLASLt" : "copy",
           limit / (page.flops > 0 ? 1e12 : 1e9), page.flops > 0 ? "TFLOP/s" : "GB/s");
    printf("%3s  %-56s %12s %10s %9s\n", "", "version", "microseconds", page.flops > 0 ? "TFLOP/s" : "GB/s",
           "of limit");
    int wrong = 0;
    for (size_t v = 0; v < page.versions.size(); v++) {
        const Version& version = page.versions[v];
        if (only && version.number != only) continue;
        printf("%3d  %-56s ", version.number, version.idea);
        try {
            Check result = check(page, version, nullptr);
            if (!result.right())
                throw Error(
                    strf("WRONG: %s is off by %.2g, %.2g is allowed", result.output, result.error, result.tolerance));
            std::vector<std::function<void(cudaStream_t)>> launches;
            for (const Page& copy : copies) launches.push_back(copy.versions[v].launch);
            double seconds = median_seconds(launches), rate = work / seconds;
            printf("%12.2f %10.1f %8.1f%%\n", 1e6 * seconds, rate / (page.flops > 0 ? 1e12 : 1e9), 100 * rate / limit);
        } catch (const Error& error) {  // or blocks too large for the registers that a version needs
            printf("%s\n", error.what());
            wrong++;
        }
        fflush(stdout);
    }
    return wrong;
}

// main() of a page. A type that it does not have is null.
inline int run(int argc, char** argv, const char* name, const Sizes& sizes, MakePage page_fp32, MakePage page_bf16) {
    try {
        Setup setup;
        int only = 0;
        for (int i = 1; i < argc; i++) {
            bool valued = !strcmp(argv[i], "-b") || !strcmp(argv[i], "-v");
            int value = atoi(argv[i + (valued && i + 1 < argc)]);
            if (value <= 0) throw UsageError(strf("usage: %s [-b BLOCK] [-v VERSION] [%s]", argv[0], sizes.names));
            if (!valued) setup.size.push_back(value);
            else (argv[i++][1] == 'b' ? setup.block : only) = value;
        }
        if (setup.size.empty()) setup.size = sizes.timed;
        if (setup.size.size() != sizes.timed.size())
            throw UsageError(strf("%s takes %zu sizes: %s", argv[0], sizes.timed.size(), sizes.names));
        if (setup.block < 32 || setup.block > 1024 || (setup.block & (setup.block - 1)))
            throw UsageError("-b takes a power of two from 32 to 1024");
        open_device();
        printf("%s, sm_%d\n", device().name, device().capability);
        int wrong = 0;
        if (page_fp32) wrong += run_type<float>(name, sizes, setup, only, page_fp32);
        if (page_bf16 && device().capability >= 80) wrong += run_type<bf16>(name, sizes, setup, only, page_bf16);
        return wrong ? 1 : 0;
    } catch (const Error& error) {
        fprintf(stderr, "%s: error: %s\n", argv[0], error.what());
        return error.exit_code;
    } catch (const std::exception& error) {
        fprintf(stderr, "%s: %s\n", argv[0], error.what());
        return 1;
    }
}

}  // namespace zoo
