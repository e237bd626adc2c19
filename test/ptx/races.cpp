#include "test/ptx/races.h"

#include <bit>
#include <cstring>

namespace ptx {

void Clocks::start_epoch() {
    std::memset(at, 0, sizeof at);
    for (int l = 0; l < 32; l++) at[l][l] = 1;
}
void Clocks::meet(uint32_t lanes) {
    uint32_t all[32] = {};
    for (int l = 0; l < 32; l++)
        if (lanes >> l & 1)
            for (int u = 0; u < 32; u++) all[u] = std::max(all[u], at[l][u]);
    for (int l = 0; l < 32; l++) {
        if (!(lanes >> l & 1)) continue;
        std::memcpy(at[l], all, sizeof all);
        at[l][l]++;
    }
}

void SharedMemory::start_block(size_t bytes, size_t unit) {
    bytes_.assign(bytes, static_cast<char>(0xff));
    size_t cells = (bytes + unit - 1) / unit;
    // what is left from blocks before is of old epochs; copies may still be under way
    if (cells_.size() < cells || unit != unit_) cells_.assign(cells, Cell{});
    for (Cell& cell : cells_) cell.copying = false;
    unit_ = unit;
    times_.clear();
    first_epoch_ = ++epoch_;
}

template <typename F>
std::string SharedMemory::for_each_cell(uint32_t offset, uint32_t bytes, F f) {
    for (uint32_t o = offset; o < offset + bytes; o += static_cast<uint32_t>(unit_)) {
        Cell& cell = cells_[o / unit_];
        if (std::string wrong = f(cell, o); !wrong.empty()) return wrong;
    }
    return "";
}

// Whether the last write happened before.
bool SharedMemory::after(const Who& who, const Cell& cell) const {
    if (cell.copying) return false;
    if (cell.epoch != epoch_ || (cell.warp == who.warp && cell.lane == who.lane)) return true;
    return cell.warp == who.warp && who.knows(cell.lane, cell.time);
}
bool SharedMemory::after(const Who& who, const Accesses& set) const {
    if (set.epoch != epoch_ || !set.lanes) return true;
    if (set.warp != who.warp) return false;
    const auto* times = set.time ? nullptr : &times_.at(&set);
    for (uint32_t lanes = set.lanes & ~(1u << who.lane); lanes; lanes &= lanes - 1) {
        int u = std::countr_zero(lanes);
        if (!who.knows(u, times ? (*times)[u] : set.time)) return false;
    }
    return true;
}
void SharedMemory::add(const Who& who, Accesses& set) {
    if (set.epoch != epoch_ || !set.lanes) {
        set = {epoch_, 1u << who.lane, who.now(), who.warp};
        return;
    }
    if (set.warp != who.warp) {
        set.warp = -2;
        return;
    }
    if (set.time == who.now()) {
        set.lanes |= 1u << who.lane;
        return;
    }
    // what happened before this access needs no mention: who comes after this comes after that
    uint32_t kept = 0;
    auto& times = times_[&set];
    for (uint32_t lanes = set.lanes & ~(1u << who.lane); lanes; lanes &= lanes - 1) {
        int u = std::countr_zero(lanes);
        if (set.time) times[u] = set.time;
        if (!who.knows(u, times[u])) kept |= 1u << u;
    }
    times[who.lane] = who.now();
    set.lanes = kept | 1u << who.lane;
    set.time = kept ? 0 : who.now();
}

namespace {
std::string thread(int warp, int lane) { return "lane " + std::to_string(lane) + " of warp " + std::to_string(warp); }
}  // namespace

std::string SharedMemory::race(const char* what, const Cell& cell, uint32_t offset, const char* with) const {
    std::string text =
        std::string("data race in shared memory: ") + what + " byte " + std::to_string(offset) + ", which ";
    if (cell.copying)
        return text + "a cp.async of " + thread(cell.warp, cell.lane) + " may still write (no cp.async.wait)";
    if (*with == 'w') return text + thread(cell.warp, cell.lane) + " wrote with no barrier between";
    const Accesses& set = *with == 'r' ? cell.reads : cell.updates;
    std::string who = set.warp < 0 ? "several warps" : thread(set.warp, std::countr_zero(set.lanes));
    return text + who + (*with == 'r' ? " read" : " updated") + " with no barrier between";
}

std::string SharedMemory::read(const Who& who, uint32_t offset, uint32_t bytes, uint64_t mask) {
    return for_each_cell(offset, bytes, [&](Cell& c, uint32_t o) -> std::string {
        if (!(mask >> (o - offset) & 1)) return "";
        if (!after(who, c)) return race("reads", c, o, "w");
        if (c.epoch < first_epoch_) return "reads byte " + std::to_string(o) + " of shared memory, which nobody wrote";
        if (!after(who, c.updates)) return race("reads", c, o, "updates");
        add(who, c.reads);
        return "";
    });
}
std::string SharedMemory::write(const Who& who, uint32_t offset, uint32_t bytes) {
    return for_each_cell(offset, bytes, [&](Cell& c, uint32_t o) -> std::string {
        if (!after(who, c)) return race("writes", c, o, "w");
        if (!after(who, c.reads)) return race("writes", c, o, "r");
        if (!after(who, c.updates)) return race("writes", c, o, "updates");
        c.epoch = epoch_, c.time = who.now();
        c.warp = static_cast<int16_t>(who.warp), c.lane = static_cast<int16_t>(who.lane);
        c.reads.lanes = c.updates.lanes = 0;
        return "";
    });
}
std::string SharedMemory::update(const Who& who, uint32_t offset, uint32_t bytes) {
    return for_each_cell(offset, bytes, [&](Cell& c, uint32_t o) -> std::string {
        if (!after(who, c)) return race("updates", c, o, "w");
        if (c.epoch < first_epoch_)
            return "updates byte " + std::to_string(o) + " of shared memory, which nobody wrote";
        if (!after(who, c.reads)) return race("updates", c, o, "r");
        add(who, c.updates);
        return "";
    });
}
std::string SharedMemory::begin_copy(const Who& who, uint32_t offset, uint32_t bytes) {
    std::string wrong = write(who, offset, bytes);
    if (wrong.empty()) for_each_cell(offset, bytes, [](Cell& c, uint32_t) { return c.copying = true, std::string(); });
    return wrong;
}
void SharedMemory::end_copy(const Who& who, uint32_t offset, uint32_t bytes) {
    for_each_cell(offset, bytes, [&](Cell& c, uint32_t) {
        c.epoch = epoch_, c.time = who.now(), c.copying = false;
        return std::string();
    });
}

}  // namespace ptx
