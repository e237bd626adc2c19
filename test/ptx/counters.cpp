#include "test/ptx/counters.h"

#include <algorithm>
#include <bit>
#include <string_view>

#include "test/ptx/access.h"

namespace ptx {

namespace {

constexpr uint64_t kSector = 32;

// "ld.global.v4.f32" of "@%p1 ld.global.v4.f32 {...}"
std::vector<std::string_view> words_of(const Instruction& i) {
    std::string_view text = i.text;
    size_t begin = text.find_first_not_of(" \t\n");
    if (begin != std::string_view::npos && text[begin] == '@')
        begin = text.find_first_not_of(" \t\n", text.find_first_of(" \t\n", begin));
    if (begin == std::string_view::npos) return {};
    text = text.substr(begin, text.find_first_of(" \t\n;", begin) - begin);
    std::vector<std::string_view> words;
    for (size_t at = 0; at <= text.size();) {
        size_t end = std::min(text.find('.', at), text.size());
        words.push_back(text.substr(at, end - at));
        at = end + 1;
    }
    return words;
}

bool among(std::string_view word, std::initializer_list<std::string_view> list) {
    return std::find(list.begin(), list.end(), word) != list.end();
}

// Integers of 64 bits are two registers: two instructions for what is bit by bit or carries, three for a product's low half. Quotients and
// roots that are rounded to nearest are a special function and Newton steps; ptxas' own expansions are about that long. Moves are
// mostly gone, parameters are operands (constant bank).
Kind kind_of(const Instruction& i) {
    const auto words = words_of(i);
    if (words.empty()) return {};
    const std::string_view name = words[0];
    auto has = [&](std::string_view word) { return std::find(words.begin(), words.end(), word) != words.end(); };
    const bool wide = i.type.bits == 64, real = i.type.kind == 'f' || i.type.kind == 'h';
    const Class of = real ? Class::real : Class::integer;

    if (among(name, {"bra", "ret", "exit", "trap"})) return {Class::control, 1};
    if (among(name, {"bar", "barrier"})) return {has("warp") ? Class::exchange : Class::barrier, 1};
    if (among(name, {"membar", "fence"})) return {Class::barrier, 1};
    if (among(name, {"shfl", "vote", "activemask"})) return {Class::exchange, 1};
    if (name == "mma") return {Class::tensor, 1};
    if (name == "ldmatrix") return {Class::shared, 1};
    if (name == "cp")
        return {has("commit_group") || has("wait_group") || has("wait_all") ? Class::control : Class::global, 1};
    if (among(name, {"ld", "st", "atom", "red"})) {
        if (i.space == Space::param) return {};
        return {i.space == Space::shared ? Class::shared : i.space == Space::local ? Class::local : Class::global, 1};
    }
    if (name == "mov") {
        bool special = i.operands.size() > 1 && i.operands[1].kind == Operand::Kind::special;
        return special ? Kind{Class::integer, 1} : Kind{};
    }
    if (name == "cvta") return {};
    if (name == "cvt") {
        bool sizes_only =
            !real && i.from.kind != 'f' && i.from.kind != 'h';  // between integers: a register more or less
        return {of, sizes_only ? (i.from.kind == 's' && wide ? 1.0 : 0.0) : 1.0};
    }
    if (among(name, {"ex2", "tanh"})) return {Class::special, name == "ex2" && !has("ftz") ? 3.0 : 1.0, 1};
    if (among(name, {"lg2", "rsqrt", "sin", "cos"})) return {Class::special, has("ftz") ? 1.0 : 3.0, 1};
    if (name == "rcp" || name == "sqrt" || (name == "div" && real)) {
        if (has("approx")) return {Class::special, name == "rcp" ? 1.0 : 2.0, 1};
        return {Class::special, has("full") ? 4.0 : 9.0, 1};
    }
    if (name == "div" || name == "rem") return {Class::integer, wide ? 70.0 : 18.0, 1};
    if (!wide || real || has("wide")) return {of, 1};
    if (name == "mul" || name == "mad") return {of, 3};
    return {of, 2};
}

}  // namespace

const char* name_of(Class c) {
    constexpr const char* names[] = {"none",   "integer", "float",    "special", "tensor", "shared",
                                     "global", "local",   "exchange", "barrier", "control"};
    return names[static_cast<int>(c)];
}

std::vector<Kind> kinds_of(const Kernel& kernel) {
    const auto& code = kernel.code;
    std::vector<Kind> kinds;
    std::map<int, std::vector<const Instruction*>> users;  // by row
    for (const Instruction& i : code) {
        kinds.push_back(kind_of(i));
        for (int row : i.uses) users[row].push_back(&i);
    }
    for (size_t n = 0; n < code.size(); n++) {
        const Instruction& i = code[n];
        const auto words = words_of(i);
        if (words.empty() || kinds[n].slots == 0) continue;
        if (words.back() == "pred" && kinds[n].of == Class::integer) kinds[n].slots = 0;
        if (i.defines.size() != 1 || users[i.defines[0]].empty()) continue;
        auto all_users = [&](auto is) {
            return std::all_of(users[i.defines[0]].begin(), users[i.defines[0]].end(),
                               [&](const Instruction* u) { return is(*u, words_of(*u)[0]); });
        };
        auto is_sum = [](const Instruction& u, std::string_view name) {
            return name == "add" || (name == "sub" && u.type.kind != 'u');
        };
        auto is_address = [&](const Instruction& u, std::string_view) {
            return std::any_of(u.operands.begin(), u.operands.end(), [&](const Operand& o) {
                return o.kind == Operand::Kind::address && o.index == i.defines[0];
            });
        };
        auto immediate = [&](size_t operand) {
            return i.operands.size() > operand && i.operands[operand].kind == Operand::Kind::immediate;
        };
        const bool contracted = words[0] == "mul" && !among(words[1], {"rn", "hi"});
        const bool shifted = words[0] == "shl" && immediate(2),
                   widened = words[0] == "cvt" && kinds[n].of == Class::integer;
        const bool offset = words[0] == "add" && immediate(2);
        if (((contracted || shifted || widened) && all_users(is_sum)) || (offset && all_users(is_address)))
            kinds[n].slots = 0;
    }
    return kinds;
}

uint32_t wavefronts(const uint64_t* address, uint32_t lanes, uint32_t bytes, uint32_t* parts) {
    const int width = bytes <= 4 ? 32 : bytes <= 8 ? 16 : 8;  // lanes that go together
    uint32_t sum = 0;
    *parts = 0;
    for (int begin = 0; begin < 32; begin += width) {
        uint64_t words[96];
        int n = 0;
        for (int l = begin; l < begin + width; l++)
            if (lanes >> l & 1)
                for (uint64_t w = address[l] / 4; w <= (address[l] + bytes - 1) / 4; w++) words[n++] = w;
        if (n == 0) continue;
        std::sort(words, words + n);
        n = static_cast<int>(std::unique(words, words + n) - words);
        uint32_t of_bank[32] = {}, most = 0;
        for (int k = 0; k < n; k++) most = std::max(most, ++of_bank[words[k] % 32]);
        sum += most, ++*parts;
    }
    return sum;
}

void Counters::start_block(const Kernel& kernel) {
    if (kernel_ != &kernel) {
        kernel_ = &kernel;
        at.assign(kernel.code.size(), {});
        kinds_ = kinds_of(kernel);
        tensors_.clear(), blocks = 0;
    }
    blocks++;
    near_.clear(), order_.clear();
}

bool Counters::is_near(uint64_t sector) {
    if (!near_.insert(sector).second) return true;
    order_.push_back(sector);
    if (order_.size() > kNear) near_.erase(order_.front()), order_.pop_front();
    return false;
}

// bytes: of each lane
void Counters::count_global(Warp& w, const Operand& o, uint32_t lanes, const uint32_t* bytes, bool reads, bool writes,
                            bool cached) {
    uint64_t a[32], used = 0, end = 0, last = ~0ull;
    addresses(w, o, a);
    int order[32], n = 0;
    for_each_lane(lanes, [&](int l) {
        if (bytes[l]) order[n++] = l;
    });
    if (n == 0) return;
    std::sort(order, order + n, [&](int x, int y) { return a[x] < a[y]; });
    Traffic* tensor = nullptr;
    uint64_t tensor_begin = 1, tensor_end = 0;
    now_->requests++;
    for (int k = 0; k < n; k++) {
        const uint64_t from = a[order[k]], to = from + bytes[order[k]];
        if (to > end) used += to - std::max(from, end), end = to;
        for (uint64_t s = from / kSector; s <= (to - 1) / kSector; s++) {
            if (last != ~0ull && s <= last) continue;
            last = s;
            now_->sectors++;
            if (from < tensor_begin || from >= tensor_end) {
                std::tie(tensor_begin, tensor_end) = w.block->memory.tensor(from);
                tensor = &tensors_[tensor_begin];
                tensor->bytes = tensor_end - tensor_begin;
            }
            if (writes) tensor->written.insert(s);
            if (reads && cached && is_near(s)) continue;
            if (reads) tensor->read.insert(s);
            now_->far++;
        }
    }
    now_->least_sectors += (used + kSector - 1) / kSector;
}

void Counters::count(Warp& w, const Instruction& i, uint32_t lanes) {
    const size_t index = static_cast<size_t>(&i - kernel_->code.data());
    now_ = &at[index];
    now_->warps++;
    now_->lanes += static_cast<uint64_t>(std::popcount(lanes));
    const Class of = kinds_[index].of;
    if (!lanes || (of != Class::shared && of != Class::global)) return;
    auto count_shared = [&](const Operand& o, uint32_t who, uint32_t bytes) {
        uint64_t a[32];
        uint32_t parts = 0;
        addresses(w, o, a);
        now_->wavefronts += wavefronts(a, who, bytes, &parts);
        now_->least_wavefronts += parts;
    };
    uint32_t bytes[32];
    const std::string_view name = words_of(i)[0];
    if (name == "ldmatrix") return count_shared(i.operands[1], i.count == 4 ? ~0u : (1u << 8 * i.count) - 1, 16);
    if (name == "cp") {  // cp.async [to], [from], bytes{, size}
        const auto whole = static_cast<uint32_t>(i.operands[2].value);
        uint32_t scratch[32];
        const uint32_t* size = i.operands.size() > 3 ? source<uint32_t>(w, i.operands[3], scratch) : nullptr;
        for (int l = 0; l < 32; l++) bytes[l] = size ? std::min(size[l], whole) : whole;
        count_global(w, i.operands[1], lanes, bytes, true, false, i.text.find(".ca.") != std::string::npos);
        return count_shared(i.operands[0], lanes, whole);
    }
    const bool reads = name != "st", writes = name != "ld";
    const Operand& o = i.operands[name == "ld" || name == "atom" ? 1 : 0];
    const auto each = static_cast<uint32_t>(i.type.bytes() * i.count);
    if (of == Class::shared) return count_shared(o, lanes, each);
    std::fill(bytes, bytes + 32, each);
    count_global(w, o, lanes, bytes, reads, writes, name == "ld");
}

Totals Counters::totals(uint64_t grid) const {
    Totals t;
    const double scale = grid && blocks ? static_cast<double>(grid) / static_cast<double>(blocks) : 1;
    auto times = [&](uint64_t n) { return scale * static_cast<double>(n); };
    for (size_t n = 0; n < at.size(); n++) {
        const Kind k = kinds_[n];
        const Tally& a = at[n];
        const double warps = times(a.warps);
        t.slots += warps * k.slots, t.slots_of[static_cast<int>(k.of)] += warps * k.slots;
        t.special += warps * k.special;
        if (k.of == Class::tensor) t.tensor += warps;
        if (k.of == Class::barrier) t.barriers += warps;
        if (k.slots > 0) t.warps += warps, t.lanes += times(a.lanes);
        t.requests += times(a.requests), t.sectors += times(a.sectors), t.least_sectors += times(a.least_sectors);
        t.far += times(a.far), t.wavefronts += times(a.wavefronts), t.least_wavefronts += times(a.least_wavefronts);
    }
    for (const auto& [begin, tensor] : tensors_) {
        const double all = static_cast<double>(kSector * ((tensor.bytes + kSector - 1) / kSector));
        for (const auto* sectors : {&tensor.read, &tensor.written})
            t.dram_bytes += std::min(all, times(sectors->size() * kSector));
    }
    return t;
}

}  // namespace ptx
