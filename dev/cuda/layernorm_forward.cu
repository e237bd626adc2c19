// Layer normalisation after a residual add: the first page to read.       (the maths and the layer: llmc/cuda/layernorm.cuh)
//
//   r = a + b                          a, b, r, y (N,C), N = B*T rows
//   y = (r - mean) * rstd * w + bias   mean, rstd (N) of each row; w, bias (C)
//
// A GPU runs a kernel as a grid of blocks, each of up to 1024 threads; 32 consecutive threads form a warp, which
// executes one instruction for all of its 32 lanes at a time. A multiprocessor (an H100 has 132) holds up to 64 warps
// and issues, each cycle, instructions of those that are ready; a warp that waits for memory, some 500 cycles, costs
// nothing as long as others have work. Memory is moved in sectors of 32 bytes: a load instruction of a warp costs as
// many sectors as its 32 addresses touch.
//
// The layer needs about ten operations for each element, and a GPU has time for more than a hundred while that element
// comes from memory. So its limit is memory: a and b have to be read, r and y to be written, 4 N C sizeof(X) bytes, and
// every version below is a way to get nearer to these bytes, or to keep more of them under way.
#include "dev/cuda/zoo.cuh"

namespace layernorm_forward_page {

// ---- 1: a thread per row -------------------------------------------------------------------------------------------
// The CPU's loop over rows, given out to threads. Two things go wrong. In each step of the loop the 32 lanes of a warp
// read elements that are C apart: 32 sectors of 32 bytes for 32 elements, of which a 16-bit element uses a sixteenth;
// the rest helps only if it is still in the L1 cache when the loop gets there. And N rows are only N threads: 8192 are
// two warps for each multiprocessor of an H100, where 64 have room to hide each other's waiting.
//
// The residual add is a kernel of its own, with a thread per element: neighbouring lanes read neighbouring elements, so
// a warp's load is a few full sectors ("coalesced"). What it gives away: r is written to memory and read back.
template <typename X>
__global__ void add_kernel(X* r, const X* a, const X* b, int64_t n) {
    int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) r[i] = X(static_cast<float>(a[i]) + static_cast<float>(b[i]));
}

template <typename X>
__global__ void thread_per_row_kernel(X* y, float* mean, float* rstd, const X* x, const X* w, const X* bias, int N,
                                      int C) {
    int n = blockIdx.x * blockDim.x + threadIdx.x;
    if (n >= N) return;  // the last block has threads to spare
    const X* row = x + static_cast<int64_t>(n) * C;
    float m = 0, variance = 0;
    for (int c = 0; c < C; c++) m += static_cast<float>(row[c]);
    m /= C;
    for (int c = 0; c < C; c++) {  // a second pass, because E[x^2] - mean^2 cancels
        float d = static_cast<float>(row[c]) - m;
        variance += d * d;
    }
    float s = rsqrtf(variance / C + 1e-5f);
    for (int c = 0; c < C; c++) {
        float xhat = (static_cast<float>(row[c]) - m) * s;
        y[static_cast<int64_t>(n) * C + c] = X(xhat * static_cast<float>(w[c]) + static_cast<float>(bias[c]));
    }
    mean[n] = m, rstd[n] = s;
}

// ---- 2: a block per row, sums in shared memory ---------------------------------------------------------------------
// The threads of a block share a row: thread t takes elements t, t + blockDim, ... so that a warp reads 32 neighbours,
// and N blocks are enough threads for any GPU. The price is that a sum is now spread over threads. They add it up
// through shared memory, 100 to 200 KiB on each multiprocessor that all threads of a block can reach in about 30
// cycles: half of the threads add the other half's values to theirs, then half of those, log2(blockDim) rounds.
//
// __syncthreads() waits until every thread of the block is there and its writes to shared memory can be seen. Without
// the one in the loop a thread could read a value that its neighbour has not added to yet. These waits are what is left
// to gain: eight rounds for 256 threads, twice, in which most of the block idles.
__device__ inline float sum_over_block(float value, float* partial) {
    partial[threadIdx.x] = value;
    __syncthreads();
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
        __syncthreads();
    }
    float sum = partial[0];
    __syncthreads();  // everyone has read partial[0] before the next sum overwrites it
    return sum;
}

template <typename X>
__global__ void block_per_row_kernel(X* y, float* mean, float* rstd, const X* x, const X* w, const X* bias, int C) {
    __shared__ float partial[1024];
    const X* row = x + static_cast<int64_t>(blockIdx.x) * C;
    float sum = 0, squares = 0;
    for (int c = threadIdx.x; c < C; c += blockDim.x) sum += static_cast<float>(row[c]);
    float m = sum_over_block(sum, partial) / C;
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float d = static_cast<float>(row[c]) - m;
        squares += d * d;
    }
    float s = rsqrtf(sum_over_block(squares, partial) / C + 1e-5f);
    for (int c = threadIdx.x; c < C; c += blockDim.x) {
        float xhat = (static_cast<float>(row[c]) - m) * s;
        y[static_cast<int64_t>(blockIdx.x) * C + c] = X(xhat * static_cast<float>(w[c]) + static_cast<float>(bias[c]));
    }
    if (threadIdx.x == 0) mean[blockIdx.x] = m, rstd[blockIdx.x] = s;
}

// ---- 3: a warp per row, sums by shuffles ---------------------------------------------------------------------------
// The lanes of a warp can read each other's registers: __shfl_xor_sync(mask, x, k) gives each lane the x of lane ^ k.
// Five of them (k = 16, 8, 4, 2, 1) sum over the warp, and every lane ends up with the result: no shared memory and no
// barrier. So a warp takes a row by itself, and the warps of a block never wait for each other. A row of 768 elements
// is 24 for each lane, long enough to pay for the ten shuffles.
__device__ inline float sum_over_warp(float x) {
    for (int k = 16; k > 0; k /= 2) x += __shfl_xor_sync(0xffffffffu, x, k);
    return x;
}

template <typename X>
__global__ void warp_per_row_kernel(X* y, float* mean, float* rstd, const X* x, const X* w, const X* bias, int N,
                                    int C) {
    int n = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (n >= N) return;  // the whole warp together: a shuffle needs all lanes that its mask names
    const X* row = x + static_cast<int64_t>(n) * C;
    float sum = 0, squares = 0;
    for (int c = lane; c < C; c += 32) sum += static_cast<float>(row[c]);
    float m = sum_over_warp(sum) / C;
    for (int c = lane; c < C; c += 32) {
        float d = static_cast<float>(row[c]) - m;
        squares += d * d;
    }
    float s = rsqrtf(sum_over_warp(squares) / C + 1e-5f);
    for (int c = lane; c < C; c += 32) {
        float xhat = (static_cast<float>(row[c]) - m) * s;
        y[static_cast<int64_t>(n) * C + c] = X(xhat * static_cast<float>(w[c]) + static_cast<float>(bias[c]));
    }
    if (lane == 0) mean[n] = m, rstd[n] = s;
}

// ---- 4: the residual add in the same kernel ------------------------------------------------------------------------
// So far there were two kernels, and r went to memory and back between them: read a, b, write r; read r, write y makes
// 5 N C elements. Whoever normalises a row can as well add it up first, and its later passes find r in the L1 cache,
// where the warp has just put it: 4 N C elements, and one launch less. Nothing else changes; fusing neighbours that are
// both bound by memory is the surest gain there is.
template <typename X>
__global__ void fused_kernel(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                             int N, int C) {
    int n = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (n >= N) return;
    int64_t begin = static_cast<int64_t>(n) * C;
    float sum = 0, squares = 0;
    for (int c = lane; c < C; c += 32) {
        X x = X(static_cast<float>(a[begin + c]) + static_cast<float>(b[begin + c]));
        r[begin + c] = x;
        sum += static_cast<float>(x);  // of the rounded value, which is what the backward pass will see
    }
    float m = warp_sum(sum) / C;  // llmc/cuda/pack.cuh's, the same as sum_over_warp
    for (int c = lane; c < C; c += 32) {
        float d = static_cast<float>(r[begin + c]) - m;  // a lane reads back what it wrote itself: no barrier
        squares += d * d;
    }
    float s = rsqrtf(warp_sum(squares) / C + 1e-5f);
    for (int c = lane; c < C; c += 32) {
        float xhat = (static_cast<float>(r[begin + c]) - m) * s;
        y[begin + c] = X(xhat * static_cast<float>(w[c]) + static_cast<float>(bias[c]));
    }
    if (lane == 0) mean[n] = m, rstd[n] = s;
}

// ---- 5: 16 bytes at a time -----------------------------------------------------------------------------------------
// A thread can load or store 16 bytes with one instruction: W = 8 elements of bf16 or 4 floats. The bytes are the same,
// but there are 8 (4) times fewer instructions for addresses, loads, loop counters; and since a warp waits at the first
// use of what it loads, a wider load means more bytes under way for each warp that waits. A kernel keeps memory busy if
// bytes under way >= latency * bandwidth, some 40 KiB on each multiprocessor of an H100.
//
// The address has to be a multiple of 16 bytes: of every row, if C is a multiple of W. Else the same kernel runs with
// W = 1.
template <int W, typename X>
__global__ void packed_kernel(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                              int N, int C) {
    int n = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (n >= N) return;
    int64_t begin = static_cast<int64_t>(n) * C;
    float sum = 0, squares = 0;
    for (int c = lane * W; c < C; c += 32 * W) {
        float pa[W], pb[W];
        load_pack(pa, a + begin + c), load_pack(pb, b + begin + c);
        for (int i = 0; i < W; i++) pa[i] = static_cast<float>(X(pa[i] + pb[i])), sum += pa[i];
        store_pack(r + begin + c, pa);
    }
    float m = warp_sum(sum) / C;
    for (int c = lane * W; c < C; c += 32 * W) {
        float x[W];
        load_pack(x, r + begin + c);
        for (int i = 0; i < W; i++) squares += (x[i] - m) * (x[i] - m);
    }
    float s = rsqrtf(warp_sum(squares) / C + 1e-5f);
    for (int c = lane * W; c < C; c += 32 * W) {
        float x[W], pw[W], pbias[W];
        load_pack(x, r + begin + c), load_pack(pw, w + c), load_pack(pbias, bias + c);
        for (int i = 0; i < W; i++) x[i] = (x[i] - m) * s * pw[i] + pbias[i];
        store_pack(y + begin + c, x);
    }
    if (lane == 0) mean[n] = m, rstd[n] = s;
}

// ---- 6: the row in registers ---------------------------------------------------------------------------------------
// The second and third pass re-read the row from the L1 cache, if the other warps' rows have not pushed it out by then,
// and a load from L1 still costs an instruction and 30 cycles. A lane's share of a row is small: K packs, for C = 768
// in bf16 three of 8. Registers hold it (a thread has up to 255), if K is known to the compiler: an array whose every
// index is a constant lives in registers, any other in memory. So K is a template argument and the loops are unrolled.
//
// All 2 K loads of a lane are independent and are issued before the first is waited for: the most bytes under way so
// far. And each pass but the first is now arithmetic alone.
//
// The price: a multiprocessor's 64 K registers are shared by its threads, so beyond 32 for each of 2048 threads fewer
// warps fit. Wide rows are the loss side of this trade: past 8 packs version 5 runs.
template <int K, int W, typename X>
__global__ void registers_kernel(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w,
                                 const X* bias, int N, int C) {
    int n = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32;
    if (n >= N) return;
    int64_t begin = static_cast<int64_t>(n) * C;
    float x[K][W], pb[K][W], sum = 0, squares = 0;
#pragma unroll
    for (int k = 0; k < K; k++) {
        int c = (k * 32 + lane) * W;
        if (c < C) load_pack(x[k], a + begin + c), load_pack(pb[k], b + begin + c);
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        int c = (k * 32 + lane) * W;
        if (c >= C) continue;
#pragma unroll
        for (int i = 0; i < W; i++) x[k][i] = static_cast<float>(X(x[k][i] + pb[k][i])), sum += x[k][i];
        store_pack(r + begin + c, x[k]);
    }
    float m = warp_sum(sum) / C;
#pragma unroll
    for (int k = 0; k < K; k++)
        if ((k * 32 + lane) * W < C)
#pragma unroll
            for (int i = 0; i < W; i++) squares += (x[k][i] - m) * (x[k][i] - m);
    float s = rsqrtf(warp_sum(squares) / C + 1e-5f);
#pragma unroll
    for (int k = 0; k < K; k++) {
        int c = (k * 32 + lane) * W;
        if (c >= C) continue;
        float pw[W], pbias[W];
        load_pack(pw, w + c), load_pack(pbias, bias + c);
#pragma unroll
        for (int i = 0; i < W; i++) x[k][i] = (x[k][i] - m) * s * pw[i] + pbias[i];
        store_pack(y + begin + c, x[k]);
    }
    if (lane == 0) mean[n] = m, rstd[n] = s;
}

// ---- 7: llmc/cuda/layernorm.cuh -----------------------------------------------------------------------------------------
// Version 6, with the row kept as it came from memory, two 16-bit elements a register, and converted in each pass anew:
// half the registers for an instruction or two per element. Wider rows get a block each, with the same code.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {"N C", {32768, 768}, {{1, 1}, {5, 65}, {3, 264}, {7, 771}, {2, 2056}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int N = setup.size[0], C = setup.size[1], block = setup.block;
    int64_t n = static_cast<int64_t>(N) * C;
    std::vector<X> a = zoo::random<X>(n, 1), b = zoo::random<X>(n, 2), w = zoo::random<X>(C, 3),
                   bias = zoo::random<X>(C, 4), r(n), y(n);
    std::vector<float> mean(N), rstd(N);
    if (setup.reference)
        residual_layernorm_forward(r.data(), y.data(), mean.data(), rstd.data(), a.data(), b.data(), w.data(),
                                   bias.data(), N, C, N, Dropout{}, 1e-5f);
    zoo::Page p;
    p.bytes = 4.0 * n * sizeof(X);
    const X *da = p.input(a), *db = p.input(b), *dw = p.input(w), *dbias = p.input(bias);
    X *dr = p.output("r", r), *dy = p.output("y", y);
    float *dmean = p.output("mean", mean), *drstd = p.output("rstd", rstd);

    int rows = block / 32;  // a block's, with a warp for each
    auto add = [=](cudaStream_t s) { launch(add_kernel<X>, ceil_div(n, block), block, 0, s, dr, da, db, n); };
    auto packed = [=](cudaStream_t s) {
        auto kernel = C % pack_width<X> == 0 ? packed_kernel<pack_width<X>, X> : packed_kernel<1, X>;
        launch(kernel, ceil_div(N, rows), block, 0, s, dr, dy, dmean, drstd, da, db, dw, dbias, N, C);
    };
    auto registers = [=](cudaStream_t s) {
        constexpr int W = pack_width<X>;
        int K = ceil_div(C, 32 * W);
        if (C % W || K > 8) return packed(s);
        auto kernel = K == 1   ? registers_kernel<1, W, X>
                      : K == 2 ? registers_kernel<2, W, X>
                      : K == 3 ? registers_kernel<3, W, X>
                      : K == 4 ? registers_kernel<4, W, X>
                      : K <= 6 ? registers_kernel<6, W, X>
                               : registers_kernel<8, W, X>;
        launch(kernel, ceil_div(N, rows), block, 0, s, dr, dy, dmean, drstd, da, db, dw, dbias, N, C);
    };
    p.versions = {
        {1, "a thread per row, after a kernel for the residual add",
         [=](cudaStream_t s) {
             add(s);
             launch(thread_per_row_kernel<X>, ceil_div(N, block), block, 0, s, dy, dmean, drstd, dr, dw, dbias, N, C);
         }},
        {2, "a block per row, sums in shared memory",
         [=](cudaStream_t s) {
             add(s);
             launch(block_per_row_kernel<X>, N, block, 0, s, dy, dmean, drstd, dr, dw, dbias, C);
         }},
        {3, "a warp per row, sums by shuffles",
         [=](cudaStream_t s) {
             add(s);
             launch(warp_per_row_kernel<X>, ceil_div(N, rows), block, 0, s, dy, dmean, drstd, dr, dw, dbias, N, C);
         }},
        {4, "the residual add in the same kernel",
         [=](cudaStream_t s) {
             launch(fused_kernel<X>, ceil_div(N, rows), block, 0, s, dr, dy, dmean, drstd, da, db, dw, dbias, N, C);
         }},
        {5, "16 bytes at a time", packed},
        {6, "the row in registers", registers},
        {7, "llmc/cuda/layernorm.cuh",
         [=](cudaStream_t s) {
             residual_layernorm_forward(dr, dy, dmean, drstd, da, db, dw, dbias, N, C, N, Dropout{}, 1e-5f, s);
         }},
    };
    return p;
}

}  // namespace layernorm_forward_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    namespace layer = layernorm_forward_page;
    return zoo::run(argc, argv, "layernorm_forward", layer::sizes, layer::page<float>, layer::page<bf16>);
}
#endif
