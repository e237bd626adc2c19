// The layers of trained prompts (model/prompts.h), as loops.
#pragma once
#include "llmc/plain/layers.h"

// dprompts (P,C) += the rows of dout whose token is a prompt, -1 for the first; tokens null: row n is prompt n
template <typename X, typename O>
void prompt_backward(O* dprompts, const X* dout, const int* tokens, int P, int B, int T, int C, Dropout dropout,
                     Plain) {
    for (int p = 0; p < P; p++)
        for (int64_t c = 0; c < C; c++) {
            acc_t<X> sum = 0;
            for (int64_t n = 0; n < B * T; n++)
                if ((tokens ? -1 - tokens[n] : n) == p)
                    sum += acc_t<X>(dout[n * C + c]) * dropout_factor(dropout, n / T, n % T * C + c);
            dprompts[p * C + c] += sum;
        }
}

// ---- LSTM, in both directions -------------------------------------------------------- (Hochreiter & Schmidhuber 1997)
//
//   i, f, o = sigmoid, g = tanh of gates + wh h',   c = f c' + i g,   h = o tanh(c)      c', h': of the row before, 0 at first
//
// What the input adds to the gates is in them already: gates (2,P,4H), whose place i, f, g and o take. h (2,P+1,H): forwards
// the zeros are row 0 and h of row t is t + 1, backwards they are row P and h of row t is t, so that the P rows h' lie side
// by side. cells (2,P,H), out (P,2H), wh (2,4H,H).
struct LstmRow {
    int64_t t, h, before, c_before;  // rows: of P, of h and h' in h, of c' in cells (-1: none)
};
inline LstmRow lstm_row(int d, int step, int P) {
    if (d == 0) return {step, step + 1, step, step - 1};
    const int t = P - 1 - step;
    return {t, t, t + 1, step == 0 ? -1 : t + 1};
}
template <typename A>
A sigmoid(A x) {
    return 1 / (1 + std::exp(-x));
}
template <typename X>
void lstm_forward(X* out, X* h, acc_t<X>* cells, X* gates, const X* wh, int P, int64_t H, Plain) {
    using A = acc_t<X>;
    for (int d = 0; d < 2; d++, h += (P + 1) * H, cells += P * H, gates += P * 4 * H, wh += 4 * H * H) {
        std::fill_n(h + (d == 0 ? 0 : P * H), H, X(0));
        for (int step = 0; step < P; step++) {
            const LstmRow row = lstm_row(d, step, P);
            X* gate = gates + row.t * 4 * H;
            for (int64_t j = 0; j < H; j++) {
                A sum[4];
                for (int k = 0; k < 4; k++) {
                    sum[k] = gate[k * H + j];
                    for (int64_t i = 0; i < H; i++) sum[k] += A(wh[(k * H + j) * H + i]) * h[row.before * H + i];
                }
                const A i = sigmoid(sum[0]), f = sigmoid(sum[1]), g = std::tanh(sum[2]), o = sigmoid(sum[3]);
                const A c = f * (row.c_before < 0 ? A(0) : cells[row.c_before * H + j]) + i * g;
                gate[j] = i, gate[H + j] = f, gate[2 * H + j] = g, gate[3 * H + j] = o;
                cells[row.t * H + j] = c;
                h[row.h * H + j] = out[row.t * 2 * H + d * H + j] = o * std::tanh(c);
            }
        }
    }
}
// dgates (2,P,4H), of what went into sigmoid and tanh: all other gradients are products of them. Rows in the opposite order;
// of the row after this one, dh comes through wh, dc through f.
template <typename X>
void lstm_backward(X* dgates, const X* dout, const X* gates, const acc_t<X>* cells, const X* wh, int P, int64_t H,
                   Plain) {
    using A = acc_t<X>;
    for (int d = 0; d < 2; d++, dgates += P * 4 * H, cells += P * H, gates += P * 4 * H, wh += 4 * H * H) {
        std::vector<A> dc_after(H);  // dc f of the row after
        const X* dgate_after = nullptr;
        for (int step = P - 1; step >= 0; step--) {
            const LstmRow row = lstm_row(d, step, P);
            const X* gate = gates + row.t * 4 * H;
            X* dgate = dgates + row.t * 4 * H;
            for (int64_t j = 0; j < H; j++) {
                A dh = dout[row.t * 2 * H + d * H + j];
                for (int64_t k = 0; dgate_after && k < 4 * H; k++) dh += A(wh[k * H + j]) * dgate_after[k];
                const A i = gate[j], f = gate[H + j], g = gate[2 * H + j], o = gate[3 * H + j],
                        tanh_c = std::tanh(cells[row.t * H + j]);
                const A dc = dc_after[j] + dh * o * (1 - tanh_c * tanh_c);
                dgate[j] = dc * g * i * (1 - i);
                dgate[H + j] = row.c_before < 0 ? A(0) : dc * cells[row.c_before * H + j] * f * (1 - f);
                dgate[2 * H + j] = dc * i * (1 - g * g);
                dgate[3 * H + j] = dh * tanh_c * o * (1 - o);
                dc_after[j] = dc * f;
            }
            dgate_after = dgate;
        }
    }
}

// ---- ReLU: y = max(x, 0); y may be x, dx may be dy --------------------------------------------------------------------

template <typename X>
void relu_forward(X* y, const X* x, int64_t n, Plain) {
    for (int64_t i = 0; i < n; i++) y[i] = acc_t<X>(x[i]) > 0 ? x[i] : X(0);
}
template <typename X>
void relu_backward(X* dx, const X* y, const X* dy, int64_t n, Plain) {
    for (int64_t i = 0; i < n; i++) dx[i] = acc_t<X>(y[i]) > 0 ? dy[i] : X(0);
}
