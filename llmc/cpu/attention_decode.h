// Attention of a few queries to many keys: decoding with a KV cache.
//
// Limit: memory. One pass over keys and values where they lie. A task takes kKeys keys with all their heads, so that it
// reads whole rows of the cache; its partial softmax is joined with the others' in the order of the keys (Dao et al.
// 2023, "Flash-Decoding for long-context inference").
#pragma once
#include <cmath>

#include "llmc/cpu/attention_block.h"
#include "llmc/cpu/math.h"
#include "llmc/base/parallel.h"
#include "llmc/model/arguments.h"

namespace attention_detail {

constexpr int kDecodeQueries = 4;  // up to so many queries come here

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

// One text: its queries, and the keys and values of positions 0 to Tk - 1, of which the queries have the last.
template <typename X>
struct DecodeText {
    X* out;
    acc_t<X>* lse;  // (NH,Tq) or null
    const X *q, *k, *v;
    const int* doc_start;  // (Tk) or null
    int Tk;
};

// Of shape the sizes and strides within a text count.
template <typename X>
void decode(const std::vector<DecodeText<X>>& texts, const AttentionShape& s) {
    using A = acc_t<X>;
    const int R = s.NH * s.Tq, readers = R / s.NKV;
    const size_t width = size_t(s.HS) + 2;  // of a partial result: sum of p v (HS), maximum, sum of p
    struct Task {
        size_t text;
        int key;
    };
    std::vector<Task> tasks;
    std::vector<size_t> first_task(1);
    for (size_t i = 0; i < texts.size(); i++) {
        for (int key = 0; key < texts[i].Tk; key += kKeys) tasks.push_back({i, key});
        first_task.push_back(tasks.size());
    }
    std::vector<A> parts(tasks.size() * R * width);
    parallel_for_dynamic(std::ssize(tasks), [&](int64_t task) {
        const auto [out, lse, q, k, v, doc_start, Tk] = texts[tasks[size_t(task)].text];
        const int key = tasks[size_t(task)].key, n = std::min(kKeys, Tk - key), offset = Tk - s.Tq;
        const X *keys = k + key * s.kv_row, *values = v + key * s.kv_row;
        A *queries = scratch<A>(0, size_t(R) * s.HS), *p = scratch<A>(1, size_t(R) * kKeys);
        A* part = &parts[size_t(task) * R * width];
        for (int t = 0; t < s.Tq; t++)
            for (int h = 0; h < s.NH; h++)
                for (int d = 0; d < s.HS; d++)
                    queries[(h * s.Tq + t) * s.HS + d] =
                        A(q[t * s.q_row + h * s.HS + d]) / (std::sqrt(A(s.HS)) * A(s.divisor));
        for (int j = 0; j < n; j++)
            for (int kv_head = 0, r = 0; kv_head < s.NKV; kv_head++)
                for (int end = r + readers; r < end; r++)
                    p[r * kKeys + j] = dot<A>(queries + r * s.HS, keys + j * s.kv_row + kv_head * s.HS, s.HS);
        for (int r = 0; r < R; r++) {
            A *row = p + r * kKeys, top = A(-1e30), sum = 0;
            const int position = r % s.Tq + offset, last = position - key;
            const int first = doc_start ? std::min(doc_start[position], position) - key : 0;
            for (int j = 0; j < n; j++) top = ((first <= j) & (j <= last) & (row[j] > top)) ? row[j] : top;
            for (int j = 0; j < n; j++) {
                A x = fast_exp(row[j] - top);
                row[j] = ((first <= j) & (j <= last)) ? x : A(0);
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
    parallel_for(std::ssize(texts) * R, [&](int64_t i) {
        const DecodeText<X>& text = texts[size_t(i / R)];
        const int r = int(i % R), h = r / s.Tq, t = r % s.Tq;
        A* first = &parts[(first_task[size_t(i / R)] * R + r) * width];
        const A* end = first + (first_task[size_t(i / R) + 1] - first_task[size_t(i / R)]) * R * width;
        A top = A(-1e30), sum = 0;
        for (const A* part = first; part < end; part += R * width) top = std::max(top, part[s.HS]);
        for (const A* part = first; part < end; part += R * width) {
            A weight = fast_exp(part[s.HS] - top);
            sum += weight * part[s.HS + 1];
            for (int d = 0; d < s.HS; d++) first[d] = (part == first ? A(0) : first[d]) + weight * part[d];
        }
        store_row(text.out + t * s.out_row + h * s.HS, first, s.HS, 1 / sum);
        if (text.lse) text.lse[r] = top + std::log(sum);
    });
}

}  // namespace attention_detail
