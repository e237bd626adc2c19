#include "test/cudahost/closing.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test/cudahost/heap.h"

namespace cudahost {

namespace {

// without keys
constexpr uint64_t kClosingSeed = 2;
constexpr int kFirstCalls = 100, kOneIn = 16;

struct Door {
    int key = getenv("CUDAHOST_NO_PKEYS") ? -1 : pkey_alloc(0, 0);
    bool closed = false;
    int open = 0;  // how many Access objects live
    char* base = nullptr;
    size_t bytes = 0;  // of memory, from base on
    int calls = 0;
    uint64_t seed = 0;
    Random random;  // of its own: the schedule is the same with keys and without
};
Door& door() {
    static Door* the_door = new Door;  // outlives all other objects
    return *the_door;
}

void set_closed(bool closed) {
    Door& d = door();
    if (d.key >= 0) pkey_set(d.key, closed ? PKEY_DISABLE_ACCESS : 0);
    else if (closed != d.closed && d.bytes > 0 &&
             mprotect(d.base, d.bytes, closed ? PROT_NONE : PROT_READ | PROT_WRITE) != 0)
        perror("cudahost: device memory is not closed to the host: mprotect"), abort();
    d.closed = closed;
}

// Whether the call that ends closes device memory.
bool closes() {
    Door& d = door();
    if (d.key >= 0 || schedule.seed == kClosingSeed || d.calls++ < kFirstCalls) return true;
    if (d.random.state == 0 || d.seed != schedule.seed) d.seed = schedule.seed, d.random.state = d.seed * 2 + 1;
    return d.random.chance(kOneIn);
}

// Says what a SIGSEGV was, and lets it end the process.
void on_segv(int signal, siginfo_t* info, void*) {
    std::string text = position();
    if (in_heap(info->si_addr) && text.empty())
        text = format("cudahost: the host touched device memory at %p", info->si_addr);
    else
        text = format(
                   "cudahost: SIGSEGV at %p (or an address not on the boundary its type needs, or a stack that is "
                   "full) ",
                   info->si_addr) +
               (text.empty() ? "" : "in " + text);
    text += "\n";
    [[maybe_unused]] ssize_t ignored = write(2, text.data(), text.size());
    ::signal(signal, SIG_DFL);
}

}  // namespace

Access::Access() {
    if (door().open++ == 0) set_closed(false);
}
Access::~Access() {
    if (--door().open == 0 && closes()) set_closed(true);
}

char* reserve_device_memory(size_t bytes) {
    constexpr uintptr_t kHuge = 2 << 20;
    void* p = mmap(nullptr, bytes + kHuge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw Bug("no address space for device memory");
    char* base = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(p) + kHuge - 1) / kHuge * kHuge);
    madvise(base, bytes, MADV_HUGEPAGE);  // where the system has them: a page costs a fault, and more at each closing
    return door().base = base;
}
void add_device_memory(size_t bytes) {
    Door& d = door();
    if (pkey_mprotect(d.base + d.bytes, bytes, PROT_READ | PROT_WRITE, d.key) != 0)
        throw Bug("no memory for device memory");
    d.bytes += bytes;
}

bool device_memory_is_closed() { return door().closed; }

void explain_segv() {
    static char stack[64 << 10];
    stack_t alternative{};
    alternative.ss_sp = stack, alternative.ss_size = sizeof stack;
    sigaltstack(&alternative, nullptr);
    struct sigaction action {};
    action.sa_sigaction = on_segv;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, &action, nullptr);
}

}  // namespace cudahost
