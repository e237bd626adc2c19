// Jumps from stack to stack. Boost.Context does that on any processor. On x86-64 a jump of our own is twice as fast: it
// comes back by `ret`, as functions do, so that the processor goes on predicting where the callers return to. (Boost's
// comes back by `jmp`, after which each of these predictions is wrong.) Neither flags nor floating-point control are
// kept: no thread changes them.
#pragma once
#include <cstddef>

#include "test/cudahost/internal.h"

namespace cudahost {

using Context = void*;  // the top of a stack that was left; null: not started

// Leaves this stack, so that somebody can come back by jump(..., *from), and goes on where `to` was left, or begins
// main(), which does not return, on the stack that ends at `top`.
void jump(Context* from, Context to);
void start(Context* from, char* top, size_t bytes, void (*main)());

}  // namespace cudahost
