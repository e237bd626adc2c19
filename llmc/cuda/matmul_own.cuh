// Matrix products by the program's own kernels.
//
//   out (M,N) = [accumulate ? out : 0] + op(a) (M,K) . op(b) (K,N) + bias (N), then the epilogue    (arguments.h)
//
// Limit: arithmetic. Each number of a and b is needed many times, so everything here is about reuse: out is cut into
// tiles, a block of threads makes a tile, its warps make pieces of 64x64, and K is walked in steps, for each of which
// a slice of op(a) and of op(b) is brought to shared memory once and then read by all warps.
//   bf16   tensor cores (mma.sync), fed by asynchronous copies, several steps ahead            sm_80 and newer
//   fp32   ordinary multiply-adds (matmul_plain.cuh: read it first); bf16 whose rows are not whole packs too
// Where a product has too few tiles to keep all multiprocessors busy, as weight gradients have (small out, long K), K
// is split among several blocks. Their sums go to the workspace, and a second kernel adds them in order: no atomics,
// the same bits every time. Which tile and how many parts is a rule of the shape and the GPU alone (plan_product).
#pragma once
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/matmul_plain.cuh"
#include "llmc/cuda/ptx.cuh"

// ---- bf16: tensor cores ----

template <int M, int N, int K, int warps_m, int warps_n, int kStages, int blocks>
struct MmaTile {
    static constexpr int BM = M, BN = N, BK = K, kWarpsM = warps_m;
    static constexpr int threads = 32 * warps_m * warps_n;
    static constexpr int stages = kStages;  // slices of K in shared memory: one in use, the others under way
    static constexpr int blocks_per_multiprocessor = blocks;
    static constexpr int a_bytes = BM * BK * 2, stage_bytes = a_bytes + BN * BK * 2;
    static constexpr int shared_bytes = stages * stage_bytes;
    static constexpr int fma_per_clock = 1024;  // of a multiprocessor, roughly: for choose_splits
    static_assert(BM == 64 * warps_m && BN == 64 * warps_n, "a warp makes 64x64");
    static_assert(BM * BN <= matmul_own_largest_tile, "the workspace is for tiles of this size (workspaces.h)");
    static_assert(stage_bytes >= 16 * 64 * 4 * warps_m * warps_n, "the epilogue stages 16x64 floats a warp");
};
// The longer a tile's sides, the fewer bytes have to come from the L2 cache for each multiply-add: wide or tall, as the
// shape divides, where shared memory allows it (A100, H100 and their successors); small elsewhere (99 KiB: two blocks).
using WideMmaTile = MmaTile<128, 256, 64, 2, 4, 3, 1>;
using TallMmaTile = MmaTile<256, 128, 64, 4, 2, 3, 1>;
using SmallMmaTile = MmaTile<128, 128, 32, 2, 2, 3, 2>;

// How a slice of an operand lies in shared memory: as in device memory, rows along the direction in which the operand
// is contiguous: K (extent rows of BK elements) or not (BK rows of extent elements). ldmatrix reads 8 rows of 16 bytes
// at a time, from the same place of neighbouring rows; were the rows simply stacked, all 8 would lie in the same 4 of
// the 32 memory banks and be read one after the other. So the 16-byte chunks of a row are exchanged, by XOR with the
// row's number, and the 8 chunks lie in different banks.
template <typename Tile, bool k_contiguous, int extent>
struct SharedOperand {
    static constexpr int width = k_contiguous ? Tile::BK : extent, rows = k_contiguous ? extent : Tile::BK;
    static constexpr int pitch = width * 2, chunks = width / 8;  // bytes and chunks of a row
    static constexpr int row_step = Tile::threads / chunks;      // rows that the block copies at once
    static_assert(row_step % 8 == 0 && rows % row_step == 0 && (chunks >= 8 || chunks == 4));

    static __device__ int place(int row, int chunk) {  // in bytes; the same exchange in rows r and r + 8
        return row * pitch + (chunk ^ (chunks == 4 ? row / 2 % 4 : row % 8)) * 16;
    }

    // One thread's share of the copy of a slice x[e0..][k0..] of an operand (extent_all, K), in `copies` pieces of 16
    // bytes; what lies outside of the operand becomes 0.
    static constexpr int copies = rows / row_step;
    const bf16* from;
    unsigned char* to;
    int row_length, rows_left;
    __device__ SharedOperand(unsigned char* slice, const bf16* x, int extent_all, int K, int e0, int k0) {
        int row = threadIdx.x / chunks, chunk = threadIdx.x % chunks;
        int r = (k_contiguous ? e0 : k0) + row, c = (k_contiguous ? k0 : e0) + chunk * 8;
        row_length = k_contiguous ? K : extent_all;
        rows_left = c < row_length ? (k_contiguous ? extent_all : K) - r : 0;
        from = x + int64_t(r) * row_length + c, to = slice + place(row, chunk);
    }
    __device__ void copy(int i) const {
        ptx::cp_async_16(to + i * row_step * pitch, from + int64_t(i * row_step) * row_length,
                         i * row_step < rows_left);
    }
    // Where this lane's ldmatrix address for the first 16x16 fragment of the warp's 64 is. The four 8x8 matrices of a
    // fragment follow each other down the slice's rows first, or across (`down`), as mma wants its registers.
    static __device__ int fragment_place(int e0, bool down) {
        int lane = threadIdx.x % 32;
        int row = down ? lane % 16 : lane % 8 + lane / 16 * 8, chunk = down ? lane / 16 : lane / 8 % 2;
        return k_contiguous ? place(e0 + row, chunk) : place(row, e0 / 8 + chunk);
    }
    // Fragment i of the warp's four, k_step of the slice: the exchange of chunks is an XOR, and so is a step along a
    // row.
    static __device__ void load(uint32_t (&r)[4], const unsigned char* slice, int place0, int i, int k_step) {
        if constexpr (k_contiguous) ptx::ldmatrix_x4(r, slice + (place0 ^ (k_step * 32)) + i * 16 * pitch);
        else ptx::ldmatrix_x4_trans(r, slice + (place0 ^ (i * 32)) + k_step * 16 * pitch);
    }
};

// Each block takes items blockIdx.x, blockIdx.x + gridDim.x, ... and walks their slices of K in one stream: while a
// slice is multiplied, the copies of the next ones are under way, be they of this item or the next. Within a slice, the
// fragments of one step of 16 are loaded into registers while those of the step before are multiplied.
// SUMS: leaves the column sums, of a warp's 64 rows each.
template <typename Tile, bool a_transposed, bool b_transposed, bool SUMS = false>
__global__ void __launch_bounds__(Tile::threads, Tile::blocks_per_multiprocessor)
    matmul_mma_kernel(OwnProduct<bf16> p) {
    extern __shared__ __align__(128) unsigned char shared[];
    using A = SharedOperand<Tile, !a_transposed, Tile::BM>;
    using B = SharedOperand<Tile, b_transposed, Tile::BN>;
    constexpr int stages = Tile::stages, k_steps = Tile::BK / 16;
    const Matmul<bf16>& args = p.args;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int warp_m = warp % Tile::kWarpsM * 64, warp_n = warp / Tile::kWarpsM * 64;
    int a_place = A::fragment_place(warp_m, !a_transposed);
    int b_place = Tile::a_bytes + B::fragment_place(warp_n, !b_transposed);

    // The copies: slice by slice, `stages` - 1 slices ahead of the arithmetic. After the last one they copy nothing, as
    // if the operands had ended.
    int copy_index = blockIdx.x;
    OwnItem ahead(p, copy_index);
    auto copy_part = [&](int stage, int part, int parts) {
        bool more = copy_index < p.items();
        unsigned char* slice = shared + stage * Tile::stage_bytes;
        A copy_a(slice, args.a, more ? args.M : 0, args.K, ahead.m * Tile::BM, ahead.k * Tile::BK);
        B copy_b(slice + Tile::a_bytes, args.b, more ? args.N : 0, args.K, ahead.n * Tile::BN, ahead.k * Tile::BK);
        constexpr int copies = A::copies + B::copies;
#pragma unroll
        for (int i = 0; i < copies; i++)
            if (i * parts / copies == part) i < A::copies ? copy_a.copy(i) : copy_b.copy(i - A::copies);
    };
    auto end_slice = [&] {
        ptx::cp_async_commit();
        if (++ahead.k == ahead.k_end) {
            copy_index += gridDim.x;
            ahead = OwnItem(p, copy_index);
        }
    };
    for (int s = 0; s < stages - 1; s++) {
        copy_part(s, 0, 1);
        end_slice();
    }

    uint32_t a[2][4][4], b[2][4][4];  // fragments of two steps: 64 rows of op(a), 64 columns of op(b)
    auto load_fragments = [&](int which, int stage, int k_step) {
        const unsigned char* slice = shared + stage * Tile::stage_bytes;
#pragma unroll
        for (int i = 0; i < 4; i++) A::load(a[which][i], slice, a_place, i, k_step);
#pragma unroll
        for (int j = 0; j < 4; j++) B::load(b[which][j], slice, b_place, j, k_step);
    };
    int stage = 0;
    auto next = [](int s) { return s + 1 == stages ? 0 : s + 1; };
    auto previous = [](int s) { return s == 0 ? stages - 1 : s - 1; };
    ptx::cp_async_wait<stages - 2>();
    __syncthreads();
    load_fragments(0, stage, 0);

    for (int index = blockIdx.x; index < p.items(); index += gridDim.x) {
        OwnItem item(p, index);
        float sum[4][8][4] = {};
        for (int k = item.k; k < item.k_end; k++) {
#pragma unroll
            for (int step = 0; step < k_steps; step++) {
                if (step == k_steps - 1) {  // the next slice is there, for all, and nobody reads this one any more
                    ptx::cp_async_wait<stages - 2>();
                    __syncthreads();
                    load_fragments((step + 1) % 2, next(stage), 0);
                } else {
                    load_fragments((step + 1) % 2, stage, step + 1);
                }
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (step < k_steps - 1)  // a few copies at a time: the tensor cores are not to wait for them
                        copy_part(previous(stage), step * 4 + i, (k_steps - 1) * 4);
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        const uint32_t* bj = b[step % 2][j / 2] + j % 2 * 2;
                        ptx::mma_m16n8k16(sum[i][j], a[step % 2][i], bj[0], bj[1]);
                    }
                }
                if (step == k_steps - 2) end_slice();
            }
            stage = next(stage);
        }

        // The sums go through shared memory, so that a lane gets eight neighbours of a row and a warp stores whole
        // lines: 16 rows at a time, each warp in a part of its own of the slice that was used last. A row's 16 chunks
        // of 16 bytes are exchanged so that neither the stores (four rows, two chunks of each) nor the loads (eight
        // chunks of one row) hit the same banks.
        float* patch = reinterpret_cast<float*>(shared + previous(stage) * Tile::stage_bytes) + warp * 16 * 64;
        auto chunk = [&](int row, int c) { return patch + row * 64 + ((c / 2 ^ row % 4 ^ c % 2 * 4) + c % 2 * 8) * 4; };
        float column[SUMS ? 8 : 1] = {};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int group = lane / 4, quad = lane % 4;
#pragma unroll
            for (int j = 0; j < 8; j++)
#pragma unroll
                for (int side = 0; side < 2; side++) {
                    float* to = chunk(group + side * 8, 2 * j + quad / 2) + quad % 2 * 2;
                    *reinterpret_cast<float2*>(to) = float2{sum[i][j][2 * side], sum[i][j][2 * side + 1]};
                }
            __syncwarp();
#pragma unroll 1
            for (int r = lane / 8; r < 16; r += 4) {
                float x[8];
                load_pack(reinterpret_cast<float(&)[4]>(x[0]), chunk(r, lane % 8 * 2));
                load_pack(reinterpret_cast<float(&)[4]>(x[4]), chunk(r, lane % 8 * 2 + 1));
                p.finish(item.m * Tile::BM + warp_m + i * 16 + r, item.n * Tile::BN + warp_n + lane % 8 * 8, item.split,
                         x);  // beyond M: zeros as they are
                if constexpr (SUMS) {
                    Pack<bf16, 8>::rounded(x).unpack(x);
#pragma unroll
                    for (int c = 0; c < 8; c++) column[c] += x[c];
                }
            }
            __syncwarp();
        }
        if constexpr (SUMS) {
#pragma unroll
            for (int c = 0; c < 8; c++) {
                column[c] += __shfl_xor_sync(0xffffffffu, column[c], 8);
                column[c] += __shfl_xor_sync(0xffffffffu, column[c], 16);
            }
            const int part = item.m * (Tile::BM / 64) + warp_m / 64, n = item.n * Tile::BN + warp_n + lane * 8;
            if (lane < 8 && n < args.N) store_some(p.column_sums + int64_t(part) * args.N + n, column, 8, true);
        }
        __syncthreads();  // the next copy goes where the patches are
    }
}

// ---- which tile, and how many parts ----

struct OwnPlan {
    int splits;
    double clocks;  // estimate
};
// The number of parts of K that takes the least time: rounds in which all blocks have an item, times an item's clocks.
// Estimates from data sheets, not measured: an item's start and end, which nothing hides, cost 3,000 clocks; the sums
// of a part in the workspace 8 bytes an output at 16 bytes a clock; the second kernel 4,000 clocks.
template <typename Tile>
OwnPlan plan_product(int M, int N, int K) {
    constexpr int blocks = Tile::blocks_per_multiprocessor;
    constexpr double slice = 1.0 * Tile::BM * Tile::BN * Tile::BK * blocks / Tile::fma_per_clock;
    int64_t tiles = int64_t(ceil_div(M, Tile::BM)) * ceil_div(N, Tile::BN), slots = device().multiprocessors * blocks;
    OwnPlan best{1, 0};
    for (int s = 1; s == 1 || (s <= ceil_div(K, Tile::BK) / 4 && s * tiles <= slots * matmul_own_most_items); s++) {
        double clocks = ceil_div(tiles * s, slots) * (ceil_div(ceil_div(K, Tile::BK), s) * slice + 3000);
        if (s > 1)
            clocks += 4000 + static_cast<double>(s * tiles) * Tile::BM * Tile::BN * 8 / 16 / device().multiprocessors;
        if (s == 1 || clocks < best.clocks) best = {s, clocks};
    }
    return best;
}

// ---- launchers ----

// One product with this tile and so many parts of K. Workspace: their sums, where there are several.
template <typename Tile, typename X, typename O>
void matmul_own_with(const Matmul<X, O>& args, int splits, cudaStream_t stream, Sums<X> sums = nullptr) {
    constexpr int W = pack_width<X>;
    OwnProduct<X> p{};
    p.args = {.out = nullptr,
              .a = args.a,
              .b = args.b,
              .M = args.M,
              .N = args.N,
              .K = args.K,
              .a_transposed = args.a_transposed,
              .b_transposed = args.b_transposed,
              .accumulate = args.accumulate,
              .bias = args.bias,
              .epilogue = args.epilogue,
              .aux = args.aux};
    if constexpr (std::is_same_v<X, O>) p.args.out = args.out;
    else p.out_float = args.out;
    p.tiles_m = ceil_div(args.M, Tile::BM), p.tiles_n = ceil_div(args.N, Tile::BN);
    p.k_tiles = std::max(1, ceil_div(args.K, Tile::BK)), p.splits = splits;
    p.partial_row = ceil_div(args.N, 8) * 8;
    if (splits > 1) p.partial = workspace<float>(static_cast<size_t>(splits) * args.M * p.partial_row);
    p.packs = rows_are_packs(args);
    int items = p.tiles_m * p.tiles_n * splits;
    if constexpr (std::is_same_v<Tile, PlainTile>) {
        launch(matmul_plain_kernel<X>, items, Tile::threads, 0, stream, p);
    } else {
        CHECK(operands_are_packs(args) && !(args.a_transposed && args.b_transposed), "M %d, N %d, K %d", args.M, args.N,
              args.K);
        auto kernel = args.a_transposed   ? matmul_mma_kernel<Tile, true, false>
                      : args.b_transposed ? matmul_mma_kernel<Tile, false, true>
                                          : matmul_mma_kernel<Tile, false, false>;
        if (std::is_same_v<X, O> && sums && sums->parts && splits == 1 && !args.a_transposed && !args.b_transposed) {
            kernel = matmul_mma_kernel<Tile, false, false, true>, p.column_sums = sums->parts;
            sums->count = p.tiles_m * (Tile::BM / 64), sums->of = reinterpret_cast<const X*>(args.out);
        }
        int blocks = std::min(items, device().multiprocessors * Tile::blocks_per_multiprocessor);
        launch(kernel, blocks, Tile::threads, Tile::shared_bytes, stream, p);
    }
    if (splits > 1) launch_by_rows(matmul_add_partial_kernel<W, X>, args.M, p.partial_row / W, stream, p);
}

// sums, where they are wanted: the column sums of out, from tensor cores' tiles whose K is not split.
template <typename X, typename O>
void matmul_own(const Matmul<X, O>& args, cudaStream_t stream, Sums<X> sums) {
    int M = args.M, N = args.N, K = args.K;
    if (M == 0 || N == 0) return;
    if constexpr (std::is_same_v<X, bf16>) {
        // no layer multiplies two transposed operands, so there is no fast kernel for that
        if (operands_are_packs(args) && !(args.a_transposed && args.b_transposed)) {
            OwnPlan small = plan_product<SmallMmaTile>(M, N, K), wide = plan_product<WideMmaTile>(M, N, K),
                    tall = plan_product<TallMmaTile>(M, N, K);
            // the small tile waits for the L2 cache more than the estimate says
            if (WideMmaTile::shared_bytes > device().max_shared_bytes ||
                1.2 * small.clocks < std::min(wide.clocks, tall.clocks))
                return matmul_own_with<SmallMmaTile>(args, small.splits, stream, sums);
            if (tall.clocks < wide.clocks) return matmul_own_with<TallMmaTile>(args, tall.splits, stream, sums);
            return matmul_own_with<WideMmaTile>(args, wide.splits, stream, sums);
        }
    }
    matmul_own_with<PlainTile>(args, plan_product<PlainTile>(M, N, K).splits, stream);
}
