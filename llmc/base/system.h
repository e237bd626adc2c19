// What the operating system knows about this machine.
#pragma once
#include <chrono>
#include <fstream>
#include <string>

// Of a clock that only goes forward.
inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Bytes of memory that are available now.
inline double available_host_memory() {
    std::ifstream file("/proc/meminfo");
    std::string name;
    double kilobytes = 0;
    for (std::string unit; file >> name >> kilobytes; std::getline(file, unit))
        if (name == "MemAvailable:") return 1024 * kilobytes;
    return 1e18;  // not known: let the allocation decide
}
