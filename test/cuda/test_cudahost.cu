// CUDA on the CPU: what goes wrong between the threads of a block, it finds: barriers, warps, shared memory, launches.
#include "test/cuda/cudahost_test.h"

#include <filesystem>
#include <map>

#include "llmc/cuda/ptx.cuh"

#ifdef CUDAHOST

namespace {

// ---- barriers ----

template <bool barrier>
__global__ void reverse_kernel(float* y, const float* x) {
    __shared__ float s[64];
    s[threadIdx.x] = x[threadIdx.x];
    if (barrier) __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
template <bool barrier>
bool reverse_is_right() {
    auto x = random_vector<float>(64, 1), want = x;
    std::reverse(want.begin(), want.end());
    DeviceVector<float> dx(x), y(64);
    launch(reverse_kernel<barrier>, 1, 64, 0, current_stream(), y.get(), dx.get());
    return y.host() == want;
}

TEST(CudaHost, FindsMissingBarrier) {
    EXPECT_EQ(schedules_that_fail(reverse_is_right<true>), 0);
    EXPECT_EQ(schedules_that_fail(reverse_is_right<false>), 8);
}

TEST(CudaHost, SkipsBarrierOnDemand) {
    cudahost::clear_barriers_seen();
    EXPECT_TRUE(reverse_is_right<true>());
    auto seen = cudahost::barriers_seen();
    ASSERT_EQ(seen.size(), 1u);
    EXPECT_EQ(seen[0].file, "test/cuda/test_cudahost.cu");
    cudahost::skip_barrier(seen[0].file, seen[0].line);
    EXPECT_EQ(schedules_that_fail(reverse_is_right<true>), 8);
    cudahost::skip_barrier("", 0);
    EXPECT_TRUE(reverse_is_right<true>());
}

// A warp reads what another overwrites in the next round.
template <bool second_barrier>
__global__ void rounds_kernel(float* y, int rounds) {
    __shared__ float s[128];
    float sum = 0;
    for (int r = 0; r < rounds; r++) {
        s[threadIdx.x] = static_cast<float>(r);
        __syncthreads();
        sum += s[(threadIdx.x + 32) % 128];
        if (second_barrier) __syncthreads();
    }
    y[threadIdx.x] = sum;
}
template <bool second_barrier>
bool rounds_are_right() {
    DeviceVector<float> y(128);
    launch(rounds_kernel<second_barrier>, 1, 128, 0, current_stream(), y.get(), 4);
    return y.host() == std::vector<float>(128, 6);
}
TEST(CudaHost, FindsMissingBarrierAtTheEndOfALoop) {
    EXPECT_EQ(schedules_that_fail(rounds_are_right<true>), 0);
    EXPECT_GE(schedules_that_fail(rounds_are_right<false>), 4);
}

// Blocks hand numbers from thread to thread in global memory: all in the same, or each in its own.
template <bool own>
__global__ void scratch_kernel(int* y, int* scratch) {
    int* mine = scratch + (own ? blockIdx.x * 64 : 0);
    mine[threadIdx.x] = static_cast<int>(blockIdx.x * 64 + threadIdx.x);
    __syncthreads();
    y[blockIdx.x * 64 + threadIdx.x] = mine[63 - threadIdx.x];
}
template <bool own>
bool scratch_is_right() {
    constexpr int blocks = 16;
    DeviceVector<int> y(blocks * 64), scratch(blocks * 64);
    launch(scratch_kernel<own>, blocks, 64, 0, current_stream(), y.get(), scratch.get());
    std::vector<int> want;
    for (int i = 0; i < blocks * 64; i++) want.push_back(i / 64 * 64 + 63 - i % 64);
    return y.host() == want;
}
TEST(CudaHost, BlocksAreInFlightTogether) {
    EXPECT_EQ(schedules_that_fail(scratch_is_right<true>), 0);
    EXPECT_GE(schedules_that_fail(scratch_is_right<false>), 2);
}

__global__ void missing_syncwarp_kernel(float* y) {
    __shared__ float s[32];
    s[threadIdx.x] = static_cast<float>(threadIdx.x);
    y[threadIdx.x] = s[31 - threadIdx.x];
}
TEST(CudaHost, WarpsDoNotRunInStep) {
    EXPECT_EQ(schedules_that_fail([] {
                  DeviceVector<float> y(32);
                  launch(missing_syncwarp_kernel, 1, 32, 0, current_stream(), y.get());
                  return !std::isnan(relative_error(y.host(), y.host())) && relative_error(y.host(), y.host()) == 0;
              }),
              8);
}

__global__ void divergent_barrier_kernel() {
    if (threadIdx.x < 40) __syncthreads();
    else __syncwarp(threadIdx.x < 64 ? 0xffffffffu : ~0u);
}
__global__ void two_barriers_kernel() {
    if (threadIdx.x % 2) __syncthreads();
    else __syncthreads();
}
__global__ void early_exit_kernel(int* y) {
    if (threadIdx.x >= 40) return;  // allowed: barriers count those that live
    __syncthreads();
    y[threadIdx.x] = static_cast<int>(__popc(__ballot_sync(0xffffffff, 1)));
}
TEST(CudaHost, ReportsDivergentBarriers) {
    std::string message = bug([] {
        launch(divergent_barrier_kernel, dim3(2, 1, 1), 64, 0, current_stream());
        CUDA_CHECK(cudaDeviceSynchronize());
    });
    EXPECT_TRUE(says(message, "divergent_barrier_kernel, block ("));
    EXPECT_TRUE(says(message, "not all threads reach __syncthreads() at test/cuda/test_cudahost.cu:"));
    EXPECT_TRUE(says(message, "40 of the block's 64 are there"));
    EXPECT_TRUE(says(message, "waits in __syncwarp() at test/cuda/test_cudahost.cu:"));
    EXPECT_BUG("while other threads of the block are at __syncthreads()",
               launch(two_barriers_kernel, 1, 64, 0, nullptr));
    DeviceVector<int> y(40);
    launch(early_exit_kernel, 1, 64, 0, current_stream(), y.get());
    std::vector<int> want(40, 32);
    std::fill(want.begin() + 32, want.end(), 8);
    EXPECT_EQ(y.host(), want);
}

__global__ void vote_kernel(int* y) {
    int count = __syncthreads_count(threadIdx.x % 3 == 0);
    y[threadIdx.x] = count * 4 + __syncthreads_or(threadIdx.x == 5) * 2 + __syncthreads_and(threadIdx.x < 63);
}
TEST(CudaHost, BarriersThatVote) {
    for_each_schedule([] {
        DeviceVector<int> y(64);
        launch(vote_kernel, 1, 64, 0, current_stream(), y.get());
        EXPECT_EQ(y.host(), std::vector<int>(64, 22 * 4 + 2));
    });
}

// ---- warps ----

__global__ void mask_without_caller_kernel() { __syncwarp(0xfffffffe); }
__global__ void different_masks_kernel() { __shfl_sync(threadIdx.x < 8 ? 0xffffffffu : 0xffffff0fu, 1, 0); }
__global__ void absent_lane_kernel() {
    if (threadIdx.x != 3) __shfl_sync(0xffffffff, 1, 0);
    else __syncthreads();
}
__global__ void half_a_warp_mma_kernel() {
    float d[4] = {};
    uint32_t a[4] = {};
    if (threadIdx.x < 16) ptx::mma_m16n8k16(d, a, 0, 0);
}
TEST(CudaHost, ReportsWrongMasks) {
    EXPECT_BUG("lacks the calling lane 0", launch(mask_without_caller_kernel, 1, 32, 0, nullptr));
    EXPECT_BUG("with mask 0xffffff", launch(different_masks_kernel, 1, 32, 0, nullptr));
    EXPECT_BUG("__shfl_sync() at test/cuda/test_cudahost.cu:", launch(absent_lane_kernel, 1, 32, 0, nullptr));
    EXPECT_BUG("mma", launch(half_a_warp_mma_kernel, 1, 32, 0, nullptr));
}

// Row r of a tile is written by lane r and read for lane 31 - r.
template <bool sync>
__global__ void ldmatrix_kernel(uint32_t* y) {
    __shared__ __align__(16) uint16_t tile[32 * 8];
    for (unsigned i = 0; i < 8; i++) tile[threadIdx.x * 8 + i] = static_cast<uint16_t>(threadIdx.x);
    if (sync) __syncwarp();
    uint32_t r[4];
    ptx::ldmatrix_x4(r, tile + (31 - threadIdx.x) * 8);
    for (unsigned j = 0; j < 4; j++) y[threadIdx.x * 4 + j] = r[j];
}
template <bool sync>
bool ldmatrix_is_right() {
    DeviceVector<uint32_t> y(32 * 4);
    launch(ldmatrix_kernel<sync>, 1, 32, 0, current_stream(), y.get());
    std::vector<uint32_t> want;
    for (uint32_t lane = 0; lane < 32; lane++)
        for (uint32_t j = 0; j < 4; j++) want.push_back((31 - (8 * j + lane / 4)) * 0x10001);
    return y.host() == want;
}
TEST(CudaHost, FindsMissingSyncwarpBeforeLdmatrix) {
    EXPECT_EQ(schedules_that_fail(ldmatrix_is_right<true>), 0);
    EXPECT_EQ(schedules_that_fail(ldmatrix_is_right<false>), 8);
}

// ---- shared memory ----

__global__ void unwritten_shared_kernel(float* y) {
    __shared__ float s[2];
    extern __shared__ __align__(16) unsigned char more[];
    y[0] = s[1], y[1] = reinterpret_cast<float*>(more)[3];
    s[1] = 1, reinterpret_cast<float*>(more)[3] = 1;
}
TEST(CudaHost, SharedMemoryIsNanInEveryBlock) {
    for_each_schedule([] {
        DeviceVector<float> y(2);
        launch(unwritten_shared_kernel, 5, 1, 16, current_stream(), y.get());
        EXPECT_TRUE(std::isnan(y.host()[0]) && std::isnan(y.host()[1]));
    });
}

template <typename X>
__device__ X* shared_of() {
    __shared__ X array[4];
    return array;
}
__global__ void two_arrays_kernel(int* y) {
    int* a = shared_of<int>();
    float* b = shared_of<float>();
    a[threadIdx.x] = 7, b[threadIdx.x] = 8;
    y[threadIdx.x] = shared_of<int>()[threadIdx.x];
}
TEST(CudaHost, SharedArraysOfTemplatesAreTheirOwn) {
    DeviceVector<int> y(4);
    launch(two_arrays_kernel, 1, 4, 0, current_stream(), y.get());
    EXPECT_EQ(y.host(), std::vector<int>(4, 7));
}

__global__ void write_shared_kernel(int i, float x) {
    __shared__ float a[5];
    __shared__ float b[3];
    b[0] = 0;
    a[i] = x;
}
__global__ void write_dynamic_kernel(int i) {
    extern __shared__ unsigned char bytes[];
    bytes[i] = 1;
}
__global__ void large_static_kernel() {
    __shared__ float a[13000];
    a[threadIdx.x] = 1;
}
__global__ void static_and_dynamic_kernel() {
    __shared__ char bytes[8 << 10];
    bytes[threadIdx.x] = 1;
}
__global__ void nothing_kernel() {}
__global__ void __launch_bounds__(max(32, 64), 1) bounded_kernel() {}

TEST(CudaHost, FindsWritesOutsideOfSharedMemory) {
    EXPECT_BUG("", launch(write_shared_kernel, 1, 1, 0, nullptr, 4, 1.0f));
    EXPECT_OUT_OF_BOUNDS("wrote outside of shared memory", launch(write_shared_kernel, 1, 1, 0, nullptr, 5, 1.0f));
    EXPECT_OUT_OF_BOUNDS("wrote outside of shared memory", launch(write_shared_kernel, 1, 1, 0, nullptr, -1, 1.0f));
    EXPECT_OUT_OF_BOUNDS("dynamic shared memory", launch(write_dynamic_kernel, 1, 1, 100, nullptr, 100));
}

TEST(CudaHost, LimitsOfALaunch) {
    auto error = [](dim3 grid, dim3 block, size_t bytes) {
        cudaLaunchConfig_t config{};
        config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = bytes;
        cudaError_t e = cudaLaunchKernelEx(&config, nothing_kernel);
        EXPECT_EQ(cudaGetLastError(), e);
        return e;
    };
    EXPECT_EQ(error(1, 1024, 48 << 10), cudaSuccess);
    EXPECT_EQ(error(1, 1025, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(error(dim3(1, 1, 1), dim3(64, 32, 1), 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(error(0, 32, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(error(dim3(1, 65536), 32, 0), cudaErrorInvalidConfiguration);
    EXPECT_EQ(error(1, 32, (48 << 10) + 1), cudaErrorInvalidValue) << "the kernel did not consent";
    auto consent = [](int bytes) {
        return cudaFuncSetAttribute(reinterpret_cast<const void*>(nothing_kernel),
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    };
    const int most = static_cast<int>(device().max_shared_bytes);
    EXPECT_EQ(consent(most + 1024), cudaErrorInvalidValue);
    cudaGetLastError();
    EXPECT_EQ(consent(most), cudaSuccess);
    EXPECT_EQ(error(1, 32, static_cast<size_t>(most)), cudaSuccess);
    cudaGetLastError();
    EXPECT_BUG("", launch(bounded_kernel, 1, 64, 0, nullptr));
    EXPECT_BUG("with 96 threads a block, more than the 64", launch(bounded_kernel, 1, 96, 0, nullptr));
    EXPECT_BUG("more than 48 KiB", launch(large_static_kernel, 1, 1, 0, nullptr));
}

TEST(CudaHost, StaticAndDynamicSharedMemoryHaveOneLimit) {
    auto start = [](int bytes) {
        cudaLaunchConfig_t config{};
        config.gridDim = 1, config.blockDim = 32, config.dynamicSmemBytes = static_cast<size_t>(bytes);
        CUDA_CHECK(cudaLaunchKernelEx(&config, static_and_dynamic_kernel));
    };
    EXPECT_BUG("", start(40 << 10));
    EXPECT_BUG("8192 bytes of static and 40976 of dynamic shared memory are more than 49152 (no cudaFuncSetAttribute",
               start((40 << 10) + 16));
    auto consent = [](int bytes) {
        CUDA_CHECK(cudaFuncSetAttribute(reinterpret_cast<const void*>(static_and_dynamic_kernel),
                                        cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    };
    const int most = static_cast<int>(device().max_shared_bytes) - (8 << 10);
    consent(most);
    EXPECT_BUG("", start(most));
    consent(most + 16);
    EXPECT_BUG("of dynamic shared memory are more than", start(16));
}

// ---- other devices (CUDAHOST_DEVICE) ----

__global__ void cp_async_kernel(const float4* from) {
    __shared__ float4 to[32];
    ptx::cp_async_16(to + threadIdx.x, from + threadIdx.x);
}
__global__ void mma_kernel() {
    float d[4] = {};
    uint32_t a[4] = {};
    ptx::mma_m16n8k16(d, a, 0, 0);
}
TEST(CudaHost, DevicesHaveTheirOwnLimits) {
    const std::map<int, int> kib{{75, 64}, {80, 163}, {86, 99}, {90, 227}};
    EXPECT_EQ(device().max_shared_bytes, kib.at(device().capability) * 1024);
    DeviceVector<float4> x(32);
    bool has = device().capability >= 80;
    EXPECT_BUG(has ? "" : "cp.async at test/cuda/test_cudahost.cu:",
               launch(cp_async_kernel, 1, 32, 0, current_stream(), x.get()));
    EXPECT_BUG(has ? "" : "capability 75 has no such instruction, it needs 80",
               launch(mma_kernel, 1, 32, 0, current_stream()));
}

// What chooses by shared memory or capability, under one schedule each; CUDAHOST_DEVICE=86 make test runs all.
TEST(CudaHost, LayersOnOtherDevices) {
    auto passed = [](const char* device, const std::string& tests) {
        std::string exe = std::filesystem::read_symlink("/proc/self/exe").string(), output;
        FILE* child = popen((std::string("CUDAHOST_SEED=3 CUDAHOST_DEVICE=") + device + " '" + exe +
                             "' --gtest_color=no --gtest_filter='CudaHost.*Limit*:" + tests + "' 2>&1")
                                .c_str(),
                            "r");
        char line[1000];
        int n = 0;
        while (fgets(line, sizeof line, child)) output += line, n += std::string(line).rfind("[       OK ]", 0) == 0;
        EXPECT_EQ(pclose(child), 0) << output;
        return n;
    };
    const std::string fp32 = "CudaAttention/0.HeadSizes:MatmulOwn.Fp32:MatmulLayers/0.ForwardAndBackward",
                      bf16 = "CudaAttention/1.HeadSizes:MatmulOwn.SplitsByRule:MatmulLayers/1.ForwardAndBackward";
    if (passed("75", fp32) == 3) GTEST_SKIP() << "the tests of attention and products are in another program";
    EXPECT_EQ(passed("75", fp32), 6);
    EXPECT_EQ(passed("86", fp32 + ":" + bf16), 9);
    EXPECT_EQ(passed("80", bf16 + ":MatmulOwn.Bf16WideTile"), 7);
}

TEST(CudaHost, FailuresInDestructorsAreNotLost) {
    cudahost::set_seed(2);  // late
    {
        DeviceVector<float> p(5), q(5);
        launch(two_barriers_kernel, 1, 64, 0, current_stream());
    }
    EXPECT_BUG("__syncthreads()", );
    EXPECT_BUG("", );
}

}  // namespace

#endif  // CUDAHOST
