// Names for messages: of kernels, threads and places.
#include <cxxabi.h>
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdarg>

#include "test/cudahost/block.h"

namespace cudahost {

std::string format(const char* text, ...) {
    va_list args;
    va_start(args, text);
    char out[4096];
    vsnprintf(out, sizeof out, text, args);
    va_end(args);
    return out;
}

std::string at(const Site& s) { return format("%s:%u", s.file_name(), s.line()); }
std::string thread_name(int number) {
    uint3 t = fibres[number].index;
    return format("thread (%u,%u,%u)", t.x, t.y, t.z);
}

// From the symbol table of the file that has the address: kernels may be static, which dladdr() does not know.
std::string kernel_name(const void* kernel) {
    struct Search {
        uintptr_t address;
        std::string file;
        uintptr_t base;
    } search{reinterpret_cast<uintptr_t>(kernel), "", 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
            auto& s = *static_cast<Search*>(data);
            for (int i = 0; i < info->dlpi_phnum; i++) {
                const auto& header = info->dlpi_phdr[i];
                uintptr_t begin = info->dlpi_addr + header.p_vaddr;
                if (header.p_type == PT_LOAD && s.address >= begin && s.address < begin + header.p_memsz) {
                    s.file = info->dlpi_name[0] ? info->dlpi_name : "/proc/self/exe";
                    s.base = info->dlpi_addr;
                    return 1;
                }
            }
            return 0;
        },
        &search);
    std::string name = format("kernel %p", kernel);
    int fd = search.file.empty() ? -1 : open(search.file.c_str(), O_RDONLY | O_CLOEXEC);
    struct stat status {};
    if (fd < 0 || fstat(fd, &status) != 0) return name;
    size_t bytes = static_cast<size_t>(status.st_size);
    void* map = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    if (map == MAP_FAILED) return name;
    const char* file = static_cast<const char*>(map);
    const auto& header = *reinterpret_cast<const ElfW(Ehdr)*>(file);
    const auto* sections = reinterpret_cast<const ElfW(Shdr)*>(file + header.e_shoff);
    for (int i = 0; i < header.e_shnum; i++) {
        if (sections[i].sh_type != SHT_SYMTAB) continue;
        const auto* symbols = reinterpret_cast<const ElfW(Sym)*>(file + sections[i].sh_offset);
        const char* strings = file + sections[sections[i].sh_link].sh_offset;
        for (size_t s = 0; s < sections[i].sh_size / sizeof *symbols; s++)
            if ((symbols[s].st_info & 0xf) == STT_FUNC && symbols[s].st_value == search.address - search.base &&
                symbols[s].st_value) {
                int status_of_demangle = 0;
                char* plain = abi::__cxa_demangle(strings + symbols[s].st_name, nullptr, nullptr, &status_of_demangle);
                name = plain ? plain : strings + symbols[s].st_name;
                free(plain);
                int depth = 0;  // without the list of parameters, in which there may be parentheses too
                for (size_t c = name.size(); c-- > 0 && name.back() == ')';) {
                    depth += (name[c] == ')') - (name[c] == '(');
                    if (depth == 0) name.resize(c);
                }
                if (name.rfind("void ", 0) == 0) name.erase(0, 5);
            }
    }
    munmap(map, bytes);
    return name;
}

}  // namespace cudahost
