// How arenas are divided between ranks.               (ZeRO: Rajbhandari et al. 2020, https://arxiv.org/abs/1910.02054)
//
//   stage 0   every rank has everything; gradients are summed over ranks once a step
//   stage 1   a rank has the optimizer state of its part and updates that; weights are gathered after the update
//   stage 2   and keeps only the summed gradients of its part: a bucket's go to their owners after each micro-step
//   stage 3   and only the weights of its part: a bucket's are gathered ahead of use
//
// A bucket is what is computed and communicated together: the embeddings, each block, the final layernorm. Each is
// padded (parameters.h) so that it divides into one part for each rank; rank r owns the r-th part of every bucket. A
// rank's own parts, one behind the other, make its local arena, of which it has the optimizer state, and from stage 1
// on the summed gradients.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>
#include "llmc/model/parameters.h"

struct Bucket {
    int64_t begin, size;     // elements of the arena
    size_t first_row, rows;  // of the parameter table
    int64_t end() const { return begin + size; }
};

class Sharding {
  public:
    // Of a model with so many blocks. The table may be one of some of its rows (an adapter's): then there are empty buckets.
    Sharding(const std::vector<Parameter>& table, int blocks, int rank, int world)
        : rank_(rank), world_(world), buckets_(static_cast<size_t>(blocks) + 2) {
        size_t t = 0;
        for (int b = 0; b < buckets(); b++) {
            const auto offset = [&] { return t < table.size() ? table[t].offset : arena_size(table, world); };
            Bucket& bucket = buckets_[static_cast<size_t>(b)] = {offset(), 0, t, 0};
            while (t < table.size() && table[t].layer == (b == 0 || b > blocks ? -1 : b - 1)) t++;
            bucket.rows = t - bucket.first_row, bucket.size = offset() - bucket.begin;
        }
        CHECK(t == table.size(), "row %zu of %zu", t, table.size());
    }
    int world() const { return world_; }
    int buckets() const { return static_cast<int>(buckets_.size()); }
    Bucket bucket(int b) const { return buckets_[static_cast<size_t>(b)]; }
    int bucket_of(const Parameter& p) const {
        return p.layer >= 0 ? p.layer + 1 : p.offset < bucket(0).size ? 0 : buckets() - 1;
    }
    int64_t largest_block() const {
        int64_t most = 0;
        for (int b = 1; b + 1 < buckets(); b++) most = std::max(most, bucket(b).size);
        return most;
    }
    // The part of bucket b that a rank owns: its size, where it begins in the arena, and in the local arena.
    int64_t part(int b) const { return bucket(b).size / world_; }
    int64_t begin(int b, int rank) const { return bucket(b).begin + rank * part(b); }
    int64_t begin(int b) const { return begin(b, rank_); }
    int64_t local(int b) const { return bucket(b).begin / world_; }
    int64_t largest_part() const { return std::max({part(0), part(buckets() - 1), largest_block() / world_}); }
    int64_t local_size() const { return local(buckets() - 1) + part(buckets() - 1); }

    // body(arena, local, n) for each piece of [begin, begin + n) of the arena that `rank` owns.
    template <typename Body>
    void for_owned(int rank, int64_t begin_element, int64_t n, Body body) const {
        for (int b = 0; b < buckets(); b++) {
            int64_t from = std::max(begin_element, begin(b, rank));
            int64_t to = std::min(begin_element + n, begin(b, rank) + part(b));
            if (from < to) body(from, local(b) + from - begin(b, rank), to - from);
        }
    }
    template <typename Body>
    void for_own(int64_t begin_element, int64_t n, Body body) const {
        for_owned(rank_, begin_element, n, body);
    }

    // Where a whole bucket lies while it is in use at stages 2 (gradients) and 3 (weights): the embeddings and the
    // final layernorm have a place of their own, the blocks take turns in two.
    static constexpr int kSlots = 4, kFirstBlockSlot = 2;
    int slot(int b) const { return b == 0 ? 0 : b + 1 == buckets() ? 1 : kFirstBlockSlot + b % 2; }
    int64_t slot_size(int slot) const {
        return slot == 0 ? bucket(0).size : slot == 1 ? bucket(buckets() - 1).size : largest_block();
    }

  private:
    int rank_, world_;
    std::vector<Bucket> buckets_;
};
