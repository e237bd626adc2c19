// Launches on the machine of test/ptx/: what nvcc made of the kernels, instead of what g++ made of them. Streams, memory and
// libraries stay those of CUDA on the CPU, so the tests of the layers run as they are.
#include <sys/mman.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "test/cudahost/block.h"
#include "test/cudahost/counted.h"
#include "test/cudahost/heap.h"
#include "test/ptx/machine.h"

namespace cudahost {

namespace {

struct File {
    std::string path;
    ptx::Module module;
};
std::vector<File> files;
std::vector<CountedLaunch>* counted = nullptr;
std::unique_ptr<ptx::Memory> memory;  // on_ptx(): it exists

const ptx::Kernel& find_kernel(const std::string& name, std::string* path) {
    for (auto& f : files)
        if (const ptx::Kernel* k = f.module.kernel(name)) return *path = f.path, *k;
    throw Bug(name + ": no PTX of this kernel was made (PTX_SOURCES in the Makefile)");
}

}  // namespace

void use_ptx(const std::string& directory) {
    for (const auto& file : std::filesystem::recursive_directory_iterator(directory)) {
        if (file.path().extension() != ".ptx") continue;
        std::stringstream text;
        text << std::ifstream(file.path()).rdbuf();
        files.push_back({file.path(), ptx::parse(text.str())});
    }
    if (files.empty()) throw Bug("no PTX in " + directory);
    release(allocate(1));  // now there is a heap
    memory = std::make_unique<ptx::Memory>(heap().base, kHeapBytes);
}
void count_launches(std::vector<CountedLaunch>* into) { counted = into; }
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
    std::string path;
    const ptx::Kernel& kernel = find_kernel(name, &path);
    auto dim = [](dim3 d) { return ptx::Dim{d.x, d.y, d.z}; };
    ptx::Launch l{dim(launch.grid), dim(launch.block), launch.shared_bytes, launch.args, {}, schedule.seed};
    const uint64_t n = uint64_t{launch.grid.x} * launch.grid.y * launch.grid.z;
    if (heap().sparse && counted && n > 8)
        for (uint64_t i = 0; i < 8; i++) l.blocks.push_back(std::min(n / 16 * 8, n - 8) + i);
    else if (heap().sparse && !counted && n > 4) l.blocks = {0, n - 1, schedule.random() % n, schedule.random() % n};
    if (counted) {
        counted->push_back({&kernel, path, l.grid, l.block, l.shared_bytes, {}});
        l.counters = &counted->back().counters;
    }
    try {
        ptx::launch(*memory, kernel, l);
    } catch (const ptx::Fault& fault) {
        throw Bug(std::string("on PTX: ") + fault.what());
    }
}

}  // namespace cudahost
