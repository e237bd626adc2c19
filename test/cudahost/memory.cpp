// Memory as the runtime's functions have it: device memory and pinned memory, copies and fills.
#include "test/cudahost/closing.h"
#include "test/cudahost/heap.h"
#include "test/cudahost/streams.h"

namespace cudahost {

void fresh_workspace(void* data, size_t bytes, size_t reserved) {
    static char* guarded = nullptr;
    auto* begin = static_cast<char*>(data);
    the().before_next = [=] {
        unpoison(begin, reserved);
        if (guarded) remove_guard(guarded);
        guarded = nullptr;
        if (heap().sparse) return;
        std::memset(begin, 0xff, bytes);
        note_written(begin, bytes, false);
        if (bytes < reserved) guard(guarded = begin + bytes, reserved - bytes);
    };
}

}  // namespace cudahost

using namespace cudahost;

namespace {

// NCCL lets go of memory that it registered at its first call after the graph's end.
void check_not_registered(const char* p, size_t bytes) {
    auto look = [&](const std::vector<Registered>& registered, const char* until) {
        for (const Registered& r : registered)
            if (r.begin < p + bytes && p < r.begin + r.bytes)
                throw Bug(
                    format("cudaFree of %zu bytes that take part in a captured operation of a communicator, before "
                           "%s has ended",
                           bytes, until));
    };
    for (CUgraphExec_st* e : the().executables) look(e->graph.registered, "the graph");
    look(the().let_go, "the communicator");
}

}  // namespace

extern "C" {

// ---- memory ----

cudaError_t cudaMalloc(void** p, size_t bytes) {
    resolve(nullptr);
    NOT_WHILE_CAPTURING;
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    *p = allocate(bytes);
    return result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
    // It may stand in a destructor: what goes wrong is thrown by the next call.
    if (breaks_capture()) return result(cudaErrorStreamCaptureUnsupported);
    Access access;
    keep_bug([] {
        if (the().pending_bug) drop_all_work();
        else run_everything();
        look_at_guards();
    });
    if (!p) return cudaSuccess;
    if (!heap().live.count(static_cast<char*>(p))) return result(cudaErrorInvalidValue);
    keep_bug([&] { check_not_registered(static_cast<char*>(p), heap().live.at(static_cast<char*>(p)).bytes); });
    release(static_cast<char*>(p));
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) {
    resolve(nullptr);
    NOT_WHILE_CAPTURING;
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(p, 256, bytes) != 0) return result(cudaErrorMemoryAllocation);
    std::memset(*p, 0xff, bytes);
    heap().pinned[static_cast<char*>(*p)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
    keep_bug([] {
        if (!the().pending_bug) run_everything();
    });
    if (!p) return cudaSuccess;
    if (!heap().pinned.erase(static_cast<char*>(p))) return result(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    *total = heap().limit;
    *available = heap().limit - std::min(heap().limit, heap().allocated);
    return cudaSuccess;
}

}  // extern "C"

// ---- copies and fills ----

namespace {

cudaMemcpyKind real_kind(const void* to, const void* from, cudaMemcpyKind kind) {
    if (kind != cudaMemcpyDefault) return kind;
    return in_heap(to) ? (in_heap(from) ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                       : (in_heap(from) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
}
void check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* what) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to_device) check_device_range(to, bytes, what);
    else check_host_range(to, bytes, what);
    if (from_device) check_device_range(from, bytes, what);
    else check_host_range(from, bytes, what);
}

}  // namespace

extern "C" {

cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    check_device_range(p, bytes, "cudaMemset");
    return enqueue(stream, [=] { fill_memory(p, value, bytes); });
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, nullptr); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    kind = real_kind(to, from, kind);
    check_copy(to, from, bytes, kind, "cudaMemcpy");
    stream = resolve(stream);
    bool from_pageable = (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost) && !is_pinned(from);
    bool to_pageable = (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost) && !is_pinned(to);
    if (from_pageable && !stream->capture) {  // it is staged before the call returns
        std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        cudaError_t error = enqueue(stream, [=, staged = std::move(staged)] { copy_memory(to, staged.data(), bytes); });
        if (to_pageable) run_all(stream);
        return error;
    }
    // Until it lands, the host sees NaN there, not what was there before; unless a copy to the device that comes before it in
    // the order of streams may still have to read that.
    bool idle = true;
    for_each_stream([&](cudaStream_t s) { idle = idle && s->queue.empty(); });
    if (kind == cudaMemcpyDeviceToHost && !to_pageable && !stream->capture && idle && schedule.shuffle)
        std::memset(to, 0xff, bytes);
    cudaError_t error = enqueue(stream, [=] { copy_memory(to, from, bytes); });
    if (to_pageable && !stream->capture) run_all(stream);
    return error;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    NOT_WHILE_CAPTURING;
    cudaError_t error = enqueue(nullptr, [] {});
    if (error != cudaSuccess) return error;
    run_all(&the().legacy);
    error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    // From pageable memory it returns when the bytes are staged, and they may land later (CUDA Driver API, "API
    // synchronization behavior"): streams that do not wait for the legacy one may be earlier.
    bool may_land_late =
        real_kind(to, from, kind) == cudaMemcpyHostToDevice && !is_pinned(from) &&
        (schedule.streams == Landing::late || (schedule.streams == Landing::random && schedule.random.chance(2)));
    if (error == cudaSuccess && !may_land_late) run_all(&the().legacy);
    return error;
}

}  // extern "C"
