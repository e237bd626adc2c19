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
#include <utility>
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
        ranks_ = std::max(ranks_, size_t{1} + static_cast<size_t>(rank));
        filter_[h >> (70 - kFilterBits)] |= uint64_t{1} << (h >> (64 - kFilterBits) & 63);
        return true;
    }
    size_t ranks() const { return ranks_; }  // the highest + 1
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
    size_t ranks_ = 0;
};

class BytePairs {
  public:
    PairTable pairs;
    std::array<int, 256> byte_id{};  // the token of each byte

    // Two bytes that stand side by side in no token that a merge makes: no merge ever crosses the border between them, so
    // the parts on both sides of it are encoded apart. Most characters of Chinese and Japanese are such parts.
    void may_join(uint8_t a, uint8_t b) { joined_[a * 4u + b / 64] |= uint64_t{1} << b % 64; }
    void all_may_join() { joined_.fill(~uint64_t{0}); }
    size_t part(const uint8_t* bytes, size_t n) const {  // length of the first one
        size_t i = 1;
        while (i < n && joined_[bytes[i - 1] * 4u + bytes[i] / 64] >> bytes[i] % 64 & 1) ++i;
        return i;
    }

    // To be called when all of that is said.
    void complete() {
        first_.assign(1 << 16, {});
        for (size_t i = 0; i < first_.size(); ++i)
            if (const PairTable::Slot* slot = pairs.find(byte_id[i / 256], byte_id[i % 256]))
                first_[i] = {static_cast<uint32_t>(slot->rank) << 6, slot->result};
    }

    // Appends the tokens of a piece, bytes[0, n), n > 0.
    void merge(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        n <= kScan ? merge_short(bytes, n, out) : merge_long(bytes, n, out);
    }

  private:
    static constexpr size_t kScan = 64;
    static constexpr uint32_t kNone = UINT32_MAX;
    struct First {
        uint32_t best = kNone;  // rank << 6
        int result = 0;
    };
    std::array<uint64_t, 1024> joined_{};  // a bit for each pair of bytes
    std::vector<First> first_;             // what a pair of bytes merges into: half of all look-ups

    // A short piece is scanned for its best pair again and again.
    void merge_short(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        // best[i]: rank of the pair that begins at i, and i in the low 6 bits: one vectorised minimum finds the pair
        // and its place. A joined token's place stays, with no pair.
        uint32_t best[kScan];
        int ids[kScan + 1], results[kScan];
        uint8_t next[kScan + 1], previous[kScan + 1];
        const auto rate = [&](size_t i) {
            const PairTable::Slot* slot = next[i] < n ? pairs.find(ids[i], ids[next[i]]) : nullptr;
            best[i] = slot ? static_cast<uint32_t>(slot->rank) << 6 | static_cast<uint32_t>(i) : kNone;
            if (slot) results[i] = slot->result;
        };
        constexpr size_t kWidth = 8;  // of what is compared at a time
        const size_t scanned = (n + kWidth - 1) / kWidth * kWidth;
        for (size_t i = 0; i < n; ++i) {
            ids[i] = byte_id[bytes[i]];
            next[i] = static_cast<uint8_t>(i + 1);
            previous[i] = static_cast<uint8_t>(i - 1);  // 255 for none
        }
        for (size_t i = 0; i + 1 < n; ++i) {
            const First& first = first_[bytes[i] * 256u + bytes[i + 1]];
            best[i] = first.best | static_cast<uint32_t>(i);
            results[i] = first.result;
        }
        std::fill(best + n - 1, best + scanned, kNone);
        for (;;) {
            uint32_t low[kWidth];
            std::copy_n(best, kWidth, low);
            for (size_t i = kWidth; i < scanned; i += kWidth)
                for (size_t k = 0; k < kWidth; ++k) low[k] = std::min(low[k], best[i + k]);
            uint32_t lowest = kNone;
            for (size_t k = 0; k < kWidth; ++k) lowest = std::min(lowest, low[k]);
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

    // A long one: each rank has a list of the places where its pair was seen, and the lowest rank that has one is taken,
    // from left to right. In a trained list a merge makes pairs of higher ranks only, so that is one walk over the ranks:
    // O(n), and a gigabyte of one letter is no trouble.
    void merge_long(const uint8_t* bytes, size_t n, std::vector<int>& out) const {
        CHECK(n < INT32_MAX, "a piece of %zu bytes", n);
        struct Node {
            int id, previous, next;  // id -1: joined to the one before
            int rank, result;        // of its pair with the next; rank INT32_MAX: there is none
        };
        struct Seen {
            int place, next;  // in pool; -1: the last
        };
        const int count = static_cast<int>(n);
        std::vector<Node> nodes(n);
        std::vector<Seen> pool;
        std::vector<int> places;
        pool.reserve(n);
        static thread_local struct {
            std::vector<int> heads;       // of each rank's list, in pool; -1: an empty one, as all are at the end
            std::vector<uint64_t> ranks;  // a bit for each that is not empty
            bool in_use = false;          // memory ran out in the middle
        } lists;
        if (std::exchange(lists.in_use, true)) lists.heads.clear(), lists.ranks.clear();
        lists.heads.resize(std::max(lists.heads.size(), pairs.ranks()), -1);
        lists.ranks.resize((lists.heads.size() + 63) / 64, 0);
        std::vector<int>& heads = lists.heads;
        std::vector<uint64_t>& ranks = lists.ranks;
        size_t lowest = ranks.size();  // in no word before that a bit is set
        const auto add = [&](int place) {
            const int rank = nodes[place].rank;
            pool.push_back({place, heads[rank]});
            heads[rank] = static_cast<int>(pool.size()) - 1;
            ranks[rank / 64] |= uint64_t{1} << rank % 64;
            lowest = std::min<size_t>(lowest, rank / 64);
        };
        const auto rate = [&](int i) {
            Node& node = nodes[i];
            const PairTable::Slot* slot = node.next < count ? pairs.find(node.id, nodes[node.next].id) : nullptr;
            node.rank = slot ? slot->rank : INT32_MAX;
            if (slot) node.result = slot->result, add(i);
            return node.rank;
        };
        for (int i = 0; i < count; ++i) nodes[i] = {byte_id[bytes[i]], i - 1, i + 1, INT32_MAX, -1};
        for (int i = 0; i + 1 < count; ++i) {
            const First& pair = first_[bytes[i] * 256u + bytes[i + 1]];
            if (pair.best == kNone) continue;
            nodes[i].rank = static_cast<int>(pair.best >> 6), nodes[i].result = pair.result;
            add(i);
        }
        while (lowest < ranks.size()) {
            if (ranks[lowest] == 0) {
                ++lowest;
                continue;
            }
            const int rank = static_cast<int>(lowest) * 64 + std::countr_zero(ranks[lowest]);
            ranks[lowest] &= ranks[lowest] - 1;
            places.clear();
            for (int at = std::exchange(heads[rank], -1); at >= 0; at = pool[at].next) places.push_back(pool[at].place);
            if (places.front() > places.back()) std::reverse(places.begin(), places.end());  // seen from left to right
            if (!std::is_sorted(places.begin(), places.end())) std::sort(places.begin(), places.end());
            for (size_t k = 0; k < places.size(); ++k) {
                const int i = places[k];
                Node& node = nodes[i];
                if (node.id < 0 || node.rank != rank) continue;  // outdated
                Node& joined = nodes[node.next];
                joined.id = -1;
                node.id = node.result;
                node.next = joined.next;
                if (node.next < count) nodes[node.next].previous = i;
                const int made = std::min(rate(i), node.previous >= 0 ? rate(node.previous) : INT32_MAX);
                if (made > rank) continue;
                while (++k <
                       places.size())  // of no trained list: the pair that was made comes before the rest of these
                    if (nodes[places[k]].id >= 0 && nodes[places[k]].rank == rank) add(places[k]);
            }
        }
        lists.in_use = false;
        for (int i = 0; i < count; i = nodes[i].next) out.push_back(nodes[i].id);
    }
};

// The tokens of pieces, for each thread: natural text repeats its words, and a hit costs a few nanoseconds where merging
// costs hundreds. Of fixed size: words in sets of two (4 MB), where a third takes the place of the one that was not used
// last; longer pieces in another table (4 MB), one in each place.
struct PieceCache {
    static constexpr size_t kBytes = 15, kIds = 4;
    static constexpr size_t kLongBytes = 47, kLongIds = 19;  // what has more is not kept
    static constexpr int kBits = 16, kLongBits = 15;
    struct Key {  // a piece's bytes, zeros, its length in the last byte; 255 for all that are too long
        uint64_t a = 0, b = 0;
        bool operator==(const Key&) const = default;
    };
    struct Entry {
        Key key;
        int ids[kIds] = {-1, -1, -1, -1};
        int count() const { return 1 + (ids[1] >= 0) + (ids[2] >= 0) + (ids[3] >= 0); }
    };
    struct alignas(64) Set {  // a line of the CPU's cache; the one that came or was found last is the first
        Entry entries[2];
    };
    struct LongEntry {
        uint8_t size = 0;
        uint8_t bytes[kLongBytes] = {};
        int count = 0;
        int ids[kLongIds] = {};
    };
    uint64_t owner = 0;  // serial number of the vocabulary whose ids these are
    std::vector<Set> sets;
    std::vector<LongEntry> longs;

    // Of bytes[0, n), n > 0, in a text that ends at `end`.
    static Key key(const uint8_t* bytes, size_t n, const uint8_t* end) {
        Key k;
        if (n > kBytes) return {0, uint64_t{255} << 56};
        if (end - bytes >= 16) {  // a copy of fixed size, then a mask, is faster than a copy of n bytes
            std::memcpy(&k, bytes, 16);
            const uint64_t all = ~uint64_t{0};
            k.a &= n < 8 ? all >> (64 - 8 * n) : all;
            k.b &= n > 8 ? all >> (128 - 8 * n) : 0;
        } else {
            std::memcpy(&k, bytes, n);
        }
        k.b |= static_cast<uint64_t>(n) << 56;
        return k;
    }
    Set& set_of(const Key& k) {
        const uint64_t hash = (k.a ^ (k.b * 0x9E3779B97F4A7C15ull)) * 0xD6E8FEB86659FD93ull;
        return sets[hash >> (64 - kBits)];
    }
    const Entry* find(const Key& k) {  // null: it is not there
        Entry* const e = set_of(k).entries;
        if (e[0].key == k) return e;
        if (!(e[1].key == k)) return nullptr;
        std::swap(e[0], e[1]);
        return e;
    }
    // False: a piece too long, or of too many tokens.
    bool keep(const Key& k, const int* ids, size_t count) {
        if (k.b >> 56 > kBytes || count > kIds) return false;
        Entry entry{k, {-1, -1, -1, -1}};
        std::copy_n(ids, count, entry.ids);
        Entry* const e = set_of(k).entries;
        if (!(e[0].key == k)) e[1] = std::exchange(e[0], entry);
        return true;
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
            assign_huge(cache.sets, size_t{1} << kBits);
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
