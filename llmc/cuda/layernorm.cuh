// Layer normalisation, and the same fused with the residual add.        (Ba et al. 2016, https://arxiv.org/abs/1607.06450)
//
//   r = a + dropout(b)                 r, a, b, y (N,C), N = B*T rows
//   y = (r - mean) * rstd * w + bias   w, bias (C); mean, rstd (N) fp32, kept for the backward pass
//
// Backward, for g = dy * w and xhat = (x - mean) * rstd:
//   dx += rstd * (g - mean_c(g) - xhat * mean_c(g * xhat))      dw += sum_n dy * xhat;  db += sum_n dy
//
// Limit: memory. Bytes that must move, in units of N*C*sizeof(X): 2 for layernorm_forward (x, y), 4 for the fused one
// (a, b, r, y), 4 for backward (dy, x, dx read and written). Nothing else does: a row stays in registers, as it came
// from memory, between the passes over it (mean; variance, which in one pass with the mean would cancel; result), and
// all loads of a row are given before the first is waited for.
#pragma once
#include <algorithm>
#include "llmc/cuda/dropout.cuh"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"

// ---- forward ----

// A row belongs to one warp (whole_block = false, four rows a block) or to one block; thread `lane` of its `lanes` has
// packs lane, lane + lanes, ..., P at most, of W elements each. Sums over a warp are shuffles, which need no shared
// memory and no barrier. __launch_bounds__ promises that blocks have no more threads: so many registers each may have.
template <int W, int P, bool whole_block, bool residual, typename X>
__global__ void __launch_bounds__(whole_block ? 1024 : 128)
    layernorm_forward_kernel(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                             int N, int C, int rows_per_sample, Dropout dropout, float epsilon) {
    __shared__ float sums[2][32];
    int lane = static_cast<int>(whole_block ? threadIdx.x : threadIdx.x % 32),
        lanes = static_cast<int>(whole_block ? blockDim.x : 32);
    int n = static_cast<int>(whole_block ? blockIdx.x : blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32);
    if (n >= N) return;
    int64_t begin = int64_t(n) * C;
    auto for_packs = [=](auto body) {  // k: which of the thread's packs, c: its first column
#pragma unroll
        for (int k = 0; k < P; k++)
            if (int c = (lane + k * lanes) * W; c < C) body(k, c);
    };
    auto row_sum = [&](float x, int which) {
        if constexpr (whole_block) return block_sum(x, sums[which]);
        else return warp_sum(x);
    };

    Pack<X, W> row[P];
    for_packs([&](int k, int c) { row[k] = Pack<X, W>::load(a + begin + c); });
    if constexpr (residual) {
        Pack<X, W> branch[P];
        for_packs([&](int k, int c) { branch[k] = Pack<X, W>::load(b + begin + c); });
        for_packs([&](int k, int c) {
            float sum[W], add[W], scale[W];
            row[k].unpack(sum), branch[k].unpack(add);
            if (dropout.active()) {
                int64_t e = int64_t(n % rows_per_sample) * C + c;
                dropout_scales<W, W % 4 == 0>(scale, dropout, n / rows_per_sample, e);
#pragma unroll
                for (int i = 0; i < W; i++) add[i] *= scale[i];
            }
#pragma unroll
            for (int i = 0; i < W; i++) sum[i] += add[i];
            row[k] = Pack<X, W>::rounded(sum);  // the norm sees what memory will hold
            row[k].store(r + begin + c);
        });
    }

    float m = 0, variance = 0;
    for_packs([&](int k, int) {
        float v[W];
        row[k].unpack(v);
#pragma unroll
        for (int i = 0; i < W; i++) m += v[i];
    });
    m = row_sum(m, 0) / static_cast<float>(C);
    for_packs([&](int k, int) {
        float v[W];
        row[k].unpack(v);
#pragma unroll
        for (int i = 0; i < W; i++) variance += (v[i] - m) * (v[i] - m);
    });
    float s = 1.0f / sqrtf(row_sum(variance, 1) / static_cast<float>(C) + epsilon);
    for_packs([&](int k, int c) {
        float v[W], weight[W], offset[W];
        row[k].unpack(v);
        load_pack(weight, w + c), load_pack(offset, bias + c);  // the same for all rows: from the L1 cache
#pragma unroll
        for (int i = 0; i < W; i++) v[i] = (v[i] - m) * s * weight[i] + offset[i];
        store_pack(y + begin + c, v);
    });
    if (lane == 0) mean[n] = m, rstd[n] = s;
}

// Chooses by C: a warp a row up to 8 packs a lane, else a block a row. Odd rows (C no multiple of a pack) take one
// element at a time.
template <bool residual, typename X>
void launch_layernorm_forward(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                              int N, int C, int rows_per_sample, Dropout dropout, float epsilon, cudaStream_t stream) {
    if (N == 0) return;
    constexpr int W = pack_width<X>;
    auto run = [&](auto kernel, bool whole_block, int threads) {
        launch(kernel, whole_block ? N : ceil_div(N, 4), threads, 0, stream, r, y, mean, rstd, a, b, w, bias, N, C,
               rows_per_sample, dropout, epsilon);
    };
    if (C % W != 0) {
        CHECK(C <= 1024 * 16, "C=%d", C);
        run(layernorm_forward_kernel<1, 16, true, residual, X>, true, 32 * ceil_div(C, 32 * 16));
    } else if (C <= 32 * W * 4) {
        run(layernorm_forward_kernel<W, 4, false, residual, X>, false, 128);
    } else if (C <= 32 * W * 8) {
        run(layernorm_forward_kernel<W, 8, false, residual, X>, false, 128);
    } else {
        CHECK(C <= 1024 * W * 4, "C=%d", C);
        run(layernorm_forward_kernel<W, 4, true, residual, X>, true, 32 * ceil_div(C, 32 * W * 4));
    }
}

template <typename X>
void layernorm_forward(X* y, float* mean, float* rstd, const X* x, const X* w, const X* bias, int N, int C,
                       float epsilon, cudaStream_t stream) {
    launch_layernorm_forward<false, X>(nullptr, y, mean, rstd, x, nullptr, w, bias, N, C, 1, Dropout{}, epsilon,
                                       stream);
}

// r may be a. rows_per_sample = T: row n belongs to sample n / T, element (n % T) * C + c of it.
template <typename X>
void residual_layernorm_forward(X* r, X* y, float* mean, float* rstd, const X* a, const X* b, const X* w, const X* bias,
                                int N, int C, int rows_per_sample, Dropout dropout, float epsilon,
                                cudaStream_t stream) {
    launch_layernorm_forward<true, X>(r, y, mean, rstd, a, b, w, bias, N, C, rows_per_sample, dropout, epsilon, stream);
}

// ---- backward ----

// dw and db are sums over rows, down the columns. A thread keeps the sums of the E columns that are its own in
// registers while its block goes through rows blockIdx * R, ... R at a time, and writes them once, at the end, to row
// `blockIdx` of partial (blocks, 2, C); those of dx, as it is stored, to dx_parts (blocks, C), if there. So nobody adds to what another writes, and the order of additions is fixed.
// R rows at a time keep more bytes under way and share one barrier.
template <int W, int P, int R, typename X>
__global__ void __launch_bounds__(512, 1)
    layernorm_backward_kernel(X* dx, float* partial, float* dx_parts, const X* dy, const X* x, const X* w,
                              const float* mean, const float* rstd, int N, int C) {
    // Two buffers, in turn: who is one barrier ahead writes the other one, and nobody can be two ahead.
    __shared__ __align__(16) float sums[2][16][2 * R];
    int warp = static_cast<int>(threadIdx.x / 32), warps = static_cast<int>(blockDim.x / 32), buffer = 0;
    // where a constant does, the compiler keeps no addresses
    const int threads = P == 24 ? 512 : static_cast<int>(blockDim.x);
    auto for_packs = [=](auto body) {
#pragma unroll
        for (int k = 0; k < P; k++)
            if (int c = (static_cast<int>(threadIdx.x) + k * threads) * W; c < C) body(k, c);
    };
    constexpr bool sums_dx = layernorm_backward_sums(P * W);
    float dw[P][W] = {}, db[P][W] = {}, dx_sum[sums_dx ? P : 1][W] = {};
    // Long rows leave no registers for dx and w until they are needed; in fp32, or of odd length, none to keep dy and x
    // in either: these are read again, from the L2 cache, and a few at a time.
    constexpr bool late = P * W > 8, twice = late && W < 8;

    for (int n0 = static_cast<int>(blockIdx.x) * R; n0 < N; n0 += static_cast<int>(gridDim.x) * R, buffer ^= 1) {
        Pack<X, W> dy_row[R][P], x_row[R][P], dx_row[R][P], w_row[P];
        float m[R], s[R], sum[2 * R] = {};  // sums of row r: of g, of g * (x - mean)
        auto for_rows = [=](auto body) {
#pragma unroll
            for (int r = 0; r < R; r++)
                if (n0 + r < N) body(r, int64_t(n0 + r) * C);
        };
        for_rows([&](int r, int64_t begin) {
            if (!twice)
                for_packs([&](int k, int c) {
                    dy_row[r][k] = Pack<X, W>::template load<Cached::no>(dy + begin + c);
                    x_row[r][k] = Pack<X, W>::template load<Cached::no>(x + begin + c);
                    if (!late) dx_row[r][k] = Pack<X, W>::load(dx + begin + c);
                });
            m[r] = mean[n0 + r], s[r] = rstd[n0 + r];
        });
        if (!late) for_packs([&](int k, int c) { w_row[k] = Pack<X, W>::load(w + c); });

        for_rows([&](int r, int64_t begin) {
#pragma unroll(twice ? 12 / W : P)
            for (int k = 0; k < P; k++) {
                int c = (static_cast<int>(threadIdx.x) + k * threads) * W;
                if (c >= C) break;
                float d[W], v[W], weight[W];
                (twice ? Pack<X, W>::load(dy + begin + c) : dy_row[r][k]).unpack(d);
                (twice ? Pack<X, W>::load(x + begin + c) : x_row[r][k]).unpack(v);
                (late ? Pack<X, W>::load(w + c) : w_row[k]).unpack(weight);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    float g = d[i] * weight[i];
                    sum[2 * r] += g, sum[2 * r + 1] += g * (v[i] - m[r]);
                }
            }
        });
#pragma unroll
        for (int i = 0; i < 2 * R; i++) sum[i] = warp_sum(sum[i]);
#pragma unroll
        for (int i = 0; i < 2 * R; i++) {
            if (threadIdx.x % 32 == 0) sums[buffer][warp][i] = sum[i];
            sum[i] = 0;
        }
        __syncthreads();
        for (int other = 0; other < warps; other++)
#pragma unroll
            for (int i = 0; i < 2 * R; i++) sum[i] += sums[buffer][other][i];

        for_rows([&](int r, int64_t begin) {
            float mean_g = sum[2 * r] / static_cast<float>(C), mean_gx = sum[2 * r + 1] * s[r] / static_cast<float>(C);
            for_packs([&](int k, int c) {
                float d[W], v[W], weight[W], out[W];
                if (late) w_row[k] = Pack<X, W>::load(w + c), dx_row[r][k] = Pack<X, W>::load(dx + begin + c);
                if (twice)
                    dy_row[r][k] = Pack<X, W>::load(dy + begin + c), x_row[r][k] = Pack<X, W>::load(x + begin + c);
                dy_row[r][k].unpack(d), x_row[r][k].unpack(v), w_row[k].unpack(weight), dx_row[r][k].unpack(out);
#pragma unroll
                for (int i = 0; i < W; i++) {
                    float xhat = (v[i] - m[r]) * s[r];
                    out[i] += s[r] * (d[i] * weight[i] - mean_g - xhat * mean_gx);
                    dw[k][i] += d[i] * xhat, db[k][i] += d[i];
                }
                const auto stored = Pack<X, W>::rounded(out);
                stored.store(dx + begin + c);
                if constexpr (sums_dx) {
                    stored.unpack(out);
#pragma unroll
                    for (int i = 0; i < W; i++) dx_sum[k][i] += out[i];
                }
            });
        });
    }
    if constexpr (sums_dx)
        if (dx_parts)
            for_packs([&](int k, int c) {
#pragma unroll
                for (int i = 0; i < W; i++) dx_parts[int64_t(blockIdx.x) * C + c + i] = dx_sum[k][i];
            });
    if (!partial) return;
    float* to = partial + int64_t(blockIdx.x) * 2 * C;
    for_packs([&](int k, int c) {
#pragma unroll
        for (int i = 0; i < W; i++) to[c + i] = dw[k][i], to[C + c + i] = db[k][i];
    });
}

// dw (C) +=, db (C) += the sums of partial (blocks, 2, C) over blocks. A block has 32 columns, one a lane, so that a
// warp reads 128 neighbouring bytes; each of its warps sums every warps-th row, and the first one those sums.
static __global__ void __launch_bounds__(1024)
    layernorm_backward_sum_kernel(float* dw, float* db, const float* partial, int blocks, int C) {
    __shared__ float sums[32][32];
    int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32),
        warps = static_cast<int>(blockDim.x / 32), column = static_cast<int>(blockIdx.x) * 32 + lane;
    float sum = 0;
    if (column < 2 * C)
#pragma unroll 8
        for (int row = warp; row < blocks; row += warps) sum += partial[int64_t(row) * 2 * C + column];
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp != 0 || column >= 2 * C) return;
    for (int i = 1; i < warps; i++) sum += sums[i][lane];
    (column < C ? dw[column] : db[column - C]) += sum;
}

// dx (N,C) already holds what came down the residual stream: all three results are added to. Deterministic. Leaves dx's
// column sums, but for long rows. Workspace: partial.
template <typename X>
void layernorm_backward(X* dx, float* dw, float* db, const X* dy, const X* x, const X* w, const float* mean,
                        const float* rstd, int N, int C, Sums<X> sums, cudaStream_t stream) {
    if (N == 0) return;
    constexpr int W = pack_width<X>;
    int E = layernorm_backward_columns(C), threads = layernorm_backward_threads(C);
    CHECK(threads <= 512, "C=%d", C);
    int blocks = layernorm_backward_blocks(N, C, device().multiprocessors);
    float* partial = dw ? workspace<float>(static_cast<size_t>(blocks) * 2 * C) : nullptr;
    float* dx_parts = layernorm_backward_sums(E) && sums ? sums->parts : nullptr;
    if (dx_parts) sums->count = blocks, sums->of = dx;
    auto run = [&](auto kernel) {
        launch(kernel, blocks, threads, 0, stream, dx, partial, dx_parts, dy, x, w, mean, rstd, N, C);
    };
    if (C % W != 0 && E != 8) threads = 512;  // as the kernel assumes
    if (C % W != 0) run(E == 8 ? layernorm_backward_kernel<1, 8, 1, X> : layernorm_backward_kernel<1, 24, 1, X>);
    else run(E == 8 ? layernorm_backward_kernel<W, 8 / W, W / 2, X> : layernorm_backward_kernel<W, 24 / W, 1, X>);
    if (!dw) return;  // frozen
    launch(layernorm_backward_sum_kernel, ceil_div(2 * C, 32), 32 * std::min(32, blocks), 0, stream, dw, db, partial,
           blocks, C);
}
