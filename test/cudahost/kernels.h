// How a kernel is launched on the CPU, and what its instructions call while it runs: barriers, collectives of a warp,
// shared memory, asynchronous copies. The kernels' language (language.h, warps.h, include/llmc/) is made of these.
#pragma once
#include <stdint.h>

#include <algorithm>
#include <functional>
#include <source_location>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// NVIDIA's launch passes untyped arguments; ours, below, keeps their types.
#define cudaLaunchKernelEx cudahost_untyped_launch
#include <cuda_runtime.h>
#undef cudaLaunchKernelEx

namespace cudahost {

using Site = std::source_location;

// Waits until the lanes of `mask` are here, or have ended; then one of them calls complete(data of each lane, lanes
// that are here). `data` stays where it is until then, so lanes can exchange values through it.
using Complete = void (*)(void* const (&data)[32], uint32_t lanes);
void warp_collective(const char* what, uint32_t mask, void* data, Complete complete, Site where);
// The same for instructions that need all 32 lanes.
void full_warp_collective(const char* what, void* data, Complete complete, Site where);
void sync_warp(uint32_t mask, Site where);
// The tensor cores' (tensor_cores.cpp).
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, Site where);
void ldmatrix_x4(uint32_t (&r)[4], const void* row, bool transposed, Site where);

enum class Vote { none, any, all, count };
int block_barrier(const char* what, Vote vote, int predicate, Site where);

void* shared_memory(const void* key, size_t bytes, size_t alignment, const char* name, Site where);
void* dynamic_shared_memory(size_t alignment, Site where);
// `name` of each instantiation of a kernel is memory of its own: Key is the type of a lambda made at that place.
template <typename T, typename Key>
T& shared_array(Key, size_t alignment, const char* name, Site where = Site::current()) {
    static const char key = 0;
    return *static_cast<T*>(shared_memory(&key, sizeof(T), std::max(alignment, alignof(T)), name, where));
}
template <typename T>
T* dynamic_shared_array(size_t alignment, Site where = Site::current()) {
    return static_cast<T*>(dynamic_shared_memory(std::max(alignment, alignof(T)), where));
}

void cp_async(void* shared, const void* global, size_t bytes, bool valid, Site where);
void cp_async_commit();
void cp_async_wait(int pending);

// `bytes` at p must be shared memory on a boundary of that size.
void check_shared(const void* p, size_t bytes, Site where);

[[noreturn]] void trap(Site where);
extern int current_lane;
inline int lane() { return current_lane; }

// args: the bytes of each
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread,
                   std::vector<std::string> args);
// A kernel's argument: pointers must point to memory that the device can read, members of structs too.
void check_pointer(const void* kernel, int index, const void* pointer);
void check_struct(const void* kernel, int index, const void* object, size_t bytes);
template <typename T>
void check_argument(const void* kernel, int index, const T& value) {
    if constexpr (std::is_pointer_v<T>) {
        check_pointer(kernel, index, static_cast<const void*>(value));
    } else if constexpr (std::is_class_v<T>) {
        T copy = value;
        __builtin_clear_padding(&copy);
        check_struct(kernel, index, &copy, sizeof copy);
    }
}

}  // namespace cudahost

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
    const void* address = reinterpret_cast<const void*>(kernel);
    std::tuple<std::decay_t<Params>...> values(static_cast<Params>(args)...);
    std::vector<std::string> bytes;
    std::apply(
        [&](const auto&... value) {
            [[maybe_unused]] int i = 0;
            (cudahost::check_argument(address, i++, value), ...);
            (bytes.emplace_back(reinterpret_cast<const char*>(&value), sizeof value), ...);
        },
        values);
    return cudahost::launch(
        *config, address, [kernel, values] { std::apply(kernel, values); }, std::move(bytes));
}
