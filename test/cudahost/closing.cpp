// Closing is done by a memory protection key (pkeys(7): opening is one instruction) where the CPU has them, else by
// mprotect as long as the heap is small.
#include "test/cudahost/closing.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "test/cudahost/heap.h"

namespace cudahost {

namespace {

constexpr size_t kSmall = 64 << 20;

struct Door {
    int key = pkey_alloc(0, 0);
    bool closed = false;
    int open = 0;  // how many Access objects live
};
Door door;

void set_closed(bool closed) {
    Heap& h = heap();
    if (door.key >= 0) pkey_set(door.key, closed ? PKEY_DISABLE_ACCESS : 0);
    else if (door.closed || h.used <= kSmall) mprotect(h.base, h.mapped, closed ? PROT_NONE : PROT_READ | PROT_WRITE);
    door.closed = closed && (door.key >= 0 || h.used <= kSmall);
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
    if (door.open++ == 0) set_closed(false);
}
Access::~Access() {
    if (--door.open == 0) set_closed(true);
}

void add_device_memory(char* p, size_t bytes) {
    if (pkey_mprotect(p, bytes, PROT_READ | PROT_WRITE, door.key) != 0) throw Bug("no memory for device memory");
}

bool device_memory_is_closed() { return door.closed; }

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
