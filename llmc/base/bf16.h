// bfloat16: the upper half of a float. 8 exponent bits as in float, 7 mantissa bits.
//
// Arithmetic happens in float: values convert on load and are rounded to nearest, ties to even, on store.
// acc_t<X> is the type that sums over X are kept in, grad_t<X> the type of X's parameter gradients.
#pragma once
#include <bit>
#include <cstdint>
#include <type_traits>

#include "llmc/base/host_device.h"

struct bf16 {
    uint16_t bits;

    bf16() = default;
    HOST_DEVICE bf16(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));  // what cuda_bf16.h, a long header, does too
#else
        uint32_t u = std::bit_cast<uint32_t>(x);
        uint32_t rounded = u + 0x7fff + ((u >> 16) & 1);
        bool is_nan = (u & 0x7fffffff) > 0x7f800000;  // rounding must not turn a NaN into infinity
        bits = static_cast<uint16_t>((is_nan ? (u | 0x00400000) : rounded) >> 16);
#endif
    }
    HOST_DEVICE operator float() const { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
    HOST_DEVICE bf16& operator+=(float x) { return *this = bf16(static_cast<float>(*this) + x); }
};

// x plus random low bits, cut: x's upper neighbour with probability (x - lower) / (upper - lower). Infinity and NaN
// stay. Returns the bits.
HOST_DEVICE inline uint16_t round_stochastically(float x, uint32_t random) {
    uint32_t u = std::bit_cast<uint32_t>(x);
    bool finite = (u & 0x7f800000) != 0x7f800000;
    return static_cast<uint16_t>((finite ? u + (random & 0xffff) : u | ((u & 0xffff) ? 0x400000 : 0)) >> 16);
}

template <typename X>
using acc_t = std::conditional_t<std::is_same_v<X, double>, double, float>;
template <typename X>
using grad_t = acc_t<X>;
