#include "test/cudahost/heap.h"

#include <sys/mman.h>

#include "test/cudahost/closing.h"

namespace cudahost {

namespace {

constexpr size_t kRedzone = 256, kQuarantineBytes = 16 << 20, kStep = 64 << 20;
constexpr size_t kCheckedGuard = 1024;  // so much of a guard is looked at

void forget_guards(char* begin, size_t bytes) {
    auto& guards = heap().guards;
    auto from = guards.lower_bound(begin), to = guards.lower_bound(begin + bytes);
    guards.erase(from, to);
}

}  // namespace

const void* last_kernel = nullptr;

Heap& heap() {
    static Heap* the_heap = new Heap;  // outlives all other objects
    return *the_heap;
}
void set_device_memory(size_t bytes) { heap().limit = bytes; }

// ---- allocations ----

char* allocate(size_t bytes) {
    Heap& h = heap();
    if (!h.base) h.base = reserve_device_memory(kHeapBytes);
    if (h.allocated + bytes > h.limit) return nullptr;
    Access access;
    size_t capacity = (bytes + 255) / 256 * 256;
    char* p;
    auto reuse = h.reusable.lower_bound(capacity);
    if (!h.sparse && reuse != h.reusable.end() && reuse->first <= 2 * capacity) {
        p = reuse->second, capacity = reuse->first;
        h.reusable.erase(reuse);
    } else {
        // an index that overflows 32 bits goes back by 2^32 elements: nobody is to be there
        if (h.sparse && bytes > size_t{4} << 30) h.used += size_t{20} << 30;
        if (h.used + bytes + 2 * kRedzone > kHeapBytes) return nullptr;
        p = h.base + h.used + kRedzone;
        h.used += kRedzone + capacity + kRedzone;
        size_t more = h.used > h.mapped ? (h.used - h.mapped + kStep - 1) / kStep * kStep : 0;
        if (more) add_device_memory(more);
        h.mapped += more;
    }
    unpoison(p - kRedzone, capacity + 2 * kRedzone);
    if (!h.sparse) std::memset(p, 0xff, bytes), note_written(p, bytes, false);
    poison(p - kRedzone, kRedzone);
    poison(p + bytes, capacity - bytes + kRedzone);
    h.live[p] = {bytes, capacity};
    h.allocated += bytes;
    return p;
}

void release(char* p) {
    Heap& h = heap();
    Allocation a = h.live.at(p);
    Access access;
    forget_guards(p, a.bytes);
#ifdef CUDAHOST_ASAN
    __asan_poison_memory_region(p, a.capacity);
#else
    if (!h.sparse) std::memset(p, 0xff, a.bytes);
#endif
    if (h.sparse) {  // back to the system
        char *begin = p + (4096 - reinterpret_cast<uintptr_t>(p) % 4096),
             *end = p + a.bytes - reinterpret_cast<uintptr_t>(p + a.bytes) % 4096;
        if (begin < end) madvise(begin, static_cast<size_t>(end - begin), MADV_DONTNEED);
    }
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

// ---- whose memory is it? ----

bool in_heap(const void* p) {
    auto* byte = static_cast<const char*>(p);
    return heap().base && byte >= heap().base && byte < heap().base + kHeapBytes;
}
bool is_pinned(const void* p) { return find(heap().pinned, p); }

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
void check_host_range(const void* p, size_t bytes, const char* what) {
    if (in_heap(p)) throw Bug(format("%s of %zu bytes at %p: this is device memory, not host memory", what, bytes, p));
    if (auto* a = find(heap().pinned, p)) {
        size_t rest = static_cast<size_t>(a->first + a->second - static_cast<const char*>(p));
        if (bytes > rest)
            throw Bug(format("%s of %zu bytes at %p: the pinned allocation ends after %zu", what, bytes, p, rest));
    }
}

// ---- guards ----

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
    return bytes == 0 || (*byte == '\xff' && std::memcmp(byte, byte + 1, bytes - 1) == 0);
}

void guard(void* begin, size_t bytes) {
    if (bytes == 0) return;
    Access access;
    heap().guards[static_cast<char*>(begin)] = bytes;
    poison(begin, bytes);
}
void remove_guard(void* begin) { heap().guards.erase(static_cast<char*>(begin)); }

void look_at_guards() {
#ifndef CUDAHOST_ASAN
    Access access;
    auto untouched = [](const char* begin, size_t bytes) { return all_ones(begin, std::min(bytes, kCheckedGuard)); };
    auto complain = [](char* begin, size_t bytes, const std::string& what) {
        poison(begin, bytes);  // reported once
        throw Bug(format("device memory written %s, by %s or a copy before it", what.c_str(),
                         last_kernel ? kernel_name(last_kernel).c_str() : "a copy"));
    };
    for (const auto& [p, a] : heap().live) {
        char* end = p + a.bytes;
        size_t behind = a.capacity - a.bytes + kRedzone;
        if (!untouched(p - kRedzone, kRedzone))
            complain(p - kRedzone, kRedzone, format("before the beginning of an allocation of %zu bytes", a.bytes));
        if (!untouched(end, behind))
            complain(end, behind, format("behind the end of an allocation of %zu bytes", a.bytes));
    }
    for (const auto& [p, bytes] : heap().guards)
        if (!untouched(p, bytes)) complain(p, bytes, "behind the end of a tensor of an arena, or of the workspace");
#endif
}

// ---- copies and fills ----

namespace {

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
}  // namespace

void copy_memory(void* to, const void* from, size_t bytes) {
    note_written(to, bytes, true);
    char* source = static_cast<char*>(const_cast<void*>(from));
    for_each_open_piece(static_cast<char*>(to), bytes, [&](char* begin, char* end) {
        char* s = source + (begin - static_cast<char*>(to));
        for_each_open_piece(s, static_cast<size_t>(end - begin), [&](char* from_begin, char* from_end) {
            std::memmove(begin + (from_begin - s), from_begin, static_cast<size_t>(from_end - from_begin));
        });
    });
}
void fill_memory(void* to, int value, size_t bytes) {
    constexpr size_t page = 4096;
    if (heap().sparse && value == 0 && bytes > 2 * page) {  // zeros again for nothing, and written as all of it is
        char *begin = static_cast<char*>(to), *end = begin + bytes;
        char* first = begin + (page - reinterpret_cast<uintptr_t>(begin) % page) % page;
        char* last = end - reinterpret_cast<uintptr_t>(end) % page;
        std::memset(begin, 0, static_cast<size_t>(first - begin)),
            std::memset(last, 0, static_cast<size_t>(end - last));
        if (madvise(first, static_cast<size_t>(last - first), MADV_DONTNEED) == 0) return;
    }
    note_written(to, bytes, true);
    for_each_open_piece(static_cast<char*>(to), bytes,
                        [&](char* begin, char* end) { std::memset(begin, value, static_cast<size_t>(end - begin)); });
}

}  // namespace cudahost
