// The least time that a training step can take on a GPU, from three rates: for the benchmark's floors (dev/bench) and
// for plan.
//
// Every kernel reads its inputs once and writes its outputs once, nothing stays in a cache between two kernels, and
// each takes the longer of its arithmetic and its bytes. Matrix products and attention count exactly, causal attention
// as half of the square; arithmetic of the other kernels hides behind their bytes. Three forms:
//
//   separate   logits never reach memory; the backward pass has a GELU kernel and four bias gradients a layer
//   fused      these ride along with the matrix products, too: the strict bound
//   program    separate, with logits in memory and what --recompute computes again, as the CUDA program does it
//
// Letters: M = B*T rows, x = bytes of a (B,T,C) activation, k and n = width in and out of a linear layer.
#pragma once
#include <algorithm>
#include "llmc/model/config.h"

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

enum class StepForm { fused, separate, program };

// Seconds of the parts of a micro-step, in their order; a block's are for one block.
struct MicroStepSeconds {
    double encoder_forward, block_forward, head, block_backward, encoder_backward;
    double total(int L) const {
        return encoder_forward + L * (block_forward + block_backward) + head + encoder_backward;
    }
};

// A micro-batch of B sequences (on average) of T tokens, one of `micro_steps` in a step; weights and activations of
// `size` bytes, gradients of weights in fp32.
inline MicroStepSeconds micro_step_floor(const ModelConfig& m, double B, int T, int64_t micro_steps, double size,
                                         const Rates& r, StepForm form, int recompute = 0) {
    double C = m.C, M = B * T, Vp = m.Vp(), x = M * C * size, lse = 4 * M * m.NH;
    double rows = std::min<double>(M, m.V);  // rows of wte that a micro-batch can touch
    // bytes: the first micro-step writes, the others read and write
    double gradient = 4.0 * (2 - 1.0 / static_cast<double>(micro_steps));
    bool fused = form == StepForm::fused;
    auto memory = [&](double bytes) { return bytes / r.copy; };
    auto product = [&](double k, double n, double bytes) {
        return floor_seconds(Bound::product, 2 * M * k * n, bytes, r);
    };
    auto forward = [&](double k, double n, double extra = 0) {
        return product(k, n, M * (k + n) * size + k * n * size + n * size + extra);
    };
    auto backward = [&](double k, double n, double extra = 0) {
        return product(k, n, M * (k + n) * size + k * n * size + extra) +
               product(k, n, M * (k + n) * size + (k + fused) * n * gradient);
    };
    double causal = 2 * M * T * C;  // two products of a T*T square for each head, half of it masked
    double attention = floor_seconds(Bound::attention, causal, 4 * x + lse, r);
    double norm = 8 * M + 2 * C * size;  // bytes of a layernorm without its activations
    double norm_backward = 8 * M + C * size + 2 * C * gradient;
    // what level 3 of recomputation runs again; fc keeps what went into GELU
    double inner = forward(C, 3 * C) + attention + forward(C, C) + memory(4 * x + norm) + forward(C, 4 * C, 4 * x);

    MicroStepSeconds s;
    s.encoder_forward = memory(4 * M + (rows + T) * C * size + x) + memory(2 * x + norm);
    s.block_forward = inner + forward(4 * C, C) + memory(4 * x + norm);
    // LM head with softmax, loss and dlogits; the final layernorm's backward pass
    double logits = form == StepForm::program ? M * Vp * size : 0;  // written, read and written, read twice
    s.head = product(C, Vp, x + C * Vp * size + 8 * M + logits) + memory(2 * logits) +
             product(C, Vp, x + C * Vp * size + logits) + product(C, Vp, x + C * Vp * gradient + logits) +
             memory(3 * x + norm_backward);
    s.block_backward = backward(4 * C, C, fused ? 4 * x : 0) + backward(C, 4 * C) + backward(C, C) +
                       floor_seconds(Bound::attention, 2.5 * causal, 8 * x + lse, r) + backward(C, 3 * C) +
                       memory(2 * (4 * x + norm_backward));
    if (!fused) s.block_backward += memory(12 * x + 9 * (x + C * gradient));  // GELU backward, bias gradients
    if (recompute == 1 || recompute == 2) s.block_backward += memory(8 * x);  // GELU
    if (recompute >= 2) s.block_backward += memory((recompute == 2 ? 2 : 1) * (2 * x + norm));
    if (recompute == 3) s.block_backward += inner;
    s.encoder_backward = memory(4 * M + x + 2 * rows * C * 4 + T * C * gradient);
    return s;
}

// Norm of the gradient; AdamW: gradient, and fp32 weights and moments read and written, bf16 weights written.
inline double update_floor_seconds(double parameters, double size, const Rates& r) {
    return parameters * (4 + 4 + 24 + (size < 4 ? size : 0)) / r.copy;
}

// A whole step on one GPU.
inline double step_floor_seconds(const ModelConfig& m, int B, int T, int micro_steps, double size, const Rates& r,
                                 StepForm form) {
    double parameters = static_cast<double>(parameter_count(m)) + static_cast<double>(m.Vp() - m.V) * m.C;
    return micro_steps * micro_step_floor(m, B, T, micro_steps, size, r, form).total(m.L) +
           update_floor_seconds(parameters, size, r);
}
