// What an optimizer remembers of each element (AdamW's m and v, a momentum, a sum of squares), and the types that this is kept in.
//
//   fp32   4 bytes; double where the model is double
//   bf16   2 bytes, rounded stochastically: rounded to nearest, a mean that changes by less than 1/256 a step would stand still
//   int8   1 byte and a scale for each 64: block-wise dynamic quantisation                    (Dettmers et al. 2021, https://arxiv.org/abs/2110.02861, section 2)
//
// Dynamic quantisation. x / scale is in [-1, 1]; a code's magnitude j = 2^i + k, k < 2^i, is the middle of the k-th of 2^i equal
// parts of the decade [0.1, 1] * 10^(i - bits + 1): the largest decade has half of the codes, and the smallest is six or seven
// orders of magnitude below. Means of gradients have a sign and 7 bits, sums of squares 8 bits. Here a block is 64 elements, on
// which every tensor and every rank's part begins, so that a block belongs to one of each, and what is kept does not depend on
// the number of ranks; the paper takes 2048. The scale has the 8 bits of a bf16 mantissa, so that codes that are read as floats
// and written again (checkpoints) come back as they were. What is positive never becomes 0 where it has no sign: it is divided
// by.                                                                                          (Li et al. 2023, https://arxiv.org/abs/2309.01507, section 3)
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>
#include "llmc/base/bf16.h"
#include "llmc/base/host_device.h"
#include "llmc/base/philox.h"

enum class StateType { fp32, bf16, int8 };
inline constexpr int kMomentBlock = 64;                                // elements that share a scale
HOST_DEVICE inline int64_t moment_block(int64_t i) { return i >> 6; }  // rounded down where i is negative, too

// One such number for each element of a (part of an) arena. Null: the optimizer has none.
struct Moment {
    char* values = nullptr;  // of the state's type
    bf16* scales = nullptr;  // int8 only
    bool has_sign = true;

    HOST_DEVICE explicit operator bool() const { return values != nullptr; }
    template <typename A>
    HOST_DEVICE static int64_t bytes(StateType type) {
        return type == StateType::fp32 ? int64_t(sizeof(A)) : type == StateType::bf16 ? 2 : 1;
    }
    template <typename Y>
    HOST_DEVICE Y* as() const {
        return reinterpret_cast<Y*>(values);
    }
    // From element i on; of int8 i is a multiple of kMomentBlock. A: what fp32 stands for.
    template <typename A>
    HOST_DEVICE Moment from(int64_t i, StateType type) const {
        if (!values) return {};
        return {values + i * bytes<A>(type), scales ? scales + moment_block(i) : nullptr, has_sign};
    }
};

// The magnitude of a code, j in [0, 2^bits).
HOST_DEVICE inline float dynamic_value(int j, int bits) {
    const float x = static_cast<float>(j);  // 2^i (1 + k / 2^i): its exponent is i, its mantissa k / 2^i
    const int i = static_cast<int>(std::bit_cast<uint32_t>(x) >> 23) - 127;
    const float middle = std::bit_cast<float>(static_cast<uint32_t>(126 - i) << 23);  // 0.5 / 2^i
    const float part = std::bit_cast<float>((std::bit_cast<uint32_t>(x) & 0x7fffff) | 0x3f800000) - 1 + middle;
    float decade = 1;
    for (int d = 1; d < 8; d++) decade = i + d < bits ? decade * 0.1f : decade;
    return j == 0 ? 0 : (0.1f + 0.9f * part) * decade;
}
// A byte's.
HOST_DEVICE inline float dynamic_byte(int8_t code, bool has_sign) {
    if (!has_sign) return dynamic_value(static_cast<uint8_t>(code), 8);
    return code < 0 ? -dynamic_value(-code, 7) : dynamic_value(code, 7);
}
// The code of x >= 0, which is at most a rounding above 1.
HOST_DEVICE inline int dynamic_code(float x, int bits) {
    float enlarge = 1;
    int parts = 1 << (bits - 1);
    for (int d = 1; d < 8; d++) {  // the decade: whether x is below 10^-d
        const bool below = d < bits && x * enlarge < 0.1f;
        enlarge = below ? enlarge * 10 : enlarge, parts = below ? parts / 2 : parts;
    }
    const int k = static_cast<int>((x * enlarge - 0.1f) * (static_cast<float>(parts) / 0.9f));
    const int code = parts + (k < 0 ? 0 : k >= parts ? parts - 1 : k);
    const bool zero = bits == 8 ? x <= 0 : x * enlarge < 0.275f && parts == 1;  // nearer to 0 than to code 1
    return zero ? 0 : code;
}
// The scale of a block whose largest magnitude this is, so that it has the largest code; and what magnitudes are multiplied by.
HOST_DEVICE inline bf16 dynamic_scale(float largest, int bits) {
    const int most = (1 << bits) - 1;
    bf16 scale(largest / dynamic_value(most, bits));
    if (largest > 0 && dynamic_code(largest / static_cast<float>(scale), bits) < most)
        scale.bits--;  // it was rounded up
    return scale;
}
HOST_DEVICE inline float dynamic_inverse(bf16 scale) {
    const float s = static_cast<float>(scale);
    return s > 0 ? 1 / s : 0;
}

// The random words of element e of the arena and the three beside it: a word's lower half rounds m, its upper half v.
HOST_DEVICE inline Philox4 moment_rounding(uint64_t seed, uint32_t step, int64_t e) {
    const uint64_t group = static_cast<uint64_t>(e) / 4;
    return philox(seed, static_cast<uint32_t>(group), static_cast<uint32_t>(group >> 32), step,
                  static_cast<uint32_t>(Use::state_rounding) << 24);
}

// ---- on a host, n elements from element i on; of int8 whole blocks ----

template <typename A>
void load_moments(A* to, const Moment& from, StateType type, int64_t i, int64_t n) {
    if (type == StateType::fp32) {
        std::copy_n(from.as<A>() + i, n, to);
    } else if (type == StateType::bf16) {
        for (int64_t k = 0; k < n; k++) to[k] = static_cast<float>(from.as<bf16>()[i + k]);
    } else {
        for (int64_t k = 0; k < n; k++) {
            const int8_t code = from.as<int8_t>()[i + k];
            const float scale = static_cast<float>(from.scales[moment_block(i + k)]);
            to[k] = dynamic_byte(code, from.has_sign) * scale;
        }
    }
}
// random(k): what rounds bf16 stochastically, its lower 16 bits.
template <typename A, typename Random>
void store_moments(const Moment& to, StateType type, int64_t i, int64_t n, const A* from, Random random) {
    if (type == StateType::fp32) {
        std::copy_n(from, n, to.as<A>() + i);
    } else if (type == StateType::bf16) {
        for (int64_t k = 0; k < n; k++)
            to.as<bf16>()[i + k].bits = round_stochastically(static_cast<float>(from[k]), random(k));
    } else {
        const int bits = to.has_sign ? 7 : 8;
        for (int64_t begin = 0; begin < n; begin += kMomentBlock) {
            const int64_t end = std::min(begin + kMomentBlock, n);
            float largest = 0;
            for (int64_t k = begin; k < end; k++) largest = std::max(largest, std::abs(static_cast<float>(from[k])));
            const bf16 scale = dynamic_scale(largest, bits);
            const float inverse = dynamic_inverse(scale);
            to.scales[moment_block(i + begin)] = scale;
            for (int64_t k = begin; k < end; k++) {
                const float x = static_cast<float>(from[k]);
                const int code = dynamic_code(std::abs(x) * inverse, bits);
                to.as<int8_t>()[i + k] = static_cast<int8_t>(to.has_sign && x < 0 ? -code : code);
            }
        }
    }
}

// Blocks of int8 moments on a host, as floats: what copies from and to a machine's memory take.
struct HostMoments {
    std::vector<float> codes, scales;
    bool has_sign;

    HostMoments(size_t blocks, bool sign) : codes(blocks * kMomentBlock), scales(blocks), has_sign(sign) {}
    void unpack(float* to, int64_t first, int64_t n) const {
        std::vector<int8_t> bytes(codes.begin(), codes.end());
        std::vector<bf16> factors(scales.begin(), scales.end());
        load_moments(to, packed(bytes, factors), StateType::int8, first, n);
    }
    void pack(const float* from, int64_t n) {
        std::vector<int8_t> bytes(codes.size());
        std::vector<bf16> factors(scales.size());
        store_moments(packed(bytes, factors), StateType::int8, 0, n, from, [](int64_t) { return 0u; });
        std::copy(bytes.begin(), bytes.end(), codes.begin());
        std::copy(factors.begin(), factors.end(), scales.begin());
    }

  private:
    Moment packed(std::vector<int8_t>& bytes, std::vector<bf16>& factors) const {
        return {reinterpret_cast<char*>(bytes.data()), factors.data(), has_sign};
    }
};
