// GPUs that `plan` knows, by the figures of their data sheets.
#pragma once
#include <string>
#include <vector>

// NVIDIA's data sheets (A100 80GB SXM, H100 SXM, H200 SXM, HGX B200, L40S) and the white paper "Ada GPU Architecture";
// matrix products dense, with fp32 sums. Host: PCIe 4.0 or 5.0 x16, one way. Bus: NVLink, or that PCIe, one way. Network: the compute network cards of
// NVIDIA's DGX of that GPU, 8 of 200 or 400 Gb/s; the last two have no such machine: 100 Gb/s Ethernet.
struct GpuSheet {
    const char *name, *product;
    double bf16_tflops, fp32_tflops, memory_tbs, memory_gb, bus_gbs, network_gbs, host_gbs;
    int capability, multiprocessors;
};
inline constexpr GpuSheet kGpuSheets[] = {
    {"a100", "A100", 312, 19.5, 2.039, 80, 300, 200, 32, 80, 108},
    {"h100", "H100", 989, 67, 3.35, 80, 450, 400, 64, 90, 132},
    {"h200", "H200", 989, 67, 4.8, 141, 450, 400, 64, 90, 132},
    {"b200", "B200", 2250, 75, 7.7, 180, 900, 400, 64, 100, 148},
    {"l40s", "L40S", 362, 91.6, 0.864, 48, 32, 12.5, 32, 89, 142},
    {"rtx4090", "RTX 4090", 165.2, 82.6, 1.008, 24, 32, 12.5, 32, 89, 128},
    {"cpu", "CPU", 0, 0, 0, 0, 0, 0, 0, 0, 0},
};

// What matrix products reach of it, where nobody has measured: on an H100 SXM cuBLAS reaches 750 of 989 TFLOP/s at 8192^3, and about
// 0.6 where the inner or outer width is 768; a hyperbola through both, by the model's width C.
inline double product_share(int C) { return 0.77 * C / (C + 210.0); }

inline std::vector<std::string> gpu_names() {  // of --gpu
    std::vector<std::string> names;
    for (const GpuSheet& g : kGpuSheets) names.push_back(g.name);
    return names;
}
