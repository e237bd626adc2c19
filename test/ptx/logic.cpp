// PTX ISA: Comparison and Selection Instructions; logic of predicates.
#include <cmath>

#include "test/ptx/opcode.h"

namespace ptx {

namespace {

// setp.CmpOp{.BoolOp} p{|q}, a, b{, {!}c};   p = (a CmpOp b) BoolOp c, q = !(a CmpOp b) BoolOp c
// option: 0 no BoolOp, 1 and, 2 or, 3 xor
template <typename T>
void compare(Warp& w, const Instruction& i, uint32_t lanes) {
    T s1[32], s2[32];
    const T *a = source<T>(w, i.operands[1], s1), *b = source<T>(w, i.operands[2], s2);
    uint32_t less = 0, equal = 0, unordered = 0;
    for (int l = 0; l < 32; l++) {
        less |= uint32_t{a[l] < b[l]} << l;
        equal |= uint32_t{a[l] == b[l]} << l;
        unordered |= uint32_t{a[l] != a[l] || b[l] != b[l]} << l;
    }
    uint32_t greater = ~(less | equal | unordered), r = 0;
    switch (i.compare) {
        case Compare::eq:
            r = equal;
            break;
        case Compare::ne:
            r = less | greater;
            break;
        case Compare::lt:
            r = less;
            break;
        case Compare::le:
            r = less | equal;
            break;
        case Compare::gt:
            r = greater;
            break;
        case Compare::ge:
            r = greater | equal;
            break;
        case Compare::equ:
            r = equal | unordered;
            break;
        case Compare::neu:
            r = ~equal;
            break;
        case Compare::ltu:
            r = less | unordered;
            break;
        case Compare::leu:
            r = less | equal | unordered;
            break;
        case Compare::gtu:
            r = greater | unordered;
            break;
        case Compare::geu:
            r = greater | equal | unordered;
            break;
        case Compare::num:
            r = ~unordered;
            break;
        case Compare::nan:
            r = unordered;
            break;
    }
    uint32_t c = i.option ? predicate(w, i.operands[3]) : 0;
    auto combine = [&](uint32_t x) {
        return i.option == 0 ? x : i.option == 1 ? x & c : i.option == 2 ? x | c : x ^ c;
    };
    const Operand& to = i.operands[0];
    if (to.kind != Operand::Kind::list) return set_predicate(w, to, combine(r), lanes);
    set_predicate(w, to.list[0], combine(r), lanes);
    set_predicate(w, to.list[1], combine(~r), lanes);
}

// selp d, a, b, p
template <typename T>
void select(Warp& w, const Instruction& i, uint32_t lanes) {
    T s1[32], s2[32], out[32];
    const T *a = source<T>(w, i.operands[1], s1), *b = source<T>(w, i.operands[2], s2);
    uint32_t p = predicate(w, i.operands[3]);
    for (int l = 0; l < 32; l++) out[l] = p >> l & 1 ? a[l] : b[l];
    result<T>(w, i.operands[0], out, lanes);
}

template <auto f>
void of_predicates(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t a = predicate(w, i.operands[1]), b = i.operands.size() > 2 ? predicate(w, i.operands[2]) : 0;
    set_predicate(w, i.operands[0], f(a, b), lanes);
}
constexpr auto both = [](uint32_t a, uint32_t b) { return a & b; };
constexpr auto either = [](uint32_t a, uint32_t b) { return a | b; };
constexpr auto one_of = [](uint32_t a, uint32_t b) { return a ^ b; };
constexpr auto opposite = [](uint32_t a, uint32_t) { return ~a; };
constexpr auto same = [](uint32_t a, uint32_t) { return a; };

}  // namespace

void decode_logic(Instruction& i, Opcode& o) {
    const Type t = i.type;
    if (t.kind == 'p') {
        if (o.name == "and") i.defined = Defined::by_and;
        if (o.name == "or") i.defined = Defined::by_or;
        if (o.name == "and") i.run = of_predicates<both>;
        else if (o.name == "or") i.run = of_predicates<either>;
        else if (o.name == "xor") i.run = of_predicates<one_of>;
        else if (o.name == "not") i.run = of_predicates<opposite>;
        else if (o.name == "mov") i.run = of_predicates<same>;
    } else if (o.name == "setp") {
        // of floats, lo is not less but "lower": unsigned; lt and ltu are two things
        constexpr std::pair<const char*, Compare> compares[] = {
            {"eq", Compare::eq},   {"ne", Compare::ne},   {"lt", Compare::lt},   {"le", Compare::le},
            {"gt", Compare::gt},   {"ge", Compare::ge},   {"lo", Compare::lt},   {"ls", Compare::le},
            {"hi", Compare::gt},   {"hs", Compare::ge},   {"equ", Compare::equ}, {"neu", Compare::neu},
            {"ltu", Compare::ltu}, {"leu", Compare::leu}, {"gtu", Compare::gtu}, {"geu", Compare::geu},
            {"num", Compare::num}, {"nan", Compare::nan}};
        bool found = false;
        for (auto& [word, compare] : compares)
            if (o.take(word)) i.compare = compare, found = true;
        i.option = o.take("and") ? 1 : o.take("or") ? 2 : o.take("xor") ? 3 : 0;
        if (!found || i.flush) return;
        if (t.kind == 'f') i.run = t.bits == 64 ? compare<double> : compare<float>;
        else if (t.kind == 's')
            i.run = t.bits == 64 ? compare<int64_t> : t.bits == 32 ? compare<int32_t> : compare<int16_t>;
        else i.run = t.bits == 64 ? compare<uint64_t> : t.bits == 32 ? compare<uint32_t> : compare<uint16_t>;
    } else if (o.name == "selp") {
        i.defined = Defined::by_selection;
        i.run = t.bits == 64 ? select<uint64_t> : t.bits == 32 ? select<uint32_t> : select<uint16_t>;
    }
}

}  // namespace ptx
