// What ptxas gives a kernel on an architecture: registers, static shared memory, spills. And how many of its blocks run at once.
#pragma once
#include <cstddef>
#include <map>
#include <string>
#include <vector>

namespace ptx {

struct Resources {
    int registers = 0, spills = 0, stack = 0;  // of a thread; bytes: stores and loads of spilled registers; stack frame
    size_t shared_bytes = 0;                   // static
};

// By mangled name, of what `ptxas -v` prints.
std::map<std::string, Resources> read_resources(const std::string& output);
// Runs `ptxas` for sm_<capability> on a file of PTX, for these kernels alone. Throws Fault with what it says where it fails.
std::map<std::string, Resources> resources(const std::string& ptxas, const std::string& file, int capability,
                                           const std::vector<std::string>& kernels);

// Blocks of so many threads that a multiprocessor has room for. CUDA C++ Programming Guide, "Technical Specifications per Compute
// Capability": warps, blocks, 65,536 registers (given to a warp by 256), shared memory of which each block takes 1 KiB more.
// dynamic_bytes: of shared memory.
int blocks_a_multiprocessor(int capability, const Resources& r, int threads, size_t dynamic_bytes);
int warps_a_multiprocessor(int capability);  // at most

}  // namespace ptx
