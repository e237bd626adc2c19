// A PTX module as the machine executes it: kernels, their instructions decoded, where their variables lie.
//
// parse() finds the kernels of a module; a kernel's body is read when kernel() first asks for it. What the parser does not
// know is a Fault that names the line: nothing is skipped but directives that have no effect (debug sections, hints).
//
// References in this directory are to NVIDIA's "PTX ISA", version 9.0, by the titles of its sections (numbers change).
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

// What a kernel did wrong, or what the machine does not know.
struct Fault : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class Space : uint8_t { generic, global, shared, local, param };  // State Spaces

// Types. kind: b, u, s; f: IEEE floating point; h: bf16; p: predicate.
struct Type {
    char kind = 'b';
    int bits = 32;
    int count = 1;  // 2: bf16x2
    int bytes() const { return bits / 8; }
};

// Instruction Operands
struct Operand {
    enum class Kind : uint8_t { reg, predicate, immediate, special, address, list, sink };
    Kind kind = Kind::sink;
    bool negated = false;       // !%p
    bool wide = false;          // a register of 64 bits
    int index = -1;             // row, predicate, special register; address: the base's row, -1 for none
    uint64_t value = 0;         // immediate; address: what is added to the base
    std::vector<Operand> list;  // {a, b}, a|b
};

struct Warp;
struct Instruction;
// Executes an instruction for these lanes of the warp, of which there is at least one.
using Run = void (*)(Warp&, const Instruction&, uint32_t lanes);

enum class Flow : uint8_t {
    next,
    branch,
    exit,
    collective,  // lanes wait for each other: shfl.sync, vote.sync, bar.warp.sync
    aligned,     // needs all 32 lanes at once: mma, ldmatrix
    barrier,     // of the block
};
enum class Rounding : uint8_t { nearest, zero, down, up };  // .rn .rz .rm .rp
enum class Compare : uint8_t { eq, ne, lt, le, gt, ge, equ, neu, ltu, leu, gtu, geu, num, nan };

// When a result is defined. Compilers compute ahead what they may throw away later, so that undefined registers may be read;
// what comes of them may not be stored, be an address, decide a branch or go to other lanes.
enum class Defined : uint8_t {
    by_all_sources,
    by_selection,  // selp: the predicate and the source that it takes
    by_and,        // and.pred: false and undefined is false
    by_or,
    must_be,  // all sources must be defined
};

struct Instruction {
    Run run = nullptr;
    Flow flow = Flow::next;
    int guard = -1;  // predicate; -1: none
    bool guard_negated = false;
    bool uniform = false;  // bra.uni
    Defined defined = Defined::by_all_sources;
    std::vector<Operand> operands;

    Type type, from;  // of the result; of the sources where it differs
    Space space = Space::generic;
    Rounding rounding = Rounding::nearest;
    Compare compare = Compare::eq;
    bool flush = false, saturate = false, to_integer = false;  // .ftz, .sat, .rni ... of a float
    bool all_lanes = false;                                    // .aligned, of a barrier
    int count = 1;                                             // .v2, .v4, .x4
    int option = 0;                                            // by opcode
    uint64_t used_bytes = ~0ull;                               // .pragma "used_bytes_mask": of what it loads
    int target = -1, reconverge = -1;                          // branch: instruction; -1: the end
    std::vector<int> uses, predicate_uses;                     // rows and predicates that must be defined
    std::vector<int> defines, predicate_defines;

    std::string text;
    int line = 0;                        // of the PTX
    int file = 0, source_line = 0;       // .loc
    int outer_file = 0, outer_line = 0;  // the same, but where it was inlined, in the end into the kernel
};

struct Variable {
    std::string name;
    uint64_t offset = 0;
    size_t bytes = 0, alignment = 1;
};

struct Kernel {
    std::string name;       // as the module has it
    std::string demangled;  // without parameters: "layernorm_forward_kernel<4, 8, false, false, float>"
    std::vector<Variable> params;
    size_t param_bytes = 0;
    int max_threads = 1024;  // .maxntid

    std::vector<Instruction> code;
    int rows = 0;  // of 32 lanes of 32 bits; a register of 64 bits has two
    int predicates = 0;
    std::vector<Variable> shared;
    size_t shared_bytes = 0;  // with gaps between the variables; dynamic memory comes behind
    size_t shared_unit = 16;  // the smallest access to it
    size_t dynamic_alignment = 16, local_bytes = 0;
    const std::vector<std::string>* files = nullptr;  // of .loc
};

constexpr uint64_t kSharedGap = 128;  // between variables in shared memory: nobody may touch it

class Module {
  public:
    // By name as in the module, or demangled without parameters; null: there is none.
    const Kernel* kernel(const std::string& name);
    std::vector<std::string> names() const;  // demangled

  private:
    friend Module parse(std::string text);
    struct Body {
        std::string name;
        size_t begin, end;  // from ".entry" to the closing brace
        int line;
        std::unique_ptr<Kernel> kernel;
    };
    std::unique_ptr<std::string> text_;
    std::map<std::string, std::shared_ptr<Body>> bodies_;  // by both names
    std::shared_ptr<std::vector<std::string>> files_;
    std::map<std::string, size_t> dynamic_;  // .extern .shared: alignment
};
Module parse(std::string text);

// "layernorm_forward_kernel<4, float>" of a mangled name
std::string demangle(const std::string& name);

// ---- decode.cpp ----

// Finds run, types and modifiers by the opcode; false: not an instruction that the machine knows.
bool decode(Instruction& instruction, const std::string& opcode);

}  // namespace ptx
