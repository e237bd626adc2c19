// Matrix products without tensor cores: exact fp32, and bf16 whose rows are not whole packs. Read it before
// matmul_own.cuh, which has the formula and does the same with tensor cores.
//
// Limit: arithmetic, ordinary multiply-adds. Each number of a and b is needed many times, so everything here is about
// reuse: out is cut into tiles of 128x128, a block of threads makes a tile, a thread 8x8 numbers of it, and K is walked
// in steps of 8, for each of which a slice of op(a) and of op(b) is brought to shared memory once and then read by all.
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/matmul_finish.cuh"

// ---- tiles of out, and parts of K ----

// What a kernel gets. An item is a tile of out and a part of K; blocks take items by number.
template <typename X>
struct OwnProduct {
    Matmul<X> args;
    float* out_float;  // the result if it is float and X is not: one kernel serves both
    int tiles_m, tiles_n, k_tiles, splits;
    float* partial;   // (splits,M,partial_row), if splits > 1
    int partial_row;  // N rounded up to 8
    bool packs;       // rows of out, bias and aux are whole packs of 16 bytes
    float*
        column_sums;  // (M / 64 rounded up to whole tiles, N): each of 64 rows of the result as it is stored; or null

    __device__ int items() const { return tiles_m * tiles_n * splits; }
    template <int W>
    __device__ void finish(int m, int n, int split, float (&sum)[W]) const {  // W outputs of an item
        if (m >= args.M || n >= args.N) return;
        if (splits == 1) finish_outputs(args, m, n, sum, packs, out_float);
        else store_some(partial + (int64_t(split) * args.M + m) * partial_row + n, sum, W, true);
    }
};

// Tiles are numbered down columns of 16 tiles: those that run at the same time form a square, more or less, and need
// the fewest different rows of op(a) and columns of op(b), which the L2 cache then serves.
struct OwnItem {
    int m, n, split, k, k_end;  // tile coordinates, in tiles; steps of K
    template <typename X>
    __device__ OwnItem(const OwnProduct<X>& p, int index) {
        constexpr int high = 16;
        int tiles = p.tiles_m * p.tiles_n, tile = index % tiles, first = tile / (high * p.tiles_n) * high;
        int height = min(high, p.tiles_m - first), within = tile - first * p.tiles_n;
        split = index / tiles, m = first + within % height, n = within / height;
        int parts = p.k_tiles / p.splits, longer = p.k_tiles % p.splits;  // the first parts are longer by one
        k = split * parts + min(split, longer), k_end = k + parts + (split < longer);
    }
};

// The second kernel of a product whose K was split: a thread adds W neighbouring outputs, part by part, and goes down
// the rows from blockIdx.y on.
template <int W, typename X>
__global__ void __launch_bounds__(256) matmul_add_partial_kernel(OwnProduct<X> p) {
    const int n = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * W;
    if (n >= p.args.N) return;
    for (int m = static_cast<int>(blockIdx.y); m < p.args.M; m += static_cast<int>(gridDim.y)) {
        float sum[W] = {}, x[W];
#pragma unroll 4
        for (int s = 0; s < p.splits; s++) {
            load_some(x, p.partial + (int64_t(s) * p.args.M + m) * p.partial_row + n, W, true);
#pragma unroll
            for (int j = 0; j < W; j++) sum[j] += x[j];
        }
        finish_outputs(p.args, m, n, sum, p.packs, p.out_float);
    }
}

// ---- the kernel ----

struct PlainTile {
    static constexpr int BM = 128, BN = 128, BK = 8, threads = 256, blocks_per_multiprocessor = 2;
    static constexpr int fma_per_clock = 128;
};

// A thread's four elements of a slice (128,8) of an operand, on their way to shared memory, where it lies k by k:
// to[k][e]. A warp loads neighbours along the direction in which the operand is contiguous, and stores to all banks.
template <typename X>
struct PlainSlice {
    static constexpr int pitch = 128 + 4;
    const X* from;
    int64_t step, slice_step;  // from one of the four elements to the next; from one slice to the next
    int e_left, e_step, k_left, k_step, place, place_step;
    float x[4];
    __device__ PlainSlice(const X* operand, int extent, int K, int e0, int k0, bool k_contiguous) {
        int t = threadIdx.x, e = k_contiguous ? t / 8 : t % 128, k = k_contiguous ? t % 8 : t / 128;
        e_step = k_contiguous ? 32 : 0, k_step = k_contiguous ? 0 : 2;
        e_left = extent - e0 - e, k_left = K - k0 - k;
        from = operand + (k_contiguous ? int64_t(e0 + e) * K + k0 + k : int64_t(k0 + k) * extent + e0 + e);
        step = k_contiguous ? 32ll * K : 2ll * extent, slice_step = k_contiguous ? 8 : 8ll * extent;
        place = k * pitch + e, place_step = k_step * pitch + e_step;
    }
    __device__ void load() {  // the next slice
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[i] = i * e_step < e_left && i * k_step < k_left ? static_cast<float>(from[i * step]) : 0.0f;
        from += slice_step, k_left -= 8;
    }
    __device__ void store(float* slice) const {
#pragma unroll
        for (int i = 0; i < 4; i++) slice[place + i * place_step] = x[i];
    }
};

// A block makes one item. A thread makes 8x8 outputs, in four pieces of 4x4, 64 rows or columns apart, so that the
// lanes of a warp (4 down, 8 across) read neighbouring packs. While a slice is multiplied, the next one comes to
// registers.
template <typename X>
__global__ void __launch_bounds__(PlainTile::threads, PlainTile::blocks_per_multiprocessor)
    matmul_plain_kernel(OwnProduct<X> p) {
    constexpr int BK = PlainTile::BK, pitch = PlainSlice<X>::pitch;
    __shared__ __align__(16) float a_slices[2][BK * pitch];
    __shared__ __align__(16) float b_slices[2][BK * pitch];
    const Matmul<X>& args = p.args;
    OwnItem item(p, blockIdx.x);
    int m0 = item.m * 128, n0 = item.n * 128, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int down = (warp / 2 * 4 + lane / 8) * 4, across = (warp % 2 * 8 + lane % 8) * 4;
    PlainSlice<X> a(args.a, args.M, args.K, m0, item.k * BK, !args.a_transposed);
    PlainSlice<X> b(args.b, args.N, args.K, n0, item.k * BK, args.b_transposed);
    a.load(), b.load();
    float sum[8][8] = {};
    for (int left = item.k_end - item.k; left > 0; left--) {
        float *slice_a = a_slices[left % 2], *slice_b = b_slices[left % 2];
        a.store(slice_a), b.store(slice_b);
        __syncthreads();  // the slice is there; the one before it may still be read, the one before that not
        a.load(), b.load();
#pragma unroll
        for (int i = 0; i < BK; i++) {
            float x[8], y[8];
#pragma unroll
            for (int side = 0; side < 2; side++) {
                load_pack(reinterpret_cast<float(&)[4]>(x[4 * side]), slice_a + i * pitch + down + 64 * side);
                load_pack(reinterpret_cast<float(&)[4]>(y[4 * side]), slice_b + i * pitch + across + 64 * side);
            }
#pragma unroll
            for (int r = 0; r < 8; r++)
#pragma unroll
                for (int c = 0; c < 8; c++) sum[r][c] += x[r] * y[c];
        }
    }
#pragma unroll 1  // one row's code serves all: the rows move through the registers instead
    for (int r = 0; r < 8; r++) {
#pragma unroll
        for (int side = 0; side < 2; side++)
            p.finish(m0 + down + r % 4 + r / 4 * 64, n0 + across + side * 64, item.split,
                     reinterpret_cast<float(&)[4]>(sum[0][4 * side]));
#pragma unroll
        for (int i = 0; i < 7 * 8; i++) sum[i / 8][i % 8] = sum[i / 8 + 1][i % 8];
    }
}
