// What decoding and the instructions share: the words of an opcode, and one way to make a Run of a function of values.
#pragma once
#include <algorithm>
#include <bit>
#include <string_view>
#include <vector>

#include "test/ptx/machine.h"

namespace ptx {

// "fma.rn.f32": its name, and the words behind it that nobody has understood yet.
struct Opcode {
    std::string_view name;
    std::vector<std::string_view> words;
    std::vector<Type> types;

    bool take(std::string_view word) {
        auto it = std::find(words.begin(), words.end(), word);
        if (it == words.end()) return false;
        words.erase(it);
        return true;
    }
    bool take_any(std::initializer_list<std::string_view> some) {
        bool found = false;
        for (auto word : some) found |= take(word);
        return found;
    }
};
// One for each file of instructions; each sets `run`, or leaves it null: not one of its own.
void decode_integer(Instruction&, Opcode&);
void decode_float(Instruction&, Opcode&);
void decode_logic(Instruction&, Opcode&);
void decode_convert(Instruction&, Opcode&);
void decode_memory(Instruction&, Opcode&);
void decode_copy(Instruction&, Opcode&);
void decode_warp(Instruction&, Opcode&);
void decode_matrix(Instruction&, Opcode&);

// d = f(a, b, c), of n sources
template <typename T, auto f, int n>
void apply(Warp& w, const Instruction& i, uint32_t lanes) {
    T scratch[3][32], out[32];
    const T *a = source<T>(w, i.operands[1], scratch[0]), *b = nullptr, *c = nullptr;
    if constexpr (n > 1) b = source<T>(w, i.operands[2], scratch[1]);
    if constexpr (n > 2) c = source<T>(w, i.operands[3], scratch[2]);
    for (int l = 0; l < 32; l++) {
        if constexpr (n == 1) out[l] = static_cast<T>(f(a[l]));
        else if constexpr (n == 2) out[l] = static_cast<T>(f(a[l], b[l]));
        else out[l] = static_cast<T>(f(a[l], b[l], c[l]));
    }
    result<T>(w, i.operands[0], out, lanes);
}
// run<T>, where T is the integer type of the instruction
#define PTX_BY_INTEGER(type, run)                               \
    ((type).kind == 's'  ? (type).bits == 16   ? (run<int16_t>) \
                           : (type).bits == 32 ? (run<int32_t>) \
                                               : (run<int64_t>) \
      : (type).bits == 16 ? (run<uint16_t>)                     \
     : (type).bits == 32 ? (run<uint32_t>)                      \
                         : (run<uint64_t>))
template <auto f, int n>
Run by_integer(Type t) {
    bool is_signed = t.kind == 's';
    switch (t.bits) {
        case 16:
            return is_signed ? apply<int16_t, f, n> : apply<uint16_t, f, n>;
        case 32:
            return is_signed ? apply<int32_t, f, n> : apply<uint32_t, f, n>;
        case 64:
            return is_signed ? apply<int64_t, f, n> : apply<uint64_t, f, n>;
        default:
            return nullptr;
    }
}

}  // namespace ptx
