// How long threads of OpenMP wait awake, before they sleep: for a moment.
//
// A loop over cores ends when the last thread has come. libgomp's threads spin for 300,000 rounds meanwhile (5 ms on an
// AMD Zen 3), and for as long after it, lest the next loop find them asleep. Where other processes use the cores, too,
// that burns the time slice which the thread that is waited for would need; libomp's (clang) spin for 200 ms. A loop of
// ours follows the one before it within microseconds; what the spin is here for is that.
//
// libgomp reads GOMP_SPINCOUNT when it is loaded, before any code of a program but that in .preinit_array, and has no
// other way to be told. At that time the C library still stands on the environment that the kernel gave, in which there
// is no room for one string more. So a variable that nobody reads so early lends its place until the libraries have
// started. What the user sets wins. oneDNN's loops run on the same threads. In an empty environment nothing is done.
#include "llmc/base/parallel.h"

#include <unistd.h>
#include <cstdlib>

int thread_count() {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

namespace {

char ours[] = "GOMP_SPINCOUNT=2000";
char* volatile lent = nullptr;  // volatile: compilers take it that nothing runs before constructors

// Runs before the C library and the sanitizers have started: it calls nothing.
[[gnu::no_sanitize("address", "undefined", "thread")]] bool begins_with(const char* text, const char* what) {
    for (; *what; text++, what++)
        if (*text != *what) return false;
    return true;
}
[[gnu::no_sanitize("address", "undefined", "thread")]] void before_libraries(int, char**, char** environment) {
    char** place = nullptr;
    for (char** e = environment; *e; e++) {
        if (begins_with(*e, "OMP_WAIT_POLICY=") || begins_with(*e, "GOMP_SPINCOUNT=")) return;
        if (begins_with(*e, "PWD=") || begins_with(*e, "HOME=") || begins_with(*e, "PATH=")) place = e;
    }
    if (!place) return;
    lent = *place;
    *place = ours;
}
[[gnu::section(".preinit_array"), gnu::used]] void (*const at_preinit)(int, char**, char**) = before_libraries;

[[gnu::constructor]] void after_libraries() {
#ifdef __clang__
    if (!getenv("OMP_WAIT_POLICY")) setenv("KMP_BLOCKTIME", "1", 0);  // libomp reads it later, at the first loop
#endif
    for (char** e = environ; lent && e && *e; e++)
        if (*e == ours) *e = lent;
}

}  // namespace
