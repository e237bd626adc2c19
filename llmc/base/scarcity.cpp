#include "llmc/base/scarcity.h"

#include <execinfo.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/base/parallel.h"

namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr bool sanitized = true;  // AddressSanitizer says more about a signal
#else
constexpr bool sanitized = false;
#endif

char line[200];  // made before there is need of it

[[noreturn]] void end() {
    [[maybe_unused]] ssize_t n = write(STDERR_FILENO, line, strlen(line));
    _exit(1);
}

// Whether it is memory that is short: the last thing that failed here was for want of it, or some megabytes more cannot
// even be reserved.
bool nothing_left() {
    if (errno == ENOMEM) return true;
    constexpr size_t some = 64 << 20;
    void* p = mmap(nullptr, some, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED) munmap(p, some);
    return p == MAP_FAILED;
}

void on_signal(int number) {
    if (nothing_left()) end();
    signal(number, SIG_DFL);
    raise(number);
}

[[noreturn]] void on_terminate() {
    try {
        if (std::exception_ptr e = std::current_exception()) std::rethrow_exception(e);
    } catch (const std::bad_alloc&) {
        end();
    } catch (const std::exception& e) {
        fprintf(stderr, "internal error: %s; please report it with the command line\n", e.what());
    } catch (...) {
    }
    abort();
}

}  // namespace

void end_in_one_line(const char* program_name) {
    snprintf(line, sizeof line,
             "%s: error: out of memory; free some, or raise the limit (ulimit -v); the newest checkpoint is whole\n",
             program_name);
    void* frame;
    backtrace(&frame, 1);  // loads what the C library needs to pass an exception on, while there is memory for it
    std::set_terminate(on_terminate);
    if (sanitized) return;
    static char stack[1 << 16];  // that of the thread may be what is used up
    stack_t alternate{};
    alternate.ss_sp = stack, alternate.ss_size = sizeof stack;
    sigaltstack(&alternate, nullptr);
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK | SA_RESETHAND;
    for (int number : {SIGSEGV, SIGABRT}) sigaction(number, &action, nullptr);
}

void start_threads() {
    // libgomp ends the program where it can start none: tried before, all at a time
    std::vector<std::thread> threads;
    std::string why;
    try {
        for (int i = 1; i < thread_count(); i++) threads.emplace_back([] {});
    } catch (const std::system_error& e) {
        why = scarcity_reason(e);
    }
    for (std::thread& t : threads) t.join();
    if (!why.empty()) throw Error(why);
    parallel_for(thread_count(), [](int64_t) {});
}

std::string scarcity_reason(const std::exception& e) {
    if (dynamic_cast<const std::bad_alloc*>(&e)) return "out of memory";
    const auto* error = dynamic_cast<const std::system_error*>(&e);
    if (error && error->code() == std::errc::resource_unavailable_try_again)
        return strf(
            "cannot start a thread (%s): OMP_NUM_THREADS=%d is how many are wanted; take fewer, or raise the "
            "limits of memory and processes (ulimit -v, ulimit -u)",
            error->what(), thread_count());
    return "";
}
