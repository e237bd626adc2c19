// IEEE 754's half precision, as files have it: 5 exponent bits, 10 mantissa bits. Nothing is computed in it.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>

inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
    if (exponent > 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    return sign ? -subnormal : subnormal;
}

// Rounded to nearest, ties to even; 65520 and more become infinity.
inline uint16_t float_to_half(float x) {
    const uint32_t bits = std::bit_cast<uint32_t>(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    uint32_t half;
    if (size > 0x7f800000) half = 0x7e00;  // NaN
    else if (size >= 0x477ff000) half = 0x7c00;
    else if (size >= 0x38800000) half = (size + 0xfff + (size >> 13 & 1) - (112u << 23)) >> 13;
    // floats from 0.5 to 1 are as far apart as halfs below 2^-14: the sum is rounded as they are
    else half = std::bit_cast<uint32_t>(std::abs(x) + 0.5f) - 0x3f000000;
    return static_cast<uint16_t>(sign | half);
}
