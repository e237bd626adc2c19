// The device that is not there: its properties, errors, and launches on it.
#include "test/cudahost/block.h"
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

namespace cudahost {

namespace {

// Kernels are loaded when they are first used (CUDA Programming Guide, "Lazy Loading"), which may wait for the device:
// a capture is no time for that.
void load(const void* kernel) {
    if (the().loaded.count(kernel)) return;
    for_each_stream([&](cudaStream_t s) {
        if (s->capture)
            throw Bug(kernel_name(kernel) + " is first used while a stream is captured: launch it once before");
    });
    the().loaded.insert(kernel);
}

}  // namespace

const DeviceLimits& device_limits() {
    // CUDA Programming Guide, "Technical Specifications per Compute Capability"
    static constexpr DeviceLimits devices[] = {{75, 64 << 10, 64 << 10, 1024},
                                               {80, 163 << 10, 164 << 10, 2048},
                                               {86, 99 << 10, 100 << 10, 1536},
                                               {90, 227 << 10, 228 << 10, 2048}};
    static const DeviceLimits& the_device = []() -> const DeviceLimits& {
        const char* wanted = getenv("CUDAHOST_DEVICE");
        for (const DeviceLimits& d : devices)
            if (std::to_string(d.capability) == (wanted ? wanted : "90")) return d;
        fprintf(stderr, "CUDAHOST_DEVICE=%s: there are 75, 80, 86 and 90\n", wanted);
        exit(2);
    }();
    return the_device;
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread,
                   std::vector<std::string> args) {
    dim3 g = config.gridDim, b = config.blockDim;
    uint64_t threads = uint64_t{b.x} * b.y * b.z;
    if (threads == 0 || threads > kMaxThreads || b.z > 64 || !g.x || !g.y || !g.z || g.x > 0x7fffffff || g.y > 65535 ||
        g.z > 65535)
        return result(cudaErrorInvalidConfiguration);
    auto found = the().dynamic_shared.find(kernel);
    size_t consent = found == the().dynamic_shared.end() ? 0 : static_cast<size_t>(found->second);
    if (config.dynamicSmemBytes > std::max<size_t>(consent, 48 << 10)) return result(cudaErrorInvalidValue);
    load(kernel);
    Launch launch{g, b, config.dynamicSmemBytes, kernel, std::move(thread), std::move(args), consent};
    return enqueue(config.stream, [launch = std::move(launch)] {
        last_kernel = launch.kernel;
        if (on_ptx()) run_on_ptx(launch);
        else run(launch);
    });
}

}  // namespace cudahost

using namespace cudahost;

extern "C" {

// ---- errors ----

cudaError_t cudaGetLastError() { return std::exchange(the().last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define NAME(e) \
    case e:     \
        return #e
        NAME(cudaSuccess);
        NAME(cudaErrorInvalidValue);
        NAME(cudaErrorMemoryAllocation);
        NAME(cudaErrorInvalidConfiguration);
        NAME(cudaErrorInvalidResourceHandle);
        NAME(cudaErrorInvalidDevice);
        NAME(cudaErrorNotReady);
        NAME(cudaErrorNotSupported);
        NAME(cudaErrorStreamCaptureUnsupported);
        NAME(cudaErrorStreamCaptureInvalidated);
        NAME(cudaErrorStreamCaptureImplicit);
        NAME(cudaErrorStreamCaptureUnjoined);
        NAME(cudaErrorStreamCaptureUnmatched);
        NAME(cudaErrorCapturedEvent);
        NAME(cudaErrorIllegalState);
        NAME(cudaErrorLaunchFailure);
#undef NAME
        default:
            return "cudaError";
    }
}
const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorNotReady:
            return "device not ready";
        case cudaErrorNotSupported:
            return "operation not supported";
        case cudaErrorLaunchFailure:
            return "unspecified launch failure";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated:
            return "operation failed due to a previous error during capture";
        default:
            return cudaGetErrorName(error);
    }
}

// ---- device ----

// Eight alike, so that each of several ranks has one; a process uses one of them.
constexpr int kDevices = 8;
cudaError_t cudaGetDeviceCount(int* count) { return *count = kDevices, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
    return result(device >= 0 && device < kDevices ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
    if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
    std::memset(static_cast<void*>(p), 0, sizeof *p);
    std::strcpy(p->name, "CUDA on the CPU");
    const DeviceLimits& limits = device_limits();
    p->major = limits.capability / 10, p->minor = limits.capability % 10;
    p->multiProcessorCount = 3;  // few and odd: what divides work among them meets remainders
    p->totalGlobalMem = heap().limit;
    p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = limits.shared;
    p->sharedMemPerMultiprocessor = limits.shared_of_multiprocessor;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = kMaxThreads, p->maxThreadsPerMultiProcessor = limits.threads_of_multiprocessor;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 64;
    p->unifiedAddressing = p->concurrentKernels = p->asyncEngineCount = p->managedMemory = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
    cudaDeviceProp p;
    cudaGetDeviceProperties(&p, 0);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor:
            *value = p.major;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = p.minor;
            break;
        case cudaDevAttrMultiProcessorCount:
            *value = p.multiProcessorCount;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(p.sharedMemPerBlock);
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(p.sharedMemPerBlockOptin);
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(p.sharedMemPerMultiprocessor);
            break;
        case cudaDevAttrReservedSharedMemoryPerBlock:
            *value = static_cast<int>(p.sharedMemPerMultiprocessor - p.sharedMemPerBlockOptin);
            break;
        case cudaDevAttrMaxThreadsPerBlock:
            *value = p.maxThreadsPerBlock;
            break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = p.maxThreadsPerMultiProcessor;
            break;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor:
            *value = 65536;
            break;
        case cudaDevAttrWarpSize:
            *value = 32;
            break;
        case cudaDevAttrL2CacheSize:
            *value = p.l2CacheSize;
            break;
        case cudaDevAttrClockRate:
            *value = 1000000;
            break;  // kHz
        case cudaDevAttrMemoryClockRate:
            *value = 1000000;
            break;  // kHz
        case cudaDevAttrGlobalMemoryBusWidth:
            *value = p.memoryBusWidth;
            break;
        case cudaDevAttrMemoryPoolsSupported:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrAsyncEngineCount:
            *value = 1;
            break;
        default:
            *value = 0;
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
    snprintf(id, static_cast<size_t>(length), "0000:00:00.0");
    return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    NOT_WHILE_CAPTURING;
    run_everything();
    return cudaSuccess;
}

// ---- kernels ----

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    load(kernel);
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || static_cast<size_t>(value) > device_limits().shared) return result(cudaErrorInvalidValue);
        the().dynamic_shared[kernel] = value;
    }
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* kernel) {
    load(kernel);
    *attributes = {};
    attributes->maxThreadsPerBlock = kMaxThreads;
    attributes->maxDynamicSharedSizeBytes = 48 << 10;
    attributes->numRegs = 64;
    return cudaSuccess;
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
    throw Bug("cudaLaunchKernelExC has no types: launch kernels with launch() (llmc/cuda/common.cuh)");
}

}  // extern "C"
