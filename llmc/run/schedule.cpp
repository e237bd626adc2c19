#include "llmc/run/schedule.h"

#include <algorithm>
#include <cmath>
#include "llmc/base/error.h"

double Schedule::at(int64_t step) const {
    if (kind != "cosine" && kind != "linear" && kind != "constant" && kind != "wsd")
        throw UsageError(strf("--lr-schedule must be cosine, linear, constant or wsd, not '%s'", kind.c_str()));
    if (step < warmup) return learning_rate * static_cast<double>(step + 1) / static_cast<double>(warmup);
    if (kind == "constant") return learning_rate;

    // x goes from 0 where the decay begins to 1 at max_steps, the step after the last one.
    const double end = static_cast<double>(max_steps);
    const double begin = kind == "wsd" ? std::max(0.8 * end, static_cast<double>(warmup)) : static_cast<double>(warmup);
    const double x = begin < end ? std::clamp((static_cast<double>(step) - begin) / (end - begin), 0.0, 1.0) : 1.0;
    const double weight = kind == "cosine"   ? 0.5 * (1 + std::cos(M_PI * x))
                          : kind == "linear" ? 1 - x
                                             : 1 - std::sqrt(x);
    const double lowest = final_fraction * learning_rate;
    return lowest + weight * (learning_rate - lowest);
}

static constexpr size_t window_size = 128;
static constexpr double never = 1e30;

void OutlierDetector::add(double value) {
    if (!std::isfinite(value)) return;
    window_.push_back(value);
    if (window_.size() > window_size) window_.pop_front();
}

void OutlierDetector::restore(const std::deque<double>& window) {
    window_.clear();
    for (double value : window) add(value);
}

float OutlierDetector::threshold(double z) const {
    if (z <= 0 || window_.size() < window_size) return static_cast<float>(never);
    double mean = 0, variance = 0;
    for (double value : window_) mean += value / window_size;
    for (double value : window_) variance += (value - mean) * (value - mean) / window_size;
    // 128 equal values say nothing about how far apart values may lie.
    return static_cast<float>(variance > 0 ? std::min(mean + z * std::sqrt(variance), never) : never);
}
