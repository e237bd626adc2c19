// PTX ISA: Data Movement and Conversion Instructions: Asynchronous copy: cp.async. A copy lands as late as it may, at the
// wait; what happens to its bytes before is a race (races.h).
#include "test/ptx/access.h"

namespace ptx {

namespace {

// cp.async.cg.shared.global [to], [from], 16{, size}: of 16 bytes `size` are read, the rest is zeros
void begin(Warp& w, const Instruction& i, uint32_t lanes) {
    uint64_t to[32], from[32];
    uint32_t scratch[32];
    addresses(w, i.operands[0], to);
    addresses(w, i.operands[1], from);
    const uint32_t bytes = static_cast<uint32_t>(i.operands[2].value);
    const uint32_t* size = i.operands.size() > 3 ? source<uint32_t>(w, i.operands[3], scratch) : nullptr;
    for_each_lane(lanes, [&](int l) {
        uint32_t read = size ? size[l] : bytes;
        if (read > bytes) fail(w, l, "copies more bytes than it writes");
        if (from[l] % bytes) fail(w, l, "copies from a misaligned address");
        const char* p = reinterpret_cast<const char*>(from[l]);
        if (read) {
            std::string wrong = w.block->memory.check(from[l], read);
            if (wrong.empty() && !w.block->memory.written(from[l], read, ~0ull)) wrong = "was written by nobody";
            if (!wrong.empty()) fail(w, l, "copies " + std::to_string(read) + " bytes from memory that " + wrong);
        }
        uint32_t offset = shared_offset(w, l, to[l], bytes);
        std::string wrong = w.block->shared.begin_copy(who(w, l), offset, bytes);
        if (!wrong.empty()) fail(w, l, wrong);
        w.copies[l].open.push_back({offset, p, bytes, read});
    });
}
void commit(Warp& w, const Instruction&, uint32_t lanes) {
    for_each_lane(lanes, [&](int l) {
        w.copies[l].groups.push_back(std::move(w.copies[l].open));
        w.copies[l].open.clear();
    });
}
void land(Warp& w, int lane, const std::vector<Copies::Copy>& group) {
    SharedMemory& shared = w.block->shared;
    for (const auto& copy : group) {
        std::memset(shared.at(copy.to), 0, copy.bytes);
        if (copy.read) std::memcpy(shared.at(copy.to), copy.from, copy.read);
        shared.end_copy(who(w, lane), copy.to, copy.bytes);
    }
}
// cp.async.wait_group N: at most the N newest groups are still under way; wait_all: none, nor what was not committed
void wait(Warp& w, const Instruction& i, uint32_t lanes) {
    const bool all = i.operands.empty();
    const size_t pending = all ? 0 : i.operands[0].value;
    for_each_lane(lanes, [&](int l) {
        Copies& c = w.copies[l];
        for (; c.groups.size() > pending; c.groups.pop_front()) land(w, l, c.groups.front());
        if (all) land(w, l, c.open), c.open.clear();
    });
}

}  // namespace

void decode_copy(Instruction& i, Opcode& o) {
    if (o.name != "cp" || !o.take("async")) return;
    if (o.take("commit_group")) i.run = commit;
    else if (o.take("wait_group") || o.take("wait_all")) i.run = wait;
    else if ((o.take("cg") || o.take("ca")) && o.take("global") && (o.take("shared") || o.take("shared::cta")) &&
             i.operands.size() >= 3 && i.operands[2].kind == Operand::Kind::immediate) {
        o.take_any({"L2::64B", "L2::128B", "L2::256B"});
        i.run = begin;
    }
}

}  // namespace ptx
