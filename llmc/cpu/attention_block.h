// Blocks of attention: how queries, keys, values and probabilities are packed for the tile products, which keys a block
// of queries sees, and the three products of a tile of keys with a block of queries.
#pragma once
#include <algorithm>
#include <cstring>
#include <type_traits>
#include <vector>

#include "llmc/cpu/tile.h"
#include "llmc/cpu/dropout.h"

namespace attention_detail {

constexpr int kQueries = 64;  // queries of a block, multiple of the lanes of any vector
constexpr int kKeys = 64;     // keys of a block

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

template <typename X, typename A>
void store_row(X* to, const A* from, int HS, A scale) {
    for (int d = 0; d < HS; d++) to[d] = static_cast<X>(from[d] * scale);
}

}  // namespace attention_detail
