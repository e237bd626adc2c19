// A block's shared memory: dynamic first, then each array at its first use, guarded gaps between. And cp.async, which
// copies into it: at once, or as late as the thread waits for it.
#include <sys/mman.h>

#include "test/cudahost/block.h"
#include "test/cudahost/heap.h"

namespace cudahost {

namespace {

constexpr size_t kGap = 256, kSharedBytes = kMostShared + (64 << 10);
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
} shared, shared_of_other;

void land(const CopyGroup::Copy& copy) {
    if (copy.from) std::memcpy(copy.to, copy.from, copy.bytes);
    else std::memset(copy.to, 0, copy.bytes);
}
void land(CopyGroup& group) {
    for (const auto& copy : group.copies) land(copy);
    group.copies.clear();
}

}  // namespace

void start_shared_memory(size_t dynamic_bytes) { shared.start_block(dynamic_bytes); }
void swap_shared_memory() { std::swap(shared, shared_of_other); }
void check_shared_gaps() { shared.check_gaps(); }

// ---- arrays ----

void* shared_memory(const void* key, size_t bytes, size_t alignment, const char* name, Site where) {
    if (!current) throw Bug(format("shared memory outside of a kernel at %s", at(where).c_str()));
    for (const auto& a : shared.arrays)
        if (a.key == key) return a.data;
    char* p = shared.take(bytes, alignment);
    size_t fixed = shared.payload - shared.dynamic_bytes;
    if (fixed > (48 << 10))
        fail(format("%s at %s: %zu bytes of static shared memory, more than 48 KiB", name, at(where).c_str(), fixed));
    // CUDA Runtime API, cudaFuncAttributeMaxDynamicSharedMemorySize: static memory and what was consented to share a
    // device's limit; without consent they share 48 KiB.
    size_t dynamic = std::max(running->consent, shared.dynamic_bytes);
    size_t limit = running->consent ? device_limits().shared : 48 << 10;
    if (!p || fixed + dynamic > limit)
        fail(format("%s at %s: %zu bytes of static and %zu of dynamic shared memory are more than %zu%s", name,
                    at(where).c_str(), fixed, dynamic, limit,
                    running->consent ? "" : " (no cudaFuncSetAttribute for more)"));
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
    needs_capability(80, "cp.async", where);
    check_shared(to, bytes, where);
    if (valid) {
        if (reinterpret_cast<uintptr_t>(from) % bytes)
            fail(format("cp.async from global memory not on a boundary of %zu bytes at %s", bytes, at(where).c_str()));
        check_device_range(from, bytes, "cp.async");
    }
    CopyGroup::Copy copy{to, valid ? from : nullptr, bytes};
    bool late = schedule.copies == Landing::random ? schedule.random.chance(2) : schedule.copies == Landing::late;
    if (late) memory_of(current).open.copies.push_back(copy);
    else land(copy);
}
void cp_async_commit() {
    FibreMemory& m = memory_of(current);
    m.groups.push_back(std::move(m.open));
    m.open.copies.clear();
}
void cp_async_wait(int pending) {
    auto& groups = memory_of(current).groups;
    while (groups.size() > static_cast<size_t>(pending)) {
        land(groups.front());
        groups.erase(groups.begin());
    }
}

void land_all_copies() {
    FibreMemory& m = memory_of(current);
    for (auto& group : m.groups) land(group);
    m.groups.clear();
    land(m.open);
}

}  // namespace cudahost
