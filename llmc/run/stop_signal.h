// Signals that end a training run in good order: the loop finishes its step, saves a checkpoint and ends.
//
// SIGINT, SIGTERM, SIGUSR1 (which mpirun passes on, and a scheduler can send before its time limit), SIGHUP (the
// terminal is gone) and SIGPIPE (the reader of our output is gone). A second signal kills at once, but for SIGPIPE,
// which each further line raises. A signal that was ignored at the start (nohup) stays so; not SIGINT, which shells
// ignore after `&`.
#pragma once
#include <csignal>

inline volatile std::sig_atomic_t stop_signal = 0;  // the one that came
inline void catch_stop_signals() {
    for (int s : {SIGINT, SIGTERM, SIGUSR1, SIGHUP, SIGPIPE}) {
        auto before = std::signal(s, [](int which) {
            stop_signal = which;
            std::signal(which, which == SIGPIPE ? SIG_IGN : SIG_DFL);
        });
        if (before == SIG_IGN && s != SIGINT) std::signal(s, SIG_IGN);
    }
}
