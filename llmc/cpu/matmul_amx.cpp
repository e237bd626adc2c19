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
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/workspaces.h"

namespace {

constexpr int kPanel = 32;                 // rows of a, columns of b: two tiles side by side
constexpr int kPanelTiles = 2 * kAmxTile;  // pairs of such two tiles
using Tile = bf16_pair[kAmxTile];

int count(int n, int block) { return (n + block - 1) / block; }

// A tile of pairs along k. stored: (other, 32 k) or, with k_rows, (32 k, other), of which `others` <= 16 and `k` exist;
// to (other, pair of k) or, with pairs_first, (pair of k, other). What does not exist is 0.
void pack_tile(amx_pair* to, const bf16* stored, int64_t stride, bool k_rows, bool pairs_first, int others, int k) {
    alignas(64) Tile tile;  // (other, pair), or with k_rows (pair, other)
    bf16_pair* pairs = k_rows == pairs_first ? reinterpret_cast<bf16_pair*>(to) : tile;
    if (others < 16 || k < 32) {
        std::fill_n(pairs, kAmxTile, 0u);
        for (int i = 0; i < others; i++)
            for (int j = 0; j < k; j++) {
                const uint32_t bits = (k_rows ? stored[j * stride + i] : stored[i * stride + j]).bits;
                pairs[k_rows ? j / 2 * 16 + i : i * 16 + j / 2] |= bits << (j % 2 * 16);
            }
    } else if (k_rows) {
        constexpr int lanes = kLanes<uint32_t>;
        using Halves = VectorOf<uint16_t, kVectorBytes / 2>::in_memory;
        for (int p = 0; p < 16; p++)
            for (int i = 0; i < 16; i += lanes) {
                const auto row = [&](int r) {
                    return __builtin_convertvector(*reinterpret_cast<const Halves*>(stored + r * stride + i),
                                                   Vector<uint32_t>);
                };
                store_vector<uint32_t>(pairs + p * 16 + i, row(2 * p) | row(2 * p + 1) << 16);
            }
    } else {
        for (int i = 0; i < 16; i++) std::memcpy(pairs + i * 16, stored + i * stride, 64);
    }
    if (pairs == tile) gemm_copy<bf16_pair>(reinterpret_cast<bf16_pair*>(to), 16, tile, 16, true, 16, 16);
}

// a or b, in panels of 32 rows or columns.
struct Operand {
    const bf16* stored;
    int64_t stride;
    bool k_rows, pairs_first;  // as pack_tile has them
    int size;                  // rows of a, columns of b

    // A panel along k elements from k0 on: tiles (k / 32, 2).
    void pack(amx_pair* to, int panel, int k0, int k) const {
        for (int k1 = k0; k1 < k0 + k; k1 += 32)
            for (int half = 0; half < 2; half++, to += kAmxTile) {
                const int64_t other = panel * kPanel + 16 * half;
                pack_tile(to, stored + (k_rows ? k1 * stride + other : other * stride + k1), stride, k_rows,
                          pairs_first, std::clamp(size - int(other), 0, 16), std::min(32, k0 + k - k1));
            }
    }
};

// Blocks of the result whose sums wait in the L2 cache, in panels; and how much of K at a time: a panel of b so long leaves half of the
// L1 cache to a's.
constexpr int kRowPanels = 16, kColumnPanels = 8, kDepth = 256;

template <typename O>
void product(const Matmul<bf16, O>& args) {
    const int M = args.M, N = args.N, K = args.K;
    const Operand a{args.a, args.a_transposed ? M : K, args.a_transposed, false, M};
    const Operand b{args.b, args.b_transposed ? K : N, !args.b_transposed, true, N};
    // The smaller operand is copied once, for all; each task copies its panels of the other one, kAmxDepth of K at a time.
    // Where K is longer, the sums of all blocks of a task wait.
    const bool own_rows = M >= N, long_k = K > kAmxDepth;
    const Operand &own = own_rows ? a : b, &shared = own_rows ? b : a;
    const int own_panels = count(own.size, kPanel), shared_panels = count(shared.size, kPanel);
    const int shared_block = own_rows ? kColumnPanels : kRowPanels;
    int own_block = own_rows ? kRowPanels : kColumnPanels, wide = shared_panels;
    while (count(own_panels, own_block) * count(shared_panels, wide) < 2 * thread_count() &&
           (own_block > 4 || wide > shared_block)) {
        if (own_block > 4) own_block /= 2;
        else wide = count(wide, 2);
    }
    own_block = count(own_panels, count(own_panels, own_block));  // alike
    const int across = count(shared_panels, wide);

    // The copy for all: a piece of K after the other. A caller at a time.
    static std::mutex mutex;
    static std::vector<amx_pair> packed_storage;
    std::lock_guard lock(mutex);
    amx_pair* packed = cache_aligned(packed_storage, packed_amx_bytes(M, N, K) / sizeof(amx_pair));
    const auto at = [=](amx_pair* from, int panels, int k, int panel, int end) {
        return from + (int64_t(k / 32) * panels + int64_t(panel) * count(std::min(kDepth, end - k), 32)) * kPanelTiles;
    };
    parallel_for(int64_t(count(K, kDepth)) * shared_panels, [=, &shared](int64_t i) {
        const int k = int(i / shared_panels) * kDepth, panel = int(i % shared_panels);
        shared.pack(at(packed, shared_panels, k, panel, K), panel, k, std::min(kDepth, K - k));
    });

    parallel_for_dynamic(int64_t(count(own_panels, own_block)) * across, [=, &own](int64_t task) {
        const AmxTiles tiles;
        const int own_begin = int(task / across) * own_block, own_count = std::min(own_block, own_panels - own_begin);
        const int begin = int(task % across) * wide, end = std::min(shared_panels, begin + wide);
        static thread_local std::vector<amx_pair> own_storage;
        static thread_local std::vector<float> sum_storage;
        constexpr int block = kPanel * kPanel;
        amx_pair* mine =
            cache_aligned(own_storage, size_t(own_count) * count(std::min(K, kAmxDepth), 32) * kPanelTiles);
        float* sums =
            cache_aligned(sum_storage, size_t(own_count) * (long_k ? wide : std::min(wide, shared_block)) * block);
        for (int k0 = 0; k0 < K; k0 += kAmxDepth) {
            const int k1 = std::min(K, k0 + kAmxDepth);
            for (int k = k0; k < k1; k += kDepth)
                for (int panel = 0; panel < own_count; panel++)
                    own.pack(at(mine, own_count, k - k0, panel, k1 - k0), own_begin + panel, k,
                             std::min(kDepth, K - k));
            for (int first = begin; first < end; first += shared_block) {
                const int shared_count = std::min(end, first + shared_block) - first;
                const int rows = own_rows ? own_count : shared_count, columns = own_rows ? shared_count : own_count;
                float* group = sums + (long_k ? int64_t(first - begin) * own_count * block : 0);
                for (int k = k0; k < k1; k += kDepth)
                    for (int x = 0; x < columns; x++)
                        for (int y = 0; y < rows; y++) {
                            const amx_pair* p_own = at(mine, own_count, k - k0, own_rows ? y : x, k1 - k0);
                            const amx_pair* p_shared = at(packed, shared_panels, k, first + (own_rows ? x : y), K);
                            float* sum = group + (int64_t(x) * rows + y) * block;
                            amx_block<2, 2>(sum, kPanel, own_rows ? p_own : p_shared, 16, kAmxTile, kPanelTiles,
                                            own_rows ? p_shared : p_own, 16, kAmxTile, kPanelTiles,
                                            count(std::min(kDepth, K - k), 32), k > 0);
                            if (k + kDepth < K) continue;
                            const int row = ((own_rows ? own_begin : first) + y) * kPanel;
                            const int column = ((own_rows ? first : own_begin) + x) * kPanel;
                            const int there = std::min(kPanel, M - row);
                            if (N - column >= kPanel)
                                for (int r = 0; r < there; r++)
                                    finish_row(args, row + r, column, kPanel, sum + r * kPanel);
                            else
                                for (int r = 0; r < there; r++)
                                    finish_row(args, row + r, column, N - column, sum + r * kPanel);
                        }
            }
        }
    });
}

}  // namespace

void matmul_amx(const Matmul<bf16, bf16>& args) { product(args); }
void matmul_amx(const Matmul<bf16, float>& args) { product(args); }
