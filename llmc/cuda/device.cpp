#include "llmc/cuda/device.cuh"

#include <cctype>
#include <cstring>
#include "llmc/base/dynamic_library.h"
#include "llmc/cuda/attention_cudnn.h"
#include "llmc/cuda/matmul_cublaslt.cuh"

// Whether GELU is part of the matrix products (CudaDevice::gelu_fusion) when the command line does not say: llm.c's choice,
// forward and backward from Hopper on, not at all before. Theirs, not measured here.
static int default_gelu_fusion(int capability) { return capability >= 90 ? 2 : 0; }

void open_device(DeviceOptions& options, int local_rank) {
    const char* cpu = "./train_gpt2 does the same on a CPU";
    CudaDevice& d = device();
    int count = 0, driver = 0, runtime = 0;
    cudaError_t error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver) {
        CUDA_CHECK(cudaDriverGetVersion(&driver));
        CUDA_CHECK(cudaRuntimeGetVersion(&runtime));
        if (driver == 0) throw Error(strf("this machine has no NVIDIA driver, and so no GPU to run on; %s", cpu));
        throw Error(
            strf("the NVIDIA driver of this machine knows CUDA %d.%d and the program was built with CUDA %d.%d: "
                 "install a newer driver, or build with an older toolkit, from 12.4 on (CUDA_HOME=... make "
                 "train_gpt2cu); %s",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, cpu));
    }
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        throw Error(strf("there is no GPU (CUDA_VISIBLE_DEVICES is %s); %s",
                         getenv("CUDA_VISIBLE_DEVICES") ? getenv("CUDA_VISIBLE_DEVICES") : "not set", cpu));
    cuda_check(error, "cudaGetDeviceCount", __FILE__, __LINE__);

    // Several ranks on one GPU are for trying things out: NCCL allows it where each has an NCCL_HOSTID of its own.
    d.id = getenv("NCCL_HOSTID") ? local_rank % count : local_rank;
    if (d.id >= count)
        throw Error(
            strf("rank %d of this machine wants a GPU of its own, and there are %d: start fewer ranks here, or "
                 "look at CUDA_VISIBLE_DEVICES",
                 local_rank, count));
    auto attribute = [&](cudaDeviceAttr which) {
        int value = 0;
        CUDA_CHECK(cudaDeviceGetAttribute(&value, which, d.id));
        return value;
    };
    cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDeviceProperties(&properties, d.id));
    snprintf(d.name, sizeof d.name, "%s", properties.name);
    int major = attribute(cudaDevAttrComputeCapabilityMajor), minor = attribute(cudaDevAttrComputeCapabilityMinor);
    d.capability = 10 * major + minor;
    if (d.capability < 75)
        throw Error(strf("%s has compute capability %d.%d, and the program needs 7.5 (Turing) or newer; %s", d.name,
                         major, minor, cpu));
    CUDA_CHECK(cudaSetDevice(d.id));
    d.multiprocessors = attribute(cudaDevAttrMultiProcessorCount);
    d.l2_bytes = attribute(cudaDevAttrL2CacheSize);
    d.max_shared_bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    d.peak_memory_clock_khz = attribute(cudaDevAttrMemoryClockRate);
    d.memory_bus_bits = attribute(cudaDevAttrGlobalMemoryBusWidth);

    // Machine code for another architecture, and PTX newer than the GPU or its driver, show when a kernel is loaded.
    cudaFuncAttributes attributes;
    error = cudaFuncGetAttributes(&attributes, any_kernel());
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction ||
        error == cudaErrorUnsupportedPtxVersion || error == cudaErrorInvalidPtx ||
        error == cudaErrorJitCompilerNotFound)
        throw Error(
            strf("the program was built for compute capability %s, and %s has %d.%d (%s); rebuild: make "
                 "train_gpt2cu CUDA_ARCH=%d",
                 machine_code_for(), d.name, major, minor, cudaGetErrorString(error), d.capability));
    cuda_check(error, "cudaFuncGetAttributes", __FILE__, __LINE__);

    if (options.gelu_fusion < 0) options.gelu_fusion = default_gelu_fusion(d.capability);
}

void configure_device(DeviceOptions& options, bool bf16) {
    CudaDevice& d = device();
    if (bf16 && d.capability < 80)
        throw UsageError(strf("%s has compute capability %d.%d, and bf16 needs 8.0 (Ampere): use --precision fp32",
                              d.name, d.capability / 10, d.capability % 10));
    d.matmul = options.matmul == "own" ? MatmulLibrary::own : MatmulLibrary::cublaslt;
    d.tf32 = options.tf32;
    if (options.gelu_fusion < 0) options.gelu_fusion = default_gelu_fusion(d.capability);
    d.gelu_fusion = options.gelu_fusion;
    d.attention = AttentionLibrary::own;
    if (bf16 && options.attention == "auto")
        options.attention = wants_cudnn(d.capability) && attention_cudnn_missing().empty() ? "cudnn" : "own";
    if (bf16 && options.attention == "cudnn") {
        if (const std::string why = attention_cudnn_missing(); !why.empty())
            throw Error(strf("--attention cudnn: %s; or give --attention own, whose sums are rounded in another order",
                             why.c_str()));
        d.attention = AttentionLibrary::cudnn;
    }
    if (d.matmul == MatmulLibrary::cublaslt) cublaslt();  // a missing library is said now
}

std::vector<std::string> device_choices(const DeviceOptions& options, const ModelConfig& model, const StepOptions& o) {
    const CudaDevice& d = device();
    std::vector<std::string> lines;
    const std::string own = "attention: by the program's own kernels";
    if (d.attention == AttentionLibrary::cudnn) {
        const std::string cudnn = "cuDNN " + attention_cudnn_version();
        if (o.dropout > 0) lines.push_back(own + "; " + cudnn + " is not asked for attention with dropout");
        else if (o.examples) lines.push_back(own + "; " + cudnn + " is not asked for attention within documents");
        else if (!attention_cudnn_supports(packed_qkv_shape(o.B, o.T, model.C, model.NH), true))
            lines.push_back(own + strf("; %s has none in a fixed order for heads of %d on this GPU", cudnn.c_str(),
                                       model.C / model.NH));
        else
            lines.push_back("attention: by " + cudnn +
                            ", in a fixed order (--attention own: by the program's own kernels)");
    } else if (options.attention == "own" && wants_cudnn(d.capability)) {
        if (const std::string why = attention_cudnn_missing(); !why.empty())
            lines.push_back(own + "; cuDNN's would be faster on this GPU: " + why);
    }
    if (d.matmul == MatmulLibrary::cublaslt && algorithms_are_timed())
        lines.push_back("products: the first step times cuBLASLt's algorithms (--algorithms first: none is timed)");
    return lines;
}

bool begin_algorithms(const DeviceOptions& options) {
    if (device().matmul != MatmulLibrary::cublaslt) return true;
    CublasLt& lt = cublaslt();
    const bool recorded = !options.timed_algorithms.empty(), by_time = options.algorithms == "timed";
    lt.timed = {lt.machine(), {}}, lt.chosen = {}, lt.plans.clear();
    lt.timing = by_time && !recorded;
    if (!by_time || !recorded) return true;
    lt.chosen = CublasLtChoice::parse(options.timed_algorithms);
    return lt.chosen.machine == lt.machine();
}
bool algorithms_are_timed() { return device().matmul == MatmulLibrary::cublaslt && cublaslt().timing; }
std::string timed_algorithms() { return algorithms_are_timed() ? cublaslt().timed.text() : ""; }
std::string take_algorithms(const std::vector<std::string>& timed_by_ranks) {
    CublasLt& lt = cublaslt();
    lt.timing = false, lt.chosen = agreed_choice(timed_by_ranks);
    for (const auto& [key, words] : lt.chosen.at)
        if (const auto plan = lt.plans.find(key); plan != lt.plans.end())
            memcpy(plan->second.algorithm.data, words.data(), sizeof plan->second.algorithm.data);
    return lt.chosen.text();
}

size_t cublaslt_workspace_bytes() {
    return device().matmul == MatmulLibrary::cublaslt ? cublaslt_recommended_bytes(device().capability) : 0;
}

// Dense (sheets often give the rate with 2:4 sparsity, twice that), fp32 sums. From NVIDIA's data sheets of each, and
// the white papers "Ampere GA102", "Ada GPU Architecture" and "RTX Blackwell" for GeForce. The more special name first.
double device_peak_flops(bool bf16) {
    static const struct {
        const char* name;
        double tflops;
    } sheets[] = {{"GB200", 2500}, {"B200", 2250},      {"H100 PCIe", 756},  {"H100 NVL", 835},    {"H100", 989},
                  {"H800", 989},   {"H200", 989},       {"GH200", 989},      {"L40S", 362},        {"L40", 181},
                  {"L4", 121},     {"RTX 5090", 209.5}, {"RTX 4090", 165.2}, {"RTX 4080", 97.5},   {"A100", 312},
                  {"A800", 312},   {"A30", 165},        {"A40", 149.7},      {"RTX A6000", 154.8}, {"A10G", 70},
                  {"A10", 125},    {"RTX 3090", 71},    {"RTX 3080", 59.5}};
    if (!bf16 && !device().tf32) return 0;  // fp32 outside of the tensor cores depends on the clock
    for (const auto& sheet : sheets)
        if (const char* at = strstr(device().name, sheet.name)) {
            // "A10" is no "A100", "L4" no "L40", "RTX 4080" no "RTX 4080 SUPER"
            const char* after = at + strlen(sheet.name);
            if (isalnum(static_cast<unsigned char>(*after)) || !strncmp(after, " Ti", 3) ||
                !strncmp(after, " SUPER", 6))
                continue;
            if (strstr(device().name, "Laptop")) continue;
            return 1e12 * sheet.tflops * (bf16 ? 1 : 0.5);  // TF32 runs at half the rate of bf16 on all of these
        }
    return 0;
}

// By the driver's management library (NVML).
std::string device_health() try {
    struct Nvml {  // the functions of nvml.h, which not every toolkit brings
        void* library = open_library("The GPU's management library", "libnvidia-ml.so", {1},
                                     "it comes with the driver; or leave out --gpu-log-every");
        int (*init)() = find_function<int()>(library, "nvmlInit_v2");
        int (*handle)(const char*,
                      void**) = find_function<int(const char*, void**)>(library, "nvmlDeviceGetHandleByPciBusId_v2");
        int (*clock)(void*, int, unsigned*) = find_function<int(void*, int, unsigned*)>(library,
                                                                                        "nvmlDeviceGetClockInfo");
        int (*power)(void*, unsigned*) = find_function<int(void*, unsigned*)>(library, "nvmlDeviceGetPowerUsage");
        int (*temperature)(void*, int,
                           unsigned*) = find_function<int(void*, int, unsigned*)>(library, "nvmlDeviceGetTemperature");
        void* device = nullptr;
        Nvml() {
            char bus[32] = "";
            CUDA_CHECK(cudaDeviceGetPCIBusId(bus, sizeof bus, ::device().id));
            if (init() != 0 || handle(bus, &device) != 0) device = nullptr;
        }
    };
    static const Nvml nvml;
    unsigned value = 0;
    std::string text;
    if (nvml.device && nvml.clock(nvml.device, 1, &value) == 0) text += strf(", %u MHz", value);
    if (nvml.device && nvml.power(nvml.device, &value) == 0) text += strf(", %.0f W", value / 1e3);
    if (nvml.device && nvml.temperature(nvml.device, 0, &value) == 0) text += strf(", %u C", value);
    return text.empty() ? "nothing is known" : text.substr(2);
} catch (const Error& e) {  // no reason to end a run
    return e.what();
}
