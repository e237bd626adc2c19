// PTX ISA: Data Movement and Conversion Instructions: mov, cvt, cvta.
#include <cfenv>
#include <cmath>

#include "test/ptx/opcode.h"

namespace ptx {

namespace {

// ---- mov ----

template <typename T>
void move(Warp& w, const Instruction& i, uint32_t lanes) {
    T scratch[32];
    T values[32];
    std::memcpy(values, source<T>(w, i.operands[1], scratch), sizeof values);
    result<T>(w, i.operands[0], values, lanes);
}
// mov.b64 d, {a, b}: the first element is the lowest bits
void pack(Warp& w, const Instruction& i, uint32_t lanes) {
    const auto& parts = i.operands[1].list;
    int bits = i.type.bits / static_cast<int>(parts.size());
    uint64_t out[32] = {}, scratch[32];
    for (size_t n = 0; n < parts.size(); n++) {
        const uint64_t* part = source<uint64_t>(w, parts[n], scratch);
        for (int l = 0; l < 32; l++) out[l] |= (part[l] & ~0ull >> (64 - bits)) << (n * bits);
    }
    result<uint64_t>(w, i.operands[0], out, lanes);
}
void unpack(Warp& w, const Instruction& i, uint32_t lanes) {
    const auto& parts = i.operands[0].list;
    int bits = i.type.bits / static_cast<int>(parts.size());
    uint64_t scratch[32], out[32], whole[32];
    std::memcpy(whole, source<uint64_t>(w, i.operands[1], scratch), sizeof whole);
    for (size_t n = 0; n < parts.size(); n++) {
        for (int l = 0; l < 32; l++) out[l] = whole[l] >> (n * bits) & ~0ull >> (64 - bits);
        result<uint64_t>(w, parts[n], out, lanes);
    }
}

// cvta: generic addresses are those of the host, and shared memory has a window in them
void to_generic(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t scratch[32], out[32];
    const uint64_t* a = source<uint64_t>(w, i.operands[1], scratch);
    uint64_t add = i.space != Space::shared ? 0 : i.option ? 0 - kSharedWindow : kSharedWindow;  // option: back
    for (int l = 0; l < 32; l++) out[l] = a[l] + add;
    result<uint64_t>(w, i.operands[0], out, lanes);
}

// ---- cvt ----

constexpr int kRoundings[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

template <typename D, typename S>
void integers(Warp& w, const Instruction& i, uint32_t lanes) {
    S scratch[32];
    D out[32];
    const S* a = source<S>(w, i.operands[1], scratch);
    for (int l = 0; l < 32; l++) out[l] = static_cast<D>(a[l]);
    result<D>(w, i.operands[0], out, lanes);
}
template <typename D>
Run integers_from(Type from) {
    bool s = from.kind == 's';
    switch (from.bits) {
        case 8:
            return s ? integers<D, int8_t> : integers<D, uint8_t>;
        case 16:
            return s ? integers<D, int16_t> : integers<D, uint16_t>;
        case 32:
            return s ? integers<D, int32_t> : integers<D, uint32_t>;
        default:
            return s ? integers<D, int64_t> : integers<D, uint64_t>;
    }
}

uint16_t to_bf16(float x) {  // to the nearest, ties to even
    uint32_t bits = std::bit_cast<uint32_t>(x);
    if (x != x) return 0x7fff;
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
void floats_to_bf16(Warp& w, const Instruction& i, uint32_t lanes) {
    float s1[32], s2[32];
    uint32_t out[32];
    bool two = i.type.count == 2;  // the first source goes to the upper half
    const float *a = source<float>(w, i.operands[1], s1), *b = two ? source<float>(w, i.operands[2], s2) : a;
    for (int l = 0; l < 32; l++) out[l] = two ? uint32_t{to_bf16(a[l])} << 16 | to_bf16(b[l]) : to_bf16(a[l]);
    result<uint32_t>(w, i.operands[0], out, lanes);
}
void bf16_to_floats(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t scratch[32], out[32];
    const uint32_t* a = source<uint32_t>(w, i.operands[1], scratch);
    for (int l = 0; l < 32; l++) out[l] = a[l] << 16;
    result<uint32_t>(w, i.operands[0], out, lanes);
}

double rounded(double x, Rounding how) {  // to a whole number
    switch (how) {
        case Rounding::nearest:
            return std::nearbyint(x);
        case Rounding::zero:
            return std::trunc(x);
        case Rounding::down:
            return std::floor(x);
        default:
            return std::ceil(x);
    }
}
// What a source of this type is, exactly: of 64-bit integers the value itself, since a double would round it.
void with_floats(Warp& w, const Instruction& i, uint32_t lanes) {
    const Type from = i.from, to = i.type;
    uint64_t scratch[32], values[32], out[32] = {};
    uint32_t scratch32[32];
    if (from.bits == 64) std::memcpy(values, source<uint64_t>(w, i.operands[1], scratch), sizeof values);
    else
        for (const uint32_t *a = source<uint32_t>(w, i.operands[1], scratch32), *l = a; l < a + 32; l++)
            values[l - a] = *l;
    for_each_lane(lanes, [&](int l) {
        int unused = 64 - from.bits;
        int64_t integer = static_cast<int64_t>(values[l] << unused) >> unused;
        uint64_t natural = values[l] << unused >> unused;
        std::fesetround(kRoundings[i.to_integer ? 0 : static_cast<int>(i.rounding)]);
        if (to.kind == 'f' && from.kind != 'f') {
            volatile float f = 0;
            volatile double d = 0;
            if (to.bits == 32) f = from.kind == 's' ? static_cast<float>(integer) : static_cast<float>(natural);
            else d = from.kind == 's' ? static_cast<double>(integer) : static_cast<double>(natural);
            out[l] = to.bits == 32 ? std::bit_cast<uint32_t>(float{f}) : std::bit_cast<uint64_t>(double{d});
        } else {
            double x = from.bits == 32 ? std::bit_cast<float>(static_cast<uint32_t>(values[l]))
                                       : std::bit_cast<double>(values[l]);
            if (i.flush && from.bits == 32 && std::fpclassify(static_cast<float>(x)) == FP_SUBNORMAL)
                x = std::copysign(0.0, x);
            if (i.to_integer) x = rounded(x, i.rounding);
            if (to.kind == 'f') {
                if (i.saturate) x = x > 0 ? std::min(x, 1.0) : 0.0;
                volatile float f = static_cast<float>(x);
                uint32_t bits = x == x ? std::bit_cast<uint32_t>(float{f}) : 0x7fffffffu;
                if (to.bits == 32) out[l] = bits;
                else out[l] = std::bit_cast<uint64_t>(x);
            } else {  // what is too large becomes the largest; NaN becomes 0
                bool s = to.kind == 's';
                double least = s ? -std::ldexp(1.0, to.bits - 1) : 0, most = std::ldexp(1.0, to.bits - (s ? 1 : 0));
                if (x != x) out[l] = 0;
                else if (x < least) out[l] = s ? 1ull << (to.bits - 1) : 0;
                else if (x >= most) out[l] = ~0ull >> (64 - to.bits + (s ? 1 : 0));
                else out[l] = s ? static_cast<uint64_t>(static_cast<int64_t>(x)) : static_cast<uint64_t>(x);
            }
        }
        std::fesetround(FE_TONEAREST);
    });
    result<uint64_t>(w, i.operands[0], out, lanes);
}

}  // namespace

void decode_convert(Instruction& i, Opcode& o) {
    const Type t = i.type;
    if (o.name == "mov" && i.operands.size() == 2) {
        if (i.operands[1].kind == Operand::Kind::list) i.run = pack;
        else if (i.operands[0].kind == Operand::Kind::list) i.run = unpack;
        else i.run = t.bits == 64 ? move<uint64_t> : t.bits == 32 ? move<uint32_t> : move<uint16_t>;
    } else if (o.name == "cvta") {
        i.option = o.take("to");
        i.run = to_generic;
    } else if (o.name == "cvt" && o.types.size() == 2) {
        const Type from = i.from;
        if (t.kind == 'h' && from.kind == 'f' && from.bits == 32 && i.rounding == Rounding::nearest && !i.saturate) {
            i.run = floats_to_bf16;
        } else if (from.kind == 'h' && t.kind == 'f' && t.bits == 32) {
            i.run = bf16_to_floats;
        } else if ((t.kind == 'f' && t.bits >= 32) || (from.kind == 'f' && from.bits >= 32)) {
            if (t.kind != 'h' && from.kind != 'h') i.run = with_floats;
        } else if (!i.saturate && t.kind != 'h' && from.kind != 'h' && t.kind != 'f' && from.kind != 'f') {
            bool s = t.kind == 's';
            switch (t.bits) {
                case 8:
                    i.run = s ? integers_from<int8_t>(from) : integers_from<uint8_t>(from);
                    break;
                case 16:
                    i.run = s ? integers_from<int16_t>(from) : integers_from<uint16_t>(from);
                    break;
                case 32:
                    i.run = s ? integers_from<int32_t>(from) : integers_from<uint32_t>(from);
                    break;
                default:
                    i.run = s ? integers_from<int64_t>(from) : integers_from<uint64_t>(from);
            }
        }
    }
}

}  // namespace ptx
