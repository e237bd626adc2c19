// What a launch asks of a GPU, counted while the machine runs it: by instruction of the kernel, so that a page can say which line
// of the source it was.
//
//   Counters c;
//   launch(memory, kernel, {.grid = {768}, .block = {128}, .args = ..., .blocks = {0, 1, 2, 3}, .counters = &c});
//   Totals t = c.totals();                   // of these four blocks
//
// Global memory, as NVIDIA's Nsight Compute counts it: a request is an instruction of a warp, and takes as many sectors as its
// lanes touch stretches of 32 bytes (CUDA C++ Best Practices Guide, "Coalesced Access to Global Memory").
//
// Shared memory: 32 banks of 4 bytes. A request takes as many wavefronts as the words that its lanes want of one bank; lanes
// that want the same word share it (CUDA C++ Programming Guide, "Shared Memory"). Accesses of 8 bytes a lane go by halves of
// the warp, those of 16 by quarters, ldmatrix by its matrices; more wavefronts than such parts are bank conflicts.
//
// Instructions are PTX, of which ptxas makes others: kinds_of() says how many, in the main.
#pragma once
#include <cstdint>
#include <deque>
#include <map>
#include <unordered_set>
#include <vector>

#include "test/ptx/module.h"

namespace ptx {

enum class Class : uint8_t {
    none,
    integer,
    real,
    special,
    tensor,
    shared,
    global,
    local,
    exchange,
    barrier,
    control,
    count
};
const char* name_of(Class c);

// What an instruction is, and costs: issue slots of a warp scheduler, of these special-function ones.
struct Kind {
    Class of = Class::none;
    double slots = 0;
    int special = 0;
};
// Of all instructions of a kernel. What ptxas makes one of two costs once: a product and the sum that it is for (FFMA, IMAD), a shift or
// a change of width and the sum (LEA, IMAD.WIDE), a constant added to an address, predicates combined by the comparison.
std::vector<Kind> kinds_of(const Kernel& kernel);

struct Tally {
    uint64_t warps = 0, lanes = 0;  // executions by a warp, and by its lanes
    uint64_t requests = 0, sectors = 0, least_sectors = 0,
             far = 0;                               // global memory; far: sectors that the L1 cache has not
    uint64_t wavefronts = 0, least_wavefronts = 0;  // shared memory
    uint64_t conflicts() const { return wavefronts - least_wavefronts; }
};

// Of all instructions; what a launch of more blocks would have, times its scale.
struct Totals {
    double slots = 0, warps = 0, lanes = 0, special = 0, tensor = 0, barriers = 0;  // tensor: m16n8k16
    double requests = 0, sectors = 0, least_sectors = 0, far = 0, wavefronts = 0, least_wavefronts = 0;
    double dram_bytes = 0;
    double slots_of[static_cast<int>(Class::count)] = {};
    double active() const { return warps > 0 ? lanes / warps / 32 : 0; }  // share of lanes
    double coalescing() const { return sectors > 0 ? least_sectors / sectors : 1; }
    double conflicts() const { return wavefronts - least_wavefronts; }
};

class Counters {
  public:
    std::vector<Tally> at;  // by instruction
    const std::vector<Kind>& kinds() const { return kinds_; }
    uint64_t blocks = 0;

    // of a launch of `grid` blocks, of which `blocks` were counted. From memory comes what these blocks want together, each sector
    // once, times the others; but no more of a tensor than there is.
    Totals totals(uint64_t grid = 0) const;

    // ---- for the machine ----
    void start_block(const Kernel& kernel);
    void count(Warp& warp, const Instruction& i, uint32_t lanes);

  private:
    struct Traffic {
        uint64_t bytes = 0;
        std::unordered_set<uint64_t> read, written;  // sectors, by any block
    };
    // A block's share of the L1 cache: 16 KiB, the oldest goes first.
    static constexpr size_t kNear = 512;
    bool is_near(uint64_t sector);
    void count_global(Warp& warp, const Operand& o, uint32_t lanes, const uint32_t* bytes, bool reads, bool writes,
                      bool cached);

    std::map<uint64_t, Traffic> tensors_;  // by address
    std::unordered_set<uint64_t> near_;
    std::deque<uint64_t> order_;
    std::vector<Kind> kinds_;  // of the kernel's instructions
    const Kernel* kernel_ = nullptr;
    Tally* now_ = nullptr;
};

// Wavefronts of accesses to shared memory by these lanes, `bytes` each. parts: in how many the warp's lanes go.
uint32_t wavefronts(const uint64_t* addresses, uint32_t lanes, uint32_t bytes, uint32_t* parts);

}  // namespace ptx
