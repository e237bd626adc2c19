// The kernel zoo: what all of its pages share.                                       (dev/cuda/README.md: how to read)
//
// A page is one .cu file: numbered versions of one layer, from the naive kernel to the one in llmc/, all on the same
// inputs and with the same answer. It is an ordinary namespace, here for a layer y = f(x), x and y (N):
//
//   namespace f_page {
//   template <typename X> __global__ void f_kernel1(X* y, const X* x, int N) { ... }
//
//   inline const zoo::Sizes sizes = {"N", {1 << 20}, {{1}, {777}}};    names, the size that is timed, those of the test
//
//   template <typename X>
//   zoo::Page page(const zoo::Setup& setup) {
//       int N = setup.size[0], block = setup.block;
//       std::vector<X> x = zoo::random<X>(N, 1), y(N);
//       if (setup.reference) ::f(y.data(), x.data(), N);                           // the CPU layer's answer
//       zoo::Page p;
//       p.bytes = 2.0 * N * sizeof(X);                                             // what has to be moved at least
//       const X* dx = p.input(x);
//       X* dy = p.output("y", y);
//       auto naive = [=](cudaStream_t s) { launch(f_kernel1<X>, ceil_div(N, block), block, 0, s, dy, dx, N); };
//       p.versions = {{1, "a thread per element", naive},
//                     {2, "llmc/f.cuh", [=](cudaStream_t s) { ::f(dy, dx, N, s); }}};
//       return p;
//   }
//   }  // namespace f_page
//   #ifndef ZOO_PAGES
//   int main(int argc, char** argv) {
//       return zoo::run(argc, argv, "f", f_page::sizes, f_page::page<float>, f_page::page<bf16>);
//   }
//   #endif
//
// Alone it is a program for a GPU (make zoo P=f): each version is checked against the CPU layer, then timed against the
// machine's limit. test/cuda/test_zoo.cu includes the page too (ZOO_PAGES: without its main) and runs every version, on the
// CPU as well.
#pragma once
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <vector>
#include "llmc/base/philox.h"
#include "llmc/cpu/layers.h"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/memory.cuh"
#include "llmc/cuda/pack.cuh"

namespace zoo {

struct Sizes {
    const char* names;                     // "N C"
    std::vector<int> timed;                // large enough to fill a GPU
    std::vector<std::vector<int>> tested;  // small and odd, each of them one check
};

// What a page is built for.
struct Setup {
    std::vector<int> size;
    int block = 256;        // threads in a block, for versions that take any: a power of two, 32 to 1024
    bool reference = true;  // false: nobody will look at the outputs, so the CPU layer need not run
};

struct Version {
    int number;
    const char* idea;  // a few words for the table
    std::function<void(cudaStream_t)> launch;
};

// A tensor that every version has to write.
struct Output {
    const char* name;
    double tolerance;               // of the error, relative by norm
    std::function<void()> reset;    // gives it the contents that a version starts from
    std::function<double()> error;  // distance from the CPU layer's answer; infinite if something is not finite
};

// ||a - b|| / ||b||
template <typename X>
double relative_error(const std::vector<X>& a, const std::vector<X>& b) {
    double distance = 0, norm = 0;
    for (size_t i = 0; i < b.size(); i++) {
        double x = static_cast<float>(a[i]), y = static_cast<float>(b[i]);
        distance += (x - y) * (x - y), norm += y * y;
    }
    if (distance == 0) return 0;
    return std::isfinite(distance) && norm > 0 ? std::sqrt(distance / norm) : std::numeric_limits<double>::infinity();
}

// One problem: its tensors in device memory, and the versions that solve it.
struct Page {
    double bytes = 0;  // least traffic with device memory; the limit of a layer that is bound by memory
    double flops = 0;  // not 0: the layer is bound by arithmetic, and its limit is the rate of a large matrix product
    size_t workspace_bytes = 0;  // what versions may take from workspace<T>() (llmc/cuda/common.cuh)
    std::vector<Version> versions;
    std::vector<Output> outputs;
    std::vector<std::shared_ptr<void>> memory;

    // Device memory for a tensor with these contents.
    template <typename X>
    X* input(const std::vector<X>& host) {
        void* p = nullptr;
        CUDA_CHECK(cudaMalloc(&p, std::max<size_t>(1, host.size() * sizeof(X))));
        memory.emplace_back(p, CudaFree());
        CUDA_CHECK(cudaMemcpy(p, host.data(), host.size() * sizeof(X), cudaMemcpyHostToDevice));
        return static_cast<X*>(p);
    }
    // Device memory for a tensor that must end up as `expected`. Each version finds `initial` there; without it NaN, so
    // that an element that is not written shows.
    template <typename X>
    X* output(const char* name, const std::vector<X>& expected, std::vector<X> initial = {},
              double tolerance = sizeof(X) == 4 ? 1e-5 : 4e-3) {
        CHECK(initial.empty() || initial.size() == expected.size(), "%s", name);
        if (initial.empty()) initial.assign(expected.size(), X(NAN));
        X* data = input(initial);
        size_t size = expected.size() * sizeof(X);
        auto reset = [=] { CUDA_CHECK(cudaMemcpy(data, initial.data(), size, cudaMemcpyHostToDevice)); };
        auto error = [=] {
            std::vector<X> got(expected.size());
            CUDA_CHECK(cudaMemcpy(got.data(), data, size, cudaMemcpyDeviceToHost));
            return relative_error(got, expected);
        };
        outputs.push_back({name, tolerance, reset, error});
        return data;
    }
};

// n numbers with mean 0 and variance 1, always the same for one seed.
template <typename X>
std::vector<X> random(size_t n, uint32_t seed, float scale = 1) {
    std::vector<X> x(n);
    for (size_t i = 0; i < n; i += 4) {
        Philox4 words = philox(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0);
        for (size_t j = i; j < std::min(n, i + 4); j++)
            x[j] = X(scale * 3.4641016f * (uniform01(words.v[j - i]) - 0.5f));
    }
    return x;
}

// Runs one version from fresh outputs; the output that is furthest beyond its tolerance, or nearest to it.
struct Check {
    const char* output;
    double error, tolerance;
    bool right() const { return error <= tolerance; }
};
inline Check check(const Page& page, const Version& version, cudaStream_t stream) {
    for (const Output& output : page.outputs) output.reset();
    CUDA_CHECK(cudaDeviceSynchronize());
    version.launch(stream);
    CUDA_CHECK(cudaDeviceSynchronize());
    Check worst{"", 0, 1};
    for (const Output& output : page.outputs) {
        double error = output.error();
        if (error / output.tolerance >= worst.error / worst.tolerance) worst = {output.name, error, output.tolerance};
    }
    return worst;
}

}  // namespace zoo

#ifndef ZOO_PAGES
#include "dev/cuda/zoo_run.cuh"
#endif
