// Blocks of attention: how queries, keys, values and probabilities are packed for the tile products, which keys a block
// of queries sees, and the three products of a tile of keys with a block of queries.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "llmc/cpu/amx.h"
#include "llmc/cpu/dropout.h"
#include "llmc/cpu/gemm.h"
#include "llmc/cpu/tile.h"

namespace attention_detail {

constexpr int kQueries = 64;  // queries of a block, multiple of the lanes of any vector
constexpr int kKeys = 64;     // keys of a block

// What the tile products multiply: pairs of bf16 where the CPU has an instruction for them, else X converted. Tiles of AMX,
// where it has those, are chosen in attention.cpp.
template <typename X>
using operand_t = std::conditional_t<std::is_same_v<X, bf16> && kFastPairs, bf16_pair, acc_t<X>>;
template <typename E>
constexpr int kPack = std::is_same_v<E, bf16_pair> || std::is_same_v<E, amx_pair> ? 2 : 1;
// Of E's, for n elements along the sum of a product; tiles of AMX are filled up.
template <typename E>
constexpr int packed(int n) {
    constexpr int step = std::is_same_v<E, amx_pair> ? kAmxPairs : 1;
    return (n + kPack<E> * step - 1) / (kPack<E> * step) * step;
}
// Rows of a product that are trimmed to what queries see together, and how many may be read for a last one.
template <typename E>
constexpr int kBlockRows = std::is_same_v<E, amx_pair> ? 2 * kAmxRows : kTileRows;
template <typename E>
constexpr int padded_rows(int n) {
    return std::is_same_v<E, amx_pair> ? (n + kAmxRows - 1) / kAmxRows * kAmxRows : n;
}

// Columns of a product: whole vectors, or whole tiles.
template <typename A, typename E>
constexpr int kColumnStep = std::is_same_v<E, amx_pair> ? std::max(kAmxRows, kLanes<A>) : kLanes<A>;
template <typename A, typename E>
constexpr int pad_columns(int n) {
    return (n + kColumnStep<A, E> - 1) / kColumnStep<A, E> * kColumnStep<A, E>;
}

// A thread needs one while it computes.
struct NoTiles {};
template <typename E>
using Tiles = std::conditional_t<std::is_same_v<E, amx_pair>, AmxTiles, NoTiles>;

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
        for (int d = (HS + kPack<E> - 1) / kPack<E>; d < width; d++) to[d] = 0;
    }
}

// to (packed n,width) = from (n,HS), rows packed in pairs; the rest of each row, and rows beyond n, are zero.
template <typename E, typename X>
void pack_columns(E* to, int width, const X* from, int64_t from_row, int n, int HS) {
    if constexpr (kPack<E> == 1) pack_rows(to, width, from, from_row, n, HS);
    else {
        for (int r = 0; r < n; r += 2, to += width, from += 2 * from_row) {
            const X* second = r + 1 < n ? from + from_row : nullptr;
            for (int d = 0; d < HS; d++) to[d] = pair_of(from[d], second ? second[d] : X(0.0f));
            for (int d = HS; d < width; d++) to[d] = 0;
        }
        std::fill_n(to, (packed<E>(n) - (n + 1) / 2) * width, E(0));
    }
}

// to (rows,columns) = the transpose of from
template <typename E>
void transpose(E* to, int to_width, const E* from, int width, int rows, int columns) {
    using F = std::conditional_t<std::is_same_v<E, amx_pair>, bf16_pair, E>;
    gemm_copy(reinterpret_cast<F*>(to), to_width, reinterpret_cast<const F*>(from), width, true, rows, columns);
}
// to (m,kQueries) = the transpose of from (n,m), columns beyond n zero.
template <typename E>
void transpose_queries(E* to, const E* from, int width, int n, int m) {
    transpose(to, kQueries, from, width, m, n);
    for (int d = 0; d < m && n < kQueries; d++) std::fill(to + d * kQueries + n, to + (d + 1) * kQueries, E(0));
}

// Keys' rows the other way round, for query_product: (blocks of kKeys keys,HS,packed keys), zero beyond the last key.
template <typename E>
constexpr int kBlockKeys = packed<E>(kKeys);
template <typename E>
size_t key_columns_size(int T, int HS) {
    return size_t((T + kKeys - 1) / kKeys) * padded_rows<E>(HS) * kBlockKeys<E>;
}
template <typename E, typename X>
void pack_key_columns(E* to, E* room, int width, const X* from, int64_t from_row, int T, int HS) {
    for (int t = 0; t < T; t += kKeys, to += padded_rows<E>(HS) * kBlockKeys<E>, from += kKeys * from_row) {
        const int n = std::min(kKeys, T - t);
        if (n < kKeys) std::fill_n(to, HS * kBlockKeys<E>, E(0));
        pack_columns(room, width, from, from_row, n, HS);
        transpose(to, kBlockKeys<E>, room, width, HS, packed<E>(n));
    }
}

// A block of n queries from position `position` on, and which keys each may see: first[i] <= j <= last[i].
// Tiles of scores are kept transposed, (keys, queries): a vector holds one key's scores with several queries, so that
// maxima and sums over the keys need no shuffles.
struct QueryBlock {
    int n, position, first_key, end_key, latest_first = 0;
    int first[kQueries], last[kQueries];

    QueryBlock(int count, int begin, const int* doc_start)
        : n(count), position(begin), first_key(begin), end_key(begin + count) {
        for (int i = 0; i < kQueries; i++) {
            last[i] = i < n ? position + i : -1;
            first[i] = i >= n ? 1 << 30 : (doc_start ? std::min(doc_start[position + i], position + i) : 0);
            first_key = std::min(first_key, first[i]);
            latest_first = std::max(latest_first, first[i]);
        }
    }
    bool sees(int i, int key) const { return (first[i] <= key) & (key <= last[i]); }
    // Every query sees every key of [key, key + keys): nothing to mask. False if there are fewer than kQueries.
    bool sees_all(int key, int keys) const { return latest_first <= key && key + keys - 1 <= position; }
};

// The products of a tile of keys [key, key + keys) with a block of queries, without the part above the diagonal.

// s (keys,queries) = rows (keys,HS) . columns (HS,queries); k = packed HS
template <typename A, typename E>
void score_product(A* s, const E* rows, int width, const E* columns, const QueryBlock& block, int key, int keys,
                   int k) {
    constexpr int step = kColumnStep<A, E>;
    const int n = pad_columns<A, E>(block.n);
    for (int j = 0; j < keys; j += kBlockRows<E>) {
        int begin = std::max(0, key + j - block.position) / step * step;
        if (begin >= n) break;
        tile_product(s + j * kQueries + begin, kQueries, rows + j * width, width, 1, columns + begin, kQueries,
                     std::min(kBlockRows<E>, keys - j), n - begin, k, false);
    }
}

// out (HS,queries) += columns (HS,keys) . p (keys,queries), columns of the tile's block of keys; p packed along the keys.
// Queries by the half, since on the diagonal the first half sees half of the keys.
template <typename A, typename E>
void query_product(A* out, const E* columns, const E* p, const QueryBlock& block, int key, int keys, int HS) {
    constexpr int part = kQueries / 2;
    const bool whole = block.sees_all(key, keys);
    for (int i = 0; i < block.n; i += whole ? kQueries : part) {
        const int n = whole ? kQueries : part,
                  visible = std::min(keys, block.position + std::min(i + n, block.n) - key);
        if (visible > 0)
            tile_product(out + i, kQueries, columns, kBlockKeys<E>, 1, p + i, kQueries, HS, n, packed<E>(visible),
                         true);
    }
}

// out (keys,width) += p . values (queries,width); p (keys,queries) and values packed along the queries
template <typename A, typename E>
void key_product(A* out, const E* p, const E* values, const QueryBlock& block, int key, int keys, int width) {
    constexpr int row = kQueries / kPack<E>, step = packed<E>(1);
    for (int j = 0; j < keys; j += kBlockRows<E>) {
        int begin = std::max(0, key + j - block.position) / kPack<E> / step * step, end = packed<E>(block.n);
        if (begin >= end) break;
        tile_product(out + j * width, width, p + j * row + begin, row, 1, values + begin * width, width,
                     std::min(kBlockRows<E>, keys - j), width, end - begin, true);
    }
}

// A tile of p (keys,kQueries) as query_product reads it, in `to` or, where nothing is packed, p itself.
template <typename E, typename A>
const E* pack_along_keys(E* to, const A* p, int keys) {
    if constexpr (kPack<E> == 1) return p;
    else {
        constexpr int lanes = kLanes<A>;
        const Vector<A> none = {};
        for (int j = 0; j < 2 * packed<E>(keys); j += 2)
            for (int i = 0; i < kQueries; i += lanes) {
                const A* first = p + j * kQueries + i;
                const Vector<bf16_pair> pairs = pair_vectors(j < keys ? load_vector<A>(first) : none,
                                                             j + 1 < keys ? load_vector<A>(first + kQueries) : none);
                store_vector<bf16_pair>(reinterpret_cast<bf16_pair*>(to + j / 2 * kQueries + i), pairs);
            }
        return to;
    }
}

// The same as key_product reads it.
template <typename E, typename A>
const E* pack_along_queries(E* to, const A* p, int keys) {
    if constexpr (kPack<E> == 1) return p;
    else {
        for (int e = 0; e < keys * kQueries; e += kLanes<A>)
            store_bf16(reinterpret_cast<bf16*>(to) + e, load_vector<A>(p + e));
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

template <typename X, typename A>
void store_row(X* to, const A* from, int HS, A scale) {
    for (int d = 0; d < HS; d++) store(to[d], from[d] * scale);
}
// The same of n queries that lie in the columns of from (HS,kQueries), each with its scale; room (kQueries,width).
template <typename X, typename A>
void store_queries(X* to, int64_t to_row, const A* from, A* room, int n, int HS, int width, const A* scale) {
    transpose(room, width, from, kQueries, n, HS);
    for (int i = 0; i < n; i++) store_row(to + i * to_row, room + i * width, HS, scale[i]);
}

}  // namespace attention_detail
