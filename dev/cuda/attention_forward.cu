// Causal self-attention, forward.                                       (the maths and the layer: llmc/cuda/attention.cuh)
//
//   s[i,j] = q_i . k_j / sqrt(HS) for keys j <= i      p = softmax over j      out_i = sum_j p_ij v_j
//
// for each of B * NH heads; q, k, v in one packed qkv (B,T,3C), out (B,T,C), C = NH * HS. Inputs and outputs are
// 4 B T C elements, arithmetic is 2 B T T C (counting the half of the products that is not masked): T / 2 operations an
// element, enough to keep the arithmetic units busy, if only s and p, which are T times T, never go to memory. That is
// the whole story of this page. The limit is the rate of a large matrix product.
#include "dev/cuda/zoo.cuh"
#include "llmc/cuda/ptx.cuh"

namespace attention_forward_page {

// Element 0 of position t, head h, in q; k is C elements behind it, v 2 C.
template <typename X>
__device__ const X* query_at(const X* qkv, int b, int h, int t, int T, int NH, int HS) {
    return qkv + (static_cast<int64_t>(b) * T + t) * 3 * NH * HS + h * HS;
}

// ---- 1: three kernels, scores in memory ----------------------------------------------------------------------------
// As the formulas say it: a thread for each score, a thread for each row's softmax, a thread for each output. The
// scores are 4 B NH T T bytes in fp32, for GPT-2's 12 heads, B = 8 and T = 1024 already 400 MB, written once and read
// three times. Memory runs full long before the GPU does: twice the T, four times the scores.
template <typename X>
__global__ void scores_kernel(float* s, const X* qkv, int B, int T, int NH, int HS) {
    int64_t element = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (element >= static_cast<int64_t>(B) * NH * T * T) return;
    int j = static_cast<int>(element % T), i = static_cast<int>(element / T % T);
    int h = static_cast<int>(element / T / T % NH), b = static_cast<int>(element / T / T / NH);
    if (j > i) return;  // the future
    const X *q = query_at(qkv, b, h, i, T, NH, HS), *k = query_at(qkv, b, h, j, T, NH, HS) + NH * HS;
    float dot = 0;
    for (int d = 0; d < HS; d++) dot += static_cast<float>(q[d]) * static_cast<float>(k[d]);
    s[element] = dot * rsqrtf(static_cast<float>(HS));
}

static __global__ void softmax_rows_kernel(float* s, int64_t rows, int T) {
    int64_t row = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (row >= rows) return;
    int n = static_cast<int>(row % T) + 1;
    float *x = s + row * T, max = -1e30f, sum = 0;
    for (int j = 0; j < n; j++) max = fmaxf(max, x[j]);
    for (int j = 0; j < n; j++) sum += x[j] = expf(x[j] - max);
    for (int j = 0; j < n; j++) x[j] /= sum;
}

template <typename X>
__global__ void values_kernel(X* out, const float* p, const X* qkv, int B, int T, int NH, int HS) {
    int64_t element = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
    if (element >= static_cast<int64_t>(B) * T * NH * HS) return;
    int d = static_cast<int>(element % HS), h = static_cast<int>(element / HS % NH);
    int i = static_cast<int>(element / HS / NH % T), b = static_cast<int>(element / HS / NH / T);
    const float* row = p + ((static_cast<int64_t>(b) * NH + h) * T + i) * T;
    float sum = 0;
    for (int j = 0; j <= i; j++) sum += row[j] * static_cast<float>(query_at(qkv, b, h, j, T, NH, HS)[2 * NH * HS + d]);
    out[element] = X(sum);
}

// ---- 2: one visit to each key --------------------------------------------------------------------------------------
// The online softmax of the page classifier.cu, with one more passenger: beside the sum of exp(s_j - max), also the sum
// of exp(s_j - max) v_j is kept relative to the largest score so far, and rescaled when a larger one comes. So a query
// can meet its keys one after the other and forget each score as soon as it is used: no T x T buffer, one kernel.
//
// A warp has a query. A lane has the dimensions lane, lane + 32, ... of q, of the output and of each key and value; the
// score is a sum over the warp. Of every 4 operations one is a shuffle, and each query reads all its keys from the
// caches again.
template <typename X>
__global__ void online_kernel(X* out, const X* qkv, int B, int T, int NH, int HS) {
    int64_t row = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) / 32;
    if (row >= static_cast<int64_t>(B) * NH * T) return;
    int lane = threadIdx.x % 32, i = static_cast<int>(row % T), h = static_cast<int>(row / T % NH);
    int b = static_cast<int>(row / T / NH), C = NH * HS;
    const X *q = query_at(qkv, b, h, i, T, NH, HS), *k = query_at(qkv, b, h, 0, T, NH, HS) + C;
    float my_q[4] = {}, sum[4] = {}, max = -1e30f, total = 0;  // HS <= 128
#pragma unroll
    for (int n = 0; n < 4; n++)
        if (int d = lane + 32 * n; d < HS) my_q[n] = static_cast<float>(q[d]) * rsqrtf(static_cast<float>(HS));
    for (int j = 0; j <= i; j++, k += 3 * C) {
        float score = 0;
#pragma unroll
        for (int n = 0; n < 4; n++)
            if (int d = lane + 32 * n; d < HS) score += my_q[n] * static_cast<float>(k[d]);
        score = warp_sum(score);
        float larger = fmaxf(max, score), rescale = __expf(max - larger), p = __expf(score - larger);
        max = larger, total = total * rescale + p;
#pragma unroll
        for (int n = 0; n < 4; n++)
            if (int d = lane + 32 * n; d < HS) sum[n] = sum[n] * rescale + p * static_cast<float>(k[C + d]);
    }
    X* to = out + (static_cast<int64_t>(b) * T + i) * C + h * HS;
#pragma unroll
    for (int n = 0; n < 4; n++)
        if (int d = lane + 32 * n; d < HS) to[d] = X(sum[n] / total);
}

// ---- 3: tiles of keys and values in shared memory ------------------------------------------------------------------
// A block has 64 queries, and for all of them together it brings 32 keys and their values into shared memory: each is
// read from global memory T / 64 times instead of T times. (FlashAttention: Dao et al. 2022,
// https://arxiv.org/abs/2205.14135)
//
// Four threads share a query, each with every fourth dimension, so that a score takes two shuffles for 64 queries'
// worth of work, not five for one. The eight queries of a warp read the same key at the same time: shared memory gives
// a word to any number of lanes in one go. Tiles beyond the diagonal are not visited at all: half of the work is saved.
template <typename X, int D>  // D >= HS; what is beyond HS is zero
__global__ void __launch_bounds__(256) tiles_kernel(X* out, const X* qkv, int T, int NH, int HS) {
    constexpr int keys = 32, queries = 64, own = D / 4;
    __shared__ float k_tile[keys][D];
    __shared__ float v_tile[keys][D];
    int b = blockIdx.y / NH, h = blockIdx.y % NH, t0 = (gridDim.x - 1 - blockIdx.x) * queries;  // long queries first
    int part = threadIdx.x % 4, i = t0 + threadIdx.x / 4, C = NH * HS;
    const X *q = query_at(qkv, b, h, min(i, T - 1), T, NH, HS), *k = query_at(qkv, b, h, 0, T, NH, HS) + C;
    float my_q[own], sum[own], max = -1e30f, total = 0;
#pragma unroll
    for (int n = 0; n < own; n++) {
        int d = 4 * n + part;
        my_q[n] = d < HS ? static_cast<float>(q[d]) * rsqrtf(static_cast<float>(HS)) : 0.0f, sum[n] = 0;
    }
    for (int key = 0; key < min(t0 + queries, T); key += keys) {
        __syncthreads();  // all are done with the tile before
        for (int e = threadIdx.x; e < keys * D; e += blockDim.x) {
            int j = e / D, d = e % D;
            bool there = key + j < T && d < HS;
            const X* from = k + static_cast<int64_t>(key + j) * 3 * C + d;
            k_tile[j][d] = there ? static_cast<float>(from[0]) : 0.0f;
            v_tile[j][d] = there ? static_cast<float>(from[C]) : 0.0f;
        }
        __syncthreads();  // the tile is there
        for (int j = 0; j < keys; j++) {
            float score = 0;
#pragma unroll
            for (int n = 0; n < own; n++) score += my_q[n] * k_tile[j][4 * n + part];
            score += __shfl_xor_sync(0xffffffffu, score, 1);
            score += __shfl_xor_sync(0xffffffffu, score, 2);
            if (key + j > i) score = -INFINITY;  // exp makes it 0
            float larger = fmaxf(max, score), rescale = __expf(max - larger), p = __expf(score - larger);
            max = larger, total = total * rescale + p;
#pragma unroll
            for (int n = 0; n < own; n++) sum[n] = sum[n] * rescale + p * v_tile[j][4 * n + part];
        }
    }
    if (i >= T) return;
    X* to = out + (static_cast<int64_t>(b) * T + i) * C + h * HS;
#pragma unroll
    for (int n = 0; n < own; n++)
        if (int d = 4 * n + part; d < HS) to[d] = X(sum[n] / total);
}

// ---- 4: tensor cores -----------------------------------------------------------------------------------------------
// Both products in bf16, by mma.sync: a warp multiplies 16 rows by 16 columns of a left operand with 16 by 8 of a right
// one in one instruction (llmc/cuda/ptx.cuh shows which lane holds which elements). The page matmul_forward.cu explains the
// tiles; here two products follow each other, and that is the idea of this version: the scores come out of the first
// product in just the layout in which the second wants its left operand. Lane 4 g + c holds, of every 8 columns,
// columns 2 c and 2 c + 1 of rows g and g + 8, as sums and as operand. So the probabilities are rounded to bf16 where
// they are and multiplied again; they never leave their registers. A row's maximum is that of four lanes: two shuffles
// for 64 keys.
//
// A warp has 16 queries, a block four warps. A row in shared memory is D + 8 elements long: ldmatrix reads 16 bytes of
// each of eight rows at a time, and rows of D elements would all begin in the same bank.
template <int D>
__global__ void __launch_bounds__(128) mma_kernel(bf16* out, const bf16* qkv, int T, int NH, int HS) {
    constexpr int keys = 64, queries = 64, row = D + 8;
    extern __shared__ __align__(16) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *k_tile = q_tile + queries * row, *v_tile = k_tile + keys * row;
    int b = blockIdx.y / NH, h = blockIdx.y % NH, t0 = (gridDim.x - 1 - blockIdx.x) * queries, C = NH * HS;
    int lane = threadIdx.x % 32, group = lane / 4, quad = lane % 4, warp_row = threadIdx.x / 32 * 16;
    const bf16* q = query_at(qkv, b, h, 0, T, NH, HS);
    auto load = [&](bf16* tile, const bf16* from, int first) {
        for (int e = threadIdx.x; e < 64 * D; e += blockDim.x) {
            int r = e / D, d = e % D;
            tile[r * row + d] =
                first + r < T && d < HS ? from[static_cast<int64_t>(first + r) * 3 * C + d] : bf16(0.0f);
        }
    };
    float sum[D / 8][4] = {}, max[2] = {-1e30f, -1e30f}, total[2] = {};  // of rows group and group + 8
    float scale = 1.44269504f * rsqrtf(static_cast<float>(HS));          // * log2 e: the softmax is in base 2
    load(q_tile, q, t0);
    for (int key = 0; key < min(t0 + queries, T); key += keys) {
        __syncthreads();
        load(k_tile, q + C, key);
        load(v_tile, q + 2 * C, key);
        __syncthreads();
        float s[keys / 8][4] = {};
        for (int k = 0; k < D; k += 16) {
            uint32_t a[4], two[4];
            ptx::ldmatrix_x4(a, q_tile + (warp_row + lane % 16) * row + k + lane / 16 * 8);
#pragma unroll
            for (int n = 0; n < keys / 8; n += 2) {  // two right operands at a time
                ptx::ldmatrix_x4(two, k_tile + (8 * n + lane % 8 + lane / 16 * 8) * row + k + lane / 8 % 2 * 8);
                ptx::mma_m16n8k16(s[n], a, two[0], two[1]);
                ptx::mma_m16n8k16(s[n + 1], a, two[2], two[3]);
            }
        }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int i = t0 + warp_row + group + 8 * r;
            float larger = max[r];
#pragma unroll
            for (int e = 0; e < keys / 4; e++) {
                int j = key + e / 2 * 8 + 2 * quad + e % 2;
                float& x = s[e / 2][2 * r + e % 2];
                x = j > i ? -INFINITY : x * scale;
                larger = fmaxf(larger, x);
            }
            larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 1));
            larger = fmaxf(larger, __shfl_xor_sync(0xffffffffu, larger, 2));
            float rescale = ptx::exp2_approx(max[r] - larger);
            max[r] = larger, total[r] *= rescale;
#pragma unroll
            for (int e = 0; e < keys / 4; e++) {
                float& x = s[e / 2][2 * r + e % 2];
                total[r] += x = ptx::exp2_approx(x - larger);
            }
#pragma unroll
            for (int d = 0; d < D / 8; d++) sum[d][2 * r] *= rescale, sum[d][2 * r + 1] *= rescale;
        }
#pragma unroll
        for (int n = 0; n < keys / 8; n += 2) {
            uint32_t two[4],
                a[4] = {ptx::pack_bf16x2(s[n][0], s[n][1]), ptx::pack_bf16x2(s[n][2], s[n][3]),
                        ptx::pack_bf16x2(s[n + 1][0], s[n + 1][1]), ptx::pack_bf16x2(s[n + 1][2], s[n + 1][3])};
#pragma unroll
            for (int d = 0; d < D / 8; d += 2) {  // transposed: the tile's rows are the product's inner index
                ptx::ldmatrix_x4_trans(two, v_tile + (8 * n + lane % 16) * row + 8 * d + lane / 16 * 8);
                ptx::mma_m16n8k16(sum[d], a, two[0], two[1]);
                ptx::mma_m16n8k16(sum[d + 1], a, two[2], two[3]);
            }
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 1);
        total[r] += __shfl_xor_sync(0xffffffffu, total[r], 2);
        int i = t0 + warp_row + group + 8 * r;
        bf16* to = out + (static_cast<int64_t>(b) * T + i) * C + h * HS;
#pragma unroll
        for (int e = 0; e < D / 4; e++)
            if (int d = e / 2 * 8 + 2 * quad + e % 2; i < T && d < HS)
                to[d] = bf16(sum[e / 2][2 * r + e % 2] / total[r]);
    }
}

// ---- 5: llmc/cuda/attention.cuh -----------------------------------------------------------------------------------------
// In bf16 version 4 with everything between the products made cheap. Copies to shared memory are asynchronous, 16 bytes
// each: the next keys are on their way while these are multiplied. Chunks of a row are swizzled instead of padded. A
// warp has 32 queries, so that each key read from shared memory is used twice; with 16, shared memory is as busy as the
// tensor cores. Queries stay in registers, sums are rescaled only when the maximum has grown by 2^8, only tiles on the
// diagonal are masked. In fp32 version 3 with 8 queries times several keys a thread: both operands of a product are
// reused in registers.

// ---- the page ------------------------------------------------------------------------------------------------------

inline const zoo::Sizes sizes = {
    "B T NH HS", {8, 1024, 12, 64}, {{1, 1, 1, 16}, {2, 37, 2, 20}, {1, 130, 1, 64}, {1, 65, 1, 128}}};

template <typename X>
zoo::Page page(const zoo::Setup& setup) {
    int B = setup.size[0], T = setup.size[1], NH = setup.size[2], HS = setup.size[3], C = NH * HS, block = setup.block;
    CHECK(HS <= 128, "HS=%d", HS);
    AttentionShape shape = packed_qkv_shape(B, T, C, NH);
    int64_t n = static_cast<int64_t>(B) * T * C, rows = static_cast<int64_t>(B) * NH * T;
    std::vector<X> qkv = zoo::random<X>(3 * n, 1), out(n);
    std::vector<float> lse(rows);
    if (setup.reference)
        attention_forward(out.data(), lse.data(), qkv.data(), qkv.data() + C, qkv.data() + 2 * C, shape, nullptr,
                          Dropout());
    zoo::Page p;
    p.bytes = 4.0 * n * sizeof(X);
    p.flops = 2.0 * n * T;
    p.workspace_bytes = std::max<size_t>(sizeof(float) * rows * T, attention_forward_workspace_bytes(shape));
    const X* in = p.input(qkv);
    // Version 1 has fp32 probabilities, the others round them to bf16 or not, as does the CPU.
    X* to = p.output("out", out, {}, sizeof(X) == 4 ? 1e-5 : 1e-2);
    float* dlse = p.input(lse);

    dim3 tiles(ceil_div(T, 64), B * NH);
    auto scores_in_memory = [=](cudaStream_t s) {
        float* scores = workspace<float>(rows * T);
        launch(scores_kernel<X>, ceil_div(rows * T, block), block, 0, s, scores, in, B, T, NH, HS);
        launch(softmax_rows_kernel, ceil_div(rows, block), block, 0, s, scores, rows, T);
        launch(values_kernel<X>, ceil_div(n, block), block, 0, s, to, scores, in, B, T, NH, HS);
    };
    p.versions = {{1, "three kernels, scores in memory", scores_in_memory},
                  {2, "one visit to each key",
                   [=](cudaStream_t s) {
                       launch(online_kernel<X>, ceil_div(rows * 32, block), block, 0, s, to, in, B, T, NH, HS);
                   }},
                  {3, "tiles of keys and values in shared memory", [=](cudaStream_t s) {
                       launch(HS <= 64 ? tiles_kernel<X, 64> : tiles_kernel<X, 128>, tiles, 256, 0, s, to, in, T, NH,
                              HS);
                   }}};
    if constexpr (std::is_same_v<X, bf16>)
        p.versions.push_back({4, "tensor cores", [=](cudaStream_t s) {
                                  size_t shared = 3 * 64 * ((HS <= 64 ? 64 : 128) + 8) * sizeof(X);
                                  launch(HS <= 64 ? mma_kernel<64> : mma_kernel<128>, tiles, 128, shared, s, to, in, T,
                                         NH, HS);
                              }});
    p.versions.push_back({5, "llmc/cuda/attention.cuh", [=](cudaStream_t s) {
                              attention_forward(to, dlse, in, in + C, in + 2 * C, shape, nullptr, Dropout(), s);
                          }});
    return p;
}

}  // namespace attention_forward_page

#ifndef ZOO_PAGES
int main(int argc, char** argv) {
    namespace layer = attention_forward_page;
    return zoo::run(argc, argv, "attention_forward", layer::sizes, layer::page<float>, layer::page<bf16>);
}
#endif
