// The least time that a kernel can take on a machine, from three rates: the longer of its arithmetic and its bytes.
//
// Every kernel reads its inputs once and writes its outputs once, and nothing stays in a cache between two kernels.
#pragma once
#include <algorithm>
#include <cstdint>
#include "llmc/model/config.h"

struct Rates {
    double copy = 0;       // bytes/s of a large copy, read plus written
    double product = 0;    // FLOP/s of a large matrix product
    double attention = 0;  // FLOP/s that attention kernels can reach
    double host = 0;       // bytes/s of a copy from or to page-locked host memory; both at once do not slow each other
};

enum class Bound { memory, product, attention };

inline double floor_seconds(Bound bound, double flops, double bytes, const Rates& r) {
    double rate = bound == Bound::attention ? r.attention : r.product;
    return std::max(bound == Bound::memory ? 0 : flops / rate, bytes / r.copy);
}

// What a step does besides the products that it cannot do without:
//
//   separate   logits never reach memory; the backward pass has a GELU kernel and four bias gradients a layer
//   fused      these ride along with the matrix products, too: the strict bound
//   program    as the CUDA program does it: separate, with logits in memory, in chunks, and bias gradients from sums that
//              other layers leave
enum class StepForm { fused, separate, program };

// A whole step on one GPU, of micro-batches of B sequences of T tokens, by the model itself (plan_machine.h); weights
// and activations in bf16 or fp32.
double step_floor_seconds(const ModelConfig& m, int B, int T, int micro_steps, bool bf16, const Rates& r,
                          StepForm form);
