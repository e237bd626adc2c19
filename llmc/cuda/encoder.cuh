// Token and position embedding.
//
//   out[b,t,:] = dropout(wte[tokens[b,t],:] + wpe[positions[b,t],:])        out (B,T,C), wte (V,C), wpe (maxT,C)
//
// positions (B,T) may be null: then 0..T-1. A token below 0 is a prompt, -1 the first of prompts (P,C).
//
// Backward adds each row of dout to a row of dwte and one of dwpe. Threads that add to one address at a time could use
// atomic additions, but those come in any order, and float sums depend on their order. So rows are sorted by token
// first; the rows of one token then lie side by side, and one thread adds them up, in the order of the rows, and adds
// the sum to dwte: the result is the same bit by bit, run after run.
//
// Limit: memory. Forward moves 2 to 3 times N*C*sizeof(X) bytes, N = B*T (out; wte's rows; wpe stays in the L2 cache);
// backward twice that for dout, which is read for dwte and for dwpe, and what it touches of dwte and dwpe.
#pragma once
#include "llmc/cuda/dropout.cuh"
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/pack.cuh"

// A kernel is a function that runs once for each thread of a grid of blocks; a thread knows from blockIdx and threadIdx
// which one it is. Here thread i of sample b has elements i * W to i * W + W. Neighbouring threads have neighbouring
// elements: the 32 threads of a warp, which run in step, ask the memory for 512 bytes in a row.
template <int W, typename X>
__global__ void __launch_bounds__(256)
    encoder_forward_kernel(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe,
                           const X* prompts, int B, int T, int C, Dropout dropout) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), packs = C / W;
    int t = i / packs, c = i % packs * W;
    if (t >= T) return;
    for (int b = static_cast<int>(blockIdx.y); b < B; b += static_cast<int>(gridDim.y)) {
        int64_t row = int64_t(b) * T + t;
        float x[W], position[W];
        const int token = tokens[row];
        load_pack(x, (token < 0 ? prompts + int64_t(-1 - token) * C : wte + int64_t(token) * C) + c);
        load_pack(position, wpe + int64_t(positions ? positions[row] : t) * C + c);
        for (int w = 0; w < W; w++) x[w] += position[w];
        if (dropout.active()) {
            float scale[W];
            dropout_scales<W, W % 4 == 0>(scale, dropout, b, int64_t(t) * C + c);
            for (int w = 0; w < W; w++) x[w] *= scale[w];
        }
        store_pack(out + row * C + c, x);
    }
}

template <typename X>
void encoder_forward(X* out, const int* tokens, const int* positions, const X* wte, const X* wpe, const X* prompts,
                     int B, int T, int C, Dropout dropout, cudaStream_t stream) {
    if (B == 0 || T == 0) return;
    constexpr int W = pack_width<X>;
    bool wide = C % W == 0;
    dim3 grid(ceil_div(int64_t(T) * C, 256 * (wide ? W : 1)), std::min(B, 65535));
    launch(wide ? encoder_forward_kernel<W, X> : encoder_forward_kernel<1, X>, grid, 256, 0, stream, out, tokens,
           positions, wte, wpe, prompts, B, T, C, dropout);
}

// ---- backward ----

// sum (W) += columns c.. of the rows row_of(j) of dout, j in [begin, end) in this order, as they were before dropout.
// Four rows are asked for before the first is waited for, so that enough bytes are under way.
template <int W, typename X, typename RowOf>
__device__ inline void sum_rows(float (&sum)[W], const X* dout, int begin, int end, RowOf row_of, int T, int C, int c,
                                const Dropout& dropout) {
    constexpr int batch = 4;
    for (; begin < end; begin += batch) {
        int row[batch];
        Pack<X, W> packs[batch];
        for (int j = 0; j < batch; j++)
            if (begin + j < end) row[j] = row_of(begin + j);
        for (int j = 0; j < batch; j++)
            if (begin + j < end) packs[j] = Pack<X, W>::template load<Cached::no>(dout + int64_t(row[j]) * C + c);
        for (int j = 0; j < batch; j++) {
            if (begin + j >= end) break;
            float x[W], scale[W];
            packs[j].unpack(x);
            if (dropout.active())
                dropout_scales<W, W % 4 == 0>(scale, dropout, row[j] / T, int64_t(row[j] % T) * C + c);
            for (int w = 0; w < W; w++) sum[w] += dropout.active() ? x[w] * scale[w] : x[w];
        }
    }
}

template <int W>
__device__ inline void add_to(float* to, const float (&x)[W]) {
    constexpr int step = W % 4 == 0 ? 4 : 1;  // floats of a 16-byte access
    for (int w = 0; w < W; w += step) {
        float old[step];
        load_pack(old, to + w);
        for (int j = 0; j < step; j++) old[j] += x[w + j];
        store_pack(to + w, old);
    }
}

// First index in [begin, end) of the sorted tokens with a token above `token`, else end.
__device__ inline int first_above(const int* tokens, int token, int begin, int end) {
    while (begin < end) {
        int middle = begin + (end - begin) / 2;
        if (tokens[middle] > token) end = middle;
        else begin = middle + 1;
    }
    return begin;
}

// dw[token,:] += sum of the rows of dout with that token; tokens (N) sorted, rows (N) where they are in dout.
//
// A block has `slots` places of the sorted order, and `columns` columns of them; each slot of `lanes` threads sums the
// rows of the run (of equal tokens) that begins at its place. Some tokens are frequent, space and newline in a small
// vocabulary a fifth of all: a run longer than `slots` is cut into as many pieces of equal length, and summed by all
// slots together. There is at most one for a block, since it goes on beyond the block's places.
constexpr int kEncoderThreads = 512;
template <int W, typename X>
__global__ void __launch_bounds__(kEncoderThreads, 2)
    add_rows_by_token_kernel(float* dw, const X* dout, const int* tokens, const int* rows, int N, int T, int C,
                             Dropout dropout) {
    constexpr int columns = W == 1 ? 32 : 64, lanes = columns / W, slots = kEncoderThreads / lanes;
    __shared__ float parts[slots][columns];
    const int slot = threadIdx.x / lanes, lane = threadIdx.x % lanes;
    const int first = blockIdx.x * slots, i = first + slot, c = blockIdx.y * columns + lane * W;
    auto row_of = [=](int j) { return rows[j]; };

    if (i < N && c < C && (i == 0 || tokens[i - 1] != tokens[i])) {
        int token = tokens[i], end = first_above(tokens, token, i, min(i + slots + 1, N));
        if (end - i <= slots) {
            float sum[W] = {};
            sum_rows(sum, dout, i, end, row_of, T, C, c, dropout);
            add_to(dw + int64_t(token) * C + c, sum);
        }
    }

    // The long run, if there is one; all threads of the block decide alike, because they share the barrier below.
    int next = first + slots;
    if (next >= N || tokens[next] != tokens[next - 1]) return;
    const int token = tokens[next], begin = first_above(tokens, token - 1, first, next);
    if (begin + slots >= N || tokens[begin + slots] != token) return;       // short
    if (begin == first && first > 0 && tokens[first - 1] == token) return;  // began in a block before
    const int64_t n = first_above(tokens, token, next, N) - begin;
    const int from = begin + static_cast<int>(n * slot / slots), to = begin + static_cast<int>(n * (slot + 1) / slots);
    float sum[W] = {};
    if (c < C) sum_rows(sum, dout, from, to, row_of, T, C, c, dropout);
    for (int w = 0; w < W; w++) parts[slot][lane * W + w] = sum[w];
    __syncthreads();  // `parts` is memory that the threads of a block share: here all of it has been written
    if (int column = blockIdx.y * columns + threadIdx.x; threadIdx.x < columns && column < C) {
        float total = 0;
        for (int s = 0; s < slots; s++) total += parts[s][threadIdx.x];
        dw[int64_t(token) * C + column] += total;
    }
}

// dwpe (T,C) += sum_b dout (B,T,C)
template <int W, typename X>
__global__ void __launch_bounds__(256)
    add_rows_by_position_kernel(float* dwpe, const X* dout, int B, int T, int C, Dropout dropout) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), packs = C / W;
    int t = i / packs, c = i % packs * W;
    if (t >= T) return;
    float sum[W] = {};
    sum_rows(
        sum, dout, 0, B, [=](int b) { return b * T + t; }, T, C, c, dropout);
    add_to(dwpe + int64_t(t) * C + c, sum);
}

static __global__ void count_up_kernel(int* rows, int N) {
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < N) rows[i] = i;
}

// dw[tokens[n],:] += dout[n,:] for all rows n, tokens below V. Workspace: rows, sorted tokens and rows, what sorting them takes.
template <typename X>
void add_rows_by_token(float* dw, const X* dout, const int* tokens, int B, int T, int C, int V, Dropout dropout,
                       cudaStream_t stream) {
    constexpr int W = pack_width<X>;
    int N = B * T;
    char* memory = workspace<char>(encoder_backward_workspace_bytes(N, sort_scratch_bytes(N)));
    auto index = [&](int i) { return reinterpret_cast<int*>(memory + i * encoder_index_bytes(N)); };
    launch(count_up_kernel, ceil_div(N, 256), 256, 0, stream, index(0), N);
    sort_rows_by_token(index(1), index(2), tokens, index(0), N, V, index(3), stream);
    bool wide = C % W == 0;
    int columns = wide ? 64 : 32, slots = kEncoderThreads * (wide ? W : 1) / columns;
    launch(wide ? add_rows_by_token_kernel<W, X> : add_rows_by_token_kernel<1, X>,
           dim3(ceil_div(N, slots), ceil_div(C, columns)), kEncoderThreads, 0, stream, dw, dout, index(1), index(2), N,
           T, C, dropout);
}

// dwte (V,C) += , dwpe (maxT,C) += ; positions, where they are given, are below T. Workspace: as above.
template <typename X>
void encoder_backward(float* dwte, float* dwpe, const X* dout, const int* tokens, const int* positions, int B, int T,
                      int C, int V, Dropout dropout, cudaStream_t stream) {
    if (B == 0 || T == 0) return;
    add_rows_by_token(dwte, dout, tokens, B, T, C, V, dropout, stream);
    if (positions) return add_rows_by_token(dwpe, dout, positions, B, T, C, T, dropout, stream);
    constexpr int W = pack_width<X>;
    bool wide = C % W == 0;
    launch(wide ? add_rows_by_position_kernel<W, X> : add_rows_by_position_kernel<1, X>,
           ceil_div(int64_t(T) * C, 256 * (wide ? W : 1)), 256, 0, stream, dwpe, dout, B, T, C, dropout);
}
