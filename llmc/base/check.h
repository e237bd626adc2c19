// Conditions that only a bug can break. A header of its own, and without any other, for what nvcc compiles: it reads every
// header three times.
#pragma once

// Throws std::logic_error.
[[noreturn, gnu::format(printf, 4, 5)]] void check_failed(const char* file, int line, const char* condition,
                                                          const char* format, ...);

// CHECK(N > 0, "N=%d", N);
#define CHECK(condition, ...)                                                        \
    do {                                                                             \
        if (!(condition)) check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__); \
    } while (0)
