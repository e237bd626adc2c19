// What a test may ask of CUDA on the CPU: a schedule, what went wrong, what a kernel does without one of its barriers;
// and what llmc/cuda/common.cuh tells it of the memory that it divides.
#pragma once
#include <stdint.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

namespace cudahost {

// What a kernel or a call did wrong: thrown by the call that ran it.
struct Bug : std::logic_error {
    using std::logic_error::logic_error;
};

// The schedule from now on. 0: threads in order, nothing deferred. Waits for all work first.
void set_seed(uint64_t seed);
// Throws what was found wrong where no exception could leave (cudaFree in a destructor), and looks at all guards.
void check();

// The __syncthreads() or __syncwarp() at this place does nothing from now on; line 0 ends that. To show that a test
// would miss it.
void skip_barrier(const std::string& file, int line);
// Barriers that ran since set_seed or clear_barriers_seen, in order of file and line.
struct Barrier {
    std::string file;
    int line;
    bool of_warp;  // __syncwarp()
    bool operator<(const Barrier& other) const { return std::tie(file, line) < std::tie(other.file, other.line); }
};
std::vector<Barrier> barriers_seen();
void clear_barriers_seen();

// From now on kernels are not run as g++ compiled them: what nvcc made of them, the .ptx files of this directory, runs on the
// machine of test/ptx/.
void use_ptx(const std::string& directory);
bool on_ptx();

// The fake device's memory from now on, to see what happens where it runs out.
void set_device_memory(size_t bytes);
// Whether the host cannot touch device memory now (closing.h says when, on CPUs without protection keys).
bool device_memory_is_closed();

// ---- on PTX: which bytes of device memory somebody wrote, but for its kernels ----

void note_written(const void* begin, size_t bytes, bool written);

// ---- for llmc/cuda/common.cuh ----

// The workspace's first `bytes` become NaN, and the rest of `reserved` guarded, just before
// the next piece of work that is given to a stream.
void fresh_workspace(void* data, size_t bytes, size_t reserved);
// Whoever touches these bytes of device memory from now on does wrong.
void guard(void* begin, size_t bytes);

}  // namespace cudahost

// what lies after each tensor of an arena
#define ARENA_GAP 256
inline void guard_gap(void* begin, size_t bytes) { cudahost::guard(begin, bytes); }
