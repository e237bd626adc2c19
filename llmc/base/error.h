// Errors, and printf-style strings.
//
// An error that a user can cause is an exception whose message is one line for that user: it names the thing (option,
// file, tensor) and the remedy. main() catches it once, prints "train_gpt2: error: MESSAGE" on stderr and exits with
// its code. An error that only a bug can cause is a CHECK: it names the condition, the values and the place.
#pragma once
#include <cstdarg>
#include <cstdio>
#include <stdexcept>
#include <string>
#include "llmc/base/check.h"

// Run-time error: a bad file, a full disk, a NaN. Exit code 1.
struct Error : std::runtime_error {
    explicit Error(const std::string& message, int code = 1) : std::runtime_error(message), exit_code(code) {}
    int exit_code;
};

// Usage error: a wrong option or an impossible combination. Exit code 2.
struct UsageError : Error {
    explicit UsageError(const std::string& message) : Error(message, 2) {}
};

// sprintf into a std::string; the compiler checks the arguments.
[[gnu::format(printf, 1, 2)]] inline std::string strf(const char* format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    std::string out(static_cast<size_t>(vsnprintf(nullptr, 0, format, args)), '\0');
    vsnprintf(out.data(), out.size() + 1, format, again);
    va_end(args);
    va_end(again);
    return out;
}
