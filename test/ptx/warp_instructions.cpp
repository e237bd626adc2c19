// PTX ISA: Parallel Synchronization and Communication Instructions: shfl, vote, activemask, bar, barrier, membar; Control Flow
// Instructions: exit, ret; Miscellaneous Instructions: trap. Who waits for whom: machine.cpp.
#include "test/ptx/opcode.h"

namespace ptx {

namespace {

enum Mode { up, down, butterfly, index };

// shfl.sync.mode.b32 d{|p}, a, b, c, membermask
void shuffle(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t s1[32], s2[32], s3[32], out[32], found = 0;
    const uint32_t *a = source<uint32_t>(w, i.operands[1], s1), *b = source<uint32_t>(w, i.operands[2], s2);
    const uint32_t* c = source<uint32_t>(w, i.operands[3], s3);
    for_each_lane(lanes, [&](int l) {
        int by = b[l] & 0x1f, clamp = c[l] & 0x1f, segment = c[l] >> 8 & 0x1f;
        int most = (l & segment) | (clamp & ~segment), least = l & segment, from = 0;
        switch (i.option) {
            case up:
                from = l - by;
                break;
            case down:
                from = l + by;
                break;
            case butterfly:
                from = l ^ by;
                break;
            case index:
                from = least | (by & ~segment);
                break;
        }
        bool inside = i.option == up ? from >= most : from <= most;
        if (!inside) from = l;
        if (!(lanes >> from & 1)) fail(w, l, "takes from lane " + std::to_string(from) + ", which does not take part");
        out[l] = a[from];
        found |= uint32_t{inside} << l;
    });
    const Operand& to = i.operands[0];
    if (to.kind != Operand::Kind::list) return result<uint32_t>(w, to, out, lanes);
    result<uint32_t>(w, to.list[0], out, lanes);
    set_predicate(w, to.list[1], found, lanes);
}

enum Vote { all, any, uniform, ballot };

// vote.sync.mode.pred d, {!}a, membermask
void vote(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t yes = predicate(w, i.operands[1]) & lanes, out[32];
    if (i.option == ballot) {
        for (uint32_t& o : out) o = yes;
        return result<uint32_t>(w, i.operands[0], out, lanes);
    }
    bool is_all = yes == lanes, r = i.option == all ? is_all : i.option == any ? yes != 0 : is_all || !yes;
    set_predicate(w, i.operands[0], r ? ~0u : 0, lanes);
}
void active_mask(Warp& w, const Instruction& i, uint32_t lanes) {
    uint32_t out[32];
    for (uint32_t& o : out) o = lanes;
    result<uint32_t>(w, i.operands[0], out, lanes);
}

void meet(Warp& w, const Instruction&, uint32_t lanes) { w.clocks.meet(lanes); }

enum Reduction { none, either, both, count };

void end_of_barrier(Warp& w, const Instruction& i, uint32_t lanes) {
    const Block& b = *w.block;
    if (i.option == count) {
        uint32_t out[32];
        for (uint32_t& o : out) o = static_cast<uint32_t>(b.votes);
        result<uint32_t>(w, i.operands[0], out, lanes);
    } else if (i.option) {
        set_predicate(w, i.operands[0], (i.option == either ? b.votes > 0 : b.votes == b.voters) ? ~0u : 0, lanes);
    }
}

void nothing(Warp&, const Instruction&, uint32_t) {}
void trap(Warp& w, const Instruction&, uint32_t lanes) { fail(w, std::countr_zero(lanes), "trap"); }

}  // namespace

void decode_warp(Instruction& i, Opcode& o) {
    auto is = [&](std::string_view name) { return o.name == name; };
    if (is("shfl") && o.take("sync")) {
        i.flow = Flow::collective;
        i.option = o.take("up") ? up : o.take("down") ? down : o.take("bfly") ? butterfly : o.take("idx") ? index : -1;
        if (i.option >= 0 && i.operands.size() == 5) i.run = shuffle;
    } else if (is("vote") && o.take("sync")) {
        i.flow = Flow::collective;
        i.option = o.take("all") ? all : o.take("any") ? any : o.take("uni") ? uniform : o.take("ballot") ? ballot : -1;
        if (i.option >= 0 && i.operands.size() == 3) i.run = vote;
    } else if (is("activemask")) {
        i.run = active_mask;
    } else if (is("bar") && o.take("warp") && o.take("sync")) {
        i.flow = Flow::collective;
        i.run = meet;
    } else if (is("bar") || is("barrier")) {  // bar.sync a; bar.red.or.pred p, a, {!}b. All threads take part.
        i.flow = Flow::barrier;
        i.all_lanes = o.take("aligned") || is("bar");
        o.take("cta");
        if (o.take("red")) i.option = o.take("or") ? either : o.take("and") ? both : o.take("popc") ? count : -1;
        else if (!o.take("sync")) return;
        size_t number = i.option ? 1 : 0;
        if (i.option >= 0 && i.operands.size() == (i.option ? 3 : 1) &&
            i.operands[number].kind == Operand::Kind::immediate)
            i.run = end_of_barrier;
    } else if (is("membar") || is("fence")) {  // accesses to shared memory: fences alone order nothing
        o.take_any({"cta", "gl", "gpu", "sys", "sc", "acq_rel"});
        i.run = nothing;
    } else if (is("ret") || is("exit")) {
        i.flow = Flow::exit;
        i.run = nothing;
    } else if (is("trap")) {
        i.run = trap;
    }
}

}  // namespace ptx
