// Switching: from the thread that runs straight into the next one, which is drawn.
//
// All of it is inline in those that wait (collectives.cpp): a test's time is mostly that of its switches, some 40 ns
// each (AMD EPYC (Zen 3)), of which stacks that have left the nearest cache take the most.
#pragma once
#include "test/cudahost/block.h"

namespace cudahost {

inline Fibre* const host = fibres + kMaxThreads;
extern uint32_t change_one_in;  // chance of new priorities between two barriers, at each switch; 0: none

// Goes from self to a thread that has not begun.
void start_thread(Fibre* self, Fibre* next);

// Jumps into `next`; comes back when somebody jumps here. `last`: never comes back.
inline void switch_to(Fibre* next, [[maybe_unused]] bool last = false) {
    Fibre* self = current;
    current = next;
    threadIdx = next->index, current_lane = next->number % 32;
#ifdef CUDAHOST_ASAN
    __sanitizer_start_switch_fiber(last ? nullptr : &memory_of(self).fake_stack, memory_of(next).stack,
                                   memory_of(next).stack_bytes);
#endif
    if (next->context) jump(&self->context, next->context);
    else start_thread(self, next);
#ifdef CUDAHOST_ASAN
    __sanitizer_finish_switch_fiber(memory_of(self).fake_stack, nullptr, nullptr);
#endif
}

// The next thread to run; null: none can.
inline Fibre* pick() {
    if (change_one_in && schedule.random.chance(change_one_in)) shuffle_warps();
    if (!block.ready) return nullptr;
    Warp& warp = *block.by_rank[std::countr_zero(block.ready)];
    uint32_t start = schedule.shuffle ? schedule.random() >> 27 : 0;  // the first lane from here on
    uint32_t lane = (start + static_cast<uint32_t>(std::countr_zero(std::rotr(warp.ready, int(start))))) % 32;
    warp.ready &= ~(1u << lane);
    if (!warp.ready) block.ready &= block.ready - 1;
    return fibres + (&warp - block.warps) * 32 + lane;
}

// Nobody can run, and not all have ended: that is how the launch fails.
void fail_for_deadlock();

// The running thread waits, or has ended: on to another, or back to the host.
inline void run_others(bool ended = false) {
    Fibre* next = block.paused ? host : pick();
    if (!next) {
        if (block.alive > 0) fail_for_deadlock();
        next = host;
    }
    if (next != current) switch_to(next, ended);
}

}  // namespace cudahost
