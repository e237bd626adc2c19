// PTX ISA: Data Movement and Conversion Instructions: ld, st; Parallel Synchronization and Communication Instructions: atom, red.
#include "test/ptx/access.h"

namespace ptx {

void addresses(Warp& w, const Operand& o, uint64_t (&out)[32]) {
    if (o.index < 0) {
        for (uint64_t& a : out) a = o.value;
    } else if (o.wide) {
        const uint64_t* base = w.row<uint64_t>(o.index);
        for (int l = 0; l < 32; l++) out[l] = base[l] + o.value;
    } else {
        const uint32_t* base = w.row<uint32_t>(o.index);
        for (int l = 0; l < 32; l++) out[l] = static_cast<uint32_t>(base[l] + o.value);
    }
}

uint32_t shared_offset(Warp& w, int lane, uint64_t address, uint32_t bytes) {
    Block& b = *w.block;
    auto text = [&](const char* what) {
        return std::to_string(bytes) + " bytes at " + std::to_string(address) + " of shared memory " + what;
    };
    if (address % bytes) fail(w, lane, text("are misaligned"));
    if (address + bytes > b.shared.size() || address + bytes < address) fail(w, lane, text("are outside of it"));
    bool inside = address >= b.kernel.shared_bytes;  // dynamic
    for (const Variable& v : b.kernel.shared) inside |= address >= v.offset && address + bytes <= v.offset + v.bytes;
    if (!inside) fail(w, lane, text("are outside of each variable"));
    return static_cast<uint32_t>(address);
}

char* access(Warp& w, int lane, Access what, Space space, uint64_t address, uint32_t bytes, uint64_t mask) {
    Block& b = *w.block;
    if (space == Space::generic) {
        bool shared = address >= kSharedWindow && address < kSharedWindow + (1ull << 32);
        return access(w, lane, what, shared ? Space::shared : Space::global, shared ? address - kSharedWindow : address,
                      bytes, mask);
    }
    const char* verb = what == Access::read ? "reads" : what == Access::write ? "writes" : "updates";
    if (space == Space::shared) {
        uint32_t offset = shared_offset(w, lane, address, bytes);
        std::string wrong = what == Access::read    ? b.shared.read(who(w, lane), offset, bytes, mask)
                            : what == Access::write ? b.shared.write(who(w, lane), offset, bytes)
                                                    : b.shared.update(who(w, lane), offset, bytes);
        if (!wrong.empty()) fail(w, lane, wrong);
        return b.shared.at(offset);
    }
    auto complain = [&](const std::string& why) {
        char where[96];
        snprintf(where, sizeof where, "%s %u bytes at %#llx: ", verb, bytes, static_cast<unsigned long long>(address));
        fail(w, lane, where + why);
    };
    if (address % bytes) complain("misaligned");
    if (space == Space::param || space == Space::local) {
        size_t size = space == Space::param ? b.params.size() : b.kernel.local_bytes;
        if (address + bytes > size || address + bytes < address) complain("outside of parameters and local variables");
        return space == Space::param ? b.params.data() + address
                                     : w.local.data() + lane * b.kernel.local_bytes + address;
    }
    if (std::string wrong = b.memory.check(address, bytes); !wrong.empty()) complain(wrong);
    if (what != Access::write && !b.memory.written(address, bytes, mask)) complain("nobody wrote them");
    if (what != Access::read) b.memory.mark(reinterpret_cast<char*>(address), bytes, true);
    return reinterpret_cast<char*>(address);
}

namespace {

// ld{.space}{.v2,.v4}.type d, [a]
void load(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t a[32], out[4][32];
    addresses(w, i.operands[1], a);
    const uint32_t size = static_cast<uint32_t>(i.type.bytes()), bytes = size * static_cast<uint32_t>(i.count);
    for_each_lane(lanes, [&](int l) {
        const char* from = access(w, l, Access::read, i.space, a[l], bytes, i.used_bytes);
        for (int n = 0; n < i.count; n++) {
            uint64_t x = 0;
            std::memcpy(&x, from + n * size, size);
            int unused = 64 - i.type.bits;
            out[n][l] = i.type.kind == 's' ? static_cast<uint64_t>(static_cast<int64_t>(x << unused) >> unused) : x;
        }
    });
    const Operand& to = i.operands[0];
    for (int n = 0; n < i.count; n++) result<uint64_t>(w, i.count == 1 ? to : to.list[n], out[n], lanes);
}

void store(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t a[32], scratch[32];
    addresses(w, i.operands[0], a);
    const uint32_t size = static_cast<uint32_t>(i.type.bytes()), bytes = size * static_cast<uint32_t>(i.count);
    char* to[32];
    for_each_lane(lanes, [&](int l) { to[l] = access(w, l, Access::write, i.space, a[l], bytes); });
    for (int n = 0; n < i.count; n++) {
        const Operand& from = i.operands[1];
        const uint64_t* x = source<uint64_t>(w, i.count == 1 ? from : from.list[n], scratch);
        for_each_lane(lanes, [&](int l) { std::memcpy(to[l] + n * size, &x[l], size); });
    }
}

// ---- atomics ----

enum Operation { add, minimum, maximum, both, either, one_of, exchange, compare_and_swap };
constexpr const char* kOperations[] = {"add", "min", "max", "and", "or", "xor", "exch", "cas"};

template <typename T>
T combine(int operation, T old, T b, T c) {
    switch (operation) {
        case add:
            if constexpr (std::is_integral_v<T>)
                return static_cast<T>(static_cast<uint64_t>(old) + static_cast<uint64_t>(b));
            else return old + b;
        case minimum:
            return std::min(old, b);
        case maximum:
            return std::max(old, b);
        case exchange:
            return b;
        case compare_and_swap:
            return old == b ? c : old;
    }
    if constexpr (std::is_integral_v<T>)
        return static_cast<T>(operation == both ? old & b : operation == either ? old | b : old ^ b);
    else return old;
}
// atom d, [a], b{, c}; red [a], b. Lanes in order: any order is allowed.
template <typename T, bool returns>
void atomic(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t a[32];
    T s1[32], s2[32], out[32];
    addresses(w, i.operands[returns], a);
    const T* b = source<T>(w, i.operands[returns + 1], s1);
    const T* c = i.option == compare_and_swap ? source<T>(w, i.operands[returns + 2], s2) : b;
    for_each_lane(lanes, [&](int l) {
        char* p = access(w, l, Access::update, i.space, a[l], sizeof(T));
        std::memcpy(&out[l], p, sizeof(T));
        T next = combine(i.option, out[l], b[l], c[l]);
        std::memcpy(p, &next, sizeof(T));
    });
    if (returns) result<T>(w, i.operands[0], out, lanes);
}
template <bool returns>
Run atomic_by_type(Type t) {
    if (t.kind == 'f') return t.bits == 32 ? atomic<float, returns> : atomic<double, returns>;
    if (t.kind == 's') return t.bits == 32 ? atomic<int32_t, returns> : atomic<int64_t, returns>;
    return t.bits == 32 ? atomic<uint32_t, returns> : t.bits == 64 ? atomic<uint64_t, returns> : nullptr;
}

}  // namespace

void decode_memory(Instruction& i, Opcode& o) {
    // how caches treat it, and in what order others see it: here at once
    auto take_hints = [&] {
        o.take_any({"ca",
                    "cg",
                    "cs",
                    "lu",
                    "cv",
                    "wb",
                    "wt",
                    "nc",
                    "volatile",
                    "relaxed",
                    "acquire",
                    "release",
                    "acq_rel",
                    "weak",
                    "cta",
                    "gpu",
                    "sys",
                    "L1::no_allocate",
                    "L1::evict_last",
                    "L1::evict_first",
                    "L2::64B",
                    "L2::128B",
                    "L2::256B"});
    };
    if (o.name == "ld") take_hints(), i.run = load;
    else if (o.name == "st") take_hints(), i.run = store;
    else if (o.name == "atom" || o.name == "red") {
        take_hints();
        i.option = -1;
        for (int n = 0; n < static_cast<int>(std::size(kOperations)); n++)
            if (o.take(kOperations[n])) i.option = n;
        if (i.option >= 0) i.run = o.name == "atom" ? atomic_by_type<true>(i.type) : atomic_by_type<false>(i.type);
    }
}

}  // namespace ptx
