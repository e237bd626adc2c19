// Device memory is closed to the host, as on a real machine: it is open only while a kernel, a copy or a fill runs. A
// host that reads or writes it ends the process (SIGSEGV, with a line that says so).
//
// With memory protection keys (pkeys(7); `pku` in /proc/cpuinfo) opening and closing is an instruction each, and memory
// is closed whenever the host runs: every such fault is found at once.
//
// Without them it takes two system calls, which cost the more the more pages are in use (AMD EPYC (Zen 3), 64 MiB in
// use: 3 ms in pages of 4 KiB, 15 us in huge ones, which not every system gives). Memory then stays open after most
// calls and is closed
//   - after every call under seed 2. Its streams are late: work waits until the host asks for it, and few calls open
//     memory. for_each_schedule() runs the same lines of the host under all seeds, this one among them;
//   - under other seeds after the first 100 calls of the process and then after one in 16, drawn from the seed.
// Found for certain: every fault under seed 2, hence in each test with for_each_schedule(); one at a program's start.
// Found sooner or later: what a program does in each step. Not for certain: what it does once, later, under another
// seed than 2. CUDAHOST_NO_PKEYS=1 in the environment: as on a CPU without keys.
#pragma once
#include <cstddef>

namespace cudahost {

// Device memory is open while one of these lives. A call that does several things has one of its own around them.
struct Access {
    Access();
    ~Access();
    Access(const Access&) = delete;
};

// Address space for device memory, and the first `bytes` of it made memory.
char* reserve_device_memory(size_t bytes);
void add_device_memory(size_t bytes);

// From now on a SIGSEGV says what it was before it ends the process.
void explain_segv();

}  // namespace cudahost
