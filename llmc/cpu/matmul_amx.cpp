// Matrix products of bf16 by tiles of AMX (amx.h).
//
// Panels of 32 rows of a and of 32 columns of b are copied into tiles. A panel of b stays in the L1 cache while it meets panels of
// a: four products to four loads of tiles. A piece of K at a time; the sums of a block of the result wait in the L2 cache. The
// order of the sums depends on K alone.                                       (Goto & van de Geijn 2008, "Anatomy of high-performance matrix multiplication")
//
// Limit: arithmetic, 2048 FLOP a cycle and core.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "llmc/base/parallel.h"
#include "llmc/cpu/amx.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/finish_row.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/workspaces.h"

namespace {

constexpr int kPanel = AmxBlocks::kPanel, kPanelTiles = 2 * kAmxTile;  // pairs of such two tiles
constexpr auto count = AmxBlocks::count;

// The same numbers with rows and columns exchanged.
void transpose(amx_pair* to, const amx_pair* from) {
    gemm_copy(reinterpret_cast<bf16_pair*>(to), 16, reinterpret_cast<const bf16_pair*>(from), 16, true, 16, 16);
}

// a or b, in panels of 32 rows or columns.
struct Operand {
    const bf16* stored;  // (size,K) or, with k_rows, (K,size)
    int64_t stride;
    bool k_rows, pairs_first;  // pairs_first: tiles are wanted as (pair along k, other), as of b; else (other, pair)
    int size;                  // rows of a, columns of b

    // Elements [k0, k0 + k) along K of `panels` panels: tiles (k / 32, 2) of each, to(panel). What does not exist is 0. Memory
    // is read along its rows.
    template <typename To>
    void pack(To to, int begin, int panels, int k0, int k) const {
        const auto tile = [&](int panel, int half, int t) { return to(panel) + (2 * t + half) * kAmxTile; };
        for (int outer = 0; outer < (k_rows ? count(k, 32) : panels); outer++)
            for (int inner = 0; inner < 2 * (k_rows ? panels : 1); inner++) {
                const int panel = begin + (k_rows ? inner / 2 : outer), half = inner % 2;
                const int first = panel * kPanel + 16 * half, others = std::clamp(size - first, 0, 16);
                if (k_rows) {
                    const int k1 = k0 + 32 * outer;
                    pack_k_rows(tile(panel, half, outer), stored + k1 * stride + first, others,
                                std::min(32, k0 + k - k1));
                } else {
                    pack_rows([=](int t) { return tile(panel, half, t); }, stored + first * stride + k0, others, k);
                }
            }
    }

  private:
    // One tile of 32 rows along k, neighbours interleaved.
    void pack_k_rows(amx_pair* to, const bf16* from, int others, int k) const {
        alignas(64) amx_pair room[kAmxTile];
        bf16_pair* pairs = reinterpret_cast<bf16_pair*>(pairs_first ? to : room);
        if (others < 16 || k < 32) {
            std::fill_n(pairs, kAmxTile, 0u);
            for (int j = 0; j < k; j++)
                for (int i = 0; i < others; i++)
                    pairs[j / 2 * 16 + i] |= uint32_t{from[j * stride + i].bits} << (j % 2 * 16);
        } else {
            constexpr int lanes = kLanes<uint32_t>;
            using Halves = VectorOf<uint16_t, kVectorBytes / 2>::in_memory;
            const auto row = [&](int j, int i) {
                const auto* at = reinterpret_cast<const Halves*>(from + j * stride + i);
                return __builtin_convertvector(*at, Vector<uint32_t>);
            };
            for (int p = 0; p < 16; p++)
                for (int i = 0; i < 16; i += lanes)
                    store_vector<uint32_t>(pairs + p * 16 + i, row(2 * p, i) | row(2 * p + 1, i) << 16);
        }
        if (!pairs_first) transpose(to, room);
    }

    // Tiles of 16 rows, where pairs are neighbours as they lie.
    template <typename Tile>
    void pack_rows(Tile tile, const bf16* from, int others, int k) const {
        for (int i = 0; i < 16; i++)
            for (int t = 0; t < count(k, 32); t++) {
                amx_pair* row = tile(t) + i * 16;
                const int there = i < others ? std::min(32, k - 32 * t) : 0;
                if (there < 32) std::memset(row, 0, 64);
                if (there == 32) std::memcpy(row, from + i * stride + 32 * t, 64);
                else if (there > 0) std::memcpy(row, from + i * stride + 32 * t, static_cast<size_t>(there) * 2);
            }
        alignas(64) amx_pair room[kAmxTile];
        for (int t = 0; pairs_first && t < count(k, 32); t++) {
            std::copy_n(tile(t), kAmxTile, room);
            transpose(tile(t), room);
        }
    }
};

// How much of K at a time: a panel of b so long leaves half of the L1 cache to a's.
constexpr int kDepth = 256;
// Rows of the result that are fetched ahead of their finishing: they are far apart, so the processor does not see them coming.
constexpr int kRowsAhead = 8;

template <typename O>
void product(const Matmul<bf16, O>& args) {
    const int M = args.M, N = args.N, K = args.K;
    const Operand a{args.a, args.a_transposed ? M : K, args.a_transposed, false, M};
    const Operand b{args.b, args.b_transposed ? K : N, !args.b_transposed, true, N};
    const AmxBlocks blocks(M, N, K, thread_count());
    const bool own_rows = blocks.own_rows;
    const Operand &own = own_rows ? a : b, &shared = own_rows ? b : a;
    const int shared_panels = blocks.shared_panels, across = count(shared_panels, blocks.wide);

    // The copy for all: a piece of K after the other. A caller at a time.
    static std::mutex mutex;
    static std::vector<amx_pair> packed_storage;
    std::lock_guard lock(mutex);
    amx_pair* packed = cache_aligned(packed_storage, blocks.shared_pairs);
    const auto at = [=](amx_pair* from, int panels, int k, int panel, int end) {
        return from + (int64_t(k / 32) * panels + int64_t(panel) * count(std::min(kDepth, end - k), 32)) * kPanelTiles;
    };
    parallel_for(int64_t(count(K, kDepth)) * shared_panels, [=, &shared](int64_t i) {
        const int k = int(i / shared_panels) * kDepth, panel = int(i % shared_panels);
        shared.pack([=](int p) { return at(packed, shared_panels, k, p, K); }, panel, 1, k, std::min(kDepth, K - k));
    });

    const int64_t tasks = int64_t(count(blocks.own_panels, blocks.own_block)) * across;
    parallel_for_dynamic(tasks, [=, &own, &blocks](int64_t task) {
        const AmxTiles tiles;
        const int own_begin = int(task / across) * blocks.own_block;
        const int own_count = std::min(blocks.own_block, blocks.own_panels - own_begin);
        const int begin = int(task % across) * blocks.wide, end = std::min(shared_panels, begin + blocks.wide);
        static thread_local std::vector<amx_pair> own_storage;
        static thread_local std::vector<float> sum_storage;
        constexpr int block = kPanel * kPanel, kAmxDepth = AmxBlocks::kAmxDepth;
        amx_pair* mine = cache_aligned(own_storage, blocks.own_pairs);
        float* sums = cache_aligned(sum_storage, blocks.sums);
        for (int k0 = 0; k0 < K; k0 += kAmxDepth) {
            const int k1 = std::min(K, k0 + kAmxDepth);
            for (int k = k0; k < k1; k += kDepth)
                own.pack([=](int panel) { return at(mine, own_count, k - k0, panel - own_begin, k1 - k0); }, own_begin,
                         own_count, k, std::min(kDepth, K - k));
            for (int first = begin; first < end; first += AmxBlocks::kBlock) {
                const int shared_count = std::min(end, first + AmxBlocks::kBlock) - first;
                const int rows = own_rows ? own_count : shared_count, columns = own_rows ? shared_count : own_count;
                float* group = sums + (blocks.long_k ? int64_t(first - begin) * own_count * block : 0);
                for (int k = k0; k < k1; k += kDepth)
                    for (int x = 0; x < columns; x++)
                        for (int y = 0; y < rows; y++) {
                            const amx_pair* p_own = at(mine, own_count, k - k0, own_rows ? y : x, k1 - k0);
                            const amx_pair* p_shared = at(packed, shared_panels, k, first + (own_rows ? x : y), K);
                            float* sum = group + (int64_t(x) * rows + y) * block;
                            amx_block<2, 2>(sum, kPanel, own_rows ? p_own : p_shared, 16, kAmxTile, kPanelTiles,
                                            own_rows ? p_shared : p_own, 16, kAmxTile, kPanelTiles,
                                            count(std::min(kDepth, K - k), 32), k > 0);
                        }
                if (k1 < K) continue;
                const int row = (own_rows ? own_begin : first) * kPanel,
                          column = (own_rows ? first : own_begin) * kPanel;
                const int there = std::min(rows * kPanel, M - row);
                for (int y = 0; y < there; y++)  // along rows of the result
                    for (int x = 0; x < columns; x++) {
                        const int n = column + x * kPanel;
                        if (y + kRowsAhead < there) {
                            const O* later = args.out + int64_t(row + y + kRowsAhead) * N + n;
                            for (int e = 0; e < kPanel; e += 64 / sizeof(O)) __builtin_prefetch(later + e, 1);
                        }
                        float* sum = group + (int64_t(x) * rows + y / kPanel) * block + y % kPanel * kPanel;
                        if (N - n >= kPanel) finish_row(args, row + y, n, kPanel, sum);
                        else finish_row(args, row + y, n, N - n, sum);
                    }
            }
        }
    });
}

}  // namespace

void matmul_amx(const Matmul<bf16, bf16>& args) { product(args); }
void matmul_amx(const Matmul<bf16, float>& args) { product(args); }
