// What the operating system knows about this machine.
#pragma once
#include <chrono>
#include <fstream>
#include <string>

// Of a clock that only goes forward.
inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Bytes that a line "NAME: N kB" of a file of the kernel's says; `unknown` if there is none.
inline double kernel_bytes(const char* path, const std::string& line, double unknown) {
    std::ifstream file(path);
    std::string name, rest;
    for (double kilobytes = 0; file >> name; std::getline(file, rest))
        if (name == line && file >> kilobytes) return 1024 * kilobytes;
    return unknown;
}
// Bytes of memory that are available now. Not known: let the allocation decide.
inline double available_host_memory() { return kernel_bytes("/proc/meminfo", "MemAvailable:", 1e18); }
// Bytes of memory that this process holds, mapped files included, and the most that it held so far; 0: not known.
inline double resident_memory() { return kernel_bytes("/proc/self/status", "VmRSS:", 0); }
inline double peak_resident_memory() { return kernel_bytes("/proc/self/status", "VmHWM:", 0); }
