// Functions of a single thread: loads and stores with a hint, atomics, bits, arithmetic.
#pragma once
#include <math.h>
#include <stdint.h>

#include <algorithm>
#include <bit>
#include <type_traits>

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
