// What tests of CUDA layers share. A test is CUDA C++ that nvcc compiles for a GPU and g++ for the CPU (test/cudahost):
//
//   TEST(Gelu, ForwardEqualsCpu) {
//       std::vector<float> x = random_vector<float>(n, 1), want(n);
//       gelu_forward(want.data(), x.data(), n);                              // the CPU layer, llmc/cpu/layers.h
//       for_each_schedule([&] {
//           DeviceVector<float> dx(x), y(n);
//           gelu_forward(y.get(), dx.get(), n, current_stream());
//           EXPECT_LT(relative_error(y.host(), want), 1e-6);
//       });
//   }
//
// Make device vectors that a layer writes inside for_each_schedule: they start as NaN each time, so that elements that
// nobody wrote, and those that were left from the schedule before, show.
#pragma once
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "llmc/base/bf16.h"
#include "llmc/base/philox.h"
#include "llmc/cpu/layers.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/memory.cuh"

#ifdef CUDAHOST
constexpr bool is_cudahost = true;  // CUDA on the CPU: for what only one of the two can show, or size
#else
constexpr bool is_cudahost = false;
#endif

// Unit round-off of a storage type: half the distance from 1 to its upper neighbour.
template <typename X>
constexpr double rounding = std::is_same_v<X, bf16> ? 1.0 / 256 : 1.0 / 16777216;

// For TYPED_TEST_SUITE.
using StorageTypes = ::testing::Types<float, bf16>;

// The stream that tests give to layers: one of their own, which waits for no other.
inline cudaStream_t current_stream() {
    static cudaStream_t stream = [] {
        cudaStream_t s = nullptr;
        CUDA_CHECK(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking));
        return s;
    }();
    return stream;
}

// Ends the test as skipped where a block of this GPU has less shared memory: 99 KiB on GeForce and L cards, 163 and 227
// KiB on A100 and H100.
#define SKIP_WITHOUT_SHARED_MEMORY(bytes)                                                \
    if ((bytes) > device().max_shared_bytes)                                             \
    GTEST_SKIP() << "needs " << (bytes) / 1024 << " KiB of shared memory, this GPU has " \
                 << device().max_shared_bytes / 1024

// n elements of device memory, exactly: what lies behind them is guarded in the tests on the CPU.
template <typename X>
class DeviceVector {
  public:
    explicit DeviceVector(size_t n) : n_(n) {  // all bits set: NaN, -1
        void* p = nullptr;
        if (n > 0) CUDA_CHECK(cudaMalloc(&p, n * sizeof(X)));
        memory_.reset(static_cast<X*>(p));
        if (n > 0 && !is_cudahost) CUDA_CHECK(cudaMemset(p, 0xff, n * sizeof(X)));  // there it is so when it is new
        CUDA_CHECK(cudaDeviceSynchronize());
    }
    DeviceVector(const std::vector<X>& from) : DeviceVector(from.size()) { set(from); }

    X* get() const { return memory_.get(); }
    size_t size() const { return n_; }
    void set(const std::vector<X>& from) {
        CHECK(from.size() == n_, "%zu elements into %zu", from.size(), n_);
        if (n_ > 0) CUDA_CHECK(cudaMemcpy(get(), from.data(), n_ * sizeof(X), cudaMemcpyHostToDevice));
        // A copy from memory that is not page-locked returns before it has arrived, and the streams of the tests do not
        // wait for it (CUDA Driver API, "API synchronization behavior").
        CUDA_CHECK(cudaDeviceSynchronize());
    }
    // Waits for the device, all streams.
    std::vector<X> host() const {
        std::vector<X> to(n_);
        CUDA_CHECK(cudaDeviceSynchronize());
        if (n_ > 0) CUDA_CHECK(cudaMemcpy(to.data(), get(), n_ * sizeof(X), cudaMemcpyDeviceToHost));
        return to;
    }

  private:
    size_t n_;
    std::unique_ptr<X, CudaFree> memory_;
};

// Normal random numbers times `scale`, the same for the same seed on every machine.
template <typename X>
std::vector<X> random_vector(size_t n, uint64_t seed, float scale = 1) {
    std::vector<X> x(n);
    for (size_t i = 0; i < n; i += 4) {
        Philox4 r = philox(seed, static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0x7e57);
        float z[4];
        normal2(r.v[0], r.v[1], &z[0], &z[1]);
        normal2(r.v[2], r.v[3], &z[2], &z[3]);
        for (size_t j = 0; j < 4 && i + j < n; j++) x[i + j] = X(scale * z[j]);
    }
    return x;
}
// Random integers in [0, limit).
inline std::vector<int> random_integers(size_t n, uint64_t seed, int limit) {
    std::vector<int> x(n);
    for (size_t i = 0; i < n; i++)
        x[i] =
            static_cast<int>(philox(seed, static_cast<uint32_t>(i), 0, 0, 0x17e57).v[0] % static_cast<uint32_t>(limit));
    return x;
}

// |got - want| / |want|, Euclidean norms in double; |got| where want is zero. Infinite if a NaN is in either, or if
// their sizes differ.
template <typename G, typename W>
double relative_error(const std::vector<G>& got, const std::vector<W>& want) {
    double infinity = std::numeric_limits<double>::infinity(), difference = 0, norm = 0;
    if (got.size() != want.size()) return infinity;
    for (size_t i = 0; i < got.size(); i++) {
        double g = static_cast<double>(got[i]), w = static_cast<double>(want[i]);
        difference += (g - w) * (g - w), norm += w * w;
    }
    double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
    return std::isnan(error) ? infinity : error;
}

// body() under eight schedules in the tests on the CPU (CUDAHOST_SEED=n in the environment: under that one alone), once
// on a GPU. At its end every kernel has ended, and what a kernel wrote outside of its memory has been reported.
template <typename Body>
void for_each_schedule(Body body) {
#ifdef CUDAHOST
    const char* only = getenv("CUDAHOST_SEED");
    const uint64_t first = only ? strtoull(only, nullptr, 10) : 1, last = only || cudahost::on_ptx() ? first : 8;
    for (uint64_t seed = first; seed <= last && !::testing::Test::HasFatalFailure(); seed++) {
        SCOPED_TRACE(::testing::Message() << "schedule CUDAHOST_SEED=" << seed);
        cudahost::set_seed(seed);
        body();
        CUDA_CHECK(cudaDeviceSynchronize());
        cudahost::check();
    }
#else
    body();
    CUDA_CHECK(cudaDeviceSynchronize());
#endif
}

// The workspace of device(), from now on of `bytes`: what LAYER_workspace_bytes() says, so that it is checked too.
// The column sums of dy (N,OC) that a layer has left in `sums`, as the gradient of a bias that was 1.
template <typename X>
std::vector<float> bias_gradient_by(ColumnSums<X>& sums, const X* dy, int N, int OC) {
    EXPECT_EQ(sums.of, dy);
    DeviceVector<float> dbias(std::vector<float>(static_cast<size_t>(OC), 1));
    matmul_backward<X>(nullptr, nullptr, dbias.get(), dy, nullptr, nullptr, nullptr, N, 1, OC, true, &sums,
                       current_stream());
    EXPECT_EQ(sums.of, nullptr) << "they are taken once";
    return dbias.host();
}
template <typename X>
void expect_column_sums(ColumnSums<X>& sums, const DeviceVector<X>& dy, int N, int OC) {
    std::vector<float> want(static_cast<size_t>(OC), 1);
    bias_backward(want.data(), dy.host().data(), N, OC);
    EXPECT_LT(relative_error(bias_gradient_by(sums, dy.get(), N, OC), want), 2e-6);
}

inline void reserve_workspace(size_t bytes) {
    static std::unique_ptr<DeviceVector<char>> memory;
    CUDA_CHECK(cudaDeviceSynchronize());
    memory = std::make_unique<DeviceVector<char>>(bytes);
    device().workspace_data = memory->get();
    device().workspace_bytes = bytes;
}

// Fills device() before the first test. Without a GPU no test passes.
class DeviceEnvironment : public ::testing::Environment {
  public:
    void SetUp() override {
        int count = 0;
        cudaError_t error = cudaGetDeviceCount(&count);
        ASSERT_TRUE(error == cudaSuccess && count > 0) << "no GPU: " << cudaGetErrorString(error);
        CudaDevice& d = device();
        auto attribute = [&](cudaDeviceAttr which) {
            int value = 0;
            CUDA_CHECK(cudaDeviceGetAttribute(&value, which, d.id));
            return value;
        };
        CUDA_CHECK(cudaSetDevice(d.id));
        d.capability = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
        d.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
        d.l2_bytes = attribute(cudaDevAttrL2CacheSize);
        d.max_shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
        d.tf32 = false;               // tests compare with exact fp32 unless they say otherwise
        matmul_use_onednn() = false;  // which may round at other places, or take another path on another machine
    }
};
inline ::testing::Environment* const device_environment = ::testing::AddGlobalTestEnvironment(new DeviceEnvironment);
