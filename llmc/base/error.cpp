#include "llmc/base/error.h"

void check_failed(const char* file, int line, const char* condition, const char* format, ...) {
    va_list args;
    va_start(args, format);
    char values[1000];
    vsnprintf(values, sizeof values, format, args);
    va_end(args);
    throw std::logic_error(strf("%s:%d: check failed: %s; %s", file, line, condition, values));
}

[[noreturn]] void cuda_failed(const char* call, const char* file, int line, const char* text, const char* name);
void cuda_failed(const char* call, const char* file, int line, const char* text, const char* name) {  // cuda_check.h
    throw Error(strf("%s:%d: %s: %s (%s)", file, line, call, text, name));
}
