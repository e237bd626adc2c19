// Device memory: one stretch of address space, in which cudaMalloc() places allocations with guarded gaps between them.
// What it holds is NaN at first and again when it was freed; freed memory is not used again soon.
#pragma once
#include <deque>
#include <iterator>
#include <map>

#include "test/cudahost/internal.h"

namespace cudahost {

constexpr size_t kHeapBytes = size_t{1} << 40;  // address space

struct Allocation {
    size_t bytes, capacity;  // capacity: with what rounding adds; the redzone lies behind it
};
struct Heap {
    char* base = nullptr;
    size_t mapped = 0, used = 0, allocated = 0, limit = size_t{4} << 30;
    std::map<char*, Allocation> live;
    std::map<char*, size_t> pinned, guards;
    std::deque<std::pair<char*, size_t>> quarantine;  // freed; not used again soon, so that late accesses show
    size_t quarantine_bytes = 0;
    bool sparse = false;  // large_sizes()
    std::multimap<size_t, char*> reusable;
};
Heap& heap();

// On PTX, for launches of the size that real models have, from now on: of each launch four blocks run, and device memory is
// zeros that cost nothing until somebody touches them.
void large_sizes();

char* allocate(size_t bytes);  // null: there is no more
void release(char* p);

// ---- whose memory is it? ----

bool in_heap(const void* p);
bool is_pinned(const void* p);
// `bytes` at p must be memory that the device, or the host, can use.
void check_device_range(const void* p, size_t bytes, const char* what);
void check_host_range(const void* p, size_t bytes, const char* what);

// The entry of the map whose bytes have p, their end included; null: none.
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

// ---- guards ----

// NaN bytes that nobody may touch.
void poison(void* p, size_t bytes);
void unpoison(void* p, size_t bytes);
bool all_ones(const void* p, size_t bytes);
void remove_guard(void* begin);
// Throws where bytes between allocations, or of a guard, were written, and names `kernel`: the last that ran.
void look_at_guards();
extern const void* last_kernel;

// Copies and fills of a whole arena step over guards.
void copy_memory(void* to, const void* from, size_t bytes);
void fill_memory(void* to, int value, size_t bytes);

}  // namespace cudahost
