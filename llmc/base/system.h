// What the operating system knows about this machine.
#pragma once
#include <fstream>
#include <string>

// Bytes of memory that are available now.
inline double available_host_memory() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    double kilobytes = 0;
    for (std::string unit; file >> name >> kilobytes; std::getline(file, unit))
        if (name == "MemAvailable:") return 1024 * kilobytes;
    return 1e18;  // not known: let the allocation decide
}
