// The machine: runs the blocks of a launch one after the other, each warp by warp, its lanes together as far as they go the
// same way.
//
//   Module m = parse(text);
//   Memory memory;
//   char* x = memory.allocate(n * 4, "x");
//   launch(memory, *m.kernel("scale_kernel"), {.grid = {4}, .block = {128}, .args = arguments(x, n)});
//
// Throws Fault, which names kernel, block, thread, the line of the source and of the PTX, for
//   - an access that is misaligned (its size, times .v2 or .v4), or outside of each tensor, shared
//     variable, parameter;
//   - a read of a register, or of shared or global memory, that nobody wrote;
//   - a data race in shared memory (races.h);
//   - a barrier that some threads do not reach; lanes that wait for lanes that never come;
//   - an instruction with .aligned that not all lanes of the warp execute together; a bra.uni that divides them;
//   - a division by zero, a trap, an endless loop, more threads or shared memory than the kernel or a GPU takes.
//
// Divergence. A branch that divides the lanes of a path makes two paths, which meet where flow.h says. Paths run in turns:
// one that waits (for lanes of another path, or at the block's barrier) lets others run, as Independent Thread Scheduling asks (sm_70).
#pragma once
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "test/ptx/counters.h"
#include "test/ptx/memory.h"
#include "test/ptx/module.h"
#include "test/ptx/races.h"

namespace ptx {

struct Dim {
    uint32_t x = 1, y = 1, z = 1;
};
struct Launch {
    Dim grid, block;
    size_t shared_bytes = 0;           // dynamic
    std::vector<std::string> args;     // the bytes of each
    std::vector<uint64_t> blocks{};    // x + grid.x * (y + grid.y * z): these alone; none: all
    uint64_t seed = 0;                 // order of warps
    uint64_t most_steps = 2000000000;  // of a block: more is an endless loop
    bool worst_error = false;          // of approximations: what is documented, with a sign drawn from the seed
    Counters* counters = nullptr;      // what the blocks ask of a GPU, added up
};
void launch(Memory& memory, const Kernel& kernel, const Launch& launch);

template <typename T>
std::string argument(const T& value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}
template <typename... T>
std::vector<std::string> arguments(const T&... values) {
    return {argument(values)...};
}

// ---- what instructions see ----

constexpr size_t kMaxShared = 227 << 10;
constexpr uint64_t kSharedWindow = 0x7ull << 32;  // generic addresses of shared memory ; host addresses are above

struct Random {
    uint64_t state = 0x9E3779B97F4A7C15ull;
    uint32_t operator()() {  // xorshift64*
        state ^= state >> 12, state ^= state << 25, state ^= state >> 27;
        return static_cast<uint32_t>(state * 0x2545F4914F6CDD1Dull >> 32);
    }
};

// Lanes that go the same way.
struct Path {
    enum State : uint8_t { ready, at_collective, at_barrier };
    uint32_t lanes = 0, pending = 0;  // pending: those whose collective has not happened
    int pc = 0, split = 0;
    State state = ready;
};
// What paths of one branch meet at.
struct Split {
    int at = -1, parent = -1;
    uint32_t expected = 0, arrived = 0;
};
// cp.async: what a lane has under way
struct Copies {
    struct Copy {
        uint32_t to;
        const char* from;
        uint32_t bytes, read;
    };
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

struct Block;
struct alignas(64) Warp {
    Block* block = nullptr;
    int number = 0;
    uint32_t alive = 0;
    std::vector<uint32_t> rows;  // 32 a row
    std::vector<uint32_t> predicates, defined, predicate_defined;
    std::vector<Path> paths;
    std::vector<Split> splits;
    std::vector<int> free_splits;
    const Instruction* now = nullptr;
    Clocks clocks;
    std::array<Copies, 32> copies;
    std::vector<char> local;

    template <typename T>
    T* row(int index) {
        return reinterpret_cast<T*>(rows.data() + index * 32);
    }
};

struct Block {
    Memory& memory;
    const Kernel& kernel;
    const Launch& launch;
    Dim index;
    std::string params;
    std::vector<Warp> warps;
    SharedMemory shared;
    Random random;
    uint64_t steps = 0;
    // of the barrier that threads wait at
    int arrived = 0, barrier = -1;
    int votes = 0, voters = 0;
};

// Throws Fault: with where the lane is.
[[noreturn]] void fail(const Warp& warp, int lane, const std::string& message);

template <typename F>
void for_each_lane(uint32_t lanes, F f) {
    for (; lanes; lanes &= lanes - 1) f(std::countr_zero(lanes));
}

// Special Registers. By name: "%tid.x"; -1: not known.
int special_register(const std::string& name);
uint32_t special_value(const Warp& warp, int special, int lane);

// The 32 values of a source, widened from 16 bits.
template <typename T>
const T* source(Warp& warp, const Operand& o, T (&scratch)[32]) {
    if (o.kind == Operand::Kind::reg) {
        if constexpr (sizeof(T) >= 4) {
            if ((sizeof(T) == 8) == o.wide) return warp.row<T>(o.index);
        }
        for (int l = 0; l < 32; l++) {
            uint64_t bits = o.wide ? warp.row<uint64_t>(o.index)[l] : warp.row<uint32_t>(o.index)[l];
            std::memcpy(&scratch[l], &bits, sizeof(T));
        }
        return scratch;
    }
    for (int l = 0; l < 32; l++) {
        uint64_t bits = o.kind == Operand::Kind::special ? special_value(warp, o.index, l) : o.value;
        std::memcpy(&scratch[l], &bits, sizeof(T));
    }
    return scratch;
}
template <typename T>
void result(Warp& warp, const Operand& o, const T (&values)[32], uint32_t lanes) {
    if (o.kind == Operand::Kind::sink) return;
    if constexpr (sizeof(T) >= 4) {
        if (o.wide == (sizeof(T) == 8)) {
            T* to = warp.row<T>(o.index);
            if (lanes == ~0u) std::memcpy(to, values, sizeof values);
            else for_each_lane(lanes, [&](int l) { to[l] = values[l]; });
            return;
        }
    }
    for_each_lane(lanes,
                  [&](int l) {  // a register may be wider than the type (Operand Size Exceeding Instruction-Type Size)
                      uint64_t bits = 0;
                      if constexpr (std::is_integral_v<T>)
                          bits = static_cast<uint64_t>(static_cast<int64_t>(values[l]));
                      else std::memcpy(&bits, &values[l], sizeof(T));
                      if (o.wide) warp.row<uint64_t>(o.index)[l] = bits;
                      else warp.row<uint32_t>(o.index)[l] = static_cast<uint32_t>(bits);
                  });
}
// Lanes in which a predicate, or its opposite, holds.
inline uint32_t predicate(const Warp& warp, const Operand& o) {
    if (o.kind == Operand::Kind::immediate) return o.value ? ~0u : 0;
    return o.negated ? ~warp.predicates[o.index] : warp.predicates[o.index];
}
inline void set_predicate(Warp& warp, const Operand& o, uint32_t value, uint32_t lanes) {
    if (o.kind == Operand::Kind::sink) return;
    uint32_t& p = warp.predicates[o.index];
    p = (p & ~lanes) | (value & lanes);
}

}  // namespace ptx
