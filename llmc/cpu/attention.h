// Causal self-attention, blocked: never a T x T buffer.
//                                                     (Vaswani et al. 2017; Dao et al. 2022,
//                                                     https://arxiv.org/abs/2205.14135)
//
//   s[i,j] = q_i . k_j / sqrt(HS)  for doc_start_i <= j <= i + (Tk - Tq)      p = softmax_j(s)
//   out_i = sum_j dropout(p)_ij v_j
//   lse[b,h,i] = log sum_j exp(s_ij), kept for the backward pass, which recomputes p block by block
//
//   D_i = dout_i . out_i      ds_ij = p_ij (dropout(dout_i . v_j) - D_i)
//   dv_j = sum_i dropout(p)_ij dout_i      dq_i = sum_j ds_ij k_j / sqrt(HS)      dk_j = sum_i ds_ij q_i / sqrt(HS)
#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "llmc/bf16.h"
#include "llmc/error.h"
#include "llmc/cpu/attention_tile.h"
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/math.h"
#include "llmc/cpu/parallel.h"

// Query i of sequence b, head h starts at q + b * q_batch + i * q_row + h * HS; keys and values alike, with head
// h * NKV / NH.
struct AttentionShape {
    int B, Tq, Tk, NH, NKV, HS;      // Tq < Tk: the queries are the last Tq positions (decoding with a KV cache)
    int64_t q_row, kv_row, out_row;  // elements from one position to the next
    int64_t q_batch, kv_batch, out_batch;
};

// Shape of a packed qkv (B,T,3C) with q = qkv, k = qkv + C, v = qkv + 2C, out (B,T,C).
inline AttentionShape packed_qkv_shape(int B, int T, int C, int NH) {
    int64_t row = 3ll * C;
    return {B, T, T, NH, NH, C / NH, row, row, C, T * row, T * row, int64_t(T) * C};
}

namespace attention_detail {

constexpr int kQueries = 64;       // queries of a block, multiple of the lanes of any vector
constexpr int kKeys = 64;          // keys of a block
constexpr int kDecodeQueries = 4;  // up to so many queries take the decoding path

// What the tile products multiply: pairs of bf16 where the CPU has an instruction for them, else X converted.
template <typename X>
using operand_t = std::conditional_t<std::is_same_v<X, bf16> && kFastPairs, bf16_pair, acc_t<X>>;
template <typename E>
constexpr int kPack = std::is_same_v<E, bf16_pair> ? 2 : 1;
template <typename E>
constexpr int packed(int n) {
    return (n + kPack<E> - 1) / kPack<E>;
}

// Working memory of this thread, kept between calls: n elements, aligned for vectors, one piece for each slot.
template <typename E>
E* scratch(int slot, size_t n) {
    thread_local std::vector<E> memory[12];
    if (memory[slot].size() < n + 64) memory[slot].resize(n + 64);
    return reinterpret_cast<E*>((reinterpret_cast<uintptr_t>(memory[slot].data()) + 63) & ~uintptr_t{63});
}

// to (n,width) = from (n,HS), packed along the row; the rest of each row is zero.
template <typename E, typename X>
void pack_rows(E* to, int width, const X* from, int64_t from_row, int n, int HS) {
    for (int r = 0; r < n; r++, to += width, from += from_row) {
        if constexpr (kPack<E> == 2) {
            std::memcpy(to, from, size_t(HS / 2) * sizeof(E));
            if (HS % 2) to[HS / 2] = pair_of(from[HS - 1], 0.0f);
        } else {
            for (int d = 0; d < HS; d++) to[d] = static_cast<E>(from[d]);
        }
        for (int d = packed<E>(HS); d < width; d++) to[d] = 0;
    }
}

// to (packed n,width) = from (n,HS), rows packed in pairs; the rest of each row is zero.
template <typename E, typename X>
void pack_columns(E* to, int width, const X* from, int64_t from_row, int n, int HS) {
    if constexpr (kPack<E> == 1) return pack_rows(to, width, from, from_row, n, HS);
    else
        for (int r = 0; r < n; r += 2, to += width, from += 2 * from_row) {
            const X* second = r + 1 < n ? from + from_row : nullptr;
            for (int d = 0; d < HS; d++) to[d] = pair_of(from[d], second ? second[d] : X(0.0f));
            for (int d = HS; d < width; d++) to[d] = 0;
        }
}

// to (m,kQueries) = the transpose of from (n,m), columns beyond n zero.
template <typename E>
void transpose_queries(E* to, const E* from, int width, int n, int m) {
    for (int d = 0; d < m; d++) {
        for (int i = 0; i < n; i++) to[d * kQueries + i] = from[i * width + d];
        for (int i = n; i < kQueries; i++) to[d * kQueries + i] = 0;
    }
}

// A block of n queries from position `position` on, and which keys each may see: first[i] <= j <= last[i].
// Tiles of scores are kept transposed, (keys, queries): a vector holds one key's scores with several queries, so that
// maxima and sums over the keys need no shuffles.
struct QueryBlock {
    int n, position, first_key, end_key;
    int first[kQueries], last[kQueries];

    QueryBlock(int count, int begin, const int* doc_start)
        : n(count), position(begin), first_key(begin), end_key(begin + count) {
        for (int i = 0; i < kQueries; i++) {
            last[i] = i < n ? position + i : -1;
            first[i] = i >= n ? 1 << 30 : (doc_start ? std::min(doc_start[position + i], position + i) : 0);
            first_key = std::min(first_key, first[i]);
        }
    }
};

// The products of a tile of keys [key, key + keys) with a block of queries, without the part above the diagonal.

// s (keys,queries) = rows (keys,HS) . columns (HS,queries); k = packed HS
template <typename A, typename E>
void score_product(A* s, const E* rows, int width, const E* columns, const QueryBlock& block, int key, int keys,
                   int k) {
    int n = pad_to_lanes<A>(block.n);
    for (int j = 0; j < keys; j += kTileRows) {
        int begin = std::max(0, key + j - block.position) / kLanes<A> * kLanes<A>;
        if (begin >= n) break;
        tile_product(s + j * kQueries + begin, kQueries, rows + j * width, width, 1, columns + begin, kQueries,
                     std::min(kTileRows, keys - j), n - begin, k, false);
    }
}

// out (queries,width) += p^T . values (keys,width); p (keys,queries) and values packed along the keys
template <typename A, typename E>
void query_product(A* out, const E* p, const E* values, const QueryBlock& block, int key, int keys, int width) {
    for (int i = 0; i < block.n; i += kTileRows) {
        int m = std::min(kTileRows, block.n - i), visible = std::min(keys, block.position + i + m - key);
        if (visible > 0)
            tile_product(out + i * width, width, p + i, 1, kQueries, values, width, m, width, packed<E>(visible), true);
    }
}

// out (keys,width) += p . values (queries,width); p (keys,queries) and values packed along the queries
template <typename A, typename E>
void key_product(A* out, const E* p, const E* values, const QueryBlock& block, int key, int keys, int width) {
    constexpr int row = kQueries / kPack<E>;
    for (int j = 0; j < keys; j += kTileRows) {
        int begin = std::max(0, key + j - block.position) / kPack<E>, end = packed<E>(block.n);
        if (begin >= end) break;
        tile_product(out + j * width, width, p + j * row + begin, row, 1, values + begin * width, width,
                     std::min(kTileRows, keys - j), width, end - begin, true);
    }
}

// A tile of p (keys,kQueries) as query_product reads it, in `to` or, where nothing is packed, p itself.
template <typename E, typename A>
const E* pack_along_keys(E* to, const A* p, int keys) {
    if constexpr (kPack<E> == 1) return p;
    else {
        for (int j = 0; j < keys; j += 2) {
            const A *first = p + j * kQueries, *second = first + kQueries;
            E* pairs = to + j / 2 * kQueries;
            if (j + 1 < keys)
                for (int i = 0; i < kQueries; i++) pairs[i] = pair_of(bf16(first[i]), bf16(second[i]));
            else
                for (int i = 0; i < kQueries; i++) pairs[i] = pair_of(bf16(first[i]), bf16(0.0f));
        }
        return to;
    }
}

// The same as key_product reads it.
template <typename E, typename A>
const E* pack_along_queries(E* to, const A* p, int keys) {
    if constexpr (kPack<E> == 1) return p;
    else {
        for (int e = 0; e < keys * kQueries / 2; e++) to[e] = pair_of(bf16(p[2 * e]), bf16(p[2 * e + 1]));
        return to;
    }
}

// scale (keys,kQueries): dropout's factors of the visible part of a tile.
inline void tile_dropout(float* scale, Dropout dropout, int b, int h, const QueryBlock& block, int key, int keys,
                         int T) {
    float row[kKeys];
    for (int i = 0; i < block.n; i++) {
        int visible = std::min(keys, block.position + i + 1 - key);
        if (visible > 0) dropout_scales(row, dropout, b, (int64_t(h) * T + block.position + i) * T + key, visible);
        for (int j = 0; j < visible; j++) scale[j * kQueries + i] = row[j];
    }
}

// Softmax over the keys seen so far: maximum m and sum l of each query; s becomes exp((s - m) * scale), and rescale the
// factor of what was summed before. Masked scores are selected away and not only made small: fast_exp never returns 0.
template <typename A>
void online_softmax(A* s, A* m, A* l, A* rescale, A scale, const QueryBlock& block, int key, int keys) {
    A top[kQueries];
    for (int i = 0; i < kQueries; i++) top[i] = m[i];
    for (int j = 0; j < keys; j++) {
        const A* row = s + j * kQueries;
        for (int i = 0; i < kQueries; i++) {
            bool seen = (block.first[i] <= key + j) & (key + j <= block.last[i]);
            A x = seen ? row[i] : A(-1e30);
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
            bool seen = (block.first[i] <= key + j) & (key + j <= block.last[i]);
            A p = fast_exp((row[i] - top[i]) * scale);
            row[i] = seen ? p : A(0);
            l[i] += row[i];
        }
    }
}

template <typename X, typename A>
void store_row(X* to, const A* from, int HS, A scale) {
    for (int d = 0; d < HS; d++) to[d] = static_cast<X>(from[d] * scale);
}

template <typename A, typename Y, typename X>
A dot(const Y* a, const X* b, int n) {
    Vector<A> sums = {};
    int d = 0;
    for (; d + kLanes<A> <= n; d += kLanes<A>) sums += load_vector<A>(a + d) * load_vector<A>(b + d);
    A sum = sum_lanes<A>(sums);
    for (; d < n; d++) sum += A(a[d]) * A(b[d]);
    return sum;
}

// sum (HS) += sum_j weights[j] rows[j], j in [0, n)
template <typename A, typename X>
void add_weighted(A* sum, const A* weights, const X* rows, int64_t row, int n, int HS) {
    int d = 0;
    for (; d + kLanes<A> <= HS; d += kLanes<A>) {
        Vector<A> x = load_vector<A>(sum + d);
        for (int j = 0; j < n; j++) x += weights[j] * load_vector<A>(rows + j * row + d);
        store_vector<A>(sum + d, x);
    }
    for (; d < HS; d++)
        for (int j = 0; j < n; j++) sum[d] += weights[j] * A(rows[j * row + d]);
}

// Few queries and many keys: one pass over keys and values where they lie, limited by memory. A task takes kKeys keys
// with all their heads, so that it reads whole rows; its partial softmaxes are joined with the others' in the order of
// the keys.
template <typename X>
void decode(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s, const int* doc_start) {
    using A = acc_t<X>;
    const int R = s.NH * s.Tq, offset = s.Tk - s.Tq, readers = R / s.NKV, chunks = (s.Tk + kKeys - 1) / kKeys;
    const size_t width = size_t(s.HS) + 2;  // of a partial result: sum of p v (HS), maximum, sum of p
    std::vector<A> parts(size_t(s.B) * chunks * R * width);
    parallel_for_dynamic(int64_t(s.B) * chunks, [&](int64_t task) {
        const int b = int(task / chunks), key = int(task % chunks) * kKeys, n = std::min(kKeys, s.Tk - key);
        const X *keys = k + b * s.kv_batch + key * s.kv_row, *values = v + b * s.kv_batch + key * s.kv_row;
        A *queries = scratch<A>(0, size_t(R) * s.HS), *p = scratch<A>(1, size_t(R) * kKeys);
        A* part = &parts[size_t(task) * R * width];
        for (int t = 0; t < s.Tq; t++)
            for (int h = 0; h < s.NH; h++)
                for (int d = 0; d < s.HS; d++)
                    queries[(h * s.Tq + t) * s.HS + d] =
                        A(q[b * s.q_batch + t * s.q_row + h * s.HS + d]) / std::sqrt(A(s.HS));
        for (int j = 0; j < n; j++)
            for (int kv_head = 0, r = 0; kv_head < s.NKV; kv_head++)
                for (int end = r + readers; r < end; r++)
                    p[r * kKeys + j] = dot<A>(queries + r * s.HS, keys + j * s.kv_row + kv_head * s.HS, s.HS);
        for (int r = 0; r < R; r++) {
            A *row = p + r * kKeys, top = A(-1e30), sum = 0;
            const int position = r % s.Tq + offset, last = position - key;
            const int first = doc_start ? std::min(doc_start[int64_t(b) * s.Tk + position], position) - key : 0;
            for (int j = 0; j < n; j++) top = (first <= j) & (j <= last) & (row[j] > top) ? row[j] : top;
            for (int j = 0; j < n; j++) {
                A x = fast_exp(row[j] - top);
                row[j] = (first <= j) & (j <= last) ? x : A(0);
            }
            for (int j = 0; j < n; j++) sum += row[j];
            part[r * width + s.HS] = top, part[r * width + s.HS + 1] = sum;
        }
        for (int j = 0; j < n; j += 8)
            for (int kv_head = 0, r = 0; kv_head < s.NKV; kv_head++)
                for (int end = r + readers; r < end; r++)
                    add_weighted(part + r * width, p + r * kKeys + j, values + j * s.kv_row + kv_head * s.HS, s.kv_row,
                                 std::min(8, n - j), s.HS);
    });
    for (int64_t i = 0; i < int64_t(s.B) * R; i++) {
        const int b = int(i / R), h = int(i % R / s.Tq), t = int(i % s.Tq);
        A *first = &parts[(size_t(b) * chunks * R + i % R) * width], *end = first + size_t(chunks) * R * width;
        A top = A(-1e30), sum = 0;
        for (A* part = first; part < end; part += R * width) top = std::max(top, part[s.HS]);
        for (A* part = first; part < end; part += R * width) {
            A weight = fast_exp(part[s.HS] - top);
            sum += weight * part[s.HS + 1];
            for (int d = 0; d < s.HS; d++) first[d] = (part == first ? A(0) : first[d]) + weight * part[d];
        }
        store_row(out + b * s.out_batch + t * s.out_row + h * s.HS, first, s.HS, 1 / sum);
        if (lse) lse[i] = top + std::log(sum);
    }
}

}  // namespace attention_detail

// out (B,Tq,NH*HS), lse (B,NH,Tq) or null (inference). doc_start (B,Tk) or null: first position that position i may
// see.
template <typename X, typename E = attention_detail::operand_t<X>>
void attention_forward(X* out, acc_t<X>* lse, const X* q, const X* k, const X* v, const AttentionShape& s,
                       const int* doc_start, Dropout dropout) {
    using namespace attention_detail;
    using A = acc_t<X>;
    CHECK(s.Tq <= s.Tk && s.NH % s.NKV == 0, "Tq=%d Tk=%d NH=%d NKV=%d", s.Tq, s.Tk, s.NH, s.NKV);
    if (s.Tq <= kDecodeQueries && !dropout.active()) return decode(out, lse, q, k, v, s, doc_start);
    const int width = pad_to_lanes<A>(s.HS), k_width = packed<E>(s.HS), group = s.NH / s.NKV, offset = s.Tk - s.Tq;
    const A scale = 1 / std::sqrt(A(s.HS));
    parallel_for_dynamic(int64_t(s.B) * s.NKV, [&](int64_t task) {
        const int b = int(task / s.NKV), kv_head = int(task % s.NKV);
        const int* starts = doc_start ? doc_start + int64_t(b) * s.Tk : nullptr;
        E *keys = scratch<E>(0, size_t(s.Tk) * k_width), *values = scratch<E>(1, size_t(packed<E>(s.Tk)) * width);
        E *rows = scratch<E>(2, size_t(kQueries) * k_width), *columns = scratch<E>(3, size_t(k_width) * kQueries);
        A *p = scratch<A>(4, kKeys * kQueries), *o = scratch<A>(5, size_t(kQueries) * width);
        E* packed_p = scratch<E>(7, kKeys * kQueries);
        float* mask = scratch<float>(6, kKeys * kQueries);
        pack_rows(keys, k_width, k + b * s.kv_batch + kv_head * s.HS, s.kv_row, s.Tk, s.HS);
        pack_columns(values, width, v + b * s.kv_batch + kv_head * s.HS, s.kv_row, s.Tk, s.HS);
        for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (int t = 0; t < s.Tq; t += kQueries) {
                QueryBlock block(std::min(kQueries, s.Tq - t), t + offset, starts);
                pack_rows(rows, k_width, q + b * s.q_batch + t * s.q_row + h * s.HS, s.q_row, block.n, s.HS);
                transpose_queries(columns, rows, k_width, block.n, k_width);
                A m[kQueries], l[kQueries], rescale[kQueries];
                std::fill_n(m, kQueries, A(-1e30));
                std::fill_n(l, kQueries, A(0));
                std::fill_n(o, block.n * width, A(0));
                for (int key = block.first_key / kKeys * kKeys; key < block.end_key; key += kKeys) {
                    int n = std::min(kKeys, block.end_key - key);
                    score_product(p, keys + size_t(key) * k_width, k_width, columns, block, key, n, k_width);
                    online_softmax(p, m, l, rescale, scale, block, key, n);
                    if (dropout.active()) {
                        tile_dropout(mask, dropout, b, h, block, key, n, s.Tk);
                        for (int e = 0; e < n * kQueries; e++) p[e] *= mask[e];
                    }
                    for (int i = 0; i < block.n; i++)
                        for (int d = 0; d < width; d++) o[i * width + d] *= rescale[i];
                    query_product(o, pack_along_keys(packed_p, p, n), values + size_t(key) / kPack<E> * width, block,
                                  key, n, width);
                }
                for (int i = 0; i < block.n; i++) {
                    store_row(out + b * s.out_batch + (t + i) * s.out_row + h * s.HS, o + i * width, s.HS, 1 / l[i]);
                    if (lse) lse[(int64_t(b) * s.NH + h) * s.Tq + t + i] = m[i] * scale + std::log(l[i]);
                }
            }
        }
    });
}

// dq, dk, dv have the strides of q, k, v and are overwritten; dout those of out. Needs Tq == Tk.
template <typename X, typename E = attention_detail::operand_t<X>>
void attention_backward(X* dq, X* dk, X* dv, const X* dout, const X* q, const X* k, const X* v, const X* out,
                        const acc_t<X>* lse, const AttentionShape& s, const int* doc_start, Dropout dropout) {
    using namespace attention_detail;
    using A = acc_t<X>;
    CHECK(s.Tq == s.Tk && s.NH % s.NKV == 0, "Tq=%d Tk=%d NH=%d NKV=%d", s.Tq, s.Tk, s.NH, s.NKV);
    const int width = pad_to_lanes<A>(s.HS), k_width = packed<E>(s.HS), group = s.NH / s.NKV, T = s.Tk;
    const A scale = 1 / std::sqrt(A(s.HS));
    parallel_for_dynamic(int64_t(s.B) * s.NKV, [&](int64_t task) {
        const int b = int(task / s.NKV), kv_head = int(task % s.NKV);
        const int64_t kv_offset = b * s.kv_batch + kv_head * s.HS;
        const int* starts = doc_start ? doc_start + int64_t(b) * T : nullptr;
        // rows: as score_product reads them; columns: packed the other way, as query_product and key_product do.
        const size_t row_tile = size_t(kQueries) * k_width, column_tile = size_t(kQueries) * width;
        E *key_rows = scratch<E>(0, 2 * size_t(T) * k_width), *value_rows = key_rows + size_t(T) * k_width;
        E *key_columns = scratch<E>(1, size_t(packed<E>(T)) * width), *rows = scratch<E>(2, row_tile);
        E *queries = scratch<E>(3, 2 * row_tile), *douts = queries + row_tile;
        E *query_columns = scratch<E>(8, 2 * column_tile), *dout_columns = query_columns + column_tile;
        A *p = scratch<A>(4, 2 * kKeys * kQueries), *ds = p + kKeys * kQueries, *dqueries = scratch<A>(5, column_tile);
        A *dkeys = scratch<A>(9, 2 * size_t(T) * width), *dvalues = dkeys + size_t(T) * width;
        E* packed_p = scratch<E>(7, kKeys * kQueries);
        float* mask = scratch<float>(6, kKeys * kQueries);
        pack_rows(key_rows, k_width, k + kv_offset, s.kv_row, T, s.HS);
        pack_rows(value_rows, k_width, v + kv_offset, s.kv_row, T, s.HS);
        pack_columns(key_columns, width, k + kv_offset, s.kv_row, T, s.HS);
        std::fill_n(dkeys, 2 * size_t(T) * width, A(0));
        for (int h = kv_head * group; h < (kv_head + 1) * group; h++) {
            for (int t = 0; t < T; t += kQueries) {
                QueryBlock block(std::min(kQueries, T - t), t, starts);
                const int64_t q_offset = b * s.q_batch + t * s.q_row + h * s.HS;
                const int64_t out_offset = b * s.out_batch + t * s.out_row + h * s.HS;
                pack_rows(rows, k_width, q + q_offset, s.q_row, block.n, s.HS);
                transpose_queries(queries, rows, k_width, block.n, k_width);
                pack_rows(rows, k_width, dout + out_offset, s.out_row, block.n, s.HS);
                transpose_queries(douts, rows, k_width, block.n, k_width);
                pack_columns(query_columns, width, q + q_offset, s.q_row, block.n, s.HS);
                pack_columns(dout_columns, width, dout + out_offset, s.out_row, block.n, s.HS);
                std::fill_n(dqueries, block.n * width, A(0));
                A log_sum[kQueries] = {}, D[kQueries] = {};
                for (int i = 0; i < block.n; i++) {
                    log_sum[i] = lse[(int64_t(b) * s.NH + h) * T + t + i];
                    D[i] = dot<A>(dout + out_offset + i * s.out_row, out + out_offset + i * s.out_row, s.HS);
                }
                for (int key = block.first_key / kKeys * kKeys; key < block.end_key; key += kKeys) {
                    const int n = std::min(kKeys, block.end_key - key);
                    score_product(p, key_rows + size_t(key) * k_width, k_width, queries, block, key, n, k_width);
                    score_product(ds, value_rows + size_t(key) * k_width, k_width, douts, block, key, n, k_width);
                    if (dropout.active()) tile_dropout(mask, dropout, b, h, block, key, n, T);
                    for (int j = 0; j < n; j++) {
                        A *p_row = p + j * kQueries, *ds_row = ds + j * kQueries;
                        const float* mask_row = mask + j * kQueries;
                        if (dropout.active())
                            for (int i = 0; i < kQueries; i++) ds_row[i] *= mask_row[i];
                        for (int i = 0; i < kQueries; i++) {
                            bool seen = (block.first[i] <= key + j) & (key + j <= block.last[i]);
                            A x = fast_exp(p_row[i] * scale - log_sum[i]);
                            A y = x * (ds_row[i] - D[i]);
                            p_row[i] = seen ? x : A(0);
                            ds_row[i] = seen ? y : A(0);
                        }
                        if (dropout.active())
                            for (int i = 0; i < kQueries; i++) p_row[i] *= mask_row[i];
                    }
                    const size_t column = size_t(key) * width;
                    key_product(dvalues + column, pack_along_queries(packed_p, p, n), dout_columns, block, key, n,
                                width);
                    key_product(dkeys + column, pack_along_queries(packed_p, ds, n), query_columns, block, key, n,
                                width);
                    query_product(dqueries, pack_along_keys(packed_p, ds, n), key_columns + column / kPack<E>, block,
                                  key, n, width);
                }
                for (int i = 0; i < block.n; i++)
                    store_row(dq + q_offset + i * s.q_row, dqueries + i * width, s.HS, scale);
            }
        }
        for (int j = 0; j < T; j++) {
            store_row(dk + kv_offset + j * s.kv_row, dkeys + size_t(j) * width, s.HS, scale);
            store_row(dv + kv_offset + j * s.kv_row, dvalues + size_t(j) * width, s.HS, A(1));
        }
    });
}
