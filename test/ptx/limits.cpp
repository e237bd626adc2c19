#include "test/ptx/limits.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ptx {

const Card& card(const std::string& name) {
    static const std::vector<Card> cards = [] {
        std::vector<Card> all;
        for (const GpuSheet& g : kGpuSheets) {
            if (g.multiprocessors == 0) continue;
            const int lanes = g.capability == 80 ? 64 : 128;
            Card c{g, 1e12 * g.fp32_tflops / g.multiprocessors / lanes / 2, 1, 5120, ""};
            if (g.capability == 80)
                c.notes = "L2: 5120 bytes a cycle (white paper \"NVIDIA A100 Tensor Core GPU Architecture\")";
            if (g.capability == 90) {
                c.mma_share = 0.62;
                c.notes =
                    "mma.sync reaches 0.62 of wgmma's rate (Luo et al. 2025, https://arxiv.org/abs/2501.12084); L2: "
                    "5120 bytes a "
                    "cycle (table 3 of https://pmc.ncbi.nlm.nih.gov/articles/PMC10448217)";
            }
            if (g.capability == 89) c.notes = "L2: not published; taken as of the A100";
            all.push_back(c);
        }
        return all;
    }();
    for (const Card& c : cards)
        if (name == c.sheet.name) return c;
    throw Fault("no such card: " + name);
}

Limit Times::limiter() const { return static_cast<Limit>(std::max_element(at, at + std::size(at)) - at); }
double Times::predicted() const {
    const double most = *std::max_element(at, at + std::size(at));
    return most + kUnhidden * (std::accumulate(at, at + std::size(at), 0.0) - most);
}

Times times(const Card& c, const Totals& t, double blocks) {
    const double count = c.sheet.multiprocessors, rounds = std::ceil(blocks / count) * count / blocks;
    const double cycles = count * c.clock / rounds;  // of all multiprocessors in a second of the launch
    Times r;
    r.at[static_cast<int>(Limit::issue)] = t.slots / 4 / cycles;
    // 2 * 16 * 8 * 16 FLOPs each
    r.at[static_cast<int>(Limit::tensor)] = t.tensor * 4096 / (1e12 * c.sheet.bf16_tflops * c.mma_share) * rounds;
    r.at[static_cast<int>(Limit::special)] = t.special * 2 / cycles;
    r.at[static_cast<int>(Limit::shared)] = t.wavefronts / cycles;
    r.at[static_cast<int>(Limit::l2)] = t.far * 32 / (c.l2_clock * c.clock);
    r.at[static_cast<int>(Limit::dram)] = t.dram_bytes / (1e12 * c.sheet.memory_tbs * kDramShare);
    return r;
}

}  // namespace ptx
