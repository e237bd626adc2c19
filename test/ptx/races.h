// Shared memory of a block, and its data races by happens-before: whether two accesses can meet is a matter of the barriers
// between them, not of the order in which the machine happened to run them.
//
// 8 Memory Consistency Model. Two accesses to the same bytes, one of them a write and not both atomic, by different threads
// are a race unless one happens before the other:
//   - of the same thread, in its order;
//   - bar.sync, bar.red: everything before it, of all threads, before everything behind it;
//   - bar.warp.sync: the same for the lanes of its mask. shfl.sync, vote.sync, mma and ldmatrix order nothing.
// cp.async writes at some time between the instruction and the wait_group that its thread executes: until then any access to
// these bytes is a race, its own thread's too; with the wait it is as if that thread wrote them.
//
// Since bar.sync orders all threads, only accesses between the same two of them (one epoch) can race. In an epoch threads
// of different warps are never ordered; lanes of a warp are by vector clocks (Lamport; FastTrack, Flanagan and Freund
// 2009): clock[t][u] is the newest of u's times that t knows to be past.
#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace ptx {

struct Clocks {
    uint32_t at[32][32];
    void start_epoch();
    void meet(uint32_t lanes);  // bar.warp.sync
};

// Who accesses: a lane and its clocks.
struct Who {
    int warp, lane;
    const Clocks* clocks;
    uint32_t now() const { return clocks->at[lane][lane]; }
    bool knows(int other, uint32_t time) const { return clocks->at[lane][other] >= time; }
};

class SharedMemory {
  public:
    // unit: of all accesses the smallest; each is a multiple of it.
    void start_block(size_t bytes, size_t unit);
    void next_epoch() { epoch_++; }
    char* at(uint32_t offset) { return bytes_.data() + offset; }
    size_t size() const { return bytes_.size(); }

    // What is wrong; empty: nothing. read: of the bytes that `mask` names (bit 0 the first).
    std::string read(const Who& who, uint32_t offset, uint32_t bytes, uint64_t mask = ~0ull);
    std::string write(const Who& who, uint32_t offset, uint32_t bytes);
    std::string update(const Who& who, uint32_t offset, uint32_t bytes);  // atomic
    std::string begin_copy(const Who& who, uint32_t offset, uint32_t bytes);
    void end_copy(const Who& who, uint32_t offset, uint32_t bytes);

  private:
    // Threads that accessed since the last write and are not ordered among each other.
    struct Accesses {
        uint32_t epoch = 0, lanes = 0, time = 0;  // time 0: not the same for all lanes, in times_
        int warp = -1;                            // -2: of several warps
    };
    struct Cell {
        uint32_t epoch = 0, time = 0;  // of the last write
        int16_t warp = -1, lane = 0;
        bool copying = false;
        Accesses reads, updates;
    };
    bool after(const Who& who, const Cell& cell) const;
    bool after(const Who& who, const Accesses& set) const;
    void add(const Who& who, Accesses& set);
    std::string race(const char* what, const Cell& cell, uint32_t offset, const char* with) const;
    template <typename F>
    std::string for_each_cell(uint32_t offset, uint32_t bytes, F f);

    std::vector<char> bytes_;
    std::vector<Cell> cells_;
    size_t unit_ = 1;
    uint32_t epoch_ = 0, first_epoch_ = 0;
    std::unordered_map<const Accesses*, std::array<uint32_t, 32>> times_;  // where lanes read at different times
};

}  // namespace ptx
