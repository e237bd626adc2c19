// GPUs that `plan` knows, by the figures of their data sheets.
#pragma once
#include <algorithm>
#include <string>
#include <vector>

// NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM, HGX B200, L40S) and the white paper "Ada GPU Architecture";
// matrix products dense, with fp32 sums. Host: PCIe 4.0 or 5.0 x16, one way. Bus: NVLink, or that PCIe, one way. Network: the compute network cards of
// NVIDIA's DGX of that GPU, 8 of 200 or 400 Gb/s; the last two have no such machine: 100 Gb/s Ethernet.
//
// The last four: what programs reach of the sheet, where nobody has measured it. Products of infinite width: on an A100 cuBLAS's best
// (271 TFLOP/s: stas00/ml-engineering, compute/accelerator, "MAMF"); on an H100 less than its best, 794, since its power limit holds it
// back in a step: what llm.c's steps leave for them (test_plan.cpp). Attention at head size 64 by mma.sync and by cuDNN, and the memory of
// kernels that use several tensors: as `make kernels` counts them (dev/reports/kernels.md); cuDNN on an H100: 288 TFLOP/s forward, backward
// 1.46 times FlashAttention-2's (FlashAttention-3's figures). Cards that are not counted have the shares of the nearest that is.
struct GpuSheet {
    const char *name, *product;
    double bf16_tflops, fp32_tflops, memory_tbs, memory_gb, bus_gbs, network_gbs, host_gbs;
    int capability, multiprocessors;
    double products, own_attention, cudnn_attention, memory;
};
inline constexpr GpuSheet kGpuSheets[] = {
    {"a100", "A100", 312, 19.5, 2.039, 80, 300, 200, 32, 80, 108, 0.87, 0.385, 0.385, 0.71},
    {"h100", "H100", 989, 67, 3.35, 80, 450, 400, 64, 90, 132, 0.66, 0.213, 0.27, 0.71},
    {"h200", "H200", 989, 67, 4.8, 141, 450, 400, 64, 90, 132, 0.66, 0.213, 0.27, 0.71},
    {"b200", "B200", 2250, 75, 7.7, 180, 900, 400, 64, 100, 148, 0.66, 0.213, 0.27, 0.71},
    {"l40s", "L40S", 362, 91.6, 0.864, 48, 32, 12.5, 32, 89, 142, 0.87, 0.52, 0.52, 0.84},
    {"rtx4090", "RTX 4090", 165.2, 82.6, 1.008, 24, 32, 12.5, 32, 89, 128, 0.87, 0.52, 0.52, 0.84},
    {"cpu", "CPU", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
};

// Products of the model's width C: beside its FLOPs a product has bytes, which weigh more the narrower it is and the more FLOPs the card has for each byte of memory. On an H100 half of the speed is there at C = 210 (0.6 of cuBLAS's best at 768).
inline double product_share(const GpuSheet& g, int C) {
    return g.memory_tbs > 0 ? g.products * C / (C + 0.71 * g.bf16_tflops / g.memory_tbs) : 0;
}
// Softmax costs by the row, products by the column: larger heads are faster, to 1.75 times at 112 and above (FlashAttention-2 on
// an H100: 335 TFLOP/s at its best, 192 here; on an A100 0.5 to 0.73 of the sheet: https://arxiv.org/abs/2307.08691).
inline double attention_share(const GpuSheet& g, int HS, bool cudnn) {
    return std::min(0.6, (cudnn ? g.cudnn_attention : g.own_attention) * std::min(1.75, HS / 64.0));
}

inline std::vector<std::string> gpu_names() {  // of --gpu
    std::vector<std::string> names;
    for (const GpuSheet& g : kGpuSheets) names.push_back(g.name);
    return names;
}
