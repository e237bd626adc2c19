// Byte-pair encoding of one piece of text: its bytes, then the merges.           (Sennrich et al. 2016, section 3.2)
//
// A merge list says which pairs of neighbouring tokens become one token, and in which order: the pair of lowest rank
// comes first, the leftmost where it occurs twice, until no pair of the list is left. Three parts, all for speed:
// a hash table of the pairs, two ways to merge (short pieces and long ones), and a cache of pieces that were merged.
#pragma once
#include <sys/mman.h>
#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>
#include "llmc/base/error.h"

// n empty elements, in huge pages where the system has them: tables that are read at random are too large for the CPU to
// know where so many small pages are.
template <typename T>
void assign_huge(std::vector<T>& table, size_t n) {
    table.clear();
    table.reserve(n);
    const uintptr_t begin = (reinterpret_cast<uintptr_t>(table.data()) + 4095) & ~uintptr_t{4095};
    if (n * sizeof(T) >= size_t{1} << 21)
        madvise(reinterpret_cast<void*>(begin), (n * sizeof(T) - 4096) & ~size_t{4095}, MADV_HUGEPAGE);  // a hint
    table.resize(n);
}

// Open addressing from a pair of ids to its rank in the merge list and the token that it makes. Most pairs that are
// looked up merge into nothing; a filter of one bit for each hash, 64 KB that stay in the CPU's cache, answers for nine
// of ten of them.
class PairTable {
  public:
    struct Slot {
        uint64_t key = kEmpty;
        int rank = 0, result = 0;
    };
    void reserve(size_t n) {
        assign_huge(slots_, std::bit_ceil(std::max<size_t>(16, 2 * n)));
        filter_.assign(size_t{1} << (kFilterBits - 6), 0);
    }
    bool insert(int left, int right, int rank, int result) {  // false if the pair is there
        const uint64_t k = key(left, right), h = hash(k);
        Slot& slot = slots_[place(k, h)];
        if (slot.key == k) return false;
        slot = {k, rank, result};
        filter_[h >> (70 - kFilterBits)] |= uint64_t{1} << (h >> (64 - kFilterBits) & 63);
        return true;
    }
    const Slot* find(int left, int right) const {
        const uint64_t k = key(left, right), h = hash(k);
        if (!(filter_[h >> (70 - kFilterBits)] >> (h >> (64 - kFilterBits) & 63) & 1)) return nullptr;
        const Slot& slot = slots_[place(k, h)];
        return slot.key == k ? &slot : nullptr;
    }

  private:
    static constexpr uint64_t kEmpty = ~uint64_t{0};
    static constexpr int kFilterBits = 19;
    static uint64_t key(int left, int right) {
        return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    }
    static uint64_t hash(uint64_t k) { return (k ^ k >> 29) * 0x9E3779B97F4A7C15ull; }
    size_t place(uint64_t k, uint64_t h) const {
        const size_t mask = slots_.size() - 1;
        size_t i = (h >> 32) & mask;
        while (slots_[i].key != k && slots_[i].key != kEmpty) i = (i + 1) & mask;
        return i;
    }
    std::vector<Slot> slots_;
    std::vector<uint64_t> filter_;
};

class BytePairs {
  public:
    PairTable pairs;
    std::array<int, 256> byte_id{};  // the token of each byte

    // Appends the tokens of a piece, bytes[0, n).
    void merge(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        n <= kScan ? merge_short(bytes, n, out) : merge_long(bytes, n, out);
    }

  private:
    static constexpr size_t kScan = 64;

    // A short piece is scanned for its best pair again and again.
    void merge_short(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        // best[i]: rank of the pair that begins at i, and i in the low 6 bits: one vectorised minimum finds the pair
        // and its place. A joined token's place stays, with no pair.
        constexpr uint32_t kNone = UINT32_MAX;
        uint32_t best[kScan];
        int ids[kScan + 1], results[kScan];
        uint8_t next[kScan + 1], previous[kScan + 1];
        const auto rate = [&](size_t i) {
            const PairTable::Slot* slot = next[i] < n ? pairs.find(ids[i], ids[next[i]]) : nullptr;
            best[i] = slot ? static_cast<uint32_t>(slot->rank) << 6 | static_cast<uint32_t>(i) : kNone;
            if (slot) results[i] = slot->result;
        };
        for (size_t i = 0; i < n; ++i) {
            ids[i] = byte_id[bytes[i]];
            next[i] = static_cast<uint8_t>(i + 1);
            previous[i] = static_cast<uint8_t>(i - 1);  // 255 for none
        }
        for (size_t i = 0; i < n; ++i) rate(i);
        for (;;) {
            uint32_t lowest = kNone;
            for (size_t i = 0; i < n; ++i) lowest = std::min(lowest, best[i]);
            if (lowest == kNone) break;
            const size_t i = lowest & (kScan - 1), joined = next[i];
            ids[i] = results[i];
            best[joined] = kNone;
            next[i] = next[joined];
            previous[next[i]] = static_cast<uint8_t>(i);
            rate(i);
            if (previous[i] < n) rate(previous[i]);
        }
        for (size_t i = 0; i < n; i = next[i]) out.push_back(ids[i]);
    }

    // A long one has a heap of candidate pairs over a linked list: O(n log n), so that a megabyte without a space is
    // no trouble.
    void merge_long(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        CHECK(n < INT32_MAX, "a piece of %zu bytes", n);
        struct Node {
            int id, previous, next;  // id -1: joined to the one before
        };
        struct Candidate {
            int rank, position, left, right, result;
            bool operator<(const Candidate& other) const {  // a heap has the largest on top
                return rank != other.rank ? rank > other.rank : position > other.position;
            }
        };
        const int count = static_cast<int>(n);
        std::vector<Node> nodes(n);
        std::vector<Candidate> heap;
        const auto candidate = [&](int i) {
            if (i < 0 || nodes[i].next >= count) return false;
            const int left = nodes[i].id, right = nodes[nodes[i].next].id;
            const PairTable::Slot* slot = pairs.find(left, right);
            if (slot) heap.push_back({slot->rank, i, left, right, slot->result});
            return slot != nullptr;
        };
        for (int i = 0; i < count; ++i) nodes[i] = {byte_id[bytes[i]], i - 1, i + 1};
        for (int i = 0; i < count; ++i) candidate(i);
        std::make_heap(heap.begin(), heap.end());
        while (!heap.empty()) {
            std::pop_heap(heap.begin(), heap.end());
            const Candidate best = heap.back();
            heap.pop_back();
            Node& node = nodes[best.position];
            if (node.id != best.left || node.next >= count || nodes[node.next].id != best.right) continue;  // outdated
            nodes[node.next].id = -1;
            node.id = best.result;
            node.next = nodes[node.next].next;
            if (node.next < count) nodes[node.next].previous = best.position;
            if (candidate(best.position)) std::push_heap(heap.begin(), heap.end());
            if (candidate(node.previous)) std::push_heap(heap.begin(), heap.end());
        }
        for (int i = 0; i < count; i = nodes[i].next) out.push_back(nodes[i].id);
    }
};

// The tokens of pieces, for each thread: natural text repeats its words, and a hit costs a few nanoseconds where merging
// costs hundreds. Direct-mapped, so that its size is fixed and nothing needs to be evicted; words in one table (4 MB),
// longer pieces and those of more tokens in another (4 MB).
struct PieceCache {
    static constexpr size_t kBytes = 15, kIds = 4;
    static constexpr size_t kLongBytes = 47, kLongIds = 19;  // a longer piece, or one of more tokens, is not kept
    static constexpr int kBits = 17, kLongBits = 15;
    struct Entry {
        uint64_t a = 0, b = 0;  // the piece's bytes, zeros, its length in the last byte
        int ids[kIds] = {-1, -1, -1, -1};
    };
    struct LongEntry {
        uint8_t size = 0;
        uint8_t bytes[kLongBytes] = {};
        int count = 0;
        int ids[kLongIds] = {};
    };
    uint64_t owner = 0;  // serial number of the vocabulary whose ids these are
    std::vector<Entry> entries;
    std::vector<LongEntry> longs;

    // The bytes of a piece and its length; they end before `end`.
    static void make_key(const uint8_t* bytes, size_t n, const uint8_t* end, uint64_t key[2]) {
        key[0] = key[1] = 0;
        if (end - bytes >= 16) {  // a copy of fixed size, then a mask, is faster than a copy of n bytes
            std::memcpy(key, bytes, 16);
            key[0] &= n < 8 ? (uint64_t{1} << 8 * n) - 1 : ~uint64_t{0};
            key[1] &= n > 8 ? (uint64_t{1} << 8 * (n - 8)) - 1 : 0;
        } else {
            std::memcpy(key, bytes, n);
        }
        key[1] |= static_cast<uint64_t>(n) << 56;
    }
    Entry& find(uint64_t a, uint64_t b) {
        const uint64_t hash = (a ^ (b * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
        return entries[hash >> (64 - kBits)];
    }
    LongEntry& find_long(const uint8_t* bytes, size_t n) {
        uint64_t hash = n;
        for (size_t i = 0; i + 8 <= n; i += 8) hash = (hash ^ load(bytes + i, 8)) * 0xD6E8FEB86659FD93ull;
        hash = ((hash ^ hash >> 32) ^ load(bytes + (n & ~size_t{7}), n & 7)) * 0xD6E8FEB86659FD93ull;
        return longs[hash >> (64 - kLongBits)];
    }

    // The calling thread's, emptied if it was another vocabulary's.
    static PieceCache& of(uint64_t owner) {
        static thread_local PieceCache cache;
        if (cache.owner != owner) {
            assign_huge(cache.entries, size_t{1} << kBits);
            assign_huge(cache.longs, size_t{1} << kLongBits);
            cache.owner = owner;
        }
        return cache;
    }
    static uint64_t new_owner() {
        static std::atomic<uint64_t> counter{0};
        return ++counter;
    }

  private:
    static uint64_t load(const uint8_t* bytes, size_t n) {
        uint64_t x = 0;
        std::memcpy(&x, bytes, n);
        return x;
    }
};
