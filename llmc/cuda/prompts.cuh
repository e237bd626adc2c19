// Trained prompts (model/prompts.h): their gradient, and the layers of their encoder. llmc/plain/prompts.h has the formulas.
//
// Limit: latency. P is tens of rows; an LSTM takes one after the other, so that a block for each direction walks through them
// all and reads wh (4H,H) from the L2 cache for each.
#pragma once
#include "llmc/cuda/dropout.cuh"
#include "llmc/cuda/layers.cuh"

// Block (i, p): 256 columns of prompt p. It looks at all tokens, in their order: sums come out alike run after run.
template <typename X, typename O>
__global__ void __launch_bounds__(256)
    prompt_backward_kernel(O* dprompts, const X* dout, const int* tokens, int N, int T, int C, Dropout dropout) {
    const int p = static_cast<int>(blockIdx.y), c = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (c >= C) return;
    float sum = 0;
    for (int n = tokens ? 0 : p; n < (tokens ? N : p + 1); n++) {
        if (tokens && tokens[n] != -1 - p) continue;
        float scale[1] = {1};
        if (dropout.active()) dropout_scales<1>(scale, dropout, n / T, int64_t(n % T) * C + c);
        sum += static_cast<float>(dout[int64_t(n) * C + c]) * scale[0];
    }
    O& to = dprompts[int64_t(p) * C + c];
    to = O(static_cast<float>(to) + sum);
}
template <typename X, typename O>
void prompt_backward(O* dprompts, const X* dout, const int* tokens, int P, int B, int T, int C, Dropout dropout,
                     cudaStream_t stream) {
    if (P == 0) return;
    launch(prompt_backward_kernel<X, O>, dim3(ceil_div(C, 256), P), 256, 0, stream, dprompts, dout, tokens, B * T, T, C,
           dropout);
}

// ---- LSTM ----

// Rows of step `step` in direction d, forwards or backwards: of P; of h and of the h before it in h (2,P+1,H); of the cells
// before it, -1 for none.
struct LstmStep {
    int64_t t, h, before, c_before;
};
__device__ inline LstmStep lstm_step(int d, int step, int P) {
    if (d == 0) return {step, step + 1, step, step - 1};
    const int t = P - 1 - step;
    return {t, t, t + 1, step == 0 ? -1 : t + 1};
}
__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }

constexpr int kLstmThreads = 512;

// A block a direction. A warp takes cell after cell: its lanes share the sums over h of the cell's four gates.
template <typename X>
__global__ void __launch_bounds__(kLstmThreads)
    lstm_forward_kernel(X* out, X* h, float* cells, X* gates, const X* wh, int P, int H) {
    const int d = static_cast<int>(blockIdx.x), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    h += int64_t(d) * (P + 1) * H, cells += int64_t(d) * P * H, gates += int64_t(d) * P * 4 * H;
    wh += int64_t(d) * 4 * H * H;
    for (int j = threadIdx.x; j < H; j += kLstmThreads) h[(d == 0 ? 0 : int64_t(P) * H) + j] = X(0.0f);
    for (int step = 0; step < P; step++) {
        const LstmStep row = lstm_step(d, step, P);
        const X* before = h + row.before * H;
        X* gate = gates + row.t * 4 * H;
        __syncthreads();  // all cells of the step before have written their h
        for (int j = warp; j < H; j += kLstmThreads / 32) {
            float x[4];
            for (int k = 0; k < 4; k++) {
                const X* w = wh + (int64_t(k) * H + j) * H;
                float sum = 0;
                for (int i = lane; i < H; i += 32) sum += static_cast<float>(w[i]) * static_cast<float>(before[i]);
                for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, bit);
                x[k] = sum + static_cast<float>(gate[k * H + j]);
            }
            if (lane > 0) continue;
            const float in = sigmoid(x[0]), forget = sigmoid(x[1]), g = tanhf(x[2]), o = sigmoid(x[3]);
            const float c = forget * (row.c_before < 0 ? 0.0f : cells[row.c_before * H + j]) + in * g;
            gate[j] = X(in), gate[H + j] = X(forget), gate[2 * H + j] = X(g), gate[3 * H + j] = X(o);
            cells[row.t * H + j] = c;
            h[row.h * H + j] = out[row.t * 2 * H + d * H + j] = X(o * tanhf(c));
        }
    }
}
template <typename X>
void lstm_forward(X* out, X* h, float* cells, X* gates, const X* wh, int P, int64_t H, cudaStream_t stream) {
    launch(lstm_forward_kernel<X>, 2, kLstmThreads, 0, stream, out, h, cells, gates, wh, P, static_cast<int>(H));
}

// A block a direction; a thread takes cell after cell, so that neighbours read neighbouring columns of wh.
template <typename X>
__global__ void __launch_bounds__(kLstmThreads)
    lstm_backward_kernel(X* dgates, const X* dout, const X* gates, const float* cells, const X* wh, int P, int H) {
    extern __shared__ float dc_after[];  // (H) dc f of the row after this one
    const int d = static_cast<int>(blockIdx.x);
    cells += int64_t(d) * P * H, gates += int64_t(d) * P * 4 * H, dgates += int64_t(d) * P * 4 * H;
    wh += int64_t(d) * 4 * H * H;
    const X* dgate_after = nullptr;
    for (int step = P - 1; step >= 0; step--) {
        const LstmStep row = lstm_step(d, step, P);
        const X* gate = gates + row.t * 4 * H;
        X* dgate = dgates + row.t * 4 * H;
        __syncthreads();  // the row after is complete
        for (int j = threadIdx.x; j < H; j += kLstmThreads) {
            float dh = static_cast<float>(dout[row.t * 2 * H + d * H + j]);
            if (dgate_after)
                for (int k = 0; k < 4 * H; k++)
                    dh += static_cast<float>(wh[int64_t(k) * H + j]) * static_cast<float>(dgate_after[k]);
            const float in = static_cast<float>(gate[j]), forget = static_cast<float>(gate[H + j]),
                        g = static_cast<float>(gate[2 * H + j]), o = static_cast<float>(gate[3 * H + j]),
                        tanh_c = tanhf(cells[row.t * H + j]);
            const float dc = (dgate_after ? dc_after[j] : 0.0f) + dh * o * (1 - tanh_c * tanh_c);
            dgate[j] = X(dc * g * in * (1 - in));
            dgate[H + j] = X(row.c_before < 0 ? 0.0f : dc * cells[row.c_before * H + j] * forget * (1 - forget));
            dgate[2 * H + j] = X(dc * in * (1 - g * g));
            dgate[3 * H + j] = X(dh * tanh_c * o * (1 - o));
            dc_after[j] = dc * forget;
        }
        dgate_after = dgate;
    }
}
template <typename X>
void lstm_backward(X* dgates, const X* dout, const X* gates, const float* cells, const X* wh, int P, int64_t H,
                   cudaStream_t stream) {
    launch(lstm_backward_kernel<X>, 2, kLstmThreads, static_cast<size_t>(H) * sizeof(float), stream, dgates, dout,
           gates, cells, wh, P, static_cast<int>(H));
}

// ---- ReLU ----

template <typename X>
__global__ void __launch_bounds__(256) relu_forward_kernel(X* y, const X* x, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) y[i] = static_cast<float>(x[i]) > 0 ? x[i] : X(0.0f);
}
template <typename X>
void relu_forward(X* y, const X* x, int64_t n, cudaStream_t stream) {
    launch(relu_forward_kernel<X>, ceil_div(n, 256), 256, 0, stream, y, x, n);
}
template <typename X>
__global__ void __launch_bounds__(256) relu_backward_kernel(X* dx, const X* y, const X* dy, int64_t n) {
    const int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) dx[i] = static_cast<float>(y[i]) > 0 ? dy[i] : X(0.0f);
}
template <typename X>
void relu_backward(X* dx, const X* y, const X* dy, int64_t n, cudaStream_t stream) {
    launch(relu_backward_kernel<X>, ceil_div(n, 256), 256, 0, stream, dx, y, dy, n);
}
