#include "test/ptx/resources.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <sstream>

#include "test/ptx/module.h"

namespace ptx {

std::map<std::string, Resources> read_resources(const std::string& output) {
    std::map<std::string, Resources> found;
    Resources* now = nullptr;
    std::istringstream lines(output);
    for (std::string line; std::getline(lines, line);) {
        size_t quote = line.find("entry function '");
        if (quote != std::string::npos) {
            quote += 16;
            now = &found[line.substr(quote, line.find('\'', quote) - quote)];
            continue;
        }
        if (!now) continue;
        // "640 bytes smem": the number before the words
        auto number = [&](const std::string& words) {
            size_t at = line.find(" " + words), begin = at;
            if (at == std::string::npos) return 0;
            while (begin > 0 && isdigit(static_cast<unsigned char>(line[begin - 1]))) begin--;
            return std::stoi(line.substr(begin, at - begin));
        };
        if (line.find("bytes stack frame") != std::string::npos) {
            now->stack = number("bytes stack frame");
            now->spills = number("bytes spill stores") + number("bytes spill loads");
        } else if (line.find("Used ") != std::string::npos) {
            now->registers = number("registers");
            now->shared_bytes = static_cast<size_t>(number("bytes smem"));
        }
    }
    return found;
}

std::map<std::string, Resources> resources(const std::string& ptxas, const std::string& file, int capability,
                                           const std::vector<std::string>& kernels) {
    std::string command = "'" + ptxas + "' -v -arch=sm_" + std::to_string(capability);
    for (const std::string& k : kernels) command += " -e " + k;
    command += " -o /dev/null '" + file + "' 2>&1";
    std::string output;
    std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
    char buffer[4096];
    while (pipe && fgets(buffer, sizeof buffer, pipe.get())) output += buffer;
    auto found = read_resources(output);
    for (const std::string& k : kernels)
        if (!found.count(k)) throw Fault(command + " says nothing of " + k + ":\n" + output);
    return found;
}

namespace {
struct Multiprocessor {
    int capability, warps, blocks;
    size_t shared_bytes;
};
constexpr Multiprocessor kMultiprocessors[] = {
    {80, 64, 32, 164 << 10}, {89, 48, 24, 100 << 10}, {90, 64, 32, 228 << 10}, {100, 64, 32, 228 << 10}};
const Multiprocessor& multiprocessor(int capability) {
    for (const auto& m : kMultiprocessors)
        if (m.capability == capability) return m;
    throw Fault("no table of what a multiprocessor of sm_" + std::to_string(capability) + " has");
}
}  // namespace

int warps_a_multiprocessor(int capability) { return multiprocessor(capability).warps; }

int blocks_a_multiprocessor(int capability, const Resources& r, int threads, size_t dynamic_bytes) {
    const Multiprocessor& m = multiprocessor(capability);
    const int warps = (threads + 31) / 32, registers = (std::max(r.registers, 1) + 7) / 8 * 256;  // of a warp
    const size_t shared = r.shared_bytes + dynamic_bytes + 1024;
    return std::min({m.blocks, m.warps / warps, 65536 / registers / warps, static_cast<int>(m.shared_bytes / shared)});
}

}  // namespace ptx
