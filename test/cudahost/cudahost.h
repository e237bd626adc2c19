// CUDA on the CPU: g++ compiles the real kernels and the programs around them, and they run without a GPU.
//
// How it works
//   Sources     A few lines of awk (filter.awk) rewrite `__shared__` arrays; this header, which the Makefile includes
//               before everything else (-include), supplies the rest: __global__, threadIdx, __syncthreads(), shuffles,
//               atomics. NVIDIA's own headers supply types and declarations; runtime.cpp, cublaslt.cpp and nccl.cpp
//               define the functions. include/llmc/cuda/ptx.cuh takes the place of llmc/cuda/ptx.cuh.
//   Threads     Each thread of a block is a fibre: a stack of its own, switched by hand (scheduler.cpp). One runs at a
//               time, until it comes to a barrier or to a collective of its warp (shuffle, ballot, mma), where it waits
//               for the others. Which one runs next is drawn from a seed, and so is the order of the blocks. A kernel
//               that lacks a barrier then reads what is not yet written, or overwrites what is not yet read, under some
//               seed, and each seed replays exactly. A barrier that some threads do not reach is an error, not a hang.
//   Memory      New device and shared memory is full of NaN. What lies between two allocations, two shared arrays and
//               two tensors of an arena is guarded: by AddressSanitizer where the build has it (the very access is
//               reported, with a stack trace), else by bytes that are looked at after each kernel. Device memory is
//               closed to the host (SIGSEGV) while no kernel runs, and kernels may not be given host pointers.
//   Time        Work in a stream is done at once, or as late as somebody waits for it, by seed: a missing wait shows.
//               Asynchronous copies to shared memory (cp.async) too land at their beginning or at their wait.
//
// Using it
//   make test                                 runs test/cuda/*.cu this way, beside the tests of the CPU layers
//   make test_asan                            the same under AddressSanitizer and UBSan
//   make debug K=layernorm_forward_kernel T=layernorm
//                                             gdb stops inside the kernel as test/cuda/test_layernorm.cu launches it;
//                                             `print threadIdx`, `next`, `info locals` work. FILTER='*Forward*' chooses
//                                             tests, SEED=n the schedule (default 0: threads in order)
//   CUDAHOST_SEED=n                           in the environment: the one schedule of tests, or of a whole program
//
// What it cannot show: speed; the limits of registers; what only the weaker memory ordering of a real GPU breaks,
// between blocks that run at the same time (here blocks run one after another, and a store is visible at once); the
// last bits of approximate instructions.
#pragma once
#ifndef CUDAHOST
#error "compile with -DCUDAHOST"
#endif

#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

// NVIDIA's launch passes untyped arguments; ours, below, keeps their types.
#define cudaLaunchKernelEx cudahost_untyped_launch
#include <cuda_runtime.h>
#undef cudaLaunchKernelEx

// ---- for tests ----

namespace cudahost {

using Site = std::source_location;

// What a kernel or a call did wrong: thrown by the call that ran it.
struct Bug : std::logic_error {
    using std::logic_error::logic_error;
};

// The schedule from now on. 0: threads in order, nothing deferred. Waits for all work first.
void set_seed(uint64_t seed);
// Throws what was found wrong where no exception could leave (cudaFree in a destructor), and looks at all guards.
void check();

// The __syncthreads() or __syncwarp() at this place does nothing from now on; line 0 ends that. To show that a test
// would miss it.
void skip_barrier(const std::string& file, int line);
// Barriers that ran since set_seed or clear_barriers_seen, in order of file and line.
struct Barrier {
    std::string file;
    int line;
    bool of_warp;  // __syncwarp()
    bool operator<(const Barrier& other) const { return std::tie(file, line) < std::tie(other.file, other.line); }
};
std::vector<Barrier> barriers_seen();
void clear_barriers_seen();

// The fake device's memory from now on, to see what happens where it runs out.
void set_device_memory(size_t bytes);
// Whether the host cannot touch device memory; false only for large heaps on CPUs without protection keys.
bool device_memory_is_closed();

// For llmc/cuda/common.cuh: the workspace's first `bytes` become NaN, and the rest of `reserved` guarded, just before
// the next piece of work that is given to a stream.
void fresh_workspace(void* data, size_t bytes, size_t reserved);
void guard(void* begin, size_t bytes);

// ---- for what follows ----

// Waits until the lanes of `mask` are here, or have ended; then one of them calls complete(data of each lane, lanes
// that are here). `data` stays where it is until then, so lanes can exchange values through it.
using Complete = void (*)(void* const (&data)[32], uint32_t lanes);
void warp_collective(const char* what, uint32_t mask, void* data, Complete complete, Site where);
// The same for instructions that need all 32 lanes.
void full_warp_collective(const char* what, void* data, Complete complete, Site where);
void sync_warp(uint32_t mask, Site where);
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
// In a kernel's first line, by filter.awk: a GPU refuses to launch more threads than its __launch_bounds__ promise.
void more_threads_than(int promised);
inline void check_launch_bounds(int threads, int = 0, int = 0);
extern int current_lane;
inline int lane() { return current_lane; }

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
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
    std::apply(
        [&](const auto&... value) {
            [[maybe_unused]] int i = 0;
            (cudahost::check_argument(address, i++, value), ...);
        },
        values);
    return cudahost::launch(*config, address, [kernel, values] { std::apply(kernel, values); });
}

// llmc/cuda/common.cuh: what lies after each tensor of an arena
#define ARENA_GAP 256
inline void guard_gap(void* begin, size_t bytes) { cudahost::guard(begin, bytes); }

// ---- the language ----

#undef __global__
#undef __device__
#undef __host__
#undef __constant__
#undef __managed__
#undef __shared__
#undef __launch_bounds__
#undef __forceinline__
#undef __grid_constant__
#undef __cluster_dims__
#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __launch_bounds__(...)
#define __forceinline__ inline
#define __grid_constant__
#define __cluster_dims__(...)
// filter.awk replaces these; one that is left over stands in a form that it does not know
#define __shared__ \
    static_assert(false, "write each __shared__ array on a line of its own: __shared__ TYPE name[dims];");

extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

inline void cudahost::check_launch_bounds(int threads, int, int) {
    if (blockDim.x * blockDim.y * blockDim.z > static_cast<unsigned>(threads)) more_threads_than(threads);
}

// ---- synchronisation ----

inline void __syncthreads(cudahost::Site where = cudahost::Site::current()) {
    cudahost::block_barrier("__syncthreads", cudahost::Vote::none, 0, where);
}
inline int __syncthreads_or(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_or", cudahost::Vote::any, predicate, where);
}
inline int __syncthreads_and(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_and", cudahost::Vote::all, predicate, where);
}
inline int __syncthreads_count(int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::block_barrier("__syncthreads_count", cudahost::Vote::count, predicate, where);
}
inline void __syncwarp(unsigned mask = 0xffffffffu, cudahost::Site where = cudahost::Site::current()) {
    cudahost::sync_warp(mask, where);
}
// Threads run one at a time: every store is visible at once.
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}
inline void __nanosleep(unsigned) {}
#define __trap() cudahost::trap(cudahost::Site::current())

// ---- warps ----

namespace cudahost {

template <typename T>
struct Exchange {
    T value;     // what the lane gives
    int source;  // the lane whose value it gets
    T result;
};
// From a lane that has ended comes garbage, as on a GPU: all bits set.
template <typename T>
T exchange(const char* what, uint32_t mask, T value, int source, Site where) {
    static_assert(std::is_trivially_copyable_v<T>);
    Exchange<T> mine{value, source, value};
    warp_collective(
        what, mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            for (uint32_t left = lanes; left; left &= left - 1) {
                auto& lane = *static_cast<Exchange<T>*>(data[std::countr_zero(left)]);
                if (lanes >> lane.source & 1) lane.result = static_cast<Exchange<T>*>(data[lane.source])->value;
                else std::memset(&lane.result, 0xff, sizeof(T));
            }
        },
        where);
    return mine.result;
}
// Result of one value from all lanes: f(values of lanes, lanes) -> T
template <typename T, typename F>
T combine(const char* what, uint32_t mask, T value, F, Site where) {
    Exchange<T> mine{value, 0, value};
    warp_collective(
        what, mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            T values[32] = {};
            for (uint32_t left = lanes; left; left &= left - 1)
                values[std::countr_zero(left)] = static_cast<Exchange<T>*>(data[std::countr_zero(left)])->value;
            T result = F()(values, lanes);
            for (uint32_t left = lanes; left; left &= left - 1)
                static_cast<Exchange<T>*>(data[std::countr_zero(left)])->result = result;
        },
        where);
    return mine.result;
}
inline uint32_t ballot(const char* what, uint32_t mask, bool predicate, Site where) {
    auto bits = [](const uint32_t(&values)[32], uint32_t) {
        uint32_t set = 0;
        for (int i = 0; i < 32; i++) set |= values[i] << i;
        return set;
    };
    return combine<uint32_t>(what, mask, predicate, bits, where);
}

}  // namespace cudahost

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::exchange("__shfl_sync", mask, value, (cudahost::lane() & ~(width - 1)) + (source & (width - 1)),
                              where);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane ^ bits;
    if (source >= (lane & ~(width - 1)) + width) source = lane;  // a later group of `width` lanes: own value
    return cudahost::exchange("__shfl_xor_sync", mask, value, source, where);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32,
                 cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane - static_cast<int>(by);
    if (source < (lane & ~(width - 1))) source = lane;
    return cudahost::exchange("__shfl_up_sync", mask, value, source, where);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32,
                   cudahost::Site where = cudahost::Site::current()) {
    int lane = cudahost::lane(), source = lane + static_cast<int>(by);
    if (source >= (lane & ~(width - 1)) + width) source = lane;
    return cudahost::exchange("__shfl_down_sync", mask, value, source, where);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__ballot_sync", mask, predicate != 0, where);
}
inline int __any_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__any_sync", mask, predicate != 0, where) != 0;
}
inline int __all_sync(unsigned mask, int predicate, cudahost::Site where = cudahost::Site::current()) {
    return cudahost::ballot("__all_sync", mask, predicate == 0, where) == 0;
}
#define CUDAHOST_REDUCE(name, T, expression)                                                  \
    inline T name(unsigned mask, T value, cudahost::Site where = cudahost::Site::current()) { \
        auto reduce = [](const T(&values)[32], uint32_t lanes) {                              \
            T a = values[std::countr_zero(lanes)];                                            \
            for (uint32_t left = lanes & (lanes - 1); left; left &= left - 1) {               \
                T b = values[std::countr_zero(left)];                                         \
                a = (expression);                                                             \
            }                                                                                 \
            return a;                                                                         \
        };                                                                                    \
        return cudahost::combine<T>(#name, mask, value, reduce, where);                       \
    }
CUDAHOST_REDUCE(__reduce_add_sync, unsigned, a + b)
CUDAHOST_REDUCE(__reduce_min_sync, unsigned, a < b ? a : b)
CUDAHOST_REDUCE(__reduce_max_sync, unsigned, a > b ? a : b)
CUDAHOST_REDUCE(__reduce_or_sync, unsigned, a | b)
CUDAHOST_REDUCE(__reduce_and_sync, unsigned, a& b)
CUDAHOST_REDUCE(__reduce_xor_sync, unsigned, a ^ b)
CUDAHOST_REDUCE(__reduce_add_sync, int, a + b)
CUDAHOST_REDUCE(__reduce_min_sync, int, a < b ? a : b)
CUDAHOST_REDUCE(__reduce_max_sync, int, a > b ? a : b)
#undef CUDAHOST_REDUCE
template <typename T>
unsigned __match_any_sync(unsigned mask, T value, cudahost::Site where = cudahost::Site::current()) {
    struct Match {
        T value;
        unsigned result;
    } mine{value, 0};
    cudahost::warp_collective(
        "__match_any_sync", mask, &mine,
        [](void* const(&data)[32], uint32_t lanes) {
            for (uint32_t i = lanes; i; i &= i - 1)
                for (uint32_t j = lanes; j; j &= j - 1) {
                    auto& a = *static_cast<Match*>(data[std::countr_zero(i)]);
                    if (a.value == static_cast<Match*>(data[std::countr_zero(j)])->value) a.result |= j & -j;
                }
        },
        where);
    return mine.result;
}
inline unsigned __activemask() { return 1u << cudahost::lane(); }  // whoever happens to be here: as few as may be

// ---- loads and stores with a hint for the caches ----

template <typename T>
T __ldg(const T* p) {
    return *p;
}
template <typename T>
T __ldcs(const T* p) {
    return *p;
}
template <typename T>
T __ldcg(const T* p) {
    return *p;
}
template <typename T>
T __ldca(const T* p) {
    return *p;
}
template <typename T>
T __ldlu(const T* p) {
    return *p;
}
template <typename T>
T __ldcv(const T* p) {
    return *p;
}
template <typename T>
void __stcs(T* p, std::type_identity_t<T> x) {
    *p = x;
}
template <typename T>
void __stcg(T* p, std::type_identity_t<T> x) {
    *p = x;
}
template <typename T>
void __stwb(T* p, std::type_identity_t<T> x) {
    *p = x;
}
template <typename T>
void __stwt(T* p, std::type_identity_t<T> x) {
    *p = x;
}
inline size_t __cvta_generic_to_shared(const void* p) { return reinterpret_cast<size_t>(p); }
inline size_t __cvta_generic_to_global(const void* p) { return reinterpret_cast<size_t>(p); }

// ---- atomics: threads run one at a time ----

template <typename T, typename F>
T cudahost_atomic(T* p, F f) {
    T old = *p;
    *p = f(old);
    return old;
}
template <typename T>
T atomicAdd(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return static_cast<T>(old + x); });
}
template <typename T>
T atomicSub(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return static_cast<T>(old - x); });
}
template <typename T>
T atomicMax(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old > x ? old : x; });
}
template <typename T>
T atomicMin(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old < x ? old : x; });
}
template <typename T>
T atomicOr(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old | x; });
}
template <typename T>
T atomicAnd(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old & x; });
}
template <typename T>
T atomicXor(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old ^ x; });
}
template <typename T>
T atomicExch(T* p, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T) { return x; });
}
template <typename T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> x) {
    return cudahost_atomic(p, [=](T old) { return old == expected ? x : old; });
}
inline unsigned atomicInc(unsigned* p, unsigned limit) {
    return cudahost_atomic(p, [=](unsigned old) { return old >= limit ? 0 : old + 1; });
}
inline unsigned atomicDec(unsigned* p, unsigned limit) {
    return cudahost_atomic(p, [=](unsigned old) { return old == 0 || old > limit ? limit : old - 1; });
}

// ---- bits and arithmetic ----

inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __clzll(long long x) { return std::countl_zero(static_cast<unsigned long long>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    unsigned reversed = 0;
    for (int i = 0; i < 32; i++) reversed |= (x >> i & 1) << (31 - i);
    return reversed;
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(uint64_t{a} * b >> 32); }
inline int __mulhi(int a, int b) { return static_cast<int>(int64_t{a} * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    __extension__ typedef unsigned __int128 uint128;
    return static_cast<unsigned long long>(static_cast<uint128>(a) * b >> 64);
}
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    uint64_t bytes = uint64_t{y} << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) result |= static_cast<unsigned>(bytes >> 8 * (selector >> 4 * i & 7) & 0xff) << 8 * i;
    return result;
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return static_cast<unsigned>((uint64_t{high} << 32 | low) >> (shift & 31));
}

// Approximations are computed exactly; their error bounds are the GPU's business. (glibc has some of these names.)
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __sincosf(x, s, c) sincosf(x, s, c)
#define __tanf(x) tanf(x)
#define __powf(x, y) powf(x, y)
#define rsqrtf(x) (1.0f / sqrtf(x))
#define rsqrt(x) (1.0 / sqrt(x))
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __frsqrt_rn(float x) { return rsqrtf(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline int __float2int_rn(float x) { return static_cast<int>(nearbyintf(x)); }
inline int __float2int_rd(float x) { return static_cast<int>(floorf(x)); }
inline unsigned __float2uint_rn(float x) { return static_cast<unsigned>(nearbyintf(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }
inline float __double2float_rn(double x) { return static_cast<float>(x); }
// kept apart, so that the compiler does not make a fused multiply-add of them
[[gnu::noinline]] inline float __fmul_rn(float a, float b) { return a * b; }
[[gnu::noinline]] inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return __fadd_rn(a, -b); }
inline float __fdiv_rn(float a, float b) { return a / b; }

#define CUDAHOST_MIN_MAX(A, B, R)                                                     \
    inline R min(A a, B b) { return std::min(static_cast<R>(a), static_cast<R>(b)); } \
    inline R max(A a, B b) { return std::max(static_cast<R>(a), static_cast<R>(b)); }
CUDAHOST_MIN_MAX(int, int, int)
CUDAHOST_MIN_MAX(unsigned, unsigned, unsigned)
CUDAHOST_MIN_MAX(int, unsigned, unsigned)
CUDAHOST_MIN_MAX(unsigned, int, unsigned)
CUDAHOST_MIN_MAX(long, long, long)
CUDAHOST_MIN_MAX(unsigned long, unsigned long, unsigned long)
CUDAHOST_MIN_MAX(long, unsigned long, unsigned long)
CUDAHOST_MIN_MAX(unsigned long, long, unsigned long)
CUDAHOST_MIN_MAX(long long, long long, long long)
CUDAHOST_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
CUDAHOST_MIN_MAX(long long, unsigned long long, unsigned long long)
CUDAHOST_MIN_MAX(unsigned long long, long long, unsigned long long)
#undef CUDAHOST_MIN_MAX
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
inline double min(float a, double b) { return fmin(double{a}, b); }
inline double max(float a, double b) { return fmax(double{a}, b); }
inline double min(double a, float b) { return fmin(a, double{b}); }
inline double max(double a, float b) { return fmax(a, double{b}); }
