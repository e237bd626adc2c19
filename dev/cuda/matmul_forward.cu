// Linear layer: matrix product with a bias.                               (the layer: llmc/cuda/matmul.cuh,
// llmc/cuda/matmul_own.cuh)
//
//   y (N,OC) = x (N,C) . w (OC,C)^T + bias (OC)          N = B*T rows; both x and w are contiguous along C, the sum's
//   index
//
// The limit is arithmetic: 2 N C OC operations on (N C + OC C + N OC) numbers. With N = 8192, C = 768, OC = 3072 that
// is about 1,000 operations for each byte of bf16, and an H100 has to do some 300 for each byte that its memory
// delivers before arithmetic becomes the limit. But each number is needed hundreds of times, and between the
// multipliers and memory lie the L2 cache, the L1 cache and shared memory, and registers, each some times faster than
// the one behind it, each far too slow to serve every multiplication. So this page has one theme: what was fetched is
// used as often as possible, at each level. Versions 1 to 4 use ordinary multiply-adds in fp32, 5 to 7 tensor cores, in
// bf16 only.
#include "dev/cuda/zoo.cuh"
#include "llmc/cuda/ptx.cuh"

namespace matmul_forward_page {

// ---- 1: a thread per output ----------------------------------------------------------------------------------------
// The definition. Two loads for each multiply-add: the multipliers wait for the load units nearly all of the time. And
// the lanes of a warp are neighbours along OC, so that they read 32 different rows of w: 32 separate pieces of memory
// in one instruction, of which the L1 cache has to remember the rest until the next k.
template <typename X>
__global__ void naive_kernel(X* y, const X* x, const X* w, const X* bias, int N, int C, int OC) {
    int oc = blockIdx.x * 32 + threadIdx.x, n = blockIdx.y * 8 + threadIdx.y;
    if (n >= N || oc >= OC) return;
    float sum = static_cast<float>(bias[oc]);
    for (int k = 0; k < C; k++)
        sum += static_cast<float>(x[int64_t(n) * C + k]) * static_cast<float>(w[int64_t(oc) * C + k]);
    y[int64_t(n) * OC + oc] = X(sum);
}

// ---- 2: tiles in shared memory -------------------------------------------------------------------------------------
// A block of 32x32 threads makes 32x32 outputs. They need 32 rows of x and 32 of w, each of them 32 times: so the block
// brings a slice of them, 32 numbers of each row, to shared memory, with coalesced loads, everybody one number of each;
// then all use it, and only then comes the next slice. Device memory and L2 are asked for a 32nd of what version 1
// asks.
//
// Shared memory has 32 banks of 4 bytes; a warp's access is one step if its lanes touch different banks (or one word).
// Lanes read column k of the slice of w: rows of 32 floats would put that column into one bank, 32 steps. Rows of 33
// put neighbouring rows into neighbouring banks.
template <typename X>
__global__ void shared_tiles_kernel(X* y, const X* x, const X* w, const X* bias, int N, int C, int OC) {
    __shared__ float x_slice[32][33];
    __shared__ float w_slice[32][33];
    int tx = threadIdx.x, ty = threadIdx.y, n = blockIdx.y * 32 + ty, oc = blockIdx.x * 32 + tx,
        w_row = blockIdx.x * 32 + ty;
    float sum = 0;
    for (int k0 = 0; k0 < C; k0 += 32) {
        int k = k0 + tx;
        x_slice[ty][tx] = n < N && k < C ? static_cast<float>(x[int64_t(n) * C + k]) : 0.0f;
        w_slice[ty][tx] = w_row < OC && k < C ? static_cast<float>(w[int64_t(w_row) * C + k]) : 0.0f;
        __syncthreads();  // the slice is there
        for (int i = 0; i < 32; i++) sum += x_slice[ty][i] * w_slice[tx][i];
        __syncthreads();  // nobody reads it any more
    }
    if (n < N && oc < OC) y[int64_t(n) * OC + oc] = X(sum + static_cast<float>(bias[oc]));
}

// ---- 3: tiles in registers -----------------------------------------------------------------------------------------
// Version 2 still loads two numbers for each multiply-add, if only from shared memory, which delivers 32 floats a clock
// to 128 multipliers. So each thread makes 4x4 outputs: 4 + 4 loads for 16 multiply-adds. 256 threads make 64x64
// outputs, and the reuse of what comes from device memory has doubled too.
template <typename X>
__global__ void __launch_bounds__(256)
    register_tiles_kernel(X* y, const X* x, const X* w, const X* bias, int N, int C, int OC) {
    __shared__ float x_slice[16][65];  // [k][row]
    __shared__ float w_slice[16][65];
    int t = threadIdx.x, tx = t % 16, ty = t / 16, n0 = blockIdx.y * 64, oc0 = blockIdx.x * 64;
    float sum[4][4] = {};
    for (int k0 = 0; k0 < C; k0 += 16) {
        for (int row = ty; row < 64; row += 16) {
            int k = k0 + tx, n = n0 + row, oc = oc0 + row;
            x_slice[tx][row] = n < N && k < C ? static_cast<float>(x[int64_t(n) * C + k]) : 0.0f;
            w_slice[tx][row] = oc < OC && k < C ? static_cast<float>(w[int64_t(oc) * C + k]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sum[i][j] += x_slice[k][ty + 16 * i] * w_slice[k][tx + 16 * j];
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int n = n0 + ty + 16 * i, oc = oc0 + tx + 16 * j;
            if (n < N && oc < OC) y[int64_t(n) * OC + oc] = X(sum[i][j] + static_cast<float>(bias[oc]));
        }
}

// ---- 4: 16 bytes at a time, 8x8 outputs a thread -------------------------------------------------------------------
// Every load instruction moves 16 bytes now: four floats of shared memory, a pack of x or w from device memory. With
// 8x8 outputs that is 4 loads for 64 multiply-adds, and nine of ten instructions in the inner loop are arithmetic; this
// is where fp32 without tensor cores comes near to its limit. The price is registers: 64 for the sums, 16 for the
// operands.
template <typename X>
__global__ void __launch_bounds__(256) packs_kernel(X* y, const X* x, const X* w, const X* bias, int N, int C, int OC) {
    constexpr int W = pack_width<X>, pitch = 128 + 4;  // of a row of the slice: a multiple of 16 bytes
    __shared__ __align__(16) float x_slice[16 * pitch];
    __shared__ __align__(16) float w_slice[16 * pitch];
    int t = threadIdx.x, tx = t % 16, ty = t / 16, n0 = blockIdx.y * 128, oc0 = blockIdx.x * 128;
    float sum[8][8] = {};
    for (int k0 = 0; k0 < C; k0 += 16) {
        for (int i = t; i < 128 * 16 / W; i += 256) {
            int row = i / (16 / W), k = i % (16 / W) * W;
            float a[W] = {}, b[W] = {};
            if (n0 + row < N && k0 + k < C) load_pack(a, x + int64_t(n0 + row) * C + k0 + k);
            if (oc0 + row < OC && k0 + k < C) load_pack(b, w + int64_t(oc0 + row) * C + k0 + k);
#pragma unroll
            for (int j = 0; j < W; j++) x_slice[(k + j) * pitch + row] = a[j], w_slice[(k + j) * pitch + row] = b[j];
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 16; k++) {
            float a[2][4], b[2][4];  // rows 4 ty.. and 64 + 4 ty..: lanes side by side, no bank conflicts
#pragma unroll
            for (int i = 0; i < 2; i++) {
                load_pack(a[i], x_slice + k * pitch + 64 * i + 4 * ty);
                load_pack(b[i], w_slice + k * pitch + 64 * i + 4 * tx);
            }
#pragma unroll
            for (int i = 0; i < 64; i++) sum[i / 8][i % 8] += a[i / 32][i / 8 % 4] * b[i % 8 / 4][i % 4];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 64; i++) {
        int n = n0 + 64 * (i / 32) + 4 * ty + i / 8 % 4, oc = oc0 + 64 * (i % 8 / 4) + 4 * tx + i % 4;
        if (n < N && oc < OC) y[int64_t(n) * OC + oc] = X(sum[i / 8][i % 8] + static_cast<float>(bias[oc]));
    }
}

// ---- 5: tensor cores -----------------------------------------------------------------------------------------------
// One instruction, mma, multiplies a 16x16 by a 16x8 matrix, 2,048 multiply-adds, on operands that the 32 lanes of a
// warp hold together, each lane certain pairs of numbers (llmc/cuda/ptx.cuh says which). ldmatrix fetches them in just that
// pattern: each lane gives the address of 16 bytes of a row, and gets its pairs of four 8x8 matrices. A warp makes
// 64x64 outputs: for each 16 of K eight ldmatrix and 32 mma. Four warps make a tile of 128x128.
//
// ldmatrix reads 8 rows at a time: rows of 64 bytes would share banks, so they are 80 bytes apart, an odd number of 16
// bytes. (llmc/cuda/matmul_own.cuh exchanges chunks instead, which wastes no memory.)
//
// ---- 6: copies that overlap with arithmetic ------------------------------------------------------------------------
// In version 5 the tensor cores wait while a slice is fetched, and the loads wait while it is multiplied. cp.async
// copies from device to shared memory past the registers, in the background, and needs no thread to wait for it: with
// three slices in shared memory, one is multiplied while two are under way. `wait<1>` means: all but the newest group
// have arrived. One barrier a slice is left: it says that the new slice is there for all, and that the oldest may be
// overwritten.
template <int stages>
__global__ void __launch_bounds__(128)
    mma_kernel(bf16* y, const bf16* x, const bf16* w, const bf16* bias, int N, int C, int OC) {
    extern __shared__ __align__(16) unsigned char slices[];
    constexpr int pitch = 80, slice_bytes = 128 * pitch;  // of x; as much of w follows it
    int t = threadIdx.x, lane = t % 32, warp_n = t / 32 % 2 * 64, warp_oc = t / 64 * 64;
    int n0 = blockIdx.y * 128, oc0 = blockIdx.x * 128;

    auto fetch = [&](int slice) {
        unsigned char *to_x = slices + slice % stages * 2 * slice_bytes, *to_w = to_x + slice_bytes;
        int k = slice * 32 + t % 4 * 8;
        for (int row = t / 4; row < 128; row += 32) {
            bool x_there = n0 + row < N && k < C, w_there = oc0 + row < OC && k < C;
            ptx::cp_async_16(to_x + row * pitch + t % 4 * 16, x_there ? x + int64_t(n0 + row) * C + k : x, x_there);
            ptx::cp_async_16(to_w + row * pitch + t % 4 * 16, w_there ? w + int64_t(oc0 + row) * C + k : w, w_there);
        }
        ptx::cp_async_commit();
    };

    float sum[4][8][4] = {};
    int count = (C + 31) / 32;
    for (int s = 0; s < stages - 1; s++) fetch(s);  // beyond C there are only zeros
    for (int s = 0; s < count; s++) {
        if (stages == 1) fetch(s);
        ptx::cp_async_wait<(stages > 1 ? stages - 2 : 0)>();
        __syncthreads();
        if (stages > 1) fetch(s + stages - 1);
        const unsigned char *from_x = slices + s % stages * 2 * slice_bytes, *from_w = from_x + slice_bytes;
#pragma unroll
        for (int k = 0; k < 32; k += 16) {
            uint32_t a[4][4], b[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                ptx::ldmatrix_x4(a[i], from_x + (warp_n + i * 16 + lane % 16) * pitch + (k + lane / 16 * 8) * 2);
                ptx::ldmatrix_x4(
                    b[i], from_w + (warp_oc + i * 16 + lane % 8 + lane / 16 * 8) * pitch + (k + lane / 8 % 2 * 8) * 2);
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 8; j++)
                    ptx::mma_m16n8k16(sum[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
        }
        if (stages == 1) __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 8; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int n = n0 + warp_n + i * 16 + lane / 4 + e / 2 * 8, oc = oc0 + warp_oc + j * 8 + lane % 4 * 2 + e % 2;
                if (n < N && oc < OC) y[int64_t(n) * OC + oc] = bf16(sum[i][j][e] + static_cast<float>(bias[oc]));
            }
}

// ---- 7: llmc/cuda/matmul_own.cuh ----------------------------------------------------------------------------------------
// What is left: larger tiles where shared memory allows (128x256: half as many bytes from L2 as 64x64 for each
// multiply-add), fragments for the next step loaded during this one, copies spread between the mma, blocks that stay
// for many tiles so that no tile begins with a wait, an order of tiles that the L2 cache likes, results stored in whole
// lines, K split among blocks where there are few tiles, and all orientations. For fp32 it is version 4 with loads a
// slice ahead. Hopper's own instructions (wgmma, TMA), which cuBLASLt uses there, are not in it.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {"N C OC", {8192, 768, 3072}, {{1, 1, 1}, {37, 45, 70}, {133, 72, 137}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int N = setup.size[0], C = setup.size[1], OC = setup.size[2];
    size_t rows = static_cast<size_t>(N), width = static_cast<size_t>(C), outputs = static_cast<size_t>(OC);
    std::vector<X> x = zoo::random<X>(rows * width, 1), w = zoo::random<X>(outputs * width, 2, 1 / std::sqrt(float(C))),
                   bias = zoo::random<X>(outputs, 3), y(rows * outputs);
    if (setup.reference) matmul_forward<X>(y.data(), nullptr, x.data(), w.data(), bias.data(), N, C, OC);
    zoo::Page p;
    p.bytes = static_cast<double>(x.size() + w.size() + bias.size() + y.size()) * sizeof(X);
    p.flops = 2.0 * N * C * OC;
    p.workspace_bytes = matmul_own_workspace_bytes(device().multiprocessors);
    const X *dx = p.input(x), *dw = p.input(w), *dbias = p.input(bias);
    X* dy = p.output("y", y);

    auto tiled = [=](void (*kernel)(X*, const X*, const X*, const X*, int, int, int), int tile_n, int tile_oc,
                     dim3 block, int shared_bytes = 0) {
        return [=](cudaStream_t s) {
            launch(kernel, dim3(ceil_div(OC, tile_oc), ceil_div(N, tile_n)), block, shared_bytes, s, dy, dx, dw, dbias,
                   N, C, OC);
        };
    };
    p.versions = {{1, "a thread per output", tiled(naive_kernel<X>, 8, 32, dim3(32, 8))},
                  {2, "tiles in shared memory", tiled(shared_tiles_kernel<X>, 32, 32, dim3(32, 32))},
                  {3, "tiles in registers", tiled(register_tiles_kernel<X>, 64, 64, 256)}};
    if (C % pack_width<X> == 0) {  // rows of whole packs
        p.versions.push_back({4, "16 bytes at a time, 8x8 outputs a thread", tiled(packs_kernel<X>, 128, 128, 256)});
        if constexpr (std::is_same_v<X, bf16>) {
            p.versions.push_back({5, "tensor cores", tiled(mma_kernel<1>, 128, 128, 128, 2 * 128 * 80)});
            p.versions.push_back(
                {6, "copies beside arithmetic", tiled(mma_kernel<3>, 128, 128, 128, 3 * 2 * 128 * 80)});
        }
    }
    p.versions.push_back({7, "llmc/cuda/matmul_own.cuh", [=](cudaStream_t s) {
                              Matmul<X> args{.out = dy, .a = dx, .b = dw, .M = N, .N = OC, .K = C};
                              args.b_transposed = true, args.bias = dbias;
                              matmul_own(args, s);
                          }});
    return p;
}

}  // namespace matmul_forward_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    return zoo::run(argc, argv, "matmul_forward", matmul_forward_page::sizes, matmul_forward_page::page<float>,
                    matmul_forward_page::page<bf16>);
}
#endif
