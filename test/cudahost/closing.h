// Device memory is closed to the host, as on a real machine: it is open only while a kernel, a copy or a fill runs.
#pragma once
#include <cstddef>

namespace cudahost {

// Device memory is open while one of these lives.
struct Access {
    Access();
    ~Access();
    Access(const Access&) = delete;
};

// More memory for the heap: `bytes` at p, which are closed so far, become part of what Access opens.
void add_device_memory(char* p, size_t bytes);
// What a SIGSEGV was, in words, before it ends the process.
void explain_segv();

}  // namespace cudahost
