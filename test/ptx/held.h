// What the kernels of the default path have to keep: no registers spilled, no bank conflicts, accesses to global memory as well
// coalesced as they are; where one of them is not so, a table says why.
#pragma once
#include <cstdio>
#include <string>
#include <vector>

#include "test/ptx/counters.h"
#include "test/ptx/resources.h"

namespace ptx {

struct Held {
    const char* kernel;     // how its name begins
    double coalescing = 1;  // at least
    double conflicts = 0;   // at most, of the least wavefronts
    int spills = 0;         // bytes at most
    const char* why = "";
};

// What is wrong, a line each; none: nothing.
inline std::vector<std::string> complaints(const std::string& kernel, const Totals& t, const Held& held) {
    std::vector<std::string> all;
    auto complain = [&](const char* what, double is, double may) {
        char text[160];
        snprintf(text, sizeof text, ": %s %.4g, held to %.4g", what, is, may);
        all.push_back(kernel + text);
    };
    if (t.coalescing() < held.coalescing - 0.005) complain("coalescing", t.coalescing(), held.coalescing);
    const double conflicts = t.wavefronts > 0 ? t.conflicts() / t.least_wavefronts : 0;
    if (conflicts > held.conflicts + 1e-9) complain("bank conflicts", conflicts, held.conflicts);
    return all;
}
inline std::vector<std::string> complaints(const std::string& kernel, const Resources& r, const Held& held) {
    if (r.spills <= held.spills) return {};
    return {kernel + ": " + std::to_string(r.spills) + " bytes of spilled registers, held to " +
            std::to_string(held.spills)};
}

}  // namespace ptx
