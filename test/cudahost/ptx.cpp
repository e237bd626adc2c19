// Launches on the machine of test/ptx/: what nvcc made of the kernels, instead of what g++ made of them. Streams, memory and
// libraries stay those of CUDA on the CPU, so the tests of the layers run as they are.
#include <sys/mman.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "test/cudahost/block.h"
#include "test/cudahost/heap.h"
#include "test/ptx/machine.h"

namespace cudahost {

namespace {

std::vector<ptx::Module> modules;
std::unique_ptr<ptx::Memory> memory;  // on_ptx(): it exists

const ptx::Kernel& find_kernel(const std::string& name) {
    for (auto& m : modules)
        if (const ptx::Kernel* k = m.kernel(name)) return *k;
    throw Bug(name + ": no PTX of this kernel was made (PTX_SOURCES in the Makefile)");
}

}  // namespace

void use_ptx(const std::string& directory) {
    for (const auto& file : std::filesystem::recursive_directory_iterator(directory)) {
        if (file.path().extension() != ".ptx") continue;
        std::stringstream text;
        text << std::ifstream(file.path()).rdbuf();
        modules.push_back(ptx::parse(text.str()));
    }
    if (modules.empty()) throw Bug("no PTX in " + directory);
    release(allocate(1));  // now there is a heap
    memory = std::make_unique<ptx::Memory>(heap().base, kHeapBytes);
}
bool on_ptx() { return memory != nullptr; }

void note_written(const void* begin, size_t bytes, bool written) {
    if (memory) memory->mark(begin, bytes, written);
}

void large_sizes() {
    heap().sparse = true;
    heap().limit = kHeapBytes / 2;
    madvise(heap().base, kHeapBytes, MADV_NOHUGEPAGE);  // a row here and there, not 2 MiB around each
    memory->assume_written(heap().base, kHeapBytes);
}

void run_on_ptx(const Launch& launch) {
    memory->forget_tensors();
    for (const auto& [p, a] : heap().live) memory->add_tensor(p, a.bytes, "an allocation");
    for (const auto& [p, bytes] : heap().pinned) memory->add_tensor(p, bytes, "pinned memory");
    for (const auto& [p, bytes] : heap().guards) memory->add_guard(p, bytes);
    const std::string name = kernel_name(launch.kernel);
    if (name == "stable_sort_kernel") return run(launch);  // a stand-in (include/llmc/cuda/sort.cuh)
    std::vector<uint64_t> blocks;
    uint64_t n = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    if (heap().sparse && n > 4) blocks = {0, n - 1, schedule.random() % n, schedule.random() % n};
    auto dim = [](dim3 d) { return ptx::Dim{d.x, d.y, d.z}; };
    try {
        ptx::launch(*memory, find_kernel(name),
                    {dim(launch.grid), dim(launch.block), launch.shared_bytes, launch.args, blocks, schedule.seed});
    } catch (const ptx::Fault& fault) {
        throw Bug(std::string("on PTX: ") + fault.what());
    }
}

}  // namespace cudahost
