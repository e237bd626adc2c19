// The least time that a training step can take on a GPU, from three rates that were measured on it.
//
// Every kernel reads its inputs once and writes its outputs once, nothing stays in a cache between two kernels, and
// each takes the longer of its arithmetic and its bytes. Matrix products and attention count exactly, causal attention
// as half of the square; arithmetic of the other kernels hides behind their bytes. Two bounds:
//
//   separate   logits never reach memory; the backward pass has a GELU kernel and four bias gradients a layer
//   fused      these ride along with the matrix products, too: the strict bound
//
// Letters: M = B*T rows, x = bytes of a (B,T,C) activation, k and n = width in and out of a linear layer.
#pragma once
#include <algorithm>
#include "llmc/config.h"

struct Rates {
    double copy = 0;       // bytes/s of a large copy, read plus written
    double product = 0;    // FLOP/s of a large matrix product
    double attention = 0;  // FLOP/s that attention kernels can reach
};

enum class Bound { memory, product, attention };

inline double floor_seconds(Bound bound, double flops, double bytes, const Rates& r) {
    double rate = bound == Bound::attention ? r.attention : r.product;
    return std::max(bound == Bound::memory ? 0 : flops / rate, bytes / r.copy);
}

// A step of `micro_steps` micro-batches of B sequences of T tokens; weights and activations of `size` bytes, gradients
// of weights in fp32.
inline double step_floor_seconds(const ModelConfig& m, int B, int T, int micro_steps, double size, const Rates& r,
                                 bool fused_backward) {
    double L = m.L, C = m.C, M = double(B) * T, Vp = m.Vp(), x = M * C * size, lse = 4 * M * m.NH;
    double rows = std::min<double>(M, m.V);           // rows of wte that a micro-batch can touch
    double gradient = 4.0 * (2 - 1.0 / micro_steps);  // bytes: the first micro-step writes, the others read and write
    double micro = 0;                                 // seconds of a micro-step
    auto memory = [&](double bytes) { micro += bytes / r.copy; };
    auto linear = [&](double k, double n, double forward_extra, double dgrad_extra) {
        double flops = 2 * M * k * n, moved = M * (k + n) * size;
        micro += L * floor_seconds(Bound::product, flops, moved + k * n * size + n * size + forward_extra, r);
        micro += L * floor_seconds(Bound::product, flops, moved + k * n * size + dgrad_extra, r);
        micro += L * floor_seconds(Bound::product, flops, moved + (k + fused_backward) * n * gradient, r);
    };
    linear(C, 3 * C, 0, 0);
    linear(C, C, 0, 0);
    linear(C, 4 * C, 4 * x, 0);                       // keeps what went into GELU
    linear(4 * C, C, 0, fused_backward ? 4 * x : 0);  // reads it again
    double head = 2 * M * C * Vp;
    micro += floor_seconds(Bound::product, head, x + C * Vp * size + 8 * M, r);  // with softmax, loss and dlogits
    micro += floor_seconds(Bound::product, head, x + C * Vp * size, r);
    micro += floor_seconds(Bound::product, head, x + C * Vp * gradient, r);
    double causal = 2 * M * T * C;  // two products of a T*T square for each head, half of it masked
    micro += L * floor_seconds(Bound::attention, causal, 4 * x + lse, r);
    micro += L * floor_seconds(Bound::attention, 2.5 * causal, 8 * x + lse, r);

    double norms = 2 * L + 1;
    memory(4 * M + (rows + T) * C * size + x);                                      // encoder
    memory(2 * L * 4 * x + 2 * x + norms * (8 * M + 2 * C * size));                 // layernorms with residual adds
    memory(2 * L * 4 * x + 3 * x + norms * (8 * M + C * size + 2 * C * gradient));  // and backward
    memory(4 * M + x + 2 * rows * C * 4 + T * C * gradient);                        // encoder backward
    if (!fused_backward) memory(L * 12 * x + L * 9 * (x + C * gradient));           // GELU backward, bias gradients
    double parameters = static_cast<double>(parameter_count(m)) + (Vp - m.V) * C;
    // norm of the gradient; AdamW: gradient, and fp32 weights and moments read and written, bf16 weights written
    double update = parameters * 4 + parameters * (4 + 24 + (size < 4 ? size : 0));
    return micro_steps * micro + update / r.copy;
}
