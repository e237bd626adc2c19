// CUDA on the CPU: who touches memory that is not his is found: guards, host and device, ends of allocations.
#include "test/cuda/cudahost_test.h"

#include <filesystem>

#ifdef CUDAHOST

namespace {

__global__ void write_kernel(float* p, int64_t i, float x) { p[i] = x; }
__global__ void read_kernel(float* p, int64_t i) { p[0] = p[i]; }
__global__ void misaligned_kernel(float* p) { *reinterpret_cast<float4*>(p + 1) = float4{1, 2, 3, 4}; }
__global__ void crossing_barriers_kernel() {
    if (threadIdx.x % 2) __syncthreads();
    else __syncthreads();
}
struct WithPointer {
    int n;
    float* p;
};
__global__ void struct_kernel(WithPointer s) { s.p[0] = 1; }

TEST(CudaHost, FindsWritesOutsideOfDeviceMemory) {
    DeviceVector<float> p(5), q(5);
    EXPECT_BUG("", launch(write_kernel, 1, 1, 0, nullptr, p.get(), 4, 1.0f));
    EXPECT_OUT_OF_BOUNDS("behind the end of an allocation of 20 bytes",
                         launch(write_kernel, 1, 1, 0, nullptr, p.get(), 5, 1.0f));
    EXPECT_OUT_OF_BOUNDS("before the beginning of an allocation of 20",
                         launch(write_kernel, 1, 1, 0, nullptr, p.get(), -1, 1.0f));
    EXPECT_OUT_OF_BOUNDS("(anonymous namespace)::write_kernel",
                         launch(write_kernel, 1, 1, 0, nullptr, p.get(), 5, 1.0f));
#ifdef __SANITIZE_ADDRESS__
    EXPECT_DEATH(launch(read_kernel, 1, 1, 0, nullptr, p.get(), 5);
                 cudaDeviceSynchronize(), "read_kernel.*thread \\(0,0,0\\)");
#endif
}

TEST(CudaHost, GuardsTensorsOfAnArenaAndTheWorkspace) {
    DeviceArena arena;
    float *a = nullptr, *b = nullptr;
    arena.add(&a, 3);
    arena.add(&b, 3);
    arena.allocate("tests", true);
    EXPECT_GE(b - a, 64);
    EXPECT_BUG("", launch(write_kernel, 1, 1, 0, nullptr, b, 2, 1.0f));
    EXPECT_OUT_OF_BOUNDS("tensor of an arena", launch(write_kernel, 1, 1, 0, nullptr, a, 3, 1.0f));
    CUDA_CHECK(cudaMemset(a, 0, arena.bytes()));  // a whole arena may be filled: the guards stay
    EXPECT_OUT_OF_BOUNDS("tensor of an arena", launch(write_kernel, 1, 1, 0, nullptr, a, 3, 1.0f));

    reserve_workspace(1000);
    auto use = [](int n, int i) {
        launch(write_kernel, 1, 1, 0, current_stream(), workspace<float>(static_cast<size_t>(n)), i, 1.0f);
    };
    EXPECT_BUG("", use(10, 9); use(250, 249); use(3, 0));
    EXPECT_OUT_OF_BOUNDS("or of the workspace", use(10, 10));
    use(1, 0);
    use(2, 1);
    std::vector<float> first(1);
    CUDA_CHECK(cudaDeviceSynchronize());
    CUDA_CHECK(cudaMemcpy(first.data(), device().workspace_data, 4, cudaMemcpyDeviceToHost));
    EXPECT_TRUE(std::isnan(first[0])) << "what an earlier layer left must not be there";
    reserve_workspace(1);
}

// ---- host and device ----

constexpr char kHostTouched[] = "the host touched device memory|SEGV";  // AddressSanitizer's words are the second

TEST(CudaHost, DeviceMemoryIsClosedToTheHost) {
    cudahost::set_seed(2);  // on CPUs without protection keys, the seed under which it is always closed
    DeviceVector<float> p(std::vector<float>{1, 2});
    auto closed_after = [&](auto call) {
        call();
        EXPECT_TRUE(cudahost::device_memory_is_closed());
        EXPECT_DEATH(*p.get() = 1, kHostTouched);
        EXPECT_DEATH(exit(*p.get() == 1), kHostTouched);
    };
    closed_after([] {});
    closed_after([&] { launch(write_kernel, 1, 1, 0, current_stream(), p.get(), 0, 5.0f); });  // which waits
    closed_after([&] { CUDA_CHECK(cudaDeviceSynchronize()); });
    closed_after([&] { EXPECT_EQ(p.host()[0], 5); });
    closed_after([&] { CUDA_CHECK(cudaMemset(p.get(), 0, 4)); });
    closed_after([] { DeviceVector<float>(100); });
    closed_after([] { EXPECT_BUG("__syncthreads()", launch(crossing_barriers_kernel, 1, 64, 0, current_stream())); });
}

// Without protection keys memory is open after most calls under other seeds, but what a program does again and again is
// found, and so is what it does at first.
TEST(CudaHost, WhatTheHostDoesInEachStepIsFound) {
    cudahost::set_seed(1);
    DeviceVector<float> p(1);
    auto step = [&] { launch(write_kernel, 1, 1, 0, current_stream(), p.get(), 0, 5.0f); };
    for (int i = 0; i < 200; i++) step();
    EXPECT_DEATH(
        for (int i = 0; i < 200; i++) {
            step();
            if (*p.get() != 5) return;
        },
        kHostTouched);
}

TEST(CudaHost, HostMemoryIsClosedToTheDevice) {
    DeviceVector<float> p(5);
    auto host = std::make_unique<float[]>(5);
    EXPECT_BUG("argument 1 of (anonymous namespace)::write_kernel points to host memory",
               launch(write_kernel, 1, 1, 0, nullptr, host.get(), 0, 1.0f));
    EXPECT_BUG("holds, at byte 8, a pointer to host memory",
               launch(struct_kernel, 1, 1, 0, nullptr, WithPointer{1, host.get()}));
    float local = 0;
    EXPECT_BUG("a pointer to host memory", launch(struct_kernel, 1, 1, 0, nullptr, WithPointer{1, &local}));
    EXPECT_BUG("", launch(struct_kernel, 1, 1, 0, nullptr, WithPointer{1, p.get()}));
    float* freed = DeviceVector<float>(5).get();
    EXPECT_BUG("not allocated, or was freed", launch(write_kernel, 1, 1, 0, nullptr, freed, 0, 1.0f));
    EXPECT_BUG("the allocation of 20 bytes ends after 16",
               cudaMemcpy(p.get() + 1, host.get(), 20, cudaMemcpyHostToDevice));
    EXPECT_BUG("this is host memory", cudaMemcpy(host.get(), host.get(), 4, cudaMemcpyDeviceToHost));
    EXPECT_BUG("this is device memory, not host memory", cudaMemcpy(p.get(), p.get(), 4, cudaMemcpyDeviceToHost));
    EXPECT_BUG("ends after 20", cudaMemset(p.get(), 0, 24));
}

TEST(CudaHost, FindsMisalignedAccesses) {
    DeviceVector<float> p(8);
    EXPECT_DEATH(
        {
            launch(misaligned_kernel, 1, 1, 0, nullptr, p.get());
            cudaDeviceSynchronize();
        },
        "misaligned_kernel.*misaligned address");
}

TEST(CudaHost, MemoryRunsOut) {
    cudahost::set_device_memory(1 << 20);
    void* p = nullptr;
    EXPECT_EQ(cudaMalloc(&p, 2 << 20), cudaErrorMemoryAllocation);
    EXPECT_EQ(cudaGetLastError(), cudaErrorMemoryAllocation);
    size_t available = 0, total = 0;
    CUDA_CHECK(cudaMemGetInfo(&available, &total));
    EXPECT_EQ(total, size_t{1} << 20);
    cudahost::set_device_memory(size_t{4} << 30);
}

TEST(CudaHost, AllOfThisIsFoundWithoutProtectionKeys) {
    std::string command = "CUDAHOST_NO_PKEYS=1 " + std::filesystem::read_symlink("/proc/self/exe").string() +
                          " --gtest_filter='CudaHost.*-*AllOfThis*:*OtherDevices' >" + testing::TempDir() +
                          "/no_pkeys 2>&1";
    EXPECT_EQ(system(command.c_str()), 0) << command;
}

}  // namespace

#endif  // CUDAHOST
