// PTX ISA: Floating-Point Instructions. fp32 and fp64 as IEEE 754 has them, but that each NaN is the one that GPUs make;
// approximations are exact here, or as far off as their descriptions allow (Launch::worst_error).
#include <cfenv>
#include <cmath>
#include <limits>

#include "test/ptx/opcode.h"

namespace ptx {

namespace {

template <typename T>
T canonical(T x) {
    if (x == x) return x;
    if constexpr (sizeof(T) == 4) return std::bit_cast<float>(0x7fffffffu);
    else return std::bit_cast<double>(0x7ff8000000000000ull);
}
// .ftz: subnormal numbers are zeros, of sources and result
float flushed(float x) { return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x; }
double flushed(double x) { return x; }

constexpr int kRoundings[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};

// d = f(a, b, c) with the modifiers that it has
template <typename T, auto f, int n>
void arithmetic(Warp& w, const Instruction& i, uint32_t lanes) {
    if (i.rounding == Rounding::nearest && !i.flush && !i.saturate)
        return apply<T, [](auto... x) { return canonical(f(x...)); }, n>(w, i, lanes);
    T scratch[3][32], out[32];
    const T* s[3];
    for (int k = 0; k < n; k++) s[k] = source<T>(w, i.operands[k + 1], scratch[k]);
    for_each_lane(lanes, [&](int l) {
        volatile T v[3] = {}, r;  // volatile: computed where the rounding is set, not before
        for (int k = 0; k < n; k++) v[k] = i.flush ? flushed(s[k][l]) : s[k][l];
        std::fesetround(kRoundings[static_cast<int>(i.rounding)]);
        if constexpr (n == 1) r = f(T(v[0]));
        else if constexpr (n == 2) r = f(T(v[0]), T(v[1]));
        else r = f(T(v[0]), T(v[1]), T(v[2]));
        std::fesetround(FE_TONEAREST);
        T x = i.flush ? flushed(T(r)) : T(r);
        if (i.saturate) x = x > 0 ? std::min(x, T(1)) : T(0);  // NaN becomes 0
        out[l] = canonical(x);
    });
    result<T>(w, i.operands[0], out, lanes);
}

constexpr auto add = [](auto a, auto b) { return a + b; };
constexpr auto subtract = [](auto a, auto b) { return a - b; };
constexpr auto multiply = [](auto a, auto b) { return a * b; };
constexpr auto multiply_add = [](auto a, auto b, auto c) { return std::fma(a, b, c); };
constexpr auto divide = [](auto a, auto b) { return a / b; };
constexpr auto reciprocal = [](auto a) { return 1 / a; };
constexpr auto root = [](auto a) { return std::sqrt(a); };
// of a number and a NaN the number; -0 is less than 0
constexpr auto smaller = [](auto a, auto b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? a : b) : a < b ? a : b;
};
constexpr auto larger = [](auto a, auto b) {
    if (a != a) return b;
    if (b != b) return a;
    return a == b ? (std::signbit(a) ? b : a) : a < b ? b : a;
};

// neg, abs, copysign change the sign's bit alone
template <auto f, int n>
Run of_sign(Type t) {
    return t.bits == 64 ? apply<uint64_t, f, n> : apply<uint32_t, f, n>;
}
template <typename T>
constexpr T sign_bit = T(1) << (8 * sizeof(T) - 1);
constexpr auto negate = [](auto a) { return a ^ sign_bit<decltype(a)>; };
constexpr auto magnitude = [](auto a) { return a & ~sign_bit<decltype(a)>; };
constexpr auto copy_sign = [](auto a, auto b) { return (b & ~sign_bit<decltype(a)>) | (a & sign_bit<decltype(a)>); };

template <auto f, int n>
Run exact(Type t) {
    return t.bits == 64 ? arithmetic<double, f, n> : arithmetic<float, f, n>;
}

// ---- approximations ----

// The largest error that the description of each allows: relative to the result, or absolute.
struct Bound {
    double relative, absolute;
};
constexpr double kUlp = 1.0 / (1 << 23);  // of a number just above a power of two

template <auto f, int n, Bound bound>
void approximate(Warp& w, const Instruction& i, uint32_t lanes) {
    float scratch[2][32], out[32];
    const float *a = source<float>(w, i.operands[1], scratch[0]),
                *b = n > 1 ? source<float>(w, i.operands[2], scratch[1]) : a;
    Block& block = *w.block;
    for_each_lane(lanes, [&](int l) {
        float x = i.flush ? flushed(a[l]) : a[l], y = i.flush ? flushed(b[l]) : b[l];
        float r = f(x, y);
        if (block.launch.worst_error && std::isfinite(r)) {
            double error = bound.absolute + bound.relative * std::abs(static_cast<double>(r));
            r = static_cast<float>(r + (block.random() & 1 ? error : -error));
        }
        out[l] = canonical(i.flush ? flushed(r) : r);
    });
    result<float>(w, i.operands[0], out, lanes);
}
constexpr auto quotient = [](float a, float b) {
    if (std::abs(b) > 0x1p126f && std::isfinite(b))
        return std::isinf(a) ? std::numeric_limits<float>::quiet_NaN() : a / b * 0.0f;
    return a / b;
};
constexpr auto inverse = [](float a, float) { return 1 / a; };
constexpr auto inverse_root = [](float a, float) { return static_cast<float>(1 / std::sqrt(static_cast<double>(a))); };
constexpr auto square_root = [](float a, float) { return std::sqrt(a); };
constexpr auto power_of_2 = [](float a, float) { return std::exp2(a); };
constexpr auto logarithm = [](float a, float) { return std::log2(a); };
constexpr auto sine = [](float a, float) { return std::sin(a); };
constexpr auto cosine = [](float a, float) { return std::cos(a); };
constexpr auto tangent = [](float a, float) { return std::tanh(a); };

}  // namespace

void decode_float(Instruction& i, Opcode& o) {
    const Type t = i.type;
    if (t.kind != 'f' || t.bits < 32) return;
    auto is = [&](std::string_view name) { return o.name == name; };
    bool single = t.bits == 32;
    if (o.take("approx") || o.take("full")) {
        if (!single) return;
        if (is("div")) i.run = approximate<quotient, 2, Bound{2 * kUlp, 0}>;
        else if (is("rcp")) i.run = approximate<inverse, 1, Bound{kUlp, 0}>;
        else if (is("sqrt")) i.run = approximate<square_root, 1, Bound{0x1p-23, 0}>;
        else if (is("rsqrt")) i.run = approximate<inverse_root, 1, Bound{0x1.2p-23, 0}>;  // 2^-22.9
        else if (is("ex2")) i.run = approximate<power_of_2, 1, Bound{0x1p-22, 0}>;
        else if (is("lg2")) i.run = approximate<logarithm, 1, Bound{0, 0x1p-22}>;
        else if (is("sin")) i.run = approximate<sine, 1, Bound{0, 0x1p-20}>;
        else if (is("cos")) i.run = approximate<cosine, 1, Bound{0, 0x1p-20}>;
        else if (is("tanh")) i.run = approximate<tangent, 1, Bound{0x1p-11, 0}>;
        return;
    }
    if (is("add")) i.run = exact<add, 2>(t);
    else if (is("sub")) i.run = exact<subtract, 2>(t);
    else if (is("mul")) i.run = exact<multiply, 2>(t);
    else if (is("fma")) i.run = exact<multiply_add, 3>(t);
    else if (is("div")) i.run = exact<divide, 2>(t);
    else if (is("rcp")) i.run = exact<reciprocal, 1>(t);
    else if (is("sqrt")) i.run = exact<root, 1>(t);
    else if (is("min")) i.run = exact<smaller, 2>(t);
    else if (is("max")) i.run = exact<larger, 2>(t);
    else if (is("neg")) i.run = of_sign<negate, 1>(t);
    else if (is("abs")) i.run = of_sign<magnitude, 1>(t);
    else if (is("copysign")) i.run = of_sign<copy_sign, 2>(t);
}

}  // namespace ptx
