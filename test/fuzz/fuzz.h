// Fuzz targets: libFuzzer makes up bytes, led by which lines of ours they reach.
//
// A target reads its input as a parser of ours would, and checks what must hold whatever was read. A parser may end with an
// Error (llmc/base/error.h). Any other exception, a CHECK that fails, a signal, a leak, a sanitizer's report is a fault.
#pragma once
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>
#include "llmc/base/error.h"

namespace fs = std::filesystem;

using FuzzTarget = void (*)(std::string_view input);
inline std::map<std::string, FuzzTarget>& fuzz_targets() {
    static std::map<std::string, FuzzTarget> all;
    return all;
}
// FUZZ(json) { ... }: the target json, which reads `input`.
#define FUZZ(name)                                                                          \
    static void fuzz_##name(std::string_view input);                                        \
    static const bool fuzz_##name##_is_there = (fuzz_targets()[#name] = fuzz_##name, true); \
    static void fuzz_##name(std::string_view input)

// The first bytes of an input choose how the rest is read.
inline uint8_t take_byte(std::string_view* input) {
    if (input->empty()) return 0;
    const uint8_t byte = static_cast<uint8_t>(input->front());
    input->remove_prefix(1);
    return byte;
}

// Lengths of pieces, from 1 on, that follow from a byte.
class Cuts {
  public:
    explicit Cuts(uint8_t seed) : state_(seed + 1u) {}
    size_t next() {
        state_ = state_ * 1664525u + 1013904223u;
        return 1 + (state_ >> 24) % (1u << (state_ >> 16) % 8);
    }

  private:
    uint32_t state_;
};

// The message of the Error that f() throws; "" if it throws none.
template <typename F>
std::string complaint_of(F&& f) {
    try {
        f();
    } catch (const Error& e) {
        return std::string("error: ") + e.what();
    }
    return "";
}
// For what cannot end so.
template <typename F>
void cannot_fail(F&& f) {
    const std::string why = complaint_of(f);
    CHECK(why.empty(), "%s", why.c_str());
}

// ---- files -------------------------------------------------------------------------------------------------------------

const std::string& scratch();  // a directory of this process

inline std::string fresh_directory(const std::string& name) {
    const std::string dir = scratch() + "/" + name;
    fs::remove_all(dir);
    fs::create_directories(dir);
    return dir;
}
inline void put(const std::string& path, std::string_view bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}
// An input of several files: "=== NAME", and its text from the next line on. Of these names only.
inline void put_files(std::string_view input, const std::string& dir, std::initializer_list<std::string_view> names) {
    constexpr std::string_view mark = "=== ";
    while (!input.empty()) {
        const size_t line = input.find('\n'), next = input.find("\n=== ", std::min(line, input.size()));
        const std::string_view head = input.substr(0, line);
        for (std::string_view name : names)
            if (line != std::string_view::npos && head.starts_with(mark) && head.substr(mark.size()) == name)
                put(dir + "/" + std::string(name), input.substr(line + 1, next - line - 1));
        input.remove_prefix(next == std::string_view::npos ? input.size() : next + 1);
    }
}
