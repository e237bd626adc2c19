// Arguments of kernels: pointers must point to memory that the device can use, pointers in structs, too.
#include <unistd.h>

#include "test/cudahost/heap.h"

extern char _end;  // the linker's: the program's data end here, and malloc's heap begins

namespace cudahost {

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
