// GELU, element by element.                                                      (the maths and the layer:
// llmc/cuda/gelu.cuh)
//
//   y = 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3)     x, y (n), n = B*T*4C
//
// Nothing could be easier to spread over threads, so this page is about the two things that are left: instructions and
// bytes under way. The limit is memory, 2 n sizeof(X) bytes. But it is a near thing: an H100 moves an element of bf16
// (2 bytes in, 2 bytes out, at about 3 TB/s) in the time in which its multiprocessors (132, four instructions of 32
// lanes each cycle) can issue some 30 instructions for it, and all of the address, load, arithmetic, rounding, store
// must fit in them.
#include "dev/cuda/zoo.cuh"

namespace gelu_page {

// ---- 1: a thread per element ---------------------------------------------------------------------------------------
// Coalesced as it should be: the lanes of a warp load 32 neighbours, 64 bytes of bf16, in one instruction. But each
// element pays for a whole address computation, bounds check, load and store; and tanhf computes two formulas, one for
// small arguments and one for large, and takes one of them: some fifteen instructions. (Where a function branches
// instead, and lanes of a warp disagree, both sides are executed one after the other; it comes to the same.)
__device__ inline float gelu_by_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

template <typename X>
__global__ void naive_kernel(X* y, const X* x, int64_t n) {
    int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (i < n) y[i] = X(gelu_by_tanh(static_cast<float>(x[i])));
}

// ---- 2: 16 bytes at a time -----------------------------------------------------------------------------------------
// A thread takes W = 8 elements of bf16 (4 floats), which one load and one store instruction move: address, check, load
// and store are shared by 8 elements, and a warp that waits has 512 bytes under way instead of 64. The last n % W
// elements are left to the naive kernel.
template <typename X>
__global__ void packed_kernel(X* y, const X* x, int64_t n) {
    constexpr int W = pack_width<X>;
    int64_t i = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * W;
    if (i >= n) return;
    float v[W];
    load_pack(v, x + i);
#pragma unroll
    for (int j = 0; j < W; j++) v[j] = gelu_by_tanh(v[j]);
    store_pack(y + i, v);
}

// ---- 3: one exponential instead of tanh ----------------------------------------------------------------------------
// 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)). Each multiprocessor has units for 2^x and 1/x beside the ones for + and *,
// right to six digits or more: __expf is a multiplication and 2^x, __fdividef a multiplication and 1/x. GELU becomes
// nine instructions. It loses less as well where x is negative: 1 + tanh(u) is there the difference of two numbers
// near 1.
//
// Where exp(-2u) overflows, 1 / infinity is 0, which is right.
__device__ inline float gelu_by_exp(float x) {
    float minus_2u = -1.5957691216f * x * (1.0f + 0.044715f * x * x);
    return __fdividef(x, 1.0f + __expf(minus_2u));
}

// packs: how many packs a thread takes; cached: see 4.
template <int packs, Cached cached, typename X>
__global__ void exp_kernel(X* y, const X* x, int64_t n) {
    constexpr int W = pack_width<X>;
    // Pack k of thread t is pack t + k * blockDim of the block, so that a warp's accesses stay neighbours.
    int64_t first = (blockIdx.x * static_cast<int64_t>(blockDim.x) * packs + threadIdx.x) * W;
    float v[packs][W];
#pragma unroll
    for (int k = 0; k < packs; k++) {
        int64_t i = first + k * static_cast<int64_t>(blockDim.x) * W;
        if (i < n) load_pack<W, cached>(v[k], x + i);
    }
#pragma unroll
    for (int k = 0; k < packs; k++) {
        int64_t i = first + k * static_cast<int64_t>(blockDim.x) * W;
        if (i >= n) continue;
#pragma unroll
        for (int j = 0; j < W; j++) v[k][j] = gelu_by_exp(v[k][j]);
        store_pack(y + i, v[k]);
    }
}

// ---- 4: tell the caches what will not be read again -----------------------------------------------------------------
// In a training step the next kernel, a matrix product, reads y at once; x is not wanted before the backward pass, long
// after it has been pushed out of the L2 cache (50 MB on an H100) by other data. A load marked "streaming" (__ldcs)
// puts x first in line to be pushed out, so that more of y is still there for the product. The gain is the product's:
// alone, with inputs that are never in the cache to begin with, as this page times it, versions 3 and 4 should be
// equal.
//
// ---- 5: two packs a thread -----------------------------------------------------------------------------------------
// The two loads are independent: both are issued before the first is waited for. Twice the bytes under way for each
// warp, and half as many warps to start and finish. It helps where 2048 threads on a multiprocessor with one load each
// (32 KiB) do not yet cover latency times bandwidth. It costs registers, and the grid's last wave of blocks is coarser.
//
// ---- beyond ---------------------------------------------------------------------------------------------------------
// The fastest GELU is no kernel at all: the matrix product that computes x has it in registers, and can store GELU(x)
// beside it: n sizeof(X) bytes less, and no launch. llmc/cuda/matmul_own.cuh and cuBLASLt do that in their epilogues, the
// work that follows a tile's sums (Epilogue::gelu in llmc/model/arguments.h). It is free only while the product's
// multiprocessors have nothing better to do at that moment than to store their tile.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {"n", {8192 * 3072}, {{1}, {129}, {3 * 1031}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int n = setup.size[0], block = setup.block;
    std::vector<X> x = zoo::random<X>(n, 1, 2.0f), y(n);
    if (setup.reference) gelu_forward(y.data(), x.data(), n);
    zoo::Page p;
    p.bytes = 2.0 * n * sizeof(X);
    const X* dx = p.input(x);
    X* dy = p.output("y", y);

    auto naive = [=](int begin, cudaStream_t s) {
        if (begin < n)
            launch(naive_kernel<X>, ceil_div(n - begin, block), block, 0, s, dy + begin, dx + begin, n - begin);
    };
    constexpr int W = pack_width<X>;
    int whole = n / W * W;  // elements in whole packs
    auto with_packs = [=](void (*kernel)(X*, const X*, int64_t), int packs) {
        return [=](cudaStream_t s) {
            if (whole) launch(kernel, ceil_div(whole, block * packs * W), block, 0, s, dy, dx, whole);
            naive(whole, s);
        };
    };
    p.versions = {
        {1, "a thread per element", [=](cudaStream_t s) { naive(0, s); }},
        {2, "16 bytes at a time", with_packs(packed_kernel<X>, 1)},
        {3, "one exponential instead of tanh", with_packs(exp_kernel<1, Cached::yes, X>, 1)},
        {4, "streaming loads", with_packs(exp_kernel<1, Cached::no, X>, 1)},
        {5, "two packs a thread", with_packs(exp_kernel<2, Cached::no, X>, 2)},
        {6, "llmc/cuda/gelu.cuh", [=](cudaStream_t s) { gelu_forward(dy, dx, n, s); }},
    };
    return p;
}

}  // namespace gelu_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    return zoo::run(argc, argv, "gelu", gelu_page::sizes, gelu_page::page<float>, gelu_page::page<bf16>);
}
#endif
