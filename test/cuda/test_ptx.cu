// The functions of llmc/cuda/ptx.cuh and those of warps against plain loops, on a GPU and on the CPU.
#include "test/cuda/cudahost_test.h"

#include "llmc/cuda/pack.cuh"
#include "llmc/cuda/ptx.cuh"

namespace {

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

#ifdef CUDAHOST
TEST(CudaHost, FindsCopiesThatNobodyWaitsFor) { EXPECT_GE(schedules_that_fail(pipeline_is_right<false>), 3); }
#endif

}  // namespace
