// Runs the blocks of a kernel: threads as fibres, barriers, warp collectives, shared memory, asynchronous copies.
//
// A fibre runs until it waits or ends, and then jumps directly into the next one. Warps have priorities, drawn anew for
// each block, at each block barrier and, in some blocks, now and then between: the first warp that can run does, so
// that one may be far ahead of another, as far as barriers allow. The lanes of a warp run in random order.
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <exception>
#include <map>
#include <memory>
#include <set>

#include "test/cudahost/internal.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cudahost {

int current_lane = 0;
Schedule schedule;

namespace {

namespace context = boost::context::detail;

#if defined(CUDAHOST_ASAN) || !defined(__OPTIMIZE__)
constexpr size_t kStackBytes = 1 << 20;  // address space; pages that are never touched cost nothing
#else
constexpr size_t kStackBytes = 256 << 10;
#endif

struct CopyGroup {
    struct Copy {
        void* to;
        const void* from;  // null: zeros
        size_t bytes;
    };
    std::vector<Copy> copies;
};

struct Fibre {
    context::fcontext_t context = nullptr;
    char* stack = nullptr;  // lowest address
    size_t stack_bytes = 0;
    void* fake_stack = nullptr;  // AddressSanitizer's
    uint3 index{};
    int number = 0;
    bool done = true;
    // What it waits for: a place, and lanes of its warp, or the block (mask 0).
    const char* what = nullptr;
    uint32_t mask = 0;
    Site where;
    // cp.async: copies of closed groups that are still to land, and the open group.
    std::vector<CopyGroup> groups;
    CopyGroup open;
};

// Lanes that wait at the same collective.
struct Gathering {
    const char* what;
    uint32_t mask, here;
    Site where;
    Complete complete;
};
struct Warp {
    uint32_t alive = 0, ready = 0;
    std::vector<Gathering> gatherings;
    void* data[32] = {};
};

bool same(const Site& a, const Site& b) {
    return a.line() == b.line() && (a.file_name() == b.file_name() || !std::strcmp(a.file_name(), b.file_name()));
}
std::string at(const Site& s) { return format("%s:%u", s.file_name(), s.line()); }

// ---- the block that runs ----

const Launch* running = nullptr;
Fibre host;                 // the thread that called
Fibre* current = nullptr;   // null outside of kernels
std::vector<Fibre> fibres;  // kMaxThreads, with their stacks, for all blocks
Warp warps[kMaxThreads / 32];
int warp_order[kMaxThreads / 32], warp_count = 0, thread_count = 0, alive = 0;
uint32_t change_one_in = 0;  // chance of new priorities between two barriers, at each switch; 0: none
std::exception_ptr failure;

struct BlockBarrier {
    int here = 0, sum = 0, result = 0;
    const char* what = nullptr;
    Vote vote = Vote::none;
    Site where;
} barrier;

std::set<std::tuple<const char*, uint32_t, bool>> seen;
Barrier skipped{"", 0, false};
bool skips(const Site& where) {
    return skipped.line && static_cast<int>(where.line()) == skipped.line && skipped.file == where.file_name();
}

// ---- shared memory: dynamic first, then each array at its first use, guarded gaps between ----

constexpr size_t kGap = 256, kSharedBytes = kMaxShared + (64 << 10);
struct Shared {
    char* base = nullptr;
    size_t used = 0, payload = 0;
    char* dynamic = nullptr;
    size_t dynamic_bytes = 0;
    struct Array {
        const void* key;
        char* data;
        size_t bytes;
        const char* name;
    };
    std::vector<Array> arrays;

    // On an odd multiple of the alignment, so that nobody relies on more than was asked for.
    char* take(size_t bytes, size_t alignment) {
        size_t begin = (used + 2 * alignment - 1) / (2 * alignment) * (2 * alignment) + alignment;
        if (begin + bytes + kGap > kSharedBytes) return nullptr;
        used = begin + bytes + kGap;
        payload += bytes;
        unpoison(base + begin, bytes);
        return base + begin;
    }
    void start_block(size_t bytes) {
        if (!base) {
            void* p = mmap(nullptr, kSharedBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (p == MAP_FAILED) throw Bug("no memory for shared memory");
            base = static_cast<char*>(p);
            used = kSharedBytes;
        }
        unpoison(base, used);
        std::memset(base, 0xff, used);
        poison(base, used);
        used = kGap, payload = 0;
        arrays.clear();
        dynamic_bytes = bytes;
        dynamic = take(bytes, 128);
    }
    void check_gaps() const {
#ifndef CUDAHOST_ASAN
        auto untouched = [&](const char* from, const char* to) {
            return all_ones(from, static_cast<size_t>(to - from));
        };
        const char* end = base;
        std::string before = "the first array";
        auto look = [&](const char* begin, size_t bytes, const std::string& name) {
            if (!untouched(end, begin))
                throw Bug(kernel_name(running->kernel) +
                          format(": block (%u,%u,%u) wrote outside of shared memory, between ", blockIdx.x, blockIdx.y,
                                 blockIdx.z) +
                          before + " and " + name);
            end = begin + bytes, before = name;
        };
        look(dynamic, dynamic_bytes, "its dynamic shared memory");
        for (const Array& a : arrays) look(a.data, a.bytes, a.name);
        look(base + used, 0, "the end");
#endif
    }
} shared;

// ---- switching ----

[[noreturn]] void fail(const std::string& message);

// Jumps into `next`; comes back when somebody jumps here. `last`: never comes back.
void switch_to(Fibre* next, bool last = false) {
    Fibre* self = current;
    current = next;
    if (next != &host) threadIdx = next->index, current_lane = next->number % 32;
#ifdef CUDAHOST_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &self->fake_stack, next->stack, next->stack_bytes);
#else
    (void)last;
#endif
    context::transfer_t from = context::jump_fcontext(next->context, self);
#ifdef CUDAHOST_ASAN
    __sanitizer_finish_switch_fiber(self->fake_stack, nullptr, nullptr);
#endif
    static_cast<Fibre*>(from.data)->context = from.fctx;
}

void shuffle_warps() {
    for (int i = warp_count - 1; i > 0; i--)
        std::swap(warp_order[i], warp_order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
}

// The next thread to run; null: none can.
Fibre* pick() {
    if (change_one_in && schedule.random.chance(change_one_in)) shuffle_warps();
    for (int i = 0; i < warp_count; i++) {
        Warp& warp = warps[warp_order[i]];
        if (!warp.ready) continue;
        int lane;
        if (schedule.shuffle) {
            uint32_t start = schedule.random() >> 27;
            lane = static_cast<int>(
                (start + static_cast<uint32_t>(std::countr_zero(std::rotr(warp.ready, int(start))))) % 32);
        } else {
            lane = std::countr_zero(warp.ready);
        }
        warp.ready &= ~(1u << lane);
        return &fibres[static_cast<size_t>(warp_order[i] * 32 + lane)];
    }
    return nullptr;
}

std::string thread_name(int number) {
    uint3 t = fibres[static_cast<size_t>(number)].index;
    return format("thread (%u,%u,%u)", t.x, t.y, t.z);
}

// Nobody can run, and not all have ended: says who waits for whom.
std::string describe_deadlock() {
    std::string text;
    int mentioned = 0, first_there = -1, first_absent = -1;
    for (int i = 0; i < thread_count; i++) {
        const Fibre& f = fibres[static_cast<size_t>(i)];
        if (f.done) continue;
        bool there = f.mask == 0;
        int& first = there ? first_there : first_absent;
        if (first < 0) first = i;
    }
    if (first_there >= 0 && barrier.here < alive)
        text = format("not all threads reach %s() at %s: %d of the block's %d are there, %s is the first of them",
                      barrier.what, at(barrier.where).c_str(), barrier.here, alive, thread_name(first_there).c_str());
    for (int w = 0; w < warp_count; w++)
        for (const Gathering& g : warps[w].gatherings) {
            if (mentioned++ == 4) return text + "; ...";
            text += format("%s%s waits in %s() at %s for lanes 0x%08x, and only 0x%08x are there",
                           text.empty() ? "" : "; ", thread_name(w * 32 + std::countr_zero(g.here)).c_str(), g.what,
                           at(g.where).c_str(), g.mask, g.here);
        }
    return text;
}

// The running thread waits, or has ended: on to another, or back to the host.
void run_others(bool ended = false) {
    Fibre* next = pick();
    if (!next && alive > 0) {
        failure = std::make_exception_ptr(Bug(kernel_name(running->kernel) +
                                              format(", block (%u,%u,%u): ", blockIdx.x, blockIdx.y, blockIdx.z) +
                                              describe_deadlock()));
    }
    if (!next) next = &host;
    if (next != current) switch_to(next, ended);
}

// In a kernel: ends the launch with this message. The other threads are never resumed.
void fail(const std::string& message) { throw Bug(position() + ": " + message); }

// ---- collectives ----

// Lanes of the gathering go on if all that it waits for have come, or ended.
bool complete_if_all_here(Warp& warp, size_t which) {
    Gathering g = warp.gatherings[which];
    if (g.here != (g.mask & warp.alive)) return false;
    warp.gatherings.erase(warp.gatherings.begin() + static_cast<long>(which));
    g.complete(warp.data, g.here);
    warp.ready |= g.here;
    return true;
}

bool complete_barrier_if_all_here() {
    if (barrier.here == 0 || barrier.here < alive) return false;
    seen.insert({barrier.where.file_name(), barrier.where.line(), false});
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
    for (int w = 0; w < warp_count; w++) warps[w].ready |= warps[w].alive;
    if (schedule.shuffle) shuffle_warps();
    return true;
}

void land(CopyGroup& group) {
    for (auto& copy : group.copies) {
        if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
        else std::memset(copy.to, 0, copy.bytes);
    }
    group.copies.clear();
}

void end_thread() {
    Fibre& f = *current;
    for (auto& group : f.groups) land(group);
    f.groups.clear();
    land(f.open);
    Warp& warp = warps[f.number / 32];
    f.done = true;
    alive--;
    warp.alive &= ~(1u << f.number % 32);
    for (size_t i = 0; i < warp.gatherings.size();)
        if (!complete_if_all_here(warp, i)) i++;
    complete_barrier_if_all_here();
}

void thread_main(context::transfer_t from) {
#ifdef CUDAHOST_ASAN
    const void* bottom = nullptr;
    size_t bytes = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
    if (from.data == &host) host.stack = static_cast<char*>(const_cast<void*>(bottom)), host.stack_bytes = bytes;
#endif
    static_cast<Fibre*>(from.data)->context = from.fctx;
    bool failed = false;
    try {
        running->thread();
        end_thread();
    } catch (...) {
        failure = std::current_exception();
        failed = true;
    }
    if (failed) switch_to(&host, true);
    else run_others(true);
    __builtin_unreachable();
}

void make_stacks() {
    fibres.resize(kMaxThreads);
    for (size_t i = 0; i < kMaxThreads; i++) {
        void* p = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
        if (p == MAP_FAILED) throw Bug("no memory for the stacks of 1024 threads");
        mprotect(p, 4096, PROT_NONE);  // an overflow is a SIGSEGV
        fibres[i].stack = static_cast<char*>(p) + 4096;
        // Tops at different offsets of a page: else all threads' locals would compete for the same lines of the cache.
        fibres[i].stack_bytes = kStackBytes - 4096 - i * 704 % 4096 / 64 * 64;
    }
}

void run_block() {
    shared.start_block(running->shared_bytes);
    alive = thread_count;
    barrier = BlockBarrier{};
    failure = nullptr;
    for (int w = 0; w < warp_count; w++) {
        int lanes = std::min(32, thread_count - w * 32);
        Warp& warp = warps[w];
        warp.alive = warp.ready = lanes == 32 ? ~0u : (1u << lanes) - 1;
        warp.gatherings.clear();
        warp_order[w] = w;
    }
    // In half of the blocks a warp runs as far ahead of the others as barriers let it.
    constexpr uint32_t chances[] = {0, 0, 64, 1024};
    change_one_in = schedule.shuffle && warp_count > 1 ? chances[schedule.random.below(4)] : 0;
    if (schedule.shuffle) shuffle_warps();
    for (int i = 0; i < thread_count; i++) {
        Fibre& f = fibres[static_cast<size_t>(i)];
#ifdef CUDAHOST_ASAN
        // Frames that never returned left their guards: those of thread_main's last calls, or a whole unfinished
        // thread's.
        size_t stale = f.done ? 16 << 10 : f.stack_bytes;
        __asan_unpoison_memory_region(f.stack + f.stack_bytes - stale, stale);
#endif
        f.done = false;
        f.groups.clear();
        f.open.copies.clear();
        f.context = context::make_fcontext(f.stack + f.stack_bytes, f.stack_bytes, thread_main);
    }
    current = &host;
    switch_to(pick());
    current = nullptr;
    if (failure) std::rethrow_exception(std::exchange(failure, nullptr));
    shared.check_gaps();
}

}  // namespace

void run(const Launch& launch) {
    if (current) throw Bug("a kernel launches a kernel");
    if (fibres.empty()) make_stacks();
    running = &launch;
    gridDim = launch.grid, blockDim = launch.block;
    thread_count = static_cast<int>(launch.block.x * launch.block.y * launch.block.z);
    warp_count = (thread_count + 31) / 32;
    for (int i = 0; i < thread_count; i++) {
        unsigned n = static_cast<unsigned>(i), x = launch.block.x, y = launch.block.y;
        fibres[static_cast<size_t>(i)].index = {n % x, n / x % y, n / x / y};
        fibres[static_cast<size_t>(i)].number = i;
    }
    size_t blocks = size_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    std::vector<uint32_t> order(blocks);
    for (size_t i = 0; i < blocks; i++) order[i] = static_cast<uint32_t>(i);
    if (schedule.shuffle)
        for (size_t i = blocks; i-- > 1;)
            std::swap(order[i], order[schedule.random.below(static_cast<uint32_t>(i) + 1)]);
    for (uint32_t b : order) {
        blockIdx = {b % launch.grid.x, b / launch.grid.x % launch.grid.y, b / launch.grid.x / launch.grid.y};
        run_block();
    }
    running = nullptr;
}

std::string position() {
    if (!current || current == &host || !running) return "";
    return kernel_name(running->kernel) + format(", block (%u,%u,%u), thread (%u,%u,%u)", blockIdx.x, blockIdx.y,
                                                 blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z);
}

void warp_collective(const char* what, uint32_t mask, void* data, Complete complete, Site where) {
    if (!current) throw Bug(format("%s() outside of a kernel at %s", what, at(where).c_str()));
    Fibre& self = *current;
    Warp& warp = warps[self.number / 32];
    uint32_t bit = 1u << self.number % 32;
    if (!(mask & bit))
        fail(format("%s() at %s: the mask 0x%08x lacks the calling lane %d", what, at(where).c_str(), mask,
                    current_lane));
    size_t mine = warp.gatherings.size();
    for (size_t i = 0; i < warp.gatherings.size(); i++) {
        const Gathering& g = warp.gatherings[i];
        if (g.what == what && g.mask == mask && g.complete == complete && same(g.where, where)) mine = i;
        else if ((g.here & mask) && (g.mask & bit))
            fail(format("%s() at %s with mask 0x%08x, while lane %d of the same warp is in %s() at %s with mask 0x%08x",
                        what, at(where).c_str(), mask, std::countr_zero(g.here & mask), g.what, at(g.where).c_str(),
                        g.mask));
    }
    if (mine == warp.gatherings.size()) warp.gatherings.push_back({what, mask, 0, where, complete});
    warp.gatherings[mine].here |= bit;
    warp.data[self.number % 32] = data;
    self.mask = mask, self.what = what, self.where = where;
    complete_if_all_here(warp, mine);
    run_others();
}

void sync_warp(uint32_t mask, Site where) {
    if (skips(where)) return;
    seen.insert({where.file_name(), where.line(), true});
    warp_collective(
        "__syncwarp", mask, nullptr, [](void* const(&)[32], uint32_t) {}, where);
}

void full_warp_collective(const char* what, void* data, Complete complete, Site where) {
    if (current && warps[current->number / 32].alive != ~0u)
        fail(format("%s at %s needs all 32 lanes; 0x%08x are alive", what, at(where).c_str(),
                    warps[current->number / 32].alive));
    warp_collective(what, ~0u, data, complete, where);
}

int block_barrier(const char* what, Vote vote, int predicate, Site where) {
    if (!current) throw Bug(format("%s() outside of a kernel at %s", what, at(where).c_str()));
    if (skips(where)) return predicate != 0;
    if (barrier.here > 0 && (!same(barrier.where, where) || barrier.vote != vote))
        fail(format("%s() at %s, while other threads of the block are at %s() at %s", what, at(where).c_str(),
                    barrier.what, at(barrier.where).c_str()));
    Fibre& self = *current;
    self.mask = 0, self.what = what, self.where = where;
    barrier.what = what, barrier.vote = vote, barrier.where = where;
    barrier.here++, barrier.sum += predicate != 0;
    complete_barrier_if_all_here();
    run_others();
    return barrier.result;
}

void trap(Site where) { fail("__trap() at " + at(where)); }

void more_threads_than(int promised) {
    fail(format("launched with %d threads a block, more than the %d of its __launch_bounds__", thread_count, promised));
}

// ---- shared memory ----

void* shared_memory(const void* key, size_t bytes, size_t alignment, const char* name, Site where) {
    if (!current) throw Bug(format("shared memory outside of a kernel at %s", at(where).c_str()));
    for (const auto& a : shared.arrays)
        if (a.key == key) return a.data;
    char* p = shared.take(bytes, alignment);
    size_t fixed = shared.payload - shared.dynamic_bytes;
    if (fixed > (48 << 10))
        fail(format("%s at %s: %zu bytes of static shared memory, more than 48 KiB", name, at(where).c_str(), fixed));
    if (!p || shared.payload > kMaxShared)
        fail(format("%s at %s: %zu bytes of shared memory with the dynamic, more than %zu", name, at(where).c_str(),
                    shared.payload, kMaxShared));
    shared.arrays.push_back({key, p, bytes, name});
    return p;
}

void* dynamic_shared_memory(size_t alignment, Site where) {
    if (!current) throw Bug(format("shared memory outside of a kernel at %s", at(where).c_str()));
    if (alignment > 128)
        fail(format("dynamic shared memory on a boundary of %zu bytes at %s", alignment, at(where).c_str()));
    return shared.dynamic;
}

void check_shared(const void* p, size_t bytes, Site where) {
    const char* at_byte = static_cast<const char*>(p);
    if (at_byte < shared.base || at_byte + bytes > shared.base + shared.used)
        fail(format("%p at %s is not shared memory", p, at(where).c_str()));
    if (reinterpret_cast<uintptr_t>(p) % bytes)
        fail(format("shared memory not on a boundary of %zu bytes at %s", bytes, at(where).c_str()));
}

// ---- cp.async ----

void cp_async(void* to, const void* from, size_t bytes, bool valid, Site where) {
    check_shared(to, bytes, where);
    if (valid) {
        if (reinterpret_cast<uintptr_t>(from) % bytes)
            fail(format("cp.async from global memory not on a boundary of %zu bytes at %s", bytes, at(where).c_str()));
        check_device_range(from, bytes, "cp.async");
    }
    Fibre& f = *current;
    CopyGroup one{{{to, valid ? from : nullptr, bytes}}};
    bool late = schedule.copies == Landing::random ? schedule.random.chance(2) : schedule.copies == Landing::late;
    if (late) f.open.copies.push_back(one.copies[0]);
    else land(one);
}
void cp_async_commit() {
    Fibre& f = *current;
    f.groups.push_back(std::move(f.open));
    f.open.copies.clear();
}
void cp_async_wait(int pending) {
    auto& groups = current->groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        land(groups.front());
        groups.erase(groups.begin());
    }
}

// ---- barriers ----

void skip_barrier(const std::string& file, int line) { skipped = {file, line, false}; }
std::vector<Barrier> barriers_seen() {
    std::set<Barrier> distinct;
    for (auto [file, line, of_warp] : seen) distinct.insert({file, static_cast<int>(line), of_warp});
    return {distinct.begin(), distinct.end()};
}
void clear_barriers_seen() { seen.clear(); }

// ---- names ----

// From the symbol table of the file that has the address: kernels may be static, which dladdr() does not know.
std::string kernel_name(const void* kernel) {
    struct Search {
        uintptr_t address;
        std::string file;
        uintptr_t base;
    } search{reinterpret_cast<uintptr_t>(kernel), "", 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& s = *static_cast<Search*>(data);
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto& header = info->dlpi_phdr[i];
                uintptr_t begin = info->dlpi_addr + header.p_vaddr;
                if (header.p_type == PT_LOAD && s.address >= begin && s.address < begin + header.p_memsz) {
                    s.file = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
                    s.base = info->dlpi_addr;
                    return 1;
                }
            }
            return 0;
        },
        &search);
    std::string name = format("kernel %p", kernel);
    int fd = search.file.empty() ? -1 : open(search.file.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) return name;
    size_t bytes = static_cast<size_t>(status.st_size);
    void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return name;
    const char* file = static_cast<const char*>(map);
    const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(file);
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header.e_shoff);
    for (int i = 0; i < header.e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[i].sh_offset);
        const char* strings = file + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++)
            if ((symbols[s].st_info & 0xf) == STT_FUNC && symbols[s].st_value == search.address - search.base &&
                symbols[s].st_value) {
                int status_of_demangle = 0;
                char* plain = abi::__cxa_demangle(strings + symbols[s].st_name, nullptr, nullptr, &status_of_demangle);
                name = plain ? plain : strings + symbols[s].st_name;
                free(plain);
                int depth = 0;  // without the list of parameters, in which there may be parentheses too
                for (size_t c = name.size(); c-- > 0 && name.back() == ')';) {
                    depth += (name[c] == ')') - (name[c] == '(');
                    if (depth == 0) name.resize(c);
                }
                if (name.rfind("void ", 0) == 0) name.erase(0, 5);
            }
    }
    munmap(map, bytes);
    return name;
}

}  // namespace cudahost

// The sanitizers call these before they end the process: which thread was it?
namespace {
void say_position() {
    std::string where = cudahost::position();
    if (!where.empty()) fprintf(stderr, "cudahost: in %s\n", where.c_str());
}
}  // namespace
extern "C" void __asan_on_error() { say_position(); }
extern "C" void __ubsan_on_report() { say_position(); }
