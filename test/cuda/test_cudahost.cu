// CUDA on the CPU (test/cudahost): what it is there to find, it finds; and the functions of llmc/cuda/ptx.cuh, on a GPU too.
#include "test/cuda/device_test.h"

#include "llmc/cuda/pack.cuh"
#include "llmc/cuda/ptx.cuh"

namespace {

// ---- llmc/cuda/ptx.cuh against plain loops ----

// d (16,8) = a (16,16) . b (16,8), both from shared memory by ldmatrix: a as it is, b from its rows, transposed.
__global__ void mma_kernel(float* d, const bf16* a, const bf16* b) {
    __shared__ __align__(16) bf16 sa[16][16];
    __shared__ __align__(16) bf16 sb[16][8];
    int lane = threadIdx.x;
    for (int i = lane; i < 256; i += 32) sa[i / 16][i % 16] = a[i];
    for (int i = lane; i < 128; i += 32) sb[i / 8][i % 8] = b[i];
    __syncthreads();
    uint32_t ra[4], rb[4];
    ptx::ldmatrix_x4(ra, &sa[lane % 8 + lane / 8 % 2 * 8][lane / 16 * 8]);
    ptx::ldmatrix_x4_trans(rb, &sb[lane % 16][0]);
    float sum[4] = {1, 2, 3, 4};
    ptx::mma_m16n8k16(sum, ra, rb[0], rb[1]);
    for (int i = 0; i < 4; i++) d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

TEST(Ptx, MmaAndLdmatrixEqualLoops) {
    auto a = random_vector<bf16>(256, 1), b = random_vector<bf16>(128, 2);
    std::vector<float> want(128);
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 8; j++) {
            float sum = static_cast<float>(1 + j % 2 + i / 8 * 2);
            for (int k = 0; k < 16; k++) sum += static_cast<float>(a[i * 16 + k]) * static_cast<float>(b[k * 8 + j]);
            want[i * 8 + j] = sum;
        }
    for_each_schedule([&] {
        DeviceVector<bf16> da(a), db(b);
        DeviceVector<float> d(128);
        launch(mma_kernel, 1, 32, 0, current_stream(), d.get(), da.get(), db.get());
        EXPECT_LT(relative_error(d.host(), want), 1e-6);
    });
}

// What each of 32 lanes gets from its neighbours, in all ways.
__global__ void shuffle_kernel(int* out) {
    int lane = threadIdx.x, *to = out + lane * 10;
    to[0] = __shfl_sync(0xffffffff, lane, 5);
    to[1] = __shfl_sync(0xffffffff, lane, lane + 3, 8);
    to[2] = __shfl_xor_sync(0xffffffff, lane, 16);
    to[3] = __shfl_xor_sync(0xffffffff, lane, 9, 8);
    to[4] = __shfl_up_sync(0xffffffff, lane, 3);
    to[5] = __shfl_down_sync(0xffffffff, lane, 3, 16);
    to[6] = static_cast<int>(__ballot_sync(0xffffffff, lane % 3 == 0));
    to[7] = __any_sync(0xffffffff, lane == 7) * 2 + __all_sync(0xffffffff, lane < 31);
    to[8] = lane < 16 ? __shfl_sync(0x0000ffff, lane, 1) : __shfl_sync(0xffff0000, lane, 31);
    to[9] = static_cast<int>(__popc(__ballot_sync(0xffffffff, 1)));
}

TEST(Ptx, ShufflesAndVotes) {
    std::vector<int> want;
    for (int lane = 0; lane < 32; lane++)
        for (int x : {5, lane / 8 * 8 + (lane + 3) % 8, lane ^ 16,
                      // lanes of an earlier group may be read, those of a later one not
                      (lane ^ 9) < lane / 8 * 8 + 8 ? lane ^ 9 : lane, lane < 3 ? lane : lane - 3,
                      lane % 16 + 3 < 16 ? lane + 3 : lane, 0x49249249, 2, lane < 16 ? 1 : 31, 32})
            want.push_back(x);
    for_each_schedule([&] {
        DeviceVector<int> out(320);
        launch(shuffle_kernel, 1, 32, 0, current_stream(), out.get());
        EXPECT_EQ(out.host(), want);
    });
}

// y = x + 1, a tile ahead of its use in shared memory. `wait`: without it the copy may not have landed.
template <bool wait>
__global__ void pipeline_kernel(float* y, const float* x, int tiles) {
    __shared__ __align__(16) float buffer[2][128];
    auto fetch = [&](int tile) {
        if (tile < tiles) ptx::cp_async_16(&buffer[tile % 2][threadIdx.x * 4], x + tile * 128 + threadIdx.x * 4);
        ptx::cp_async_commit();
    };
    fetch(0);
    for (int tile = 0; tile < tiles; tile++) {
        fetch(tile + 1);
        if (wait) ptx::cp_async_wait<1>();
        __syncthreads();
        for (int i = 0; i < 4; i++)
            y[tile * 128 + threadIdx.x * 4 + i] = buffer[tile % 2][(threadIdx.x * 4 + i + 1) % 128] + 1;
        __syncthreads();
    }
}
template <bool wait>
bool pipeline_is_right() {
    auto x = random_vector<float>(5 * 128, 1);
    DeviceVector<float> dx(x), y(x.size());
    launch(pipeline_kernel<wait>, 1, 32, 0, current_stream(), y.get(), dx.get(), 5);
    std::vector<float> got = y.host();
    bool right = true;
    for (size_t i = 0; i < x.size(); i++) right &= got[i] == x[i / 128 * 128 + (i + 1) % 128] + 1;
    return right;
}

TEST(Ptx, AsynchronousCopies) {
    for_each_schedule([&] { EXPECT_TRUE(pipeline_is_right<true>()); });
}

}  // namespace

#ifdef CUDAHOST

namespace {

// How many of the eight schedules say no, by a wrong answer or by an exception.
template <typename IsRight>
int schedules_that_fail(IsRight is_right) {
    int failed = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        cudahost::set_seed(seed);
        try {
            bool right = is_right();
            cudahost::check();
            failed += !right;
        } catch (const cudahost::Bug&) {
            failed++;
        }
    }
    return failed;
}
// The message of the Bug that body throws; empty: it throws none.
template <typename Body>
std::string bug(Body body) {
    try {
        body();
        cudahost::check();
    } catch (const cudahost::Bug& b) {
        return b.what();
    }
    return "";
}
testing::AssertionResult says(const std::string& message, const std::string& text) {
    bool right = text.empty() ? message.empty() : message.find(text) != std::string::npos;
    return (right ? testing::AssertionSuccess() : testing::AssertionFailure()) << "message: '" << message << "'";
}
#define EXPECT_BUG(text, ...) EXPECT_TRUE(says(bug([&] { __VA_ARGS__; }), text))

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
__global__ void nothing_kernel() {}
__global__ void __launch_bounds__(max(32, 64), 1) bounded_kernel() {}
__global__ void misaligned_kernel(float* p) { *reinterpret_cast<float4*>(p + 1) = float4{1, 2, 3, 4}; }

#ifdef __SANITIZE_ADDRESS__
#define EXPECT_OUT_OF_BOUNDS(guard, ...) \
    EXPECT_DEATH(                        \
        {                                \
            __VA_ARGS__;                 \
            cudaDeviceSynchronize();     \
        },                               \
        "use-after-poison|out of bounds")
#else
#define EXPECT_OUT_OF_BOUNDS(guard, ...) EXPECT_BUG(guard, __VA_ARGS__)
#endif

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
    EXPECT_EQ(consent(228 << 10), cudaErrorInvalidValue);
    cudaGetLastError();
    EXPECT_EQ(consent(227 << 10), cudaSuccess);
    EXPECT_EQ(error(1, 32, 227 << 10), cudaSuccess);
    cudaGetLastError();
    EXPECT_BUG("", launch(bounded_kernel, 1, 64, 0, nullptr));
    EXPECT_BUG("with 96 threads a block, more than the 64", launch(bounded_kernel, 1, 96, 0, nullptr));
    EXPECT_BUG("more than 48 KiB", launch(large_static_kernel, 1, 1, 0, nullptr));
}

TEST(CudaHost, FindsCopiesThatNobodyWaitsFor) { EXPECT_GE(schedules_that_fail(pipeline_is_right<false>), 3); }

// ---- device memory ----

__global__ void write_kernel(float* p, int64_t i, float x) { p[i] = x; }
__global__ void read_kernel(float* p, int64_t i) { p[0] = p[i]; }
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

TEST(CudaHost, HostAndDeviceMemoryAreApart) {
    DeviceVector<float> p(5);
    if (cudahost::device_memory_is_closed()) EXPECT_DEATH(*p.get() = 1, "");
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

TEST(CudaHost, FailuresInDestructorsAreNotLost) {
    cudahost::set_seed(2);  // late
    {
        DeviceVector<float> p(5), q(5);
        launch(two_barriers_kernel, 1, 64, 0, current_stream());
    }
    EXPECT_BUG("__syncthreads()", );
    EXPECT_BUG("", );
}

// ---- streams, events, graphs ----

struct Streams {
    cudaStream_t a = nullptr, b = nullptr;
    cudaEvent_t event = nullptr;
    Streams() {
        CUDA_CHECK(cudaStreamCreateWithFlags(&a, cudaStreamNonBlocking));
        CUDA_CHECK(cudaStreamCreateWithFlags(&b, cudaStreamNonBlocking));
        CUDA_CHECK(cudaEventCreate(&event));
    }
    ~Streams() { cudaEventDestroy(event), cudaStreamDestroy(a), cudaStreamDestroy(b); }
};
__global__ void copy_kernel(float* to, const float* from) { *to = *from; }

TEST(CudaHost, FindsMissingWaitsBetweenStreams) {
    auto right = [](bool wait) {
        return [wait] {
            Streams s;
            DeviceVector<float> x(1), y(1);
            launch(write_kernel, 1, 1, 0, s.a, x.get(), 0, 5.0f);
            CUDA_CHECK(cudaEventRecord(s.event, s.a));
            if (wait) CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
            launch(copy_kernel, 1, 1, 0, s.b, y.get(), x.get());
            return y.host()[0] == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(right(true)), 0);
    EXPECT_GE(schedules_that_fail(right(false)), 1);
}

TEST(CudaHost, FindsMissingWaitsOfTheHost) {
    auto download = [](bool wait) {
        return [wait] {
            Streams s;
            DeviceVector<float> x(1);
            auto host = pinned<float>(1);
            launch(write_kernel, 1, 1, 0, s.a, x.get(), 0, 5.0f);
            CUDA_CHECK(cudaMemcpyAsync(host.get(), x.get(), 4, cudaMemcpyDeviceToHost, s.a));
            if (wait) CUDA_CHECK(cudaStreamSynchronize(s.a));
            return *host == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(download(true)), 0);
    EXPECT_GE(schedules_that_fail(download(false)), 3);
    auto upload = [](bool wait) {  // pinned memory is read when the copy happens, not when it is asked for
        return [wait] {
            Streams s;
            DeviceVector<float> x(1);
            auto host = pinned<float>(1);
            *host = 5;
            CUDA_CHECK(cudaMemcpyAsync(x.get(), host.get(), 4, cudaMemcpyHostToDevice, s.a));
            CUDA_CHECK(cudaEventRecord(s.event, s.a));
            if (wait) CUDA_CHECK(cudaEventSynchronize(s.event));
            *host = 6;
            return x.host()[0] == 5;
        };
    };
    EXPECT_EQ(schedules_that_fail(upload(true)), 0);
    EXPECT_GE(schedules_that_fail(upload(false)), 3);
}

TEST(CudaHost, DefaultStreamWaitsForBlockingStreams) {
    EXPECT_EQ(schedules_that_fail([] {
                  cudaStream_t s;
                  CUDA_CHECK(cudaStreamCreate(&s));
                  DeviceVector<float> x(1), y(1);
                  launch(write_kernel, 1, 1, 0, s, x.get(), 0, 5.0f);
                  launch(copy_kernel, 1, 1, 0, nullptr, y.get(), x.get());
                  launch(write_kernel, 1, 1, 0, s, x.get(), 0, 6.0f);
                  bool right = y.host()[0] == 5 && x.host()[0] == 6;
                  CUDA_CHECK(cudaStreamDestroy(s));
                  return right;
              }),
              0);
}

TEST(CudaHost, EventsTakeTime) {
    Streams s;
    cudaEvent_t end = nullptr;
    CUDA_CHECK(cudaEventCreate(&end));
    float ms = -1;
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    launch(nothing_kernel, 100, 128, 0, s.a);
    CUDA_CHECK(cudaEventRecord(end, s.a));
    CUDA_CHECK(cudaEventSynchronize(end));
    CUDA_CHECK(cudaEventElapsedTime(&ms, s.event, end));
    EXPECT_GT(ms, 0);
    CUDA_CHECK(cudaEventDestroy(end));
}

__global__ void add_kernel(float* x, const float* by) { *x += *by; }

TEST(CudaHost, GraphsReplayWithNewValues) {
    for_each_schedule([] {
        Streams s;
        DeviceVector<float> x(std::vector<float>{0}), by(std::vector<float>{1});
        cudaGraph_t graph = nullptr;
        cudaGraphExec_t executable = nullptr;
        CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
        launch(add_kernel, 1, 1, 0, s.a, x.get(), by.get());
        CUDA_CHECK(cudaEventRecord(s.event, s.a));  // a second stream joins, and is joined
        CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
        launch(add_kernel, 1, 1, 0, s.b, x.get(), by.get());
        CUDA_CHECK(cudaEventRecord(s.event, s.b));
        CUDA_CHECK(cudaStreamWaitEvent(s.a, s.event, 0));
        launch(add_kernel, 1, 1, 0, s.a, x.get(), x.get());
        CUDA_CHECK(cudaStreamEndCapture(s.a, &graph));
        CUDA_CHECK(cudaGraphInstantiate(&executable, graph, 0));
        EXPECT_EQ(x.host()[0], 0) << "a capture runs nothing";
        CUDA_CHECK(cudaGraphLaunch(executable, s.a));
        CUDA_CHECK(cudaStreamSynchronize(s.a));
        by.set({10});
        CUDA_CHECK(cudaGraphLaunch(executable, s.a));
        EXPECT_EQ(x.host()[0], 48);
        CUDA_CHECK(cudaGraphExecDestroy(executable));
        CUDA_CHECK(cudaGraphDestroy(graph));
    });
}

TEST(CudaHost, CapturesRefuseWhatAGraphCannotHold) {
    auto captured = [](auto illegal) {
        Streams s;
        cudaGraph_t graph = nullptr;
        CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
        cudaError_t error = illegal(s);
        EXPECT_EQ(cudaStreamEndCapture(s.a, &graph), cudaErrorStreamCaptureInvalidated);
        EXPECT_EQ(graph, nullptr);
        cudaGetLastError();
        return error;
    };
    DeviceVector<float> x(1);
    float host = 0;
    void* p = nullptr;
    EXPECT_EQ(captured([&](Streams&) { return cudaMalloc(&p, 1); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(captured([&](Streams& s) { return cudaStreamSynchronize(s.a); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_EQ(captured([&](Streams&) { return cudaDeviceSynchronize(); }), cudaErrorStreamCaptureUnsupported);
    EXPECT_NE(captured([&](Streams&) { return cudaMemcpy(&host, x.get(), 4, cudaMemcpyDeviceToHost); }), cudaSuccess);
    Streams s;
    cudaGraph_t graph = nullptr;
    CUDA_CHECK(cudaStreamBeginCapture(s.a, cudaStreamCaptureModeGlobal));
    CUDA_CHECK(cudaEventRecord(s.event, s.a));
    CUDA_CHECK(cudaStreamWaitEvent(s.b, s.event, 0));
    launch(nothing_kernel, 1, 1, 0, s.b);
    EXPECT_EQ(cudaStreamEndCapture(s.a, &graph), cudaErrorStreamCaptureUnjoined);
    cudaGetLastError();
}

}  // namespace

#endif  // CUDAHOST
