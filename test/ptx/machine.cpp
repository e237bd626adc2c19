#include "test/ptx/machine.h"

#include <algorithm>
#include <bit>

namespace ptx {

namespace {

std::string text_of(const char* format, auto... values) {
    char out[512];
    snprintf(out, sizeof out, format, values...);
    return out;
}
std::string trimmed(std::string text) {
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text.substr(0, 160);
}
std::string place(const Kernel& kernel, const Instruction& i) {
    std::string source;
    if (kernel.files && i.file > 0 && i.file < static_cast<int>(kernel.files->size()))
        source = (*kernel.files)[i.file] + ":" + std::to_string(i.source_line) + ", ";
    return source + text_of("PTX line %d: ", i.line) + trimmed(i.text);
}
std::string block_name(const Block& b) {
    return text_of("%s, block (%u,%u,%u)", b.kernel.demangled.c_str(), b.index.x, b.index.y, b.index.z);
}
Dim thread_index(const Warp& warp, int lane) {
    Dim d = warp.block->launch.block;
    uint32_t n = static_cast<uint32_t>(warp.number * 32 + lane);
    return {n % d.x, n / d.x % d.y, n / d.x / d.y};
}
std::string thread_name(const Warp& warp, int lane) {
    Dim t = thread_index(warp, lane);
    return text_of("thread (%u,%u,%u)", t.x, t.y, t.z);
}

// ---- paths: Control Flow Instructions ----

int new_split(Warp& w, const Split& split) {
    if (w.free_splits.empty()) return w.splits.push_back(split), static_cast<int>(w.splits.size()) - 1;
    int s = w.free_splits.back();
    w.free_splits.pop_back();
    w.splits[s] = split;
    return s;
}
// All lanes that are still expected at s have come: they go on together.
bool meet(Warp& w, int s) {
    Split& split = w.splits[s];
    if (!split.arrived || split.arrived != split.expected) return false;
    w.paths.push_back({split.arrived, 0, split.at, split.parent, Path::ready});
    split.arrived = split.expected = 0;
    w.free_splits.push_back(s);
    return true;
}
void exit_lanes(Warp& w, Path& path, uint32_t lanes) {
    w.alive &= ~lanes;
    path.lanes &= ~lanes;
    for (int s = path.split; s >= 0;) {
        int parent = w.splits[s].parent;
        w.splits[s].expected &= ~lanes;
        if (s != 0) meet(w, s);
        s = parent;
    }
}
void check_defined(const Warp& w, const Instruction& i, uint32_t lanes) {
    for (int r : i.uses)
        if (uint32_t bad = lanes & ~w.defined[r]) fail(w, std::countr_zero(bad), "reads a register that nobody wrote");
    for (int p : i.predicate_uses)
        if (uint32_t bad = lanes & ~w.predicate_defined[p])
            fail(w, std::countr_zero(bad), "reads a predicate that nobody wrote");
}
// Lanes in which the result is defined.
uint32_t defined_lanes(const Warp& w, const Instruction& i) {
    auto of = [&](const Operand& o) {
        if (o.index < 0 || o.kind == Operand::Kind::special) return ~0u;
        return o.kind == Operand::Kind::predicate ? w.predicate_defined[o.index] : w.defined[o.index];
    };
    if (i.defined == Defined::must_be) return ~0u;
    if (i.defined == Defined::by_selection) {
        uint32_t p = predicate(w, i.operands[3]);
        return of(i.operands[3]) & ((p & of(i.operands[1])) | (~p & of(i.operands[2])));
    }
    uint32_t all = ~0u;
    for (int r : i.uses) all &= w.defined[r];
    for (int p : i.predicate_uses) all &= w.predicate_defined[p];
    if (i.defined == Defined::by_all_sources) return all;
    const Operand &a = i.operands[1], &b = i.operands[2];
    uint32_t flip = i.defined == Defined::by_or ? ~0u : 0;  // lanes in which one source decides
    return all | (of(a) & ~(predicate(w, a) ^ flip)) | (of(b) & ~(predicate(w, b) ^ flip));
}
void note_defined(Warp& w, const Instruction& i, uint32_t lanes, uint32_t good) {
    for (int r : i.defines) w.defined[r] = (w.defined[r] & ~lanes) | (lanes & good);
    for (int p : i.predicate_defines) w.predicate_defined[p] = (w.predicate_defined[p] & ~lanes) | (lanes & good);
}

// Lanes that wait at the same collective, all that the mask of one of them names: it happens.
void try_collective(Warp& w, int pc) {
    const Instruction& i = w.block->kernel.code[pc];
    uint32_t waiting = 0, masks[32], scratch[32];
    for (const Path& p : w.paths)
        if (p.state == Path::at_collective && p.pc == pc) waiting |= p.pending;
    std::memcpy(masks, source(w, i.operands.back(), scratch), sizeof masks);
    for (uint32_t left = waiting; left;) {
        int first = std::countr_zero(left);
        uint32_t mask = masks[first], same = 0;
        for_each_lane(waiting, [&](int l) { same |= uint32_t{masks[l] == mask} << l; });
        left &= ~same;
        for_each_lane(same, [&](int l) {
            if (!(mask >> l & 1)) fail(w, l, text_of("its mask %08x does not name the lane itself", mask));
        });
        if (mask & w.alive & ~same) continue;
        w.now = &i;
        i.run(w, i, same);
        note_defined(w, i, same, same);
        for (Path& p : w.paths)
            if (p.state == Path::at_collective && p.pc == pc) p.pending &= ~same;
    }
    for (Path& p : w.paths)
        if (p.state == Path::at_collective && p.pc == pc && !p.pending) p.state = Path::ready, p.pc++;
}

void arrive_at_barrier(Warp& w, Path& path, const Instruction& i, uint32_t lanes) {
    Block& b = *w.block;
    int number = i.operands.empty() ? 0 : static_cast<int>(i.operands[i.option ? 1 : 0].value);
    if (i.all_lanes && lanes != w.alive)
        fail(w, std::countr_zero(lanes),
             "is .aligned, but not all lanes of the warp execute it: not " +
                 thread_name(w, std::countr_zero(w.alive & ~lanes)));
    if (b.arrived && b.barrier != number)
        fail(w, std::countr_zero(lanes), text_of("waits at barrier %d while others wait at %d", number, b.barrier));
    b.barrier = number;
    b.arrived += std::popcount(lanes);
    if (i.option) {
        b.votes += std::popcount(lanes & predicate(w, i.operands[2]));
        b.voters += std::popcount(lanes);
    }
    path.state = Path::at_barrier;
    path.pending = lanes;
}

// Runs the path until it waits, ends, or meets others. It may be gone, or moved, then.
void run_path(Warp& w, size_t n) {
    Block& b = *w.block;
    const auto& code = b.kernel.code;
    for (;;) {
        Path& path = w.paths[n];
        if (path.pc == w.splits[path.split].at) {
            int s = path.split;
            w.splits[s].arrived |= path.lanes;
            w.paths.erase(w.paths.begin() + static_cast<long>(n));
            meet(w, s);
            return;
        }
        if (path.pc >= static_cast<int>(code.size())) {
            exit_lanes(w, path, path.lanes);
            w.paths.erase(std::find_if(w.paths.begin(), w.paths.end(), [](const Path& p) { return !p.lanes; }));
            return;
        }
        const Instruction& i = code[path.pc];
        w.now = &i;
        if (++b.steps > b.launch.most_steps) fail(w, std::countr_zero(path.lanes), "does not end");
        uint32_t lanes = path.lanes;
        if (i.guard >= 0) {
            if (uint32_t bad = lanes & ~w.predicate_defined[i.guard])
                fail(w, std::countr_zero(bad), "reads a predicate that nobody wrote");
            uint32_t p = w.predicates[i.guard];
            lanes &= i.guard_negated ? ~p : p;
        }
        if (lanes && i.defined == Defined::must_be) check_defined(w, i, lanes);
        if (b.launch.counters) b.launch.counters->count(w, i, lanes);
        switch (i.flow) {
            case Flow::next:
                if (lanes) {
                    uint32_t good = defined_lanes(w, i);  // before a source is overwritten
                    i.run(w, i, lanes);
                    note_defined(w, i, lanes, good);
                }
                path.pc++;
                break;
            case Flow::aligned:
                if (lanes != ~0u) {
                    int lane = std::countr_zero(path.lanes);
                    fail(w, lane, text_of("is .aligned, but only lanes %08x of the warp execute it", lanes));
                }
                i.run(w, i, lanes);
                note_defined(w, i, lanes, lanes);
                path.pc++;
                break;
            case Flow::branch: {
                uint32_t others = path.lanes & ~lanes;
                if (!others) {
                    path.pc = i.target;
                } else if (!lanes) {
                    path.pc++;
                } else {
                    if (i.uniform) fail(w, std::countr_zero(lanes), "is .uni, but divides the warp");
                    if (w.splits[path.split].at != i.reconverge)
                        path.split = new_split(w, {i.reconverge, path.split, path.lanes, 0});
                    Path other{others, 0, path.pc + 1, path.split, Path::ready};
                    path.lanes = lanes;
                    path.pc = i.target;
                    w.paths.push_back(other);
                }
                break;
            }
            case Flow::exit:
                path.pc++;
                if (lanes) {
                    uint32_t left = path.lanes & ~lanes;
                    exit_lanes(w, path, lanes);
                    if (!left) {
                        w.paths.erase(
                            std::find_if(w.paths.begin(), w.paths.end(), [](const Path& p) { return !p.lanes; }));
                        return;
                    }
                    return;  // paths may have moved
                }
                break;
            case Flow::collective: {
                if (!lanes) {
                    path.pc++;
                    break;
                }
                path.state = Path::at_collective;
                path.pending = lanes;
                try_collective(w, path.pc);
                if (path.state != Path::ready) return;
                break;
            }
            case Flow::barrier:
                if (!lanes) {
                    path.pc++;
                    break;
                }
                arrive_at_barrier(w, path, i, lanes);
                return;
        }
    }
}

void run_warp(Warp& w) {
    for (bool ran = true; ran;) {
        ran = false;
        for (size_t n = 0; n < w.paths.size(); n++)
            if (w.paths[n].state == Path::ready) {
                run_path(w, n);
                ran = true;
                break;
            }
        if (ran) continue;
        // lanes that have exited may have been the last that others waited for
        for (const Path& p : std::vector<Path>(w.paths))
            if (p.state == Path::at_collective) try_collective(w, p.pc);
        for (const Path& p : w.paths) ran |= p.state == Path::ready;
    }
}

[[noreturn]] void fail_for_deadlock(const Block& b) {
    std::string text = block_name(b) + ": not all threads come to where others wait:";
    int exited = 0;
    for (const Warp& w : b.warps) {
        uint32_t all = b.launch.block.x * b.launch.block.y * b.launch.block.z - w.number * 32u;
        exited += static_cast<int>(std::min(all, 32u)) - std::popcount(w.alive);
    }
    std::map<int, std::pair<int, std::string>> by_pc;
    for (const Warp& w : b.warps)
        for (const Path& p : w.paths) {
            auto& [count, first] = by_pc[p.pc];
            count += std::popcount(p.pending);
            if (first.empty()) first = thread_name(w, std::countr_zero(p.pending));
        }
    for (auto& [pc, who] : by_pc)
        text +=
            text_of("\n  %d wait (%s first) at ", who.first, who.second.c_str()) + place(b.kernel, b.kernel.code[pc]);
    if (exited) text += text_of("\n  %d have ended", exited);
    throw Fault(text);
}

void pass_barrier(Block& b) {
    for (Warp& w : b.warps) {
        for (Path& p : w.paths) {
            const Instruction& i = b.kernel.code[p.pc];
            if (i.option && p.pending) {
                w.now = &i;
                i.run(w, i, p.pending);
                note_defined(w, i, p.pending, p.pending);
            }
            p.state = Path::ready, p.pc++, p.pending = 0;
        }
        w.clocks.start_epoch();
    }
    b.shared.next_epoch();
    b.arrived = b.votes = b.voters = 0;
}

void start_block(Block& b, Dim index, int threads) {
    const Kernel& k = b.kernel;
    b.index = index;
    b.shared.start_block(k.shared_bytes + b.launch.shared_bytes, k.shared_unit);
    b.steps = 0, b.arrived = b.votes = b.voters = 0;
    if (b.launch.counters) b.launch.counters->start_block(k);
    for (size_t n = 0; n < b.warps.size(); n++) {
        Warp& w = b.warps[n];
        int lanes = std::min(32, threads - static_cast<int>(n) * 32);
        w.block = &b;
        w.number = static_cast<int>(n);
        w.alive = lanes == 32 ? ~0u : (1u << lanes) - 1;
        w.rows.resize(static_cast<size_t>(k.rows) * 32);
        w.predicates.assign(k.predicates, 0);
        w.defined.assign(k.rows, 0);
        w.predicate_defined.assign(k.predicates, 0);
        w.splits.assign(1, {-1, -1, w.alive, 0});
        w.free_splits.clear();
        w.paths.assign(1, {w.alive, 0, 0, 0, Path::ready});
        w.clocks.start_epoch();
        for (Copies& c : w.copies) c.open.clear(), c.groups.clear();
        w.local.assign(k.local_bytes * 32, static_cast<char>(0xff));
    }
}

void run_block(Block& b) {
    std::vector<size_t> order(b.warps.size());
    for (size_t i = 0; i < order.size(); i++) order[i] = i;
    for (;;) {
        for (size_t i = order.size(); i-- > 1;) std::swap(order[i], order[b.random() % (i + 1)]);
        int alive = 0;
        for (size_t i : order) run_warp(b.warps[i]);
        for (const Warp& w : b.warps) alive += std::popcount(w.alive);
        if (!alive) return;
        // all threads; strictly, those too that have ended
        int threads = static_cast<int>(b.launch.block.x * b.launch.block.y * b.launch.block.z);
        if (b.arrived != threads) fail_for_deadlock(b);
        pass_barrier(b);
    }
}

}  // namespace

void fail(const Warp& warp, int lane, const std::string& message) {
    throw Fault(block_name(*warp.block) + ", " + thread_name(warp, lane) + ": " + message + "\n  at " +
                place(warp.block->kernel, *warp.now));
}

// ---- Special Registers ----

namespace {
enum Special {
    tid_x,
    tid_y,
    tid_z,
    ntid_x,
    ntid_y,
    ntid_z,
    ctaid_x,
    ctaid_y,
    ctaid_z,
    nctaid_x,
    nctaid_y,
    nctaid_z,
    laneid,
    warpid,
    lanemask_eq,
    lanemask_le,
    lanemask_lt,
    lanemask_ge,
    lanemask_gt
};
constexpr const char* kSpecials[] = {"tid.x",       "tid.y",       "tid.z",       "ntid.x",     "ntid.y",
                                     "ntid.z",      "ctaid.x",     "ctaid.y",     "ctaid.z",    "nctaid.x",
                                     "nctaid.y",    "nctaid.z",    "laneid",      "warpid",     "lanemask_eq",
                                     "lanemask_le", "lanemask_lt", "lanemask_ge", "lanemask_gt"};
uint32_t part(Dim d, int which) { return which == 0 ? d.x : which == 1 ? d.y : d.z; }
}  // namespace

int special_register(const std::string& name) {
    for (size_t i = 0; i < std::size(kSpecials); i++)
        if (name == std::string("%") + kSpecials[i]) return static_cast<int>(i);
    return -1;
}
uint32_t special_value(const Warp& w, int special, int lane) {
    const Block& b = *w.block;
    if (special < ntid_x) return part(thread_index(w, lane), special);
    if (special < ctaid_x) return part(b.launch.block, special - ntid_x);
    if (special < nctaid_x) return part(b.index, special - ctaid_x);
    if (special < laneid) return part(b.launch.grid, special - nctaid_x);
    uint32_t bit = 1u << lane;
    switch (special) {
        case laneid:
            return static_cast<uint32_t>(lane);
        case warpid:
            return static_cast<uint32_t>(w.number);
        case lanemask_eq:
            return bit;
        case lanemask_le:
            return bit | (bit - 1);
        case lanemask_lt:
            return bit - 1;
        case lanemask_ge:
            return ~(bit - 1);
        default:
            return ~(bit | (bit - 1));
    }
}

void launch(Memory& memory, const Kernel& kernel, const Launch& l) {
    uint64_t threads = uint64_t{l.block.x} * l.block.y * l.block.z;
    auto refuse = [&](const std::string& why) { throw Fault(kernel.demangled + ": " + why); };
    if (threads == 0 || threads > static_cast<uint64_t>(kernel.max_threads))
        refuse(text_of("launched with %llu threads a block, its bounds are %d",
                       static_cast<unsigned long long>(threads), kernel.max_threads));
    size_t shared = l.shared_bytes;
    for (const Variable& v : kernel.shared) shared += v.bytes;
    if (shared > kMaxShared) refuse(text_of("%zu bytes of shared memory", shared));
    if (l.args.size() != kernel.params.size())
        refuse(text_of("launched with %zu arguments, it has %zu", l.args.size(), kernel.params.size()));
    Block block{memory, kernel, l, {}, std::string(kernel.param_bytes, '\0'), {}, {}, {}};
    for (size_t i = 0; i < l.args.size(); i++) {
        if (l.args[i].size() != kernel.params[i].bytes)
            refuse(text_of("argument %zu has %zu bytes, the parameter %zu", i + 1, l.args[i].size(),
                           kernel.params[i].bytes));
        block.params.replace(kernel.params[i].offset, kernel.params[i].bytes, l.args[i]);
    }
    block.warps.resize((threads + 31) / 32);
    block.random.state += l.seed * 2;
    auto run_number = [&](uint64_t n) {
        Dim g = l.grid;
        start_block(block,
                    {static_cast<uint32_t>(n % g.x), static_cast<uint32_t>(n / g.x % g.y),
                     static_cast<uint32_t>(n / g.x / g.y)},
                    static_cast<int>(threads));
        run_block(block);
    };
    for (uint64_t n : l.blocks) run_number(n);
    if (l.blocks.empty())
        for (uint64_t n = 0; n < uint64_t{l.grid.x} * l.grid.y * l.grid.z; n++) run_number(n);
}

}  // namespace ptx
