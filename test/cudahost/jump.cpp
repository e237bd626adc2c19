#include "test/cudahost/jump.h"

// The build with AddressSanitizer uses Boost, so that both are in use.
#if defined(__x86_64__) && !defined(CUDAHOST_ASAN)

namespace cudahost {

#define SAVE \
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n mov %rsp, (%rdi)\n mov %rsi, %rsp\n"

[[gnu::naked]] void jump(Context*, Context) {
    asm(SAVE "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
}
// For debuggers the outermost caller is address 0.
[[gnu::naked]] void start(Context*, char*, size_t, void (*)()) { asm(SAVE "push $0\n push $0\n call *%rcx\n ud2"); }

}  // namespace cudahost

#else

#include <boost/context/detail/fcontext.hpp>

namespace cudahost {

namespace context = boost::context::detail;

namespace {

void (*main_of_new_stack)() = nullptr;

void come_from(context::transfer_t from) { *static_cast<Context*>(from.data) = from.fctx; }
void enter(context::transfer_t from) {
    come_from(from);
    main_of_new_stack();
}

}  // namespace

void jump(Context* from, Context to) { come_from(context::jump_fcontext(to, from)); }
void start(Context* from, char* top, size_t bytes, void (*main)()) {
    main_of_new_stack = main;
    jump(from, context::make_fcontext(top, bytes, enter));
}

}  // namespace cudahost

#endif
