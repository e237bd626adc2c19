// Causal self-attention, blocked: never a T x T buffer.
//                             (Vaswani et al. 2017; FlashAttention: Dao et al. 2022, https://arxiv.org/abs/2205.14135)
//
//   s[i,j] = q_i . k_j / sqrt(HS) / divisor  for doc_start_i <= j <= i + (Tk - Tq)      p = softmax_j(s)
//   out_i = sum_j dropout(p)_ij v_j
//   lse[b,h,i] = log sum_j exp(s_ij), kept for the backward pass, which recomputes p block by block
//
//   D_i = dout_i . out_i      ds_ij = p_ij (dropout(dout_i . v_j) - D_i)
//   dv_j = sum_i dropout(p)_ij dout_i      dq_i = sum_j ds_ij k_j / sqrt(HS)      dk_j = sum_i ds_ij q_i / sqrt(HS)
//
// A block of queries meets a block of keys after the other; maximum and sum of its softmax are corrected on the way.
// Sums have one order, whatever the number of threads.
//
// Limit: arithmetic. fp32 runs at about 0.7 (forward) and 0.8 (backward) of a large sgemm at T=1024, HS=64, bf16 with
// AVX512_BF16 at 1.1 and 1.35 of it (dev/bench/bench_attention.cpp, AMD Zen 5).
#pragma once
#include "llmc/base/bf16.h"
#include "llmc/base/error.h"
#include "llmc/cpu/attention_block.h"
#include "llmc/cpu/attention_decode.h"

namespace attention_detail {

// Softmax over the keys seen so far: maximum m and sum l of each query; s becomes exp((s - m) * scale), and rescale the
// factor of what was summed before. Masked scores are selected away and not only made small: fast_exp never returns 0.
template <bool MASKED, typename A>
void online_softmax(A* s, A* m, A* l, A* rescale, A scale, const QueryBlock& block, int key, int keys) {
    A top[kQueries];
    for (int i = 0; i < kQueries; i++) top[i] = m[i];
    for (int j = 0; j < keys; j++) {
        const A* row = s + j * kQueries;
        for (int i = 0; i < kQueries; i++) {
            A x = !MASKED || block.sees(i, key + j) ? row[i] : A(-1e30);
            top[i] = x > top[i] ? x : top[i];
        }
    }
    for (int i = 0; i < kQueries; i++) {
        rescale[i] = fast_exp((m[i] - top[i]) * scale);
        l[i] *= rescale[i];
        m[i] = top[i];
    }
    for (int j = 0; j < keys; j++) {
        A* row = s + j * kQueries;
        for (int i = 0; i < kQueries; i++) {
            A p = fast_exp((row[i] - top[i]) * scale);
            row[i] = !MASKED || block.sees(i, key + j) ? p : A(0);
            l[i] += row[i];
        }
    }
}

// Scores s become dropout(p), their gradient before the softmax, dp = dout . v, becomes ds. dropped: dropout's factors
// or null.
template <bool MASKED, typename A>
void softmax_backward(A* s, A* dp, const A* log_sum, const A* D, A scale, const float* dropped, const QueryBlock& block,
                      int key, int keys) {
    for (int j = 0; j < keys; j++, s += kQueries, dp += kQueries) {
        if (dropped)
            for (int i = 0; i < kQueries; i++) dp[i] *= dropped[j * kQueries + i];
        for (int i = 0; i < kQueries; i++) {
            bool seen = !MASKED || block.sees(i, key + j);
            A p = fast_exp(s[i] * scale - log_sum[i]), ds = p * (dp[i] - D[i]);
            s[i] = seen ? p : A(0);
            dp[i] = seen ? ds : A(0);
        }
        if (dropped)
            for (int i = 0; i < kQueries; i++) s[i] *= dropped[j * kQueries + i];
    }
}

// out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference). doc_start (B,Tk) or null: first position that position i may
// see, at most i. E: what the tile products multiply: pairs of bf16, or X converted.
template <typename X, typename E>
void forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s, const int* doc_start,
             Dropout dropout) {
    using A = acc_t<X>;
    CHECK(s.Tq <= s.Tk && s.NH % s.NKV == 0, "Tq=%d Tk=%d NH=%d NKV=%d", s.Tq, s.Tk, s.NH, s.NKV);
    if (s.Tq <= kDecodeQueries && !dropout.active()) {
        std::vector<DecodeText<X>> texts;
        for (int64_t b = 0; b < s.B; b++)
            texts.push_back({out + b * s.out_batch, lse ? lse + b * s.NH * s.Tq : nullptr, q + b * s.q_batch,
                             k + b * s.kv_batch, v + b * s.kv_batch, doc_start ? doc_start + b * s.Tk : nullptr, s.Tk});
        return decode(texts, s);
    }
    const int width = pad_columns<A, E>(s.HS), k_width = packed<E>(s.HS), group = s.NH / s.NKV, offset = s.Tk - s.Tq;
    const A scale = 1 / (std::sqrt(A(s.HS)) * A(s.divisor));
    // A task is a key head with some of its query blocks; heads are split, and packed more than once, only where there
    // are fewer of them than threads to feed. The result does not depend on it.
    const int heads = s.B * s.NKV, blocks = (s.Tq + kQueries - 1) / kQueries;
    const int parts = std::clamp(2 * thread_count() / heads, 1, blocks);
    parallel_for_dynamic(int64_t(heads) * parts, [&](int64_t task) {
        const int b = int(task / parts / s.NKV), kv_head = int(task / parts % s.NKV), part = int(task % parts);
        const int* starts = doc_start ? doc_start + int64_t(b) * s.Tk : nullptr;
        [[maybe_unused]] const Tiles<E> tiles;
        E* keys = scratch<E>(0, size_t(padded_rows<E>(s.Tk)) * k_width);
        E* values = scratch<E>(1, key_columns_size<E>(s.Tk, s.HS));
        E *rows = scratch<E>(2, size_t(kQueries) * k_width), *columns = scratch<E>(3, size_t(k_width) * kQueries);
        A *p = scratch<A>(4, kKeys * kQueries), *o = scratch<A>(5, size_t(s.HS) * kQueries);
        A* room = scratch<A>(8, size_t(kQueries) * width);
        E* packed_p = scratch<E>(7, kKeys * kQueries);
        float* mask = scratch<float>(6, kKeys * kQueries);
        pack_rows(keys, k_width, k + b * s.kv_batch + kv_head * s.HS, s.kv_row, s.Tk, s.HS);
        pack_key_columns(values, scratch<E>(10, size_t(kKeys) * width), width, v + b * s.kv_batch + kv_head * s.HS,
                         s.kv_row, s.Tk, s.HS);
        for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (int t = part * kQueries; t < s.Tq; t += parts * kQueries) {
                QueryBlock block(std::min(kQueries, s.Tq - t), t + offset, starts);
                pack_rows(rows, k_width, q + b * s.q_batch + t * s.q_row + h * s.HS, s.q_row, block.n, s.HS);
                transpose_queries(columns, rows, k_width, block.n, k_width);
                A m[kQueries], l[kQueries], rescale[kQueries];
                std::fill_n(m, kQueries, A(-1e30));
                std::fill_n(l, kQueries, A(0));
                std::fill_n(o, s.HS * kQueries, A(0));
                for (int key = block.first_key / kKeys * kKeys; key < block.end_key; key += kKeys) {
                    int n = std::min(kKeys, block.end_key - key);
                    score_product(p, keys + size_t(key) * k_width, k_width, columns, block, key, n, k_width);
                    if (block.sees_all(key, n)) online_softmax<false>(p, m, l, rescale, scale, block, key, n);
                    else online_softmax<true>(p, m, l, rescale, scale, block, key, n);
                    if (dropout.active()) {
                        tile_dropout(mask, dropout, b, h, block, key, n, s.Tk);
                        for (int e = 0; e < n * kQueries; e++) p[e] *= mask[e];
                    }
                    for (int d = 0; d < s.HS; d++)
                        for (int i = 0; i < kQueries; i++) o[d * kQueries + i] *= rescale[i];
                    query_product(o, values + size_t(key) / kKeys * padded_rows<E>(s.HS) * kBlockKeys<E>,
                                  pack_along_keys(packed_p, p, n), block, key, n, s.HS);
                }
                for (int i = 0; i < block.n; i++) {
                    if (lse) lse[(int64_t(b) * s.NH + h) * s.Tq + t + i] = m[i] * scale + std::log(l[i]);
                    l[i] = 1 / l[i];
                }
                store_queries(out + b * s.out_batch + t * s.out_row + h * s.HS, s.out_row, o, room, block.n, s.HS,
                              width, l);
            }
        }
    });
}

// dq, dk, dv have the strides of q, k, v and are overwritten; dout those of out. Needs Tq == Tk.
template <typename X, typename E>
void backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out, const acc_t<X>* lse,
              const AttentionShape& s, const int* doc_start, Dropout dropout) {
    using A = acc_t<X>;
    CHECK(s.Tq == s.Tk && s.NH % s.NKV == 0, "Tq=%d Tk=%d NH=%d NKV=%d", s.Tq, s.Tk, s.NH, s.NKV);
    const int width = pad_columns<A, E>(s.HS), k_width = packed<E>(s.HS), group = s.NH / s.NKV, T = s.Tk;
    const A scale = 1 / (std::sqrt(A(s.HS)) * A(s.divisor));
    // A task is a key head. Where there are fewer of them than threads to feed, it is some query blocks of one, whose dq it
    // has, or some key blocks, whose dk and dv it has: p and dp are computed twice then, by many more threads.
    const int heads = s.B * s.NKV, parts = std::clamp(thread_count() / heads, 1, (T + kQueries - 1) / kQueries);
    const bool split = parts > 1;
    parallel_for_dynamic(int64_t(heads) * parts * (split ? 2 : 1), [&](int64_t task) {
        const int part = int(task % parts), head = int(task / parts % heads), b = head / s.NKV, kv_head = head % s.NKV;
        const bool for_queries = !split || task < int64_t(heads) * parts, for_keys = !split || !for_queries;
        auto mine = [&](int block) { return block % parts == part; };
        const int64_t kv_offset = b * s.kv_batch + kv_head * s.HS;
        const int* starts = doc_start ? doc_start + int64_t(b) * T : nullptr;
        // rows: as score_product reads them; columns: packed the other way, as query_product and key_product do.
        [[maybe_unused]] const Tiles<E> tiles;
        const size_t row_tile = size_t(kQueries) * k_width, column_tile = size_t(kQueries) * width;
        E* key_rows = scratch<E>(0, 2 * size_t(padded_rows<E>(T)) * k_width);
        E* value_rows = key_rows + size_t(padded_rows<E>(T)) * k_width;
        E *key_columns = scratch<E>(1, key_columns_size<E>(T, s.HS)), *rows = scratch<E>(2, row_tile);
        E *queries = scratch<E>(3, 2 * row_tile), *douts = queries + row_tile;
        E *query_columns = scratch<E>(8, 2 * column_tile), *dout_columns = query_columns + column_tile;
        A *p = scratch<A>(4, 2 * kKeys * kQueries), *ds = p + kKeys * kQueries;
        A *dqueries = scratch<A>(5, 2 * column_tile), *room = dqueries + column_tile;
        A *dkeys = scratch<A>(9, 2 * size_t(T) * width), *dvalues = dkeys + size_t(T) * width;
        E* packed_p = scratch<E>(7, kKeys * kQueries);
        float* mask = scratch<float>(6, kKeys * kQueries);
        pack_rows(key_rows, k_width, k + kv_offset, s.kv_row, T, s.HS);
        pack_rows(value_rows, k_width, v + kv_offset, s.kv_row, T, s.HS);
        pack_key_columns(key_columns, scratch<E>(10, size_t(kKeys) * width), width, k + kv_offset, s.kv_row, T, s.HS);
        std::fill_n(dkeys, 2 * size_t(T) * width, A(0));
        for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (int t = 0; t < T; t += kQueries) {
                if (!for_keys && !mine(t / kQueries)) continue;
                QueryBlock block(std::min(kQueries, T - t), t, starts);
                const int64_t q_offset = b * s.q_batch + t * s.q_row + h * s.HS;
                const int64_t out_offset = b * s.out_batch + t * s.out_row + h * s.HS;
                pack_rows(rows, k_width, q + q_offset, s.q_row, block.n, s.HS);
                transpose_queries(queries, rows, k_width, block.n, k_width);
                pack_rows(rows, k_width, dout + out_offset, s.out_row, block.n, s.HS);
                transpose_queries(douts, rows, k_width, block.n, k_width);
                pack_columns(query_columns, width, q + q_offset, s.q_row, block.n, s.HS);
                pack_columns(dout_columns, width, dout + out_offset, s.out_row, block.n, s.HS);
                std::fill_n(dqueries, s.HS * kQueries, A(0));
                A log_sum[kQueries] = {}, D[kQueries] = {};
                for (int i = 0; i < block.n; i++) {
                    log_sum[i] = lse[(int64_t(b) * s.NH + h) * T + t + i];
                    D[i] = dot<A>(dout + out_offset + i * s.out_row, out + out_offset + i * s.out_row, s.HS);
                }
                for (int key = block.first_key / kKeys * kKeys; key < block.end_key; key += kKeys) {
                    if (!for_queries && !mine(key / kKeys)) continue;
                    const int n = std::min(kKeys, block.end_key - key);
                    score_product(p, key_rows + size_t(key) * k_width, k_width, queries, block, key, n, k_width);
                    score_product(ds, value_rows + size_t(key) * k_width, k_width, douts, block, key, n, k_width);
                    if (dropout.active()) tile_dropout(mask, dropout, b, h, block, key, n, T);
                    const float* dropped = dropout.active() ? mask : nullptr;
                    if (block.sees_all(key, n))
                        softmax_backward<false>(p, ds, log_sum, D, scale, dropped, block, key, n);
                    else softmax_backward<true>(p, ds, log_sum, D, scale, dropped, block, key, n);
                    const size_t column = size_t(key) * width;
                    if (for_keys) {
                        key_product(dvalues + column, pack_along_queries(packed_p, p, n), dout_columns, block, key, n,
                                    width);
                        key_product(dkeys + column, pack_along_queries(packed_p, ds, n), query_columns, block, key, n,
                                    width);
                    }
                    if (for_queries)
                        query_product(dqueries,
                                      key_columns + size_t(key) / kKeys * padded_rows<E>(s.HS) * kBlockKeys<E>,
                                      pack_along_keys(packed_p, ds, n), block, key, n, s.HS);
                }
                std::fill_n(log_sum, kQueries, scale);
                if (for_queries) store_queries(dq + q_offset, s.q_row, dqueries, room, block.n, s.HS, width, log_sum);
            }
        }
        for (int j = 0; j < T; j++) {
            if (!for_keys || !mine(j / kKeys)) continue;
            store_row(dk + kv_offset + j * s.kv_row, dkeys + size_t(j) * width, s.HS, scale);
            store_row(dv + kv_offset + j * s.kv_row, dvalues + size_t(j) * width, s.HS, A(1));
        }
    });
}

// attention.cpp compiles these for each storage type with the operands that suit this CPU; tests compile the others.
#define LLMC_ATTENTION(PREFIX, X)                                                \
    PREFIX template decltype(forward<X, operand_t<X>>) forward<X, operand_t<X>>; \
    PREFIX template decltype(backward<X, operand_t<X>>) backward<X, operand_t<X>>
LLMC_ATTENTION(extern, float);
LLMC_ATTENTION(extern, double);
LLMC_ATTENTION(extern, bf16);
extern template decltype(forward<bf16, amx_pair>) forward<bf16, amx_pair>;
extern template decltype(backward<bf16, amx_pair>) backward<bf16, amx_pair>;

}  // namespace attention_detail
