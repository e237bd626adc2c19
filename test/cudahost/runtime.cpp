// The CUDA runtime on the CPU: device memory, streams, events, graphs, and the properties of a device that is not
// there.
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <set>

#include "test/cudahost/internal.h"

extern char _end;  // the linker's: the program's data end here, and malloc's heap begins

namespace cudahost {

std::string format(const char* text, ...) {
    va_list args;
    va_start(args, text);
    char out[4096];
    vsnprintf(out, sizeof out, text, args);
    va_end(args);
    return out;
}

namespace {

// ---- device memory ----
//
// One stretch of address space, closed to the host but while a kernel, a copy or a fill runs: by a memory protection
// key (pkeys(7): opening it is one instruction) where the CPU has them, else by mprotect as long as the heap is small.

constexpr size_t kHeapBytes = size_t{1} << 40, kRedzone = 256, kQuarantineBytes = 64 << 20, kStep = 64 << 20;
constexpr size_t kCheckedGuard = 1024;  // so much of a guard is looked at

struct Allocation {
    size_t bytes, capacity;  // capacity: with what rounding adds; the redzone lies behind it
    bool host_may_touch;     // managed memory
};
struct Heap {
    char* base = nullptr;
    size_t mapped = 0, used = 0, allocated = 0, limit = size_t{4} << 30;
    int key = -1;  // protection key
    bool closed = false;
    int open = 0;  // how many Access objects live
    std::map<char*, Allocation> live;
    std::map<char*, size_t> pinned, guards;
    std::deque<std::pair<char*, size_t>> quarantine;  // freed; not used again soon, so that late accesses show
    size_t quarantine_bytes = 0;
    std::multimap<size_t, char*> reusable;
};
Heap& heap() {
    static Heap* the_heap = new Heap;  // outlives all other objects
    return *the_heap;
}

// While one lives, device memory is open.
struct Access {
    Access() {
        if (heap().open++ == 0) set_closed(false);
    }
    ~Access() {
        if (--heap().open == 0) set_closed(true);
    }
    Access(const Access&) = delete;
    static void set_closed(bool closed) {
        Heap& h = heap();
        if (h.key >= 0) pkey_set(h.key, closed ? PKEY_DISABLE_ACCESS : 0);
        else if (h.closed || h.used <= kStep) mprotect(h.base, h.mapped, closed ? PROT_NONE : PROT_READ | PROT_WRITE);
        h.closed = closed && (h.key >= 0 || h.used <= kStep);
    }
};

// The allocation that has p, its end included; null: none.
template <typename Map>
auto find(Map& map, const void* p) -> decltype(&*map.begin()) {
    auto* byte = static_cast<char*>(const_cast<void*>(p));
    auto it = map.upper_bound(byte);
    if (it == map.begin()) return nullptr;
    --it;
    size_t bytes;
    if constexpr (std::is_same_v<std::decay_t<decltype(it->second)>, size_t>) bytes = it->second;
    else bytes = it->second.bytes;
    return byte <= it->first + bytes ? &*it : nullptr;
}
bool in_heap(const void* p) {
    auto* byte = static_cast<const char*>(p);
    return heap().base && byte >= heap().base && byte < heap().base + kHeapBytes;
}

std::exception_ptr pending_bug;  // found where no exception could leave
const void* last_kernel = nullptr;

void look_at_guards() {
#ifndef CUDAHOST_ASAN
    Access access;
    auto complain = [](const char* begin, size_t bytes, const std::string& what) {
        if (all_ones(begin, std::min(bytes, kCheckedGuard))) return;
        poison(const_cast<char*>(begin), bytes);  // reported once
        throw Bug(format("device memory written %s, by %s or a copy before it", what.c_str(),
                         last_kernel ? kernel_name(last_kernel).c_str() : "a copy"));
    };
    for (const auto& [p, a] : heap().live) {
        complain(p - kRedzone, kRedzone, format("before the beginning of an allocation of %zu bytes", a.bytes));
        complain(p + a.bytes, a.capacity - a.bytes + kRedzone,
                 format("behind the end of an allocation of %zu bytes", a.bytes));
    }
    for (const auto& [p, bytes] : heap().guards)
        complain(p, bytes, "behind the end of a tensor of an arena, or of the workspace");
#endif
}

char* allocate(size_t bytes, bool host_may_touch) {
    Heap& h = heap();
    if (!h.base) {
        void* p = mmap(nullptr, kHeapBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) throw Bug("no address space for device memory");
        h.base = static_cast<char*>(p);
        h.key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    }
    if (h.allocated + bytes > h.limit) return nullptr;
    Access access;
    size_t capacity = (bytes + 255) / 256 * 256;
    char* p;
    auto reuse = h.reusable.lower_bound(capacity);
    if (reuse != h.reusable.end() && reuse->first <= 2 * capacity) {
        p = reuse->second, capacity = reuse->first;
        h.reusable.erase(reuse);
    } else {
        p = h.base + h.used + kRedzone;
        h.used += kRedzone + capacity + kRedzone;
        size_t more = h.used > h.mapped ? (h.used - h.mapped + kStep - 1) / kStep * kStep : 0;
        if (more && pkey_mprotect(h.base + h.mapped, more, PROT_READ | PROT_WRITE, h.key) != 0)
            throw Bug("no memory for device memory");
        h.mapped += more;
    }
    unpoison(p - kRedzone, capacity + 2 * kRedzone);
    std::memset(p, 0xff, bytes);
    poison(p - kRedzone, kRedzone);
    poison(p + bytes, capacity - bytes + kRedzone);
    h.live[p] = {bytes, capacity, host_may_touch};
    h.allocated += bytes;
    return p;
}

void forget_guards(char* begin, size_t bytes) {
    auto& guards = heap().guards;
    auto from = guards.lower_bound(begin), to = guards.lower_bound(begin + bytes);
    guards.erase(from, to);
}

void release(char* p) {
    Heap& h = heap();
    Allocation a = h.live.at(p);
    Access access;
    forget_guards(p, a.bytes);
#ifdef CUDAHOST_ASAN
    __asan_poison_memory_region(p, a.capacity);
#else
    std::memset(p, 0xff, a.bytes);
#endif
    char *page = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + 4095) / 4096 * 4096), *end = p + a.capacity;
    if (end - page > (1 << 20)) madvise(page, static_cast<size_t>(end - page) / 4096 * 4096, MADV_DONTNEED);
    h.live.erase(p);
    h.allocated -= a.bytes;
    h.quarantine.emplace_back(p, a.capacity);
    h.quarantine_bytes += a.capacity;
    while (h.quarantine_bytes > kQuarantineBytes) {
        auto [old, capacity] = h.quarantine.front();
        h.quarantine.pop_front();
        h.quarantine_bytes -= capacity;
        h.reusable.emplace(capacity, old);
    }
}

// f(begin, end) for the pieces of [p, p + bytes) that are no guards: copies and fills of a whole arena step over them.
template <typename F>
void for_each_open_piece(char* p, size_t bytes, F f) {
    auto& guards = heap().guards;
    char *begin = p, *end = p + bytes;
    auto it = guards.upper_bound(p);
    if (it != guards.begin() && std::prev(it)->first + std::prev(it)->second > p) --it;
    for (; it != guards.end() && it->first < end; ++it) {
        if (it->first > begin) f(begin, it->first);
        begin = std::max(begin, it->first + it->second);
    }
    if (begin < end) f(begin, end);
}
void copy_bytes(void* to, const void* from, size_t bytes) {
    char* source = static_cast<char*>(const_cast<void*>(from));
    for_each_open_piece(static_cast<char*>(to), bytes, [&](char* begin, char* end) {
        char* s = source + (begin - static_cast<char*>(to));
        for_each_open_piece(s, static_cast<size_t>(end - begin), [&](char* from_begin, char* from_end) {
            std::memmove(begin + (from_begin - s), from_begin, static_cast<size_t>(from_end - from_begin));
        });
    });
}
void fill_bytes(void* to, int value, size_t bytes) {
    for_each_open_piece(static_cast<char*>(to), bytes,
                        [&](char* begin, char* end) { std::memset(begin, value, static_cast<size_t>(end - begin)); });
}

// Says what a SIGSEGV was, and lets it end the process.
[[maybe_unused]] void on_segv(int signal, siginfo_t* info, void*) {
    std::string text = position();
    const char* p = static_cast<const char*>(info->si_addr);
    if (in_heap(p) && text.empty()) text = format("cudahost: the host touched device memory at %p", info->si_addr);
    else
        text =
            format(
                "cudahost: SIGSEGV at %p (or an address not on the boundary its type needs, or a stack that is full) ",
                info->si_addr) +
            (text.empty() ? "" : "in " + text);
    text += "\n";
    [[maybe_unused]] ssize_t ignored = write(2, text.data(), text.size());
    ::signal(signal, SIG_DFL);
}

}  // namespace

void poison(void* p, size_t bytes) {
#ifdef CUDAHOST_ASAN
    __asan_poison_memory_region(p, bytes);
#else
    std::memset(p, 0xff, bytes);
#endif
}
void unpoison(void* p, size_t bytes) {
#ifdef CUDAHOST_ASAN
    __asan_unpoison_memory_region(p, bytes);
#else
    (void)p, (void)bytes;
#endif
}
bool all_ones(const void* p, size_t bytes) {
    const char* byte = static_cast<const char*>(p);
    for (size_t i = 0; i < bytes; i++)
        if (byte[i] != '\xff') return false;
    return true;
}

void check_device_range(const void* p, size_t bytes, const char* what) {
    auto refuse = [&](const std::string& why) {
        std::string where = position();
        throw Bug((where.empty() ? "" : where + ": ") + format("%s of %zu bytes at %p: ", what, bytes, p) + why);
    };
    if (auto* a = find(heap().live, p)) {
        size_t rest = static_cast<size_t>(a->first + a->second.bytes - static_cast<const char*>(p));
        if (bytes > rest) refuse(format("the allocation of %zu bytes ends after %zu", a->second.bytes, rest));
    } else if (!find(heap().pinned, p)) {
        refuse(in_heap(p) ? "this device memory is not allocated, or was freed" : "this is host memory");
    }
}

// p: of pageable host memory, too, on a real machine nothing checks the end.
static void check_host_range(const void* p, size_t bytes, const char* what) {
    if (in_heap(p)) throw Bug(format("%s of %zu bytes at %p: this is device memory, not host memory", what, bytes, p));
    if (auto* a = find(heap().pinned, p)) {
        size_t rest = static_cast<size_t>(a->first + a->second - static_cast<const char*>(p));
        if (bytes > rest)
            throw Bug(format("%s of %zu bytes at %p: the pinned allocation ends after %zu", what, bytes, p, rest));
    }
}

void guard(void* begin, size_t bytes) {
    if (bytes == 0) return;
    Access access;
    heap().guards[static_cast<char*>(begin)] = bytes;
    poison(begin, bytes);
}

// ---- kernel arguments ----

static std::string argument(const void* kernel, int index) {
    return format("argument %d of %s ", index + 1, kernel_name(kernel).c_str());
}

void check_pointer(const void* kernel, int index, const void* p) {
    if (!p || find(heap().live, p) || find(heap().pinned, p)) return;
    throw Bug(argument(kernel, index) +
              (in_heap(p) ? "points to device memory that is not allocated, or was freed" : "points to host memory"));
}

// Words of a struct that are addresses of the host's stack or heap must be pointers.
void check_struct(const void* kernel, int index, const void* object, size_t bytes) {
    int on_stack = 0;
    uintptr_t stack = reinterpret_cast<uintptr_t>(&on_stack);
#ifdef CUDAHOST_ASAN
    char *heap_begin = reinterpret_cast<char*>(0x600000000000), *heap_end = reinterpret_cast<char*>(0x640000000000);
#else
    char *heap_begin = &_end, *heap_end = static_cast<char*>(sbrk(0));
#endif
    for (size_t i = 0; i + sizeof(uintptr_t) <= bytes; i += sizeof(uintptr_t)) {
        uintptr_t word;
        std::memcpy(&word, static_cast<const char*>(object) + i, sizeof word);
        char* p = reinterpret_cast<char*>(word);
        bool host_stack = word > stack - (1 << 20) && word < stack + (8 << 20);
        bool host_heap = p >= heap_begin && p < heap_end;
        if ((host_stack || host_heap || in_heap(p)) && !find(heap().live, p) && !find(heap().pinned, p))
            throw Bug(argument(kernel, index) + format("holds, at byte %zu, a pointer to ", i) +
                      (in_heap(p) ? "device memory that is not allocated, or was freed" : "host memory"));
    }
}

}  // namespace cudahost

// ---- streams ----

using cudahost::Bug;
using cudahost::format;
using cudahost::Landing;
using cudahost::schedule;

struct CUgraph_st {
    struct Node {
        std::function<void()> work;
        std::vector<int> after;
    };
    std::vector<Node> nodes;
    bool invalid = false;
    cudaStream_t origin = nullptr;
    int last_collective = -1;  // node
};
struct CUgraphExec_st {
    CUgraph_st graph;
};

struct CUstream_st {
    bool blocking = true;  // with the legacy stream
    bool destroyed = false;
    int priority = 0;
    struct Work {
        uint64_t number;
        std::function<void()> run;
        std::vector<std::pair<cudaStream_t, uint64_t>> after;
    };
    std::deque<Work> queue;
    uint64_t last = 0;                                     // number of the newest piece of work that it got
    std::vector<std::pair<cudaStream_t, uint64_t>> waits;  // for the next piece of work
    std::shared_ptr<CUgraph_st> capture;
    std::vector<int> tail;  // nodes that the next node comes after
};
struct CUevent_st {
    bool timing = true;
    cudaStream_t stream = nullptr;  // where it was recorded last; null: never
    uint64_t number = 0;
    uint64_t recorded = 0, done = 0;
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<CUgraph_st> capture;
    std::vector<int> nodes;
};

namespace {

struct Context {
    std::vector<std::unique_ptr<CUstream_st>> streams;
    CUstream_st legacy, per_thread;
    uint64_t next_number = 1;
    cudaError_t last_error = cudaSuccess;
    std::map<const void*, int> dynamic_shared;  // cudaFuncSetAttribute
    std::function<void()> before_next;          // the workspace's fill
    char* workspace_guard = nullptr;
    int device = 0;
    bool working = false;
};
Context& the() {
    static Context* context = new Context;  // outlives all other objects
    return *context;
}

cudaError_t result(cudaError_t error) {
    if (error != cudaSuccess) the().last_error = error;
    return error;
}

cudaStream_t resolve(cudaStream_t stream) {
    static const bool started = [] {
        if (const char* seed = getenv("CUDAHOST_SEED")) cudahost::set_seed(strtoull(seed, nullptr, 10));
        else cudahost::set_seed(1);
#ifndef CUDAHOST_ASAN
        static char stack[64 << 10];
        stack_t alternative{};
        alternative.ss_sp = stack, alternative.ss_size = sizeof stack;
        sigaltstack(&alternative, nullptr);
        struct sigaction action {};
        action.sa_sigaction = cudahost::on_segv;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, nullptr);
#endif
        return true;
    }();
    (void)started;
    if (stream == nullptr || stream == cudaStreamLegacy || stream == &the().legacy) return &the().legacy;
    if (stream == cudaStreamPerThread || stream == &the().per_thread) return &the().per_thread;
    for (const auto& s : the().streams)
        if (s.get() == stream && !s->destroyed) return stream;
    throw Bug("a stream that does not exist, or was destroyed");
}

template <typename F>
void for_each_stream(F f) {
    f(&the().legacy);
    f(&the().per_thread);
    for (const auto& s : the().streams) f(s.get());
}

void drop_all_work() {
    for_each_stream([](cudaStream_t s) {
        s->queue.clear();
        s->waits.clear();
    });
    the().before_next = nullptr;
}

// Work of the stream up to `number`, and what it must come after.
void run_until(cudaStream_t stream, uint64_t number) {
    while (!stream->queue.empty() && stream->queue.front().number <= number) {
        CUstream_st::Work work = std::move(stream->queue.front());
        stream->queue.pop_front();
        for (auto [other, n] : work.after) run_until(other, n);
        bool outer = std::exchange(the().working, true);
        try {
            cudahost::Access access;
            work.run();
            cudahost::look_at_guards();
        } catch (...) {
            the().working = outer;
            drop_all_work();
            throw;
        }
        the().working = outer;
    }
}
void run_all(cudaStream_t stream) { run_until(stream, UINT64_MAX); }

// A piece of work of any stream; false: there is none.
bool run_some() {
    std::vector<cudaStream_t> busy;
    for_each_stream([&](cudaStream_t s) {
        if (!s->queue.empty()) busy.push_back(s);
    });
    if (busy.empty()) return false;
    cudaStream_t s = busy[schedule.shuffle ? schedule.random.below(static_cast<uint32_t>(busy.size())) : 0];
    run_until(s, s->queue.front().number);
    return true;
}
void run_everything() {
    if (cudahost::pending_bug) std::rethrow_exception(std::exchange(cudahost::pending_bug, nullptr));
    while (run_some()) {
    }
}

int add_node(CUgraph_st& graph, std::function<void()> work, std::vector<int> after) {
    graph.nodes.push_back({std::move(work), std::move(after)});
    return static_cast<int>(graph.nodes.size()) - 1;
}

// Gives work to a stream, or to the graph that it captures.
cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
    if (cudahost::pending_bug && !the().working) std::rethrow_exception(std::exchange(cudahost::pending_bug, nullptr));
    stream = resolve(stream);
    if (the().before_next)
        work = [first = std::exchange(the().before_next, nullptr), then = std::move(work)] { first(), then(); };
    if (stream->capture) {
        if (stream->capture->invalid) return result(cudaErrorStreamCaptureInvalidated);
        stream->tail = {add_node(*stream->capture, std::move(work), stream->tail)};
        return cudaSuccess;
    }
    if (stream == &the().legacy) {
        cudaStream_t captured = nullptr;
        for_each_stream([&](cudaStream_t s) {
            if (s->capture && s->blocking) captured = s;
            if (s != stream && s->blocking && !s->queue.empty()) stream->waits.emplace_back(s, s->last);
        });
        if (captured) {
            captured->capture->invalid = true;
            return result(cudaErrorStreamCaptureImplicit);
        }
    } else if (stream->blocking && !the().legacy.queue.empty()) {
        stream->waits.emplace_back(&the().legacy, the().legacy.last);
    }
    stream->last = the().next_number++;
    stream->queue.push_back({stream->last, std::move(work), std::exchange(stream->waits, {})});
    if (schedule.streams == Landing::early) run_all(stream);
    else if (schedule.streams == Landing::random && schedule.random.chance(2))
        for (uint32_t n = schedule.random.below(4); n > 0 && run_some(); n--) {
        }
    return cudaSuccess;
}

cudaStream_t capturing() {
    cudaStream_t found = nullptr;
    for_each_stream([&](cudaStream_t s) {
        if (s->capture) found = s;
    });
    return found;
}
// For calls that a capture forbids: marks it as broken.
bool breaks_capture() {
    cudaStream_t s = capturing();
    if (s) s->capture->invalid = true;
    return s != nullptr;
}
#define NOT_WHILE_CAPTURING \
    if (breaks_capture()) return result(cudaErrorStreamCaptureUnsupported)

void run_graph(const CUgraph_st& graph) {
    std::vector<size_t> open(graph.nodes.size());
    std::vector<std::vector<int>> followers(graph.nodes.size());
    std::vector<int> ready;
    for (size_t i = 0; i < graph.nodes.size(); i++) {
        open[i] = graph.nodes[i].after.size();
        for (int before : graph.nodes[i].after) followers[static_cast<size_t>(before)].push_back(static_cast<int>(i));
        if (open[i] == 0) ready.push_back(static_cast<int>(i));
    }
    while (!ready.empty()) {
        size_t which = schedule.shuffle ? schedule.random.below(static_cast<uint32_t>(ready.size())) : 0;
        auto node = static_cast<size_t>(ready[which]);
        ready.erase(ready.begin() + static_cast<long>(which));
        if (graph.nodes[node].work) graph.nodes[node].work();
        cudahost::look_at_guards();
        for (int next : followers[node])
            if (--open[static_cast<size_t>(next)] == 0) ready.push_back(next);
    }
}

bool is_pinned(const void* p) { return cudahost::find(cudahost::heap().pinned, p); }
bool is_device(const void* p) { return cudahost::in_heap(p); }

cudaMemcpyKind real_kind(const void* to, const void* from, cudaMemcpyKind kind) {
    if (kind != cudaMemcpyDefault) return kind;
    return is_device(to) ? (is_device(from) ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice)
                         : (is_device(from) ? cudaMemcpyDeviceToHost : cudaMemcpyHostToHost);
}
void check_copy(const void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* what) {
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to_device) cudahost::check_device_range(to, bytes, what);
    else cudahost::check_host_range(to, bytes, what);
    if (from_device) cudahost::check_device_range(from, bytes, what);
    else cudahost::check_host_range(from, bytes, what);
}

}  // namespace

namespace cudahost {

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
    dim3 g = config.gridDim, b = config.blockDim;
    uint64_t threads = uint64_t{b.x} * b.y * b.z;
    if (threads == 0 || threads > kMaxThreads || b.z > 64 || !g.x || !g.y || !g.z || g.x > 0x7fffffff || g.y > 65535 ||
        g.z > 65535)
        return result(cudaErrorInvalidConfiguration);
    auto consent = the().dynamic_shared.find(kernel);
    size_t most = consent == the().dynamic_shared.end() ? 48 << 10 : static_cast<size_t>(consent->second);
    if (config.dynamicSmemBytes > most) return result(cudaErrorInvalidValue);
    Launch launch{g, b, config.dynamicSmemBytes, kernel, std::move(thread)};
    return enqueue(config.stream, [launch = std::move(launch)] {
        last_kernel = launch.kernel;
        run(launch);
    });
}

cudaError_t enqueue_work(cudaStream_t stream, std::function<void()> work) { return enqueue(stream, std::move(work)); }

cudaError_t enqueue_collective(cudaStream_t stream, std::function<void()> transfer, std::function<void()> land) {
    stream = resolve(stream);
    cudaError_t error = enqueue(stream, std::move(transfer));
    if (error != cudaSuccess) return error;
    if (CUgraph_st* graph = stream->capture.get()) {  // the same order in all processes
        if (graph->last_collective >= 0) graph->nodes.back().after.push_back(graph->last_collective);
        graph->last_collective = static_cast<int>(graph->nodes.size()) - 1;
    } else {
        run_until(stream, stream->last);
    }
    return enqueue(stream, std::move(land));
}
void copy_memory(void* to, const void* from, size_t bytes) { copy_bytes(to, from, bytes); }
void fill_memory(void* to, int value, size_t bytes) { fill_bytes(to, value, bytes); }

void set_seed(uint64_t seed) {
    run_everything();
    schedule = Schedule{};
    schedule.seed = seed;
    schedule.random.state = (seed + 1) * 0x9E3779B97F4A7C15ull;
    schedule.shuffle = seed != 0;
    constexpr Landing landings[] = {Landing::random, Landing::early, Landing::late, Landing::random};
    if (seed != 0) {
        schedule.copies = landings[seed % 4];
        schedule.streams = landings[(seed + seed / 4) % 4];
    }
    clear_barriers_seen();
}

void check() {
    run_everything();
    look_at_guards();
}

bool device_memory_is_closed() { return heap().closed; }
void set_device_memory(size_t bytes) { heap().limit = bytes; }

void fresh_workspace(void* data, size_t bytes, size_t reserved) {
    auto* begin = static_cast<char*>(data);
    the().before_next = [=] {
        unpoison(begin, reserved);
        if (the().workspace_guard) heap().guards.erase(the().workspace_guard);
        the().workspace_guard = nullptr;
        std::memset(begin, 0xff, bytes);
        if (bytes < reserved) guard(the().workspace_guard = begin + bytes, reserved - bytes);
    };
}

}  // namespace cudahost

// ---- the CUDA runtime's functions ----

using namespace cudahost;

extern "C" {

cudaError_t cudaGetLastError() { return std::exchange(the().last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return the().last_error; }
const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define NAME(e) \
    case e:     \
        return #e
        NAME(cudaSuccess);
        NAME(cudaErrorInvalidValue);
        NAME(cudaErrorMemoryAllocation);
        NAME(cudaErrorInvalidConfiguration);
        NAME(cudaErrorInvalidResourceHandle);
        NAME(cudaErrorInvalidDevice);
        NAME(cudaErrorNotReady);
        NAME(cudaErrorNotSupported);
        NAME(cudaErrorStreamCaptureUnsupported);
        NAME(cudaErrorStreamCaptureInvalidated);
        NAME(cudaErrorStreamCaptureImplicit);
        NAME(cudaErrorStreamCaptureUnjoined);
        NAME(cudaErrorStreamCaptureUnmatched);
        NAME(cudaErrorCapturedEvent);
        NAME(cudaErrorIllegalState);
        NAME(cudaErrorLaunchFailure);
#undef NAME
        default:
            return "cudaError";
    }
}
const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess:
            return "no error";
        case cudaErrorInvalidValue:
            return "invalid argument";
        case cudaErrorMemoryAllocation:
            return "out of memory";
        case cudaErrorInvalidConfiguration:
            return "invalid configuration argument";
        case cudaErrorNotReady:
            return "device not ready";
        case cudaErrorNotSupported:
            return "operation not supported";
        case cudaErrorLaunchFailure:
            return "unspecified launch failure";
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated:
            return "operation failed due to a previous error during capture";
        default:
            return cudaGetErrorName(error);
    }
}

// ---- device ----

// Eight alike, so that each of several ranks has one; a process uses one of them.
constexpr int kDevices = 8;
cudaError_t cudaGetDeviceCount(int* count) { return *count = kDevices, cudaSuccess; }
cudaError_t cudaSetDevice(int device) {
    return result(device >= 0 && device < kDevices ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
cudaError_t cudaSetDeviceFlags(unsigned) { return cudaSuccess; }
cudaError_t cudaInitDevice(int, unsigned, unsigned) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int device) {
    if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
    std::memset(static_cast<void*>(p), 0, sizeof *p);
    std::strcpy(p->name, "CUDA on the CPU");
    p->major = 9, p->minor = 0;
    p->multiProcessorCount = 3;  // few and odd: what divides work among them meets remainders
    p->totalGlobalMem = heap().limit;
    p->sharedMemPerBlock = 48 << 10, p->sharedMemPerBlockOptin = kMaxShared,
    p->sharedMemPerMultiprocessor = kMaxShared + 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = kMaxThreads, p->maxThreadsPerMultiProcessor = 2048;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024, p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff, p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->l2CacheSize = 1 << 20;
    p->memoryBusWidth = 64;
    p->unifiedAddressing = p->concurrentKernels = p->asyncEngineCount = p->managedMemory = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    if (device < 0 || device >= kDevices) return result(cudaErrorInvalidDevice);
    cudaDeviceProp p;
    cudaGetDeviceProperties(&p, 0);
    switch (attribute) {
        case cudaDevAttrComputeCapabilityMajor:
            *value = p.major;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = p.minor;
            break;
        case cudaDevAttrMultiProcessorCount:
            *value = p.multiProcessorCount;
            break;
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(p.sharedMemPerBlock);
            break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(p.sharedMemPerBlockOptin);
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
            *value = static_cast<int>(p.sharedMemPerMultiprocessor);
            break;
        case cudaDevAttrReservedSharedMemoryPerBlock:
            *value = 1024;
            break;
        case cudaDevAttrMaxThreadsPerBlock:
            *value = p.maxThreadsPerBlock;
            break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = p.maxThreadsPerMultiProcessor;
            break;
        case cudaDevAttrMaxRegistersPerBlock:
        case cudaDevAttrMaxRegistersPerMultiprocessor:
            *value = 65536;
            break;
        case cudaDevAttrWarpSize:
            *value = 32;
            break;
        case cudaDevAttrL2CacheSize:
            *value = p.l2CacheSize;
            break;
        case cudaDevAttrClockRate:
            *value = 1000000;
            break;  // kHz
        case cudaDevAttrMemoryClockRate:
            *value = 1000000;
            break;  // kHz
        case cudaDevAttrGlobalMemoryBusWidth:
            *value = p.memoryBusWidth;
            break;
        case cudaDevAttrMemoryPoolsSupported:
        case cudaDevAttrUnifiedAddressing:
        case cudaDevAttrConcurrentKernels:
        case cudaDevAttrAsyncEngineCount:
            *value = 1;
            break;
        default:
            *value = 0;
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
    snprintf(id, static_cast<size_t>(length), "0000:00:00.0");
    return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
    return *least = 0, *greatest = -5, cudaSuccess;
}
cudaError_t cudaDeviceSetLimit(cudaLimit, size_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetLimit(size_t* value, cudaLimit) { return *value = 0, cudaSuccess; }
cudaError_t cudaDeviceSetCacheConfig(cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaCtxResetPersistingL2Cache() { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() {
    NOT_WHILE_CAPTURING;
    run_everything();
    return cudaSuccess;
}
cudaError_t cudaDeviceReset() { return cudaDeviceSynchronize(); }
cudaError_t cudaProfilerStart() { return cudaSuccess; }
cudaError_t cudaProfilerStop() { return cudaSuccess; }

// ---- memory ----

cudaError_t cudaMalloc(void** p, size_t bytes) {
    resolve(nullptr);
    NOT_WHILE_CAPTURING;
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    *p = allocate(bytes, false);
    return result(*p ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* p) {
    // It may stand in a destructor: what goes wrong is thrown by the next call.
    try {
        NOT_WHILE_CAPTURING;
        if (pending_bug) drop_all_work();
        else run_everything();
        look_at_guards();
    } catch (...) {
        if (!pending_bug) pending_bug = std::current_exception();
    }
    if (!p) return cudaSuccess;
    if (!heap().live.count(static_cast<char*>(p))) return result(cudaErrorInvalidValue);
    release(static_cast<char*>(p));
    return cudaSuccess;
}
cudaError_t cudaMallocAsync(void** p, size_t bytes, cudaStream_t stream) {
    resolve(stream);
    *p = bytes ? allocate(bytes, false) : nullptr;
    return result(*p || bytes == 0 ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeAsync(void* p, cudaStream_t stream) {
    return enqueue(stream, [=] {
        if (p) release(static_cast<char*>(p));
    });
}
cudaError_t cudaHostAlloc(void** p, size_t bytes, unsigned) {
    resolve(nullptr);
    NOT_WHILE_CAPTURING;
    *p = nullptr;
    if (bytes == 0) return cudaSuccess;
    if (posix_memalign(p, 256, bytes) != 0) return result(cudaErrorMemoryAllocation);
    std::memset(*p, 0xff, bytes);
    heap().pinned[static_cast<char*>(*p)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void** p, size_t bytes) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaMallocManaged(void** p, size_t bytes, unsigned) { return cudaHostAlloc(p, bytes, 0); }
cudaError_t cudaFreeHost(void* p) {
    try {
        if (!pending_bug) run_everything();
    } catch (...) {
        pending_bug = std::current_exception();
    }
    if (!p) return cudaSuccess;
    if (!heap().pinned.erase(static_cast<char*>(p))) return result(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}
cudaError_t cudaHostRegister(void* p, size_t bytes, unsigned) {
    heap().pinned[static_cast<char*>(p)] = bytes;
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* p) {
    run_everything();
    return result(heap().pinned.erase(static_cast<char*>(p)) ? cudaSuccess : cudaErrorInvalidValue);
}
cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) { return *device = host, cudaSuccess; }
cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
    *total = heap().limit;
    *available = heap().limit - std::min(heap().limit, heap().allocated);
    return cudaSuccess;
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* p) {
    *attributes = {};
    attributes->type = is_device(p)   ? cudaMemoryTypeDevice
                       : is_pinned(p) ? cudaMemoryTypeHost
                                      : cudaMemoryTypeUnregistered;
    attributes->devicePointer = attributes->hostPointer = const_cast<void*>(p);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    check_device_range(p, bytes, "cudaMemset");
    return enqueue(stream, [=] { fill_bytes(p, value, bytes); });
}
cudaError_t cudaMemset(void* p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, nullptr); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    kind = real_kind(to, from, kind);
    check_copy(to, from, bytes, kind, "cudaMemcpy");
    stream = resolve(stream);
    bool from_pageable = (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyHostToHost) && !is_pinned(from);
    bool to_pageable = (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyHostToHost) && !is_pinned(to);
    if (from_pageable && !stream->capture) {  // it is staged before the call returns
        std::vector<char> staged(static_cast<const char*>(from), static_cast<const char*>(from) + bytes);
        cudaError_t error = enqueue(stream, [=, staged = std::move(staged)] { copy_bytes(to, staged.data(), bytes); });
        if (to_pageable) run_all(stream);
        return error;
    }
    // Until it lands, the host sees NaN there, not what was there before.
    if (kind == cudaMemcpyDeviceToHost && !to_pageable && !stream->capture && stream->queue.empty() && schedule.shuffle)
        std::memset(to, 0xff, bytes);
    cudaError_t error = enqueue(stream, [=] { copy_bytes(to, from, bytes); });
    if (to_pageable && !stream->capture) run_all(stream);
    return error;
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    NOT_WHILE_CAPTURING;
    cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
    if (error == cudaSuccess) run_all(&the().legacy);
    return error;
}
cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width,
                              size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
    if (width > to_pitch || width > from_pitch) return result(cudaErrorInvalidPitchValue);
    for (size_t row = 0; row < height; row++) {
        cudaError_t error = cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                                            static_cast<const char*>(from) + row * from_pitch, width, kind, stream);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
cudaError_t cudaMemcpy2D(void* to, size_t to_pitch, const void* from, size_t from_pitch, size_t width, size_t height,
                         cudaMemcpyKind kind) {
    NOT_WHILE_CAPTURING;
    cudaError_t error = cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, width, height, kind, nullptr);
    if (error == cudaSuccess) run_all(&the().legacy);
    return error;
}

// ---- kernels ----

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
    if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
        if (value < 0 || static_cast<size_t>(value) > kMaxShared) return result(cudaErrorInvalidValue);
        the().dynamic_shared[kernel] = value;
    }
    return cudaSuccess;
}
cudaError_t cudaFuncSetCacheConfig(const void*, cudaFuncCache) { return cudaSuccess; }
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    *attributes = {};
    attributes->maxThreadsPerBlock = kMaxThreads;
    attributes->maxDynamicSharedSizeBytes = 48 << 10;
    attributes->numRegs = 64;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int threads,
                                                                   size_t shared_bytes, unsigned) {
    if (threads < 1 || threads > static_cast<int>(kMaxThreads)) return result(cudaErrorInvalidValue);
    *blocks =
        std::min(2048 / ((threads + 31) / 32 * 32), static_cast<int>((kMaxShared + 1024) / (shared_bytes + 1024)));
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads,
                                                          size_t shared_bytes) {
    return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, kernel, threads, shared_bytes, 0);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
    throw Bug("cudaLaunchKernelExC has no types: launch kernels with launch() (llmc/cuda/common.cuh)");
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
    return enqueue(stream, [=] { function(data); });
}

// ---- streams and events ----

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
    resolve(nullptr);
    the().streams.push_back(std::make_unique<CUstream_st>());
    *stream = the().streams.back().get();
    (*stream)->blocking = !(flags & cudaStreamNonBlocking);
    (*stream)->priority = priority;
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    try {
        stream = resolve(stream);
        run_all(stream);
    } catch (...) {
        if (!pending_bug) pending_bug = std::current_exception();
    }
    stream->destroyed = true;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (pending_bug) std::rethrow_exception(std::exchange(pending_bug, nullptr));
    stream = resolve(stream);
    if (stream->capture) {
        stream->capture->invalid = true;
        return result(cudaErrorStreamCaptureUnsupported);
    }
    run_all(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    stream = resolve(stream);
    if (stream->queue.empty()) return cudaSuccess;
    run_until(stream, stream->queue.front().number);
    return result(cudaErrorNotReady);
}
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
    return *priority = resolve(stream)->priority, cudaSuccess;
}
cudaError_t cudaStreamSetAttribute(cudaStream_t, cudaStreamAttrID, const cudaStreamAttrValue*) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    stream = resolve(stream);
    if (event->capture) {  // the stream joins the capture
        if (stream->capture && stream->capture != event->capture) return result(cudaErrorStreamCaptureIsolation);
        if (!stream->capture) stream->tail.clear();
        stream->capture = event->capture;
        stream->tail.insert(stream->tail.end(), event->nodes.begin(), event->nodes.end());
        return cudaSuccess;
    }
    if (stream->capture) return result(cudaErrorStreamCaptureIsolation);
    if (event->stream) stream->waits.emplace_back(event->stream, event->number);
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    *event = new CUevent_st;
    (*event)->timing = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    try {
        if (event->stream && !pending_bug) run_until(event->stream, event->number);
    } catch (...) {
        pending_bug = std::current_exception();
    }
    delete event;
    return cudaSuccess;
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
    stream = resolve(stream);
    if (stream->capture) {
        event->capture = stream->capture, event->nodes = stream->tail;
        return cudaSuccess;
    }
    event->capture = nullptr;
    uint64_t version = ++event->recorded;
    cudaError_t error = enqueue(stream, [=] { event->done = version, event->time = std::chrono::steady_clock::now(); });
    event->stream = stream, event->number = stream->last;
    return error;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    return cudaEventRecordWithFlags(event, stream, 0);
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->capture) return result(cudaErrorCapturedEvent);
    if (event->stream) run_until(event->stream, event->number);
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (event->capture) return result(cudaErrorCapturedEvent);
    if (event->done == event->recorded) return cudaSuccess;
    run_until(event->stream, event->stream->queue.front().number);
    return result(cudaErrorNotReady);
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
    if (!start->timing || !end->timing || !start->stream || !end->stream) return result(cudaErrorInvalidResourceHandle);
    if (start->done != start->recorded || end->done != end->recorded) return result(cudaErrorNotReady);
    *ms = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
}

// ---- graphs ----

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
    stream = resolve(stream);
    if (stream == &the().legacy) return result(cudaErrorStreamCaptureUnsupported);
    if (stream->capture) return result(cudaErrorIllegalState);
    stream->capture = std::make_shared<CUgraph_st>();
    stream->capture->origin = stream;
    stream->tail.clear();
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    stream = resolve(stream);
    *graph = nullptr;
    if (!stream->capture) return result(cudaErrorIllegalState);
    std::shared_ptr<CUgraph_st> captured = stream->capture;
    if (captured->origin != stream) return result(cudaErrorStreamCaptureUnmatched);
    // nodes that the stream's end does not come after belong to a stream that was not joined
    std::vector<int> stack = stream->tail;
    std::vector<bool> before(captured->nodes.size());
    while (!stack.empty()) {
        auto node = static_cast<size_t>(stack.back());
        stack.pop_back();
        if (before[node]) continue;
        before[node] = true;
        for (int n : captured->nodes[node].after) stack.push_back(n);
    }
    for_each_stream([&](cudaStream_t s) {
        if (s->capture == captured) s->capture = nullptr, s->tail.clear();
    });
    if (captured->invalid) return result(cudaErrorStreamCaptureInvalidated);
    if (std::find(before.begin(), before.end(), false) != before.end()) return result(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    stream = resolve(stream);
    *status = !stream->capture           ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = new CUgraphExec_st{*graph};
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiate(executable, graph, flags);
}
cudaError_t cudaGraphExecUpdate(cudaGraphExec_t executable, cudaGraph_t graph, cudaGraphExecUpdateResultInfo* info) {
    if (executable->graph.nodes.size() != graph->nodes.size()) {
        info->result = cudaGraphExecUpdateErrorTopologyChanged;
        return result(cudaErrorGraphExecUpdateFailure);
    }
    executable->graph = *graph;
    info->result = cudaGraphExecUpdateSuccess;
    return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    cudaError_t error = enqueue(stream, [executable] { run_graph(executable->graph); });
    if (executable->graph.last_collective >= 0) run_until(resolve(stream), resolve(stream)->last);
    return error;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* count) {
    return *count = graph->nodes.size(), cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    try {
        if (!pending_bug) run_everything();
    } catch (...) {
        pending_bug = std::current_exception();
    }
    delete executable;
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

}  // extern "C"
