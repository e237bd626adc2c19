// PTX ISA: Integer Arithmetic Instructions; Logic and Shift Instructions.
#include "test/ptx/opcode.h"

namespace ptx {

namespace {

template <typename T>
struct Wider;
template <>
struct Wider<int16_t> {
    using type = int32_t;
};
template <>
struct Wider<uint16_t> {
    using type = uint32_t;
};
template <>
struct Wider<int32_t> {
    using type = int64_t;
};
template <>
struct Wider<uint32_t> {
    using type = uint64_t;
};
template <>
struct Wider<int64_t> {
    using type = __int128;
};
template <>
struct Wider<uint64_t> {
    using type = unsigned __int128;
};

// sums and products wrap around
template <typename T>
using Unsigned = std::make_unsigned_t<T>;
constexpr auto add = [](auto a, auto b) { return Unsigned<decltype(a)>(a) + Unsigned<decltype(a)>(b); };
constexpr auto subtract = [](auto a, auto b) { return Unsigned<decltype(a)>(a) - Unsigned<decltype(a)>(b); };
constexpr auto multiply = [](auto a, auto b) {
    return static_cast<Unsigned<decltype(a)>>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
};
constexpr auto multiply_add = [](auto a, auto b, auto c) {
    return static_cast<Unsigned<decltype(a)>>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b) +
                                              static_cast<uint64_t>(c));
};
constexpr auto multiply_high = [](auto a, auto b) {
    using W = typename Wider<decltype(a)>::type;
    return static_cast<decltype(a)>(static_cast<W>(a) * static_cast<W>(b) >> (8 * sizeof a));
};
constexpr auto smaller = [](auto a, auto b) { return b < a ? b : a; };
constexpr auto larger = [](auto a, auto b) { return a < b ? b : a; };
constexpr auto negate = [](auto a) { return Unsigned<decltype(a)>(0) - Unsigned<decltype(a)>(a); };
constexpr auto magnitude = [](auto a) {
    return a < 0 ? Unsigned<decltype(a)>(0) - Unsigned<decltype(a)>(a) : Unsigned<decltype(a)>(a);
};

// mul.wide, mad.wide: the sources are half as wide as the result
template <typename T, bool adds>
void wide(Warp& w, const Instruction& i, uint32_t lanes) {
    using W = typename Wider<T>::type;
    T s1[32], s2[32];
    W s3[32], out[32];
    const T *a = source<T>(w, i.operands[1], s1), *b = source<T>(w, i.operands[2], s2);
    const W* c = adds ? source<W>(w, i.operands[3], s3) : nullptr;
    for (int l = 0; l < 32; l++) {
        uint64_t x = static_cast<uint64_t>(static_cast<W>(a[l]) * static_cast<W>(b[l]));
        out[l] = static_cast<W>(adds ? x + static_cast<uint64_t>(c[l]) : x);
    }
    result<W>(w, i.operands[0], out, lanes);
}

template <typename T, bool remainder>
void divide(Warp& w, const Instruction& i, uint32_t lanes) {
    T s1[32], s2[32], out[32];
    const T *a = source<T>(w, i.operands[1], s1), *b = source<T>(w, i.operands[2], s2);
    for_each_lane(lanes, [&](int l) {
        if (b[l] == 0) fail(w, l, "divides by zero");
        if (std::is_signed_v<T> && b[l] == T(-1))
            out[l] = remainder ? T(0) : static_cast<T>(Unsigned<T>(0) - Unsigned<T>(a[l]));
        else out[l] = static_cast<T>(remainder ? a[l] % b[l] : a[l] / b[l]);
    });
    result<T>(w, i.operands[0], out, lanes);
}
template <bool remainder>
Run division(Type t) {
    bool s = t.kind == 's';
    if (t.bits == 32) return s ? divide<int32_t, remainder> : divide<uint32_t, remainder>;
    if (t.bits == 64) return s ? divide<int64_t, remainder> : divide<uint64_t, remainder>;
    return nullptr;
}

// shl, shr: by more than the width gives all zeros, or all signs
template <typename T, bool right>
void shift(Warp& w, const Instruction& i, uint32_t lanes) {
    T s1[32], out[32];
    uint32_t s2[32];
    const T* a = source<T>(w, i.operands[1], s1);
    const uint32_t* b = source<uint32_t>(w, i.operands[2], s2);
    constexpr uint32_t bits = 8 * sizeof(T);
    for (int l = 0; l < 32; l++) {
        if (right) out[l] = b[l] >= bits ? static_cast<T>(a[l] < 0 ? -1 : 0) : static_cast<T>(a[l] >> b[l]);
        else out[l] = b[l] >= bits ? T(0) : static_cast<T>(static_cast<uint64_t>(a[l]) << b[l]);
    }
    result<T>(w, i.operands[0], out, lanes);
}
template <bool right>
Run shift_by_type(Type t) {
    bool s = t.kind == 's' && right;
    if (t.bits == 16) return s ? shift<int16_t, right> : shift<uint16_t, right>;
    if (t.bits == 32) return s ? shift<int32_t, right> : shift<uint32_t, right>;
    return s ? shift<int64_t, right> : shift<uint64_t, right>;
}

// ---- bits ----

// popc, clz: a count of 32 bits
template <typename T, auto f>
void count_bits(Warp& w, const Instruction& i, uint32_t lanes) {
    T s1[32];
    uint32_t out[32];
    const T* a = source<T>(w, i.operands[1], s1);
    for (int l = 0; l < 32; l++) out[l] = static_cast<uint32_t>(f(a[l]));
    result<uint32_t>(w, i.operands[0], out, lanes);
}
constexpr auto ones = [](auto a) { return std::popcount(a); };
constexpr auto zeros_above = [](auto a) { return std::countl_zero(a); };

uint32_t low_bits(uint32_t n) { return n >= 32 ? ~0u : (1u << n) - 1; }

// f(values of all sources) for each lane, 32 bits each
template <auto f>
void each(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t scratch[4][32], out[32];
    const uint32_t* s[4] = {};
    for (size_t n = 1; n < i.operands.size() && n < 5; n++)
        s[n - 1] = source<uint32_t>(w, i.operands[n], scratch[n - 1]);
    for (int l = 0; l < 32; l++) {
        uint32_t v[4];
        for (int n = 0; n < 4; n++) v[n] = s[n] ? s[n][l] : 0;
        out[l] = f(v, i);
    }
    result<uint32_t>(w, i.operands[0], out, lanes);
}
constexpr auto reverse = [](const uint32_t* v, const Instruction&) {
    uint32_t r = 0;
    for (int b = 0; b < 32; b++) r |= (v[0] >> b & 1) << (31 - b);
    return r;
};
constexpr auto extract = [](const uint32_t* v, const Instruction& i) {  // bfe: a, position, length
    uint32_t at = v[1] & 0xff, length = v[2] & 0xff;
    bool sign = i.type.kind == 's' && length && v[0] >> std::min(at + length - 1, 31u) & 1;
    uint32_t field = at > 31 ? 0 : v[0] >> at;
    uint32_t mask = low_bits(length);
    if (at + length > 32) mask = low_bits(at > 31 ? 0 : 32 - at);
    return (field & mask) | (sign ? ~mask : 0);
};
constexpr auto insert = [](const uint32_t* v, const Instruction&) {  // bfi: a into b, position, length
    uint32_t at = v[2] & 0xff, length = v[3] & 0xff;
    uint32_t mask = at > 31 ? 0 : low_bits(length) << at;
    return (v[1] & ~mask) | (at > 31 ? 0 : v[0] << at & mask);
};
constexpr auto bit_mask = [](const uint32_t* v, const Instruction&) {  // bmsk.clamp: position, width
    return v[0] > 31 ? 0 : low_bits(v[1]) << v[0];
};
constexpr auto permute = [](const uint32_t* v, const Instruction&) {  // prmt
    uint64_t bytes = v[0] | uint64_t{v[1]} << 32;
    uint32_t r = 0;
    for (int b = 0; b < 4; b++) {
        uint32_t pick = v[2] >> (4 * b);
        uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (pick & 7))) & 0xff;
        if (pick & 8) byte = byte & 0x80 ? 0xff : 0;
        r |= byte << (8 * b);
    }
    return r;
};
constexpr auto any_logic = [](const uint32_t* v, const Instruction& i) {  // lop3: a truth table
    uint32_t table = static_cast<uint32_t>(i.operands[4].value), r = 0;
    for (uint32_t n = 0; n < 8; n++)
        if (table >> n & 1) r |= (n & 4 ? v[0] : ~v[0]) & (n & 2 ? v[1] : ~v[1]) & (n & 1 ? v[2] : ~v[2]);
    return r;
};
constexpr auto funnel = [](const uint32_t* v, const Instruction& i) {  // shf. option: 1 right, 2 wrap
    uint32_t n = i.option & 2 ? v[2] & 31 : std::min(v[2], 32u);
    uint64_t both = v[0] | uint64_t{v[1]} << 32;
    return static_cast<uint32_t>(i.option & 1 ? both >> n : n == 32 ? both : both << n >> 32);
};

constexpr auto both = [](auto a, auto b) { return a & b; };
constexpr auto either = [](auto a, auto b) { return a | b; };
constexpr auto one_of = [](auto a, auto b) { return a ^ b; };
constexpr auto opposite = [](auto a) { return ~a; };

}  // namespace

void decode_integer(Instruction& i, Opcode& o) {
    const Type t = i.type;
    auto is = [&](std::string_view name) { return o.name == name; };
    bool number = t.kind == 'u' || t.kind == 's', bits = t.kind == 'b';
    if (number && is("add")) i.run = by_integer<add, 2>(t);
    else if (number && is("sub")) i.run = by_integer<subtract, 2>(t);
    else if (number && is("mul") && o.take("lo")) i.run = by_integer<multiply, 2>(t);
    else if (number && is("mul") && o.take("hi")) i.run = by_integer<multiply_high, 2>(t);
    else if (number && is("mad") && o.take("lo")) i.run = by_integer<multiply_add, 3>(t);
    else if (number && (is("mul") || is("mad")) && o.take("wide")) {
        bool adds = is("mad"), s = t.kind == 's';
        if (t.bits == 32 && adds) i.run = s ? wide<int32_t, true> : wide<uint32_t, true>;
        else if (t.bits == 32) i.run = s ? wide<int32_t, false> : wide<uint32_t, false>;
        else if (t.bits == 16 && adds) i.run = s ? wide<int16_t, true> : wide<uint16_t, true>;
        else if (t.bits == 16) i.run = s ? wide<int16_t, false> : wide<uint16_t, false>;
    } else if (number && is("div")) i.run = division<false>(t);
    else if (number && is("rem")) i.run = division<true>(t);
    else if (number && is("min")) i.run = by_integer<smaller, 2>(t);
    else if (number && is("max")) i.run = by_integer<larger, 2>(t);
    else if (number && is("neg")) i.run = by_integer<negate, 1>(t);
    else if (number && is("abs")) i.run = by_integer<magnitude, 1>(t);
    else if (is("shl")) i.run = shift_by_type<false>(t);
    else if (is("shr")) i.run = shift_by_type<true>(t);
    else if (bits && is("and")) i.run = by_integer<both, 2>(t);
    else if (bits && is("or")) i.run = by_integer<either, 2>(t);
    else if (bits && is("xor")) i.run = by_integer<one_of, 2>(t);
    else if (bits && is("not")) i.run = by_integer<opposite, 1>(t);
    else if (is("popc")) i.run = t.bits == 64 ? count_bits<uint64_t, ones> : count_bits<uint32_t, ones>;
    else if (is("clz")) i.run = t.bits == 64 ? count_bits<uint64_t, zeros_above> : count_bits<uint32_t, zeros_above>;
    else if (is("brev") && t.bits == 32) i.run = each<reverse>;
    else if (is("bfe") && t.bits == 32) i.run = each<extract>;
    else if (is("bfi") && t.bits == 32) i.run = each<insert>;
    else if (is("bmsk") && o.take("clamp")) i.run = each<bit_mask>;
    else if (is("prmt") && bits) i.run = each<permute>;
    else if (is("lop3") && bits) i.run = each<any_logic>;
    else if (is("shf")) {
        i.option = o.take("r") ? 1 : o.take("l") ? 0 : -1;
        i.option += o.take("wrap") ? 2 : o.take("clamp") ? 0 : -4;
        if (i.option >= 0) i.run = each<funnel>;
    }
}

}  // namespace ptx
