// Threads that wait for each other: collectives of a warp (shuffle, vote, mma, __syncwarp) and barriers of the block. A
// barrier that some do not reach, a wrong mask, two barriers that cross: each ends the launch with a message.
#include <set>

#include "test/cudahost/fibres.h"

namespace cudahost {

namespace {

bool same(const Site& a, const Site& b) {
    return a.line() == b.line() && (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}

// ---- what tests ask of barriers ----

using Seen = std::tuple<const char*, uint32_t, bool>;
std::set<Seen> seen;
Seen newest;  // most barriers are the same as the one before
void see(const Site& where, bool of_warp) {
    Seen now{where.file_name(), where.line(), of_warp};
    if (now != newest) seen.insert(newest = now);
}
Barrier skipped{"", 0, false};
bool skips(const Site& where) {
    return skipped.line && static_cast<int>(where.line()) == skipped.line && skipped.file == where.file_name();
}

// ---- going on ----

// Lanes of the gathering go on if all that it waits for have come, or ended.
bool complete_if_all_here(Warp& warp, int which) {
    Gathering g = warp.gatherings[which];
    if (g.here != (g.mask & warp.alive)) return false;
    warp.gatherings[which] = warp.gatherings[--warp.gathering_count];
    g.complete(warp.data, g.here);
    block.make_ready(warp, g.here);
    return true;
}

void complete_barrier_if_all_here() {
    BlockBarrier& barrier = block.barrier;
    if (barrier.here == 0 || barrier.here < block.alive) return;
    see(barrier.where, false);
    switch (barrier.vote) {
        case Vote::none:
            break;
        case Vote::any:
            barrier.result = barrier.sum > 0;
            break;
        case Vote::all:
            barrier.result = barrier.sum == barrier.here;
            break;
        case Vote::count:
            barrier.result = barrier.sum;
            break;
    }
    barrier.here = barrier.sum = 0;
    for (int w = 0; w < block.warp_count; w++) block.make_ready(block.warps[w], block.warps[w].alive);
    shuffle_warps();
    block.paused = pause_one_in && schedule.random.chance(pause_one_in);
}

}  // namespace

void complete_without(int thread) {
    Warp& warp = block.warps[thread / 32];
    block.alive--;
    warp.alive &= ~(1u << thread % 32);
    for (int i = 0; i < warp.gathering_count;)
        if (!complete_if_all_here(warp, i)) i++;
    complete_barrier_if_all_here();
}

std::string describe_deadlock() {
    std::string text;
    int mentioned = 0, first_there = -1;
    for (int i = 0; i < block.thread_count && first_there < 0; i++) {
        const Fibre& f = fibres[i];
        if (!f.done && f.mask == 0) first_there = i;
    }
    const BlockBarrier& barrier = block.barrier;
    if (first_there >= 0 && barrier.here < block.alive)
        text = format("not all threads reach %s() at %s: %d of the block's %d are there, %s is the first of them",
                      barrier.what, at(barrier.where).c_str(), barrier.here, block.alive,
                      thread_name(first_there).c_str());
    for (int w = 0; w < block.warp_count; w++)
        for (int i = 0; i < block.warps[w].gathering_count; i++) {
            const Gathering& g = block.warps[w].gatherings[i];
            if (mentioned++ == 4) return text + "; ...";
            text += format("%s%s waits in %s() at %s for lanes 0x%08x, and only 0x%08x are there",
                           text.empty() ? "" : "; ", thread_name(w * 32 + std::countr_zero(g.here)).c_str(), g.what,
                           at(g.where).c_str(), g.mask, g.here);
        }
    return text;
}

// ---- warps ----

namespace {

// What ends a launch, apart, so that the way of the others stays short.
[[gnu::cold, gnu::noinline, noreturn]] void outside_of_kernel(const char* what, const Site& where) {
    throw Bug(format("%s() outside of a kernel at %s", what, at(where).c_str()));
}
[[gnu::cold, gnu::noinline, noreturn]] void mask_lacks_caller(const char* what, uint32_t mask, const Site& where) {
    fail(format("%s() at %s: the mask 0x%08x lacks the calling lane %d", what, at(where).c_str(), mask, current_lane));
}
[[gnu::cold, gnu::noinline, noreturn]] void another_waits(const char* what, uint32_t mask, const Site& where,
                                                          const Gathering& g) {
    fail(format("%s() at %s with mask 0x%08x, while lane %d of the same warp is in %s() at %s with mask 0x%08x", what,
                at(where).c_str(), mask, std::countr_zero(g.here & mask), g.what, at(g.where).c_str(), g.mask));
}
[[gnu::cold, gnu::noinline, noreturn]] void needs_full_warp(const char* what, const Site& where, uint32_t alive) {
    fail(format("%s at %s needs all 32 lanes; 0x%08x are alive", what, at(where).c_str(), alive));
}

}  // namespace

void warp_collective(const char* what, uint32_t mask, void* data, Complete complete, Site where) {
    if (!current) outside_of_kernel(what, where);
    Fibre& self = *current;
    Warp& warp = block.warps[self.number / 32];
    uint32_t bit = 1u << self.number % 32;
    if (!(mask & bit)) mask_lacks_caller(what, mask, where);
    int mine = warp.gathering_count;
    for (int i = 0; i < warp.gathering_count; i++) {
        const Gathering& g = warp.gatherings[i];
        if (g.what == what && g.mask == mask && g.complete == complete && same(g.where, where)) mine = i;
        else if ((g.here & mask) && (g.mask & bit)) another_waits(what, mask, where, g);
    }
    if (mine == warp.gathering_count) warp.gatherings[warp.gathering_count++] = {what, mask, 0, where, complete};
    warp.gatherings[mine].here |= bit;
    warp.data[self.number % 32] = data;
    self.mask = mask;
    complete_if_all_here(warp, mine);
    run_others();
}

void full_warp_collective(const char* what, void* data, Complete complete, Site where) {
    if (current && block.warps[current->number / 32].alive != ~0u)
        needs_full_warp(what, where, block.warps[current->number / 32].alive);
    warp_collective(what, ~0u, data, complete, where);
}

void sync_warp(uint32_t mask, Site where) {
    if (skips(where)) return;
    see(where, true);
    warp_collective(
        "__syncwarp", mask, nullptr, [](void* const(&)[32], uint32_t) {}, where);
}

// ---- the block ----

int block_barrier(const char* what, Vote vote, int predicate, Site where) {
    if (!current) outside_of_kernel(what, where);
    if (skips(where)) return predicate != 0;
    BlockBarrier& barrier = block.barrier;
    if (barrier.here > 0 && (!same(barrier.where, where) || barrier.vote != vote))
        fail(format("%s() at %s, while other threads of the block are at %s() at %s", what, at(where).c_str(),
                    barrier.what, at(barrier.where).c_str()));
    Fibre& self = *current;
    self.mask = 0;
    barrier.what = what, barrier.vote = vote, barrier.where = where;
    barrier.here++, barrier.sum += predicate != 0;
    complete_barrier_if_all_here();
    run_others();
    return barrier.result;
}

void skip_barrier(const std::string& file, int line) { skipped = {file, line, false}; }
std::vector<Barrier> barriers_seen() {
    std::set<Barrier> distinct;
    for (auto [file, line, of_warp] : seen) distinct.insert({file, static_cast<int>(line), of_warp});
    return {distinct.begin(), distinct.end()};
}
void clear_barriers_seen() { seen.clear(), newest = {}; }

}  // namespace cudahost
