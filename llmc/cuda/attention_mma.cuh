// Flash attention in bf16 on tensor cores; mathematics and shapes in attention.cuh.
//                                                      (FlashAttention-2: Dao 2023, https://arxiv.org/abs/2307.08691)
//
// Tiles of queries meet tiles of keys: products of tiles by tensor cores, everything between two products in registers
// (mma_tiles.cuh: read it first). Probabilities never leave the registers of their warp.
//
//   forward   a block takes a tile of queries, a warp 16 or 32 of them, and walks over the keys with an online softmax
//   dq        a block takes a tile of queries and walks over the keys: dq = ds k; on its way D of its queries
//   dk, dv    a block takes a tile of keys and walks over the queries of all heads that share them, with transposed
//             scores s^T = k q^T, so that p^T and ds^T are left operands of dv = p^T dout and dk = ds^T q
//
// The backward pass computes s and dp twice, 7 products where one kernel for all three gradients needs 5. But that
// kernel would add up dq across blocks, in fp32, in global memory: atomically, with sums that change from run to run,
// or block after block; and its warps would hand each other ds through shared memory, whose bandwidth limits kernels of
// this kind as much as the tensor cores do (on sm_80 an mma takes as long as 256 bytes of its operands). Counting that
// traffic the two are close, and this one needs no order between blocks.
#pragma once
#include <algorithm>
#include "llmc/cuda/layers.cuh"
#include "llmc/cuda/mma_tiles.cuh"
#include "llmc/cuda/pack.cuh"

namespace attention_mma {

constexpr float kLog2e = 1.44269504088896f, kLn2 = 0.69314718055995f;

// What all kernels are told; each uses the tensors that it needs.
struct Problem {
    AttentionShape s;
    const int* doc_start;
    Dropout dropout;
    const bf16 *q, *k, *v;
    bf16* out;
    float* lse;
    const bf16* dout = nullptr;
    bf16 *dq = nullptr, *dk = nullptr, *dv = nullptr;
    float2* stats = nullptr;
    int stats_stride = 0;
    float* parts = nullptr;           // column sums of (dq, dk, dv), a row for each tile of each sequence; or null
    bool wide = false;                // every row of every tensor is whole chunks of 16 bytes on 16-byte boundaries
    float scale = 0, scale_log2 = 0;  // 1 / sqrt(HS), and that * log2 e: exp(s * scale) = 2^(s * scale_log2)
    float keep_scale = 1;             // dropout's factor of what is kept
    int sharing = 1;                  // query heads that share a head of keys and values
    int tiles = 0;                    // of a head: each is a block's work
    int group_size = 0;               // see Work

    // Offsets of position t of query head h.
    __device__ int64_t q_at(int b, int h, int t) const { return b * s.q_batch + t * s.q_row + int64_t(h) * s.HS; }
    __device__ int64_t out_at(int b, int h, int t) const { return b * s.out_batch + t * s.out_row + int64_t(h) * s.HS; }
    __device__ int64_t kv_at(int b, int h, int t) const {
        return b * s.kv_batch + t * s.kv_row + int64_t(h / sharing) * s.HS;
    }
    __device__ int64_t stats_at(int b, int h, int t) const { return (int64_t(b) * s.NH + h) * stats_stride + t; }
    __device__ const int* starts(int b) const { return doc_start ? doc_start + int64_t(b) * s.Tk : nullptr; }
};

// Which tile of which of B * heads heads a block works on. Blocks start in the order of their index: of a group of
// heads first the tiles with most work, so that short ones are left for the end. A group is as many heads as have room
// for their keys and values in the L2 cache, where the tiles of a head find them.
struct Work {
    int rank, head, b;  // rank: 0 has most work
    __device__ Work(const Problem& p, int heads) {
        int block = static_cast<int>(blockIdx.x), group = block / (p.tiles * p.group_size);
        int i = block - group * p.tiles * p.group_size, width = min(p.group_size, p.s.B * heads - group * p.group_size);
        rank = i / width;
        int index = group * p.group_size + i % width;
        b = index / heads, head = index % heads;
    }
};

// ---- forward ----

// KEYS: keys of a tile. Tiles of keys and of values go in turn through SLOTS places in shared memory, each refilled as
// soon as the product that reads it is done.
template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) forward_kernel(Problem p) {
    constexpr int queries = 16 * M * WARPS, N = KEYS / 8;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *q_tile = reinterpret_cast<bf16*>(shared), *slots = q_tile + queries * HS;
    const AttentionShape& s = p.s;
    const Work work(p, s.NH);
    const int b = work.b, h = work.head, t0 = (p.tiles - 1 - work.rank) * queries, offset = s.Tk - s.Tq;
    const int warp_row = 16 * M * warp();
    const int warp_position = t0 + warp_row + offset;        // of the warp's first query
    const int position = warp_position + row16(lane() / 4);  // of this lane's: row (m, i) is 16 m + 2 i behind it

    const int end = min(t0 + queries, s.Tq) + offset;
    const int first_tile = p.doc_start ? earliest_key(p.starts(b), t0 + offset, end) / KEYS : 0;
    const int halves = 2 * ((end + KEYS - 1) / KEYS - first_tile);  // a tile of keys, its values, and so on
    auto load = [&](int i) {
        int key = (first_tile + i / 2) * KEYS;
        if (i < halves)
            load_tile<HS, KEYS, 32 * WARPS>(slots + i % SLOTS * KEYS * HS, (i % 2 ? p.v : p.k) + p.kv_at(b, h, key),
                                            s.kv_row, s.Tk - key, s.HS, p.wide);
        ptx::cp_async_commit();
    };
    // Waits for half i. Behind the barrier it is there for all, and all are done with the one before: its place is
    // free.
    auto arrive = [&](int i) {
        ptx::cp_async_wait<SLOTS - 2>();
        __syncthreads();
        load(i + SLOTS - 1);
        return slots + i % SLOTS * KEYS * HS;
    };
    load_tile<HS, queries, 32 * WARPS>(q_tile, p.q + p.q_at(b, h, t0), s.q_row, s.Tq - t0, s.HS, p.wide);
    for (int i = 0; i < SLOTS - 1; i++) load(i);

    Rows<HS, M, KEPT> rows;
    float sum[M][HS / 8][4], total[M][2], top[M][2];  // top: what is subtracted before 2^x
    for_elements<M, HS / 8>([&](int m, int d, int e) { sum[m][d][e] = 0; });
    for_rows<M>([&](int m, int i) { total[m][i] = 0, top[m][i] = -1e30f; });
    for (int half = 0; half < halves; half += 2) {
        const bf16* k_tile = arrive(half);
        if (half == 0) rows.load(q_tile + warp_row * HS);
        const int key = (first_tile + half / 2) * KEYS, lane_key = key + 4 * (lane() % 4);
        const bool visible = key < warp_position + 16 * M;  // to any of the warp's queries
        float x[M][N][4];
        if (visible) {
            Bits<M, N> kept = 0;
            if (p.dropout.active()) kept = dropout_bits<false, M, N>(p.dropout, b, h, s.Tk, position, lane_key);
            score_product(x, rows, k_tile, 0);
            if (key + KEYS - 1 > warp_position || p.doc_start)
                hide_keys<false>(x, p.starts(b), position, lane_key, s.Tk);
            // top follows the row's maximum only when that has grown by a factor of 2^8: the sums are seldom rescaled.
            float highest[M][2];
            bool outgrown = false;
            for_rows<M>([&](int m, int i) {
                float most = x[m][0][2 * i];
#pragma unroll
                for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(x[m][n][2 * i], x[m][n][2 * i + 1]));
                most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
                highest[m][i] = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2)) * p.scale_log2;
                outgrown |= highest[m][i] > top[m][i] + 8;
            });
            if (__any_sync(0xffffffffu, outgrown))
                for_rows<M>([&](int m, int i) {
                    float next = fmaxf(top[m][i], highest[m][i]), factor = ptx::exp2_approx(top[m][i] - next);
                    top[m][i] = next, total[m][i] *= factor;
#pragma unroll
                    for (int d = 0; d < HS / 8; d++) sum[m][d][2 * i] *= factor, sum[m][d][2 * i + 1] *= factor;
                });
            for_elements<M, N>([&](int m, int n, int e) {
                x[m][n][e] = ptx::exp2_approx(x[m][n][e] * p.scale_log2 - top[m][e / 2]);
                total[m][e / 2] += x[m][n][e];
            });
            if (p.dropout.active()) apply_dropout(x, kept, p.keep_scale);
        }
        const bf16* v_tile = arrive(half + 1);
        if (visible) add_product<HS>(sum, x, v_tile, 0, 0);
    }

    for_rows<M>([&](int m, int i) {
        float l = total[m][i];
        l += __shfl_xor_sync(0xffffffffu, l, 1);
        l += __shfl_xor_sync(0xffffffffu, l, 2);
        int t = position - offset + 16 * m + 2 * i;
        if (p.lse && lane() % 4 == 0 && t < s.Tq)
            p.lse[(int64_t(b) * s.NH + h) * s.Tq + t] = top[m][i] * kLn2 + logf(l);
        total[m][i] = 1 / l;
    });
    store_rows(p.out + p.out_at(b, h, t0 + warp_row), s.out_row, s.Tq - t0 - warp_row, s.HS, p.wide, sum,
               [&](int m, int i) { return total[m][i]; });
}

// ---- backward ----

// stats (B,NH,stats_stride) = {lse * log2 e, D}, beyond Tq {infinity, 0}, so that probabilities of queries that are not
// there come out as 0. The block that owns a tile of queries makes those of its queries: D, the product of two rows, as
// soon as dout is in shared memory; rows of out come to registers meanwhile, HS / 8 threads on one.
template <int HS, int ROWS, int THREADS>
struct Stats {
    static constexpr int chunks = HS / 8, step = THREADS / chunks;
    static_assert(chunks <= 32 && ROWS % step == 0);
    Pack<bf16, 8> out[ROWS / step];
    float lse[ROWS / step];

    __device__ void load(const Problem& p, int b, int h, int t0) {
        const int c = thread() % chunks * 8;
#pragma unroll
        for (int i = 0; i < ROWS / step; i++) {
            const int t = t0 + thread() / chunks + i * step;
            const bf16* from = p.out + p.out_at(b, h, t) + c;
            float x[8] = {};
            out[i] = Pack<bf16, 8>::rounded(x), lse[i] = INFINITY;
            if (t >= p.s.Tq) continue;
            if (c == 0) lse[i] = p.lse[(int64_t(b) * p.s.NH + h) * p.s.Tq + t] * kLog2e;
            if (p.wide && c < p.s.HS) out[i] = Pack<bf16, 8>::load(from);
            if (p.wide) continue;
#pragma unroll
            for (int j = 0; j < 8; j++)
                if (c + j < p.s.HS) x[j] = static_cast<float>(from[j]);
            out[i] = Pack<bf16, 8>::rounded(x);
        }
    }
    __device__ void store(const Problem& p, int b, int h, int t0, float2* stats, const bf16* dout_tile) const {
        const int c = thread() % chunks;
#pragma unroll
        for (int i = 0; i < ROWS / step; i++) {
            const int row = thread() / chunks + i * step;
            float x[8], dx[8], D = 0;
            out[i].unpack(x), load_pack(dx, dout_tile + row * HS + (c ^ swizzle(row)) * 8);
#pragma unroll
            for (int j = 0; j < 8; j++) D += x[j] * dx[j];
#pragma unroll
            for (int other = chunks / 2; other > 0; other /= 2) D += __shfl_xor_sync(0xffffffffu, D, other);
            if (c == 0) p.stats[p.stats_at(b, h, t0 + row)] = stats[row] = float2{lse[i], D};
        }
    }
};

// A block owns the rows of a tile of two tensors, a warp 16 M of them, and tiles of PASS rows of the two others pass:
//   KEYS    it owns k and v; q and dout pass; its products are transposed, (keys,queries)    sums: 0 is dk, 1 is dv
//   else    it owns q and dout; k and v pass; (queries,keys)                                 sums: 0 is dq
// Of the gradient's columns it computes OUT from OUT * blockIdx.y on. STEP: rows of a passing tile that are worked on
// at a time, KEPT: how many of the owned tensors stay in registers; as far as there are registers.
template <bool KEYS, int HS, int M, int WARPS, int PASS, int STEP, int OUT, int KEPT>
__global__ void __launch_bounds__(32 * WARPS, 8 / WARPS) backward_kernel(Problem p) {
    constexpr int own = 16 * M * WARPS, threads = 32 * WARPS, N = STEP / 8, tile_size = PASS * HS;
    extern __shared__ __align__(128) unsigned char shared[];
    bf16 *own0 = reinterpret_cast<bf16*>(shared), *own1 = own0 + own * HS, *passing = own1 + own * HS;
    float2* stats = reinterpret_cast<float2*>(passing + 4 * tile_size);  // of the queries, owned or passing
    const AttentionShape& s = p.s;
    const Work work(p, KEYS ? s.NKV : s.NH);
    const int b = work.b, h0 = KEYS ? work.head * p.sharing : work.head, heads = KEYS ? p.sharing : 1;
    const int begin = (KEYS ? work.rank : p.tiles - 1 - work.rank) * own, end = min(begin + own, s.Tk);
    const int warp_row = 16 * M * warp(), warp_position = begin + warp_row;
    const int position = warp_position + row16(lane() / 4);  // of the lane's first row
    auto load_pair = [&](auto rows, bool keys, bf16* to, int h, int t) {
        int64_t at = keys ? p.kv_at(b, h, t) : p.q_at(b, h, t), stride = keys ? s.kv_row : s.out_row;
        load_tile<HS, rows(), threads>(to, (keys ? p.k : p.q) + at, keys ? s.kv_row : s.q_row, s.Tk - t, s.HS, p.wide);
        load_tile<HS, rows(), threads>(to + rows() * HS, keys ? p.v + at : p.dout + p.out_at(b, h, t), stride, s.Tk - t,
                                       s.HS, p.wide);
    };

    // The tiles that pass: of queries those that see any of the keys, of the first head, then of the next, and so on;
    // or of keys those that any of the queries sees.
    const int first_tile = KEYS ? begin / PASS : (p.doc_start ? earliest_key(p.starts(b), begin, end) : 0) / PASS;
    const int tiles = ((KEYS ? s.Tq : end) + PASS - 1) / PASS;
    int next_head = h0, next_tile = first_tile - 1;
    auto advance = [&] {
        do {
            if (++next_tile == tiles) next_tile = first_tile, next_head++;
        } while (KEYS && p.doc_start && next_head < h0 + heads &&
                 earliest_key(p.starts(b), next_tile * PASS, min((next_tile + 1) * PASS, s.Tq)) >= end);
    };
    auto load = [&](int slot) {
        int h = next_head, t = next_tile * PASS, i = 2 * thread();
        if (next_head < h0 + heads) {
            load_pair(std::integral_constant<int, PASS>(), !KEYS, passing + 2 * slot * tile_size, h, t);
            if (KEYS && i < PASS) ptx::cp_async_16(stats + slot * PASS + i, p.stats + p.stats_at(b, h, t + i));
        }
        ptx::cp_async_commit();
    };
    load_pair(std::integral_constant<int, own>(), KEYS, own0, h0, begin);
    ptx::cp_async_commit();
    advance();
    load(0);
    Stats<HS, own, threads> own_stats;
    if (!KEYS) own_stats.load(p, b, h0, begin);

    const int column = OUT < HS ? OUT * static_cast<int>(blockIdx.y) : 0;
    Rows<HS, M, (KEPT > 0)> rows0;
    Rows<HS, M, (KEPT > 1)> rows1;
    float sum0[M][OUT / 8][4], sum1[M][OUT / 8][4];
    for_elements<M, OUT / 8>([&](int m, int d, int e) { sum0[m][d][e] = sum1[m][d][e] = 0; });
    ptx::cp_async_wait<1>();
    __syncthreads();
    if (!KEYS) own_stats.store(p, b, h0, begin, stats, own1);  // behind the next barrier they are there for all
    rows0.load(own0 + warp_row * HS);
    rows1.load(own1 + warp_row * HS);
    for (int slot = 0; next_head < h0 + heads; slot ^= 1) {
        const int h = next_head, tile = next_tile;
        advance();
        ptx::cp_async_wait<0>();
        __syncthreads();
        load(slot ^ 1);
        const bf16 *pass0 = passing + 2 * slot * tile_size, *pass1 = pass0 + tile_size;
#pragma unroll 1
        for (int step = 0; step < PASS; step += STEP) {
            const int t = tile * PASS + step, lane_column = t + 4 * (lane() % 4);
            if (KEYS ? t + STEP <= warp_position : t >= warp_position + 16 * M) continue;  // all above the diagonal
            Bits<M, N> kept = 0;
            if (p.dropout.active()) kept = dropout_bits<KEYS, M, N>(p.dropout, b, h, s.Tk, position, lane_column);
            float x[M][N][4], dx[M][N][4];  // s, dp; then dropout(p), ds
            score_product(x, rows0, pass0, step);
            score_product(dx, rows1, pass1, step);
            if (p.doc_start || (KEYS ? t < warp_position + 16 * M - 1 : t + STEP - 1 > warp_position))
                hide_keys<KEYS>(x, p.starts(b), position, lane_column, s.Tk);
            if (p.dropout.active()) apply_dropout(dx, kept, p.keep_scale);
            for_elements<M, N>([&](int m, int n, int e) {
                int column = slot * PASS + step + 4 * (lane() % 4) + column_of(n, e);
                float2 query = stats[KEYS ? column : position - begin + 16 * m + e / 2 * 2];
                x[m][n][e] = ptx::exp2_approx(x[m][n][e] * p.scale_log2 - query.x);
                dx[m][n][e] = x[m][n][e] * (dx[m][n][e] - query.y);
            });
            if (KEYS && p.dropout.active()) apply_dropout(x, kept, p.keep_scale);
            if (KEYS) add_product<HS>(sum1, x, pass1, step, column / 16);
            add_product<HS>(sum0, dx, pass0, step, column / 16);
        }
    }
    const int64_t stride = KEYS ? s.kv_row : s.q_row;
    const int64_t to = column + (KEYS ? p.kv_at(b, h0, warp_position) : p.q_at(b, h0, warp_position));
    const int count = s.Tk - warp_position, hs = s.HS - column;
    store_rows((KEYS ? p.dk : p.dq) + to, stride, count, hs, p.wide, sum0, [&](int, int) { return p.scale; });
    if (KEYS) store_rows(p.dv + to, stride, count, hs, p.wide, sum1, [](int, int) { return 1.0f; });
    if (!p.parts) return;
    const int heads_before = KEYS ? s.NH + work.head : work.head;  // in a row of (dq, dk, dv)
    float* part = p.parts + int64_t(b * p.tiles + work.rank) * (s.NH + 2 * s.NKV) * s.HS + column;
    float* scratch = reinterpret_cast<float*>(shared);
    if (KEPT == 0) __syncthreads();  // else nobody reads the first own tile any more
    store_column_sums<WARPS>(part + heads_before * s.HS, scratch, count, hs, sum0, [&](int, int) { return p.scale; });
    if (KEYS)
        store_column_sums<WARPS>(part + (heads_before + s.NKV) * s.HS, scratch + WARPS * OUT, count, hs, sum1,
                                 [](int, int) { return 1.0f; });
}

// ---- launchers ----

// Sets what all launches of a call have in common.
inline void prepare(Problem& p) {
    const AttentionShape& s = p.s;
    auto all = static_cast<uint64_t>(s.HS | s.q_row | s.kv_row | s.out_row | s.q_batch | s.kv_batch | s.out_batch);
    all *= sizeof(bf16);
    for (const bf16* tensor : std::initializer_list<const bf16*>{p.q, p.k, p.v, p.dout, p.out, p.dq, p.dk, p.dv})
        all |= reinterpret_cast<uintptr_t>(tensor);
    p.wide = all % 16 == 0;
    p.scale = 1 / (std::sqrt(static_cast<float>(s.HS)) * s.divisor), p.scale_log2 = p.scale * kLog2e;
    p.sharing = s.NH / s.NKV, p.stats_stride = attention_stats_stride(s);
    if (p.dropout.active()) p.keep_scale = 1 / (1 - p.dropout.p);
}
// One block for each `tile` of T positions of `heads` heads; the blocks of a head read `rows` rows of two tensors.
inline int blocks(Problem& p, int T, int tile, int heads, int64_t rows) {
    p.tiles = ceil_div(T, tile);
    int64_t room = device().l2_bytes / 2 / (2 * rows * p.s.HS * int64_t(sizeof(bf16)));
    p.group_size = static_cast<int>(std::clamp<int64_t>(room, 1, int64_t(p.s.B) * heads));
    return p.tiles * p.s.B * heads;
}

template <int HS, int M, int WARPS, int KEYS, int SLOTS, bool KEPT>
void forward(Problem& p, cudaStream_t stream) {
    constexpr int queries = 16 * M * WARPS;
    launch(forward_kernel<HS, M, WARPS, KEYS, SLOTS, KEPT>, blocks(p, p.s.Tq, queries, p.s.NH, p.s.Tk), 32 * WARPS,
           (queries + SLOTS * KEYS) * HS * sizeof(bf16), stream, p);
}
template <bool KEYS, int HS, int M, int WARPS, int PASS, int STEP, int OUT, int KEPT>
void backward(Problem& p, cudaStream_t stream) {
    constexpr int own = 16 * M * WARPS;
    static_assert(own == attention_mma_tile(HS) && attention_stats_rows % own == 0 && attention_stats_rows % PASS == 0);
    int grid =
        KEYS ? blocks(p, p.s.Tk, own, p.s.NKV, int64_t(p.s.Tq) * p.sharing) : blocks(p, p.s.Tq, own, p.s.NH, p.s.Tk);
    launch(backward_kernel<KEYS, HS, M, WARPS, PASS, STEP, OUT, KEPT>, dim3(grid, HS / OUT), 32 * WARPS,
           (2 * own + 4 * PASS) * HS * sizeof(bf16) + std::max(own, 2 * PASS) * sizeof(float2), stream, p);
}

}  // namespace attention_mma

void attention_own_forward(bf16* out, float* lse, const bf16* q, const bf16* k, const bf16* v, const AttentionShape& s,
                           const int* doc_start, Dropout dropout, cudaStream_t stream) {
    using namespace attention_mma;
    Problem p{s, doc_start, dropout, q, k, v, out, lse};
    prepare(p);
    if (s.HS <= 64) forward<64, 2, 4, 64, 4, true>(p, stream);
    else if (s.HS <= 128) forward<128, 2, 4, 32, 4, false>(p, stream);
    else forward<256, 1, 4, 32, 2, false>(p, stream);
}

// Workspace: stats of each query of each head. Leaves the column sums of dq, dk and dv where they are one (B,T,3C).
void attention_own_backward(bf16* dq, bf16* dk, bf16* dv, const bf16* dout, const bf16* q, const bf16* k, const bf16* v,
                            const bf16* out, const float* lse, const AttentionShape& s, const int* doc_start,
                            Dropout dropout, Sums<bf16> sums, cudaStream_t stream) {
    using namespace attention_mma;
    const int64_t rows = int64_t(s.B) * s.NH * attention_stats_stride(s);
    Problem p{s, doc_start, dropout, q, k, v, const_cast<bf16*>(out), const_cast<float*>(lse)};
    p.dout = dout, p.dq = dq, p.dk = dk, p.dv = dv, p.stats = workspace<float2>(static_cast<size_t>(rows));
    prepare(p);
    const int64_t row = int64_t(s.NH + 2 * s.NKV) * s.HS;
    if (sums && sums->parts && dk == dq + s.NH * s.HS && dv == dk + s.NKV * s.HS && s.q_row == row && s.kv_row == row)
        p.parts = sums->parts, sums->count = attention_sum_parts(s), sums->of = dq;
    if (s.HS <= 64) {
        backward<false, 64, 2, 4, 64, 32, 64, 2>(p, stream);
        backward<true, 64, 2, 4, 64, 16, 64, 1>(p, stream);
    } else if (s.HS <= 128) {
        backward<false, 128, 1, 8, 32, 32, 128, 2>(p, stream);
        backward<true, 128, 1, 8, 32, 16, 128, 1>(p, stream);
    } else {
        backward<false, 256, 1, 4, 16, 16, 256, 0>(p, stream);
        backward<true, 256, 1, 4, 16, 16, 128, 0>(p, stream);
    }
}
