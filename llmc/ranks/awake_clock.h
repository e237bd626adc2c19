// Seconds during which this process ran. A pause in which it was stopped (SIGSTOP, a suspended job, a frozen machine)
// counts as one moment: a time limit by this clock asks whether others were late, not whether we slept.
//
// It must be asked several times in a `moment`: of a longer time between two questions it counts that much.
#pragma once
#include <algorithm>
#include <chrono>

class AwakeClock {
  public:
    explicit AwakeClock(double moment) : moment_(moment) {}
    double now() {
        auto t = std::chrono::steady_clock::now();
        awake_ += std::min(std::chrono::duration<double>(t - last_).count(), moment_);
        last_ = t;
        return awake_;
    }

  private:
    double moment_, awake_ = 0;
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};
