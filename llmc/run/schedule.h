// Learning-rate schedules, and the detector of outliers that decides whether a step's update is skipped.
#pragma once
#include <cstdint>
#include <deque>
#include <string>

// Learning rate of `step` (0-based) of `max_steps`. Linear warm-up over `warmup` steps: lr * (step + 1) / warmup. Then
// by kind:
//   cosine    half a cosine from lr to final_fraction * lr                              (Loshchilov & Hutter 2017)
//   linear    straight line from lr to final_fraction * lr
//   constant  lr
//   wsd       lr, and over the last 20% of the steps down to final_fraction * lr by 1 - sqrt(x)   (Haegele et al. 2024)
// A decay would reach its end at step max_steps, one after the last.
struct Schedule {
    std::string kind = "cosine";
    double learning_rate = 3e-4, final_fraction = 0.1;
    int64_t warmup = 0, max_steps = 0;
    double at(int64_t step) const;  // UsageError if kind is none of the above
};

// Mean and standard deviation of the last 128 values; threshold(z) = mean + z * deviation, or 1e30 until the window is
// full, when z is 0 (off) or when all values are equal. A value that is not finite is never added.
class OutlierDetector {
  public:
    void add(double value);
    float threshold(double z) const;
    const std::deque<double>& window() const { return window_; }  // for trainer_state.json
    void restore(const std::deque<double>& window);

  private:
    std::deque<double> window_;
};
